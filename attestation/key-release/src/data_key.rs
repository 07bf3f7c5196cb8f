//! The key that a secret gives.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use cleanroom_attestation::channel::length_prefixed;
use cleanroom_attestation::digest::Sha256Digest;
use zeroize::Zeroizing;

use crate::purpose::Purpose;
use crate::secret::Secret;

/// The key of one model's sealed weights: 32 bytes, wiped when dropped. It cannot be printed or copied.
pub struct DataKey(Zeroizing<[u8; 32]>);

impl DataKey {
    /// HKDF-SHA-256 (RFC 5869) of the brokers' secret: salt `cleanroom/data-key/1`, key material `LP(secret) LP(nothing)`, info
    /// `LP(purpose) LP(model digest)`. The second field of the key material has a place for a share of another kind.
    ///
    /// The release is not in it: sealed weights outlive releases. What binds a release is each share on its way.
    ///
    /// # Errors
    /// `None` when the cryptographic library fails, which happens for no input.
    #[must_use]
    pub fn derive(secret: &Secret, purpose: Purpose, model: &Sha256Digest) -> Option<Self> {
        struct Length;
        impl KeyType for Length {
            fn len(&self) -> usize {
                32
            }
        }
        let material = Zeroizing::new(length_prefixed(&[secret.bytes(), b""]));
        let info = length_prefixed(&[purpose.word().as_bytes(), model.as_bytes()]);
        let extracted = Salt::new(HKDF_SHA256, b"cleanroom/data-key/1").extract(&material);
        let mut key = Zeroizing::new([0; 32]);
        extracted.expand(&[&info], Length).ok()?.fill(key.as_mut_slice()).ok()?;
        Some(Self(key))
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}
