//! The key that shares are sealed to.

use hpke::kem::XWing;
use hpke::{Deserializable as _, Kem as KemTrait, Serializable as _};

/// The public half of an enclave's key pair: 1216 bytes. An attestation document has no room for it, so the document has its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientKey(Vec<u8>);

impl RecipientKey {
    /// The length in bytes.
    pub const LENGTH: usize = 1216;

    /// Reads a key. `None` when it has another length or is no key.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        <XWing as KemTrait>::PublicKey::from_bytes(bytes).ok()?;
        Some(Self(bytes.to_vec()))
    }

    pub(crate) fn of(key: &<XWing as KemTrait>::PublicKey) -> Self {
        Self(key.to_bytes().to_vec())
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
