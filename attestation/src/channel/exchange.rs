//! The hash of the exchange, and the two messages that seal it.

use core::fmt;

use super::transcript::server_finished_message;
use crate::crypto::backend::hmac;
use crate::digest::{Sha384, Sha384Digest};

/// The tag of the enclave's signature over a session.
pub const SERVER_FINISHED_TAG: &[u8] = b"server-finished";

/// The length of the partner's `Finished` body in bytes (HMAC-SHA-384).
pub const FINISHED_BYTES: usize = 48;

/// The running hash over the frames of the exchange, exactly as they stand on the wire.
///
/// 1. After the `Hello` frame and the evidence *without its signature* the enclave signs
///    [`server_finished_message`](Self::server_finished_message).
/// 2. After the whole `Evidence` frame the partner authenticates [`client_finished`](Self::client_finished).
#[derive(Clone)]
pub struct Exchange(Sha384);

impl Exchange {
    /// Begins with the `Hello` frame, its header included.
    #[must_use]
    pub fn begin(hello_frame: &[u8]) -> Self {
        let mut hasher = Sha384::new();
        hasher.update(hello_frame);
        Self(hasher)
    }

    /// What the receipt key signs: `LP("server-finished") LP(T) LP(SHA-384(Hello frame, evidence body without signature))`.
    #[must_use]
    pub fn server_finished_message(&self, transcript: &Sha384Digest, unsigned_evidence: &[u8]) -> Vec<u8> {
        let mut hasher = self.0.clone();
        hasher.update(unsigned_evidence);
        server_finished_message(transcript, &hasher.finish())
    }

    /// The body of the partner's `Finished` frame: HMAC-SHA-384 over SHA-384(Hello frame, Evidence frame).
    #[must_use]
    pub fn client_finished(mut self, evidence_frame: &[u8], key: &FinishedKey) -> [u8; FINISHED_BYTES] {
        let mut body = [0; FINISHED_BYTES];
        self.0.update(evidence_frame);
        body.copy_from_slice(hmac::sign(&key.0, self.0.finish().as_bytes()).as_ref());
        body
    }
}

/// The key of the partner's `Finished`: 48 bytes exported for [`Role::Client`](super::Role::Client).
pub struct FinishedKey(hmac::Key);

impl FinishedKey {
    /// The length of the exported keying material in bytes.
    pub const LENGTH: usize = 48;

    /// The key from exported keying material.
    #[must_use]
    pub fn from_exported(material: &zeroize::Zeroizing<[u8; Self::LENGTH]>) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA384, material.as_slice()))
    }
}

impl fmt::Debug for FinishedKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("FinishedKey")
    }
}
