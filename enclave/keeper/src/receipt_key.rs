//! The receipt key: made at boot, never leaves, committed in PCR 17.

use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

/// An Ed25519 key (RFC 8032) that signs sessions and ends of streams. Clones are the same key.
#[derive(Clone)]
pub struct ReceiptKey {
    key: Arc<Ed25519KeyPair>,
    subject_public_key_info: Arc<[u8]>,
}

impl ReceiptKey {
    /// A new key from the system's generator.
    ///
    /// # Errors
    /// [`ReceiptKeyError`] when the generator fails.
    pub fn generate() -> Result<Self, ReceiptKeyError> {
        let key = Ed25519KeyPair::generate().map_err(|_| ReceiptKeyError)?;
        let der: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(|_| ReceiptKeyError)?;
        let subject_public_key_info = der.as_ref().into();
        Ok(Self { key: Arc::new(key), subject_public_key_info })
    }

    /// DER of the `SubjectPublicKeyInfo` (RFC 8410 section 4), 44 bytes.
    #[must_use]
    pub fn subject_public_key_info(&self) -> &[u8] {
        &self.subject_public_key_info
    }

    /// The signature of `message`, 64 bytes.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.key.sign(message).as_ref().to_vec()
    }
}

/// No receipt key could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("could not make a receipt key")]
pub struct ReceiptKeyError;
