//! The statement that the receipt key signs when something other than the model ends a stream.

use super::length_prefixed;
use super::transcript::optional;
use crate::digest::{Sha256Digest, Sha384Digest};

/// The tag of the signature.
pub const STREAM_END_TAG: &[u8] = b"cleanroom/stream-end/1";

/// An enclave's statement that it ended a running stream, and why.
///
/// The transcript binds it to one session, and the id to one answer. It can therefore not be moved to another
/// stream. It cannot be withheld unnoticed either: an answer that has neither this statement nor its regular
/// end was cut.
#[derive(Debug, Clone, Copy)]
pub struct StreamEnd<'a> {
    /// The transcript of the session that the stream ran on.
    pub transcript: &'a Sha384Digest,
    /// The answer's id, as it stands in every event of the stream.
    pub stream: &'a str,
    /// A code of a closed list, such as `model-denied` or `lease-lapsed`.
    pub reason: &'a str,
    /// When, by the security module's clock: milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
    /// The newest release that the enclave holds.
    pub release: Option<Sha256Digest>,
    /// The last lease that the enclave was given.
    pub lease: Option<Sha256Digest>,
}

impl StreamEnd<'_> {
    /// `LP("cleanroom/stream-end/1") LP(T) LP(stream) LP(reason) LP(at, u64 big-endian) LP(release) LP(lease)`.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let Self { transcript, stream, reason, at_ms, release, lease } = self;
        length_prefixed(&[
            STREAM_END_TAG,
            transcript.as_bytes(),
            stream.as_bytes(),
            reason.as_bytes(),
            &at_ms.to_be_bytes(),
            optional(release),
            optional(lease),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_signed() {
        let transcript = Sha384Digest::of(&[b"t"]);
        let end = StreamEnd {
            transcript: &transcript,
            stream: "chatcmpl-1",
            reason: "model-denied",
            at_ms: 7,
            release: None,
            lease: None,
        };
        let digest = Some(Sha256Digest::of(&[b"d"]));
        let other = Sha384Digest::of(&[b"u"]);
        let mut messages = vec![
            end.message(),
            StreamEnd { transcript: &other, ..end }.message(),
            StreamEnd { stream: "chatcmpl-2", ..end }.message(),
            StreamEnd { reason: "lease-lapsed", ..end }.message(),
            StreamEnd { at_ms: 8, ..end }.message(),
            StreamEnd { release: digest, ..end }.message(),
            StreamEnd { lease: digest, ..end }.message(),
        ];
        assert!(messages.iter().all(|message| message.starts_with(&length_prefixed(&[STREAM_END_TAG]))));
        messages.sort_unstable();
        messages.dedup();
        assert_eq!(messages.len(), 7);
    }
}
