//! The signed event with which a clean room ends an answer before the model did, see `docs/protocol.md`.

use aws_lc_rs::signature::{ED25519, ParsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleanroom_attestation::channel::StreamEnd;
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::release::{Refusal, UnixMillis};
use serde::Deserialize;

/// The event's member as it came. Nothing of it is believed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedEnd {
    stream: String,
    reason: String,
    at_ms: u64,
    release_sha256: Option<Sha256Digest>,
    lease_sha256: Option<Sha256Digest>,
    signature: String,
}

/// The clean room's own statement that it ended an answer, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// A stable word, as `docs/release.md` lists them.
    pub reason: String,
    /// When, by the security module's clock.
    pub at: UnixMillis,
    /// The newest release that the enclave held.
    pub release: Option<Sha256Digest>,
    /// The last lease that the enclave was given.
    pub lease: Option<Sha256Digest>,
}

/// The event is not the clean room's statement about this answer: whoever stands in between may have ended
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnprovenEnd {
    /// It is about another answer.
    #[error("the event that ends the answer is about another answer")]
    OtherStream,
    /// The receipt key did not sign it for this session.
    #[error("the event that ends the answer is not signed by the clean room for this session")]
    Signature,
}

impl SignedEnd {
    /// Believes the event if the holder of `receipt_key` (a `SubjectPublicKeyInfo` in DER) signed it for the
    /// session with this transcript and the answer `stream`.
    ///
    /// # Errors
    /// [`UnprovenEnd`].
    pub fn verify(
        self,
        receipt_key: &[u8],
        transcript: &Sha384Digest,
        stream: &str,
    ) -> Result<Ended, UnprovenEnd> {
        if self.stream != stream {
            return Err(UnprovenEnd::OtherStream);
        }
        let statement = StreamEnd {
            transcript,
            stream,
            reason: &self.reason,
            at_ms: self.at_ms,
            release: self.release_sha256,
            lease: self.lease_sha256,
        };
        let signature = STANDARD.decode(&self.signature).map_err(|_| UnprovenEnd::Signature)?;
        let key = ParsedPublicKey::new(&ED25519, receipt_key).map_err(|_| UnprovenEnd::Signature)?;
        key.verify_sig(&statement.message(), &signature).map_err(|_| UnprovenEnd::Signature)?;
        Ok(Ended {
            reason: self.reason,
            at: UnixMillis(self.at_ms),
            release: self.release_sha256,
            lease: self.lease_sha256,
        })
    }
}

impl Ended {
    /// The reason in words.
    #[must_use]
    pub fn explanation(&self) -> String {
        if self.reason == "safeguard" {
            return "a rule of the model's safeguards refuses the answer".to_owned();
        }
        let refusal = Refusal::ALL.into_iter().find(|refusal| refusal.code() == self.reason);
        refusal.map_or_else(|| self.reason.replace('-', " "), |refusal| refusal.to_string())
    }

    /// The reason's code, if it is one that this program knows.
    #[must_use]
    pub fn code(&self) -> Option<&'static str> {
        Refusal::ALL.into_iter().map(Refusal::code).find(|code| *code == self.reason)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    const STREAM: &str = "chatcmpl-1";

    fn transcript(name: &[u8]) -> Sha384Digest {
        Sha384Digest::of(&[name])
    }

    fn event(key: &Ed25519KeyPair) -> serde_json::Value {
        let release = Sha256Digest::of(&[b"release"]);
        let end = StreamEnd {
            transcript: &transcript(b"session"),
            stream: STREAM,
            reason: "model-denied",
            at_ms: 1_798_761_600_000,
            release: Some(release),
            lease: None,
        };
        serde_json::json!({
            "stream": STREAM, "reason": "model-denied", "at_ms": 1_798_761_600_000_u64,
            "release_sha256": release.to_string(), "lease_sha256": null,
            "signature": STANDARD.encode(key.sign(&end.message())),
        })
    }

    fn verify(
        event: &serde_json::Value,
        key: &Ed25519KeyPair,
        session: &[u8],
        stream: &str,
    ) -> Result<Ended, UnprovenEnd> {
        let event: SignedEnd = serde_json::from_value(event.clone()).unwrap();
        let spki = key.public_key().as_der().unwrap();
        event.verify(spki.as_ref(), &transcript(session), stream)
    }

    #[test]
    fn a_signed_end_says_why_and_when() {
        let key = Ed25519KeyPair::generate().unwrap();
        let ended = verify(&event(&key), &key, b"session", STREAM).unwrap();
        assert_eq!(ended.code(), Some("model-denied"));
        assert_eq!(ended.explanation(), "an authority has halted the model");
        assert_eq!(ended.at.to_string(), "2027-01-01T00:00:00Z");
    }

    #[test]
    fn an_end_of_another_key_session_answer_or_reason_is_not_believed() {
        let (key, other) = (Ed25519KeyPair::generate().unwrap(), Ed25519KeyPair::generate().unwrap());
        let good = event(&key);
        assert_eq!(verify(&good, &other, b"session", STREAM), Err(UnprovenEnd::Signature));
        assert_eq!(verify(&good, &key, b"another", STREAM), Err(UnprovenEnd::Signature));
        assert_eq!(verify(&good, &key, b"session", "chatcmpl-2"), Err(UnprovenEnd::OtherStream));
        for (member, value) in [
            ("reason", serde_json::json!("lease-lapsed")),
            ("at_ms", serde_json::json!(1)),
            ("release_sha256", serde_json::Value::Null),
            ("lease_sha256", good["release_sha256"].clone()),
            ("signature", serde_json::json!("")),
            ("signature", serde_json::json!("no base64")),
        ] {
            let mut bad = good.clone();
            bad[member] = value;
            assert_eq!(verify(&bad, &key, b"session", STREAM), Err(UnprovenEnd::Signature), "{member}");
        }
    }
}
