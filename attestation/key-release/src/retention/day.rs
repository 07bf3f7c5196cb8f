//! The secret of a day, and the keys of parts that follow from it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rand;
use cleanroom_attestation::channel::length_prefixed;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::record::{PART_BYTES, RecordSubject};
use cleanroom_attestation::release::Id;
use zeroize::Zeroizing;

use crate::secret::Share;

/// One broker's secret of one day and one model: 32 random bytes, wiped when dropped.
#[derive(Clone)]
pub struct DaySecret(Zeroizing<[u8; Self::LENGTH]>);

/// The key of one broker's part of one record: 32 bytes, wiped when dropped.
pub struct PartKey(Zeroizing<[u8; Self::LENGTH]>);

impl DaySecret {
    /// The length in bytes.
    pub const LENGTH: usize = 32;

    /// A new secret. `None` when there are no random bytes.
    #[must_use]
    pub fn generate() -> Option<Self> {
        let mut bytes = Zeroizing::new([0; Self::LENGTH]);
        rand::fill(bytes.as_mut_slice()).ok()?;
        Some(Self(bytes))
    }

    /// Reads a secret. `None` when it has another length.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(bytes.try_into().ok()?)))
    }

    /// The secret's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// The key of `broker`'s part of the record of `subject`: HKDF-SHA-256 with the salt `cleanroom/record-part/1`, the secret as
    /// key material, and the info `LP(broker) LP(SHA-256(subject))`. It says nothing about the key of any other record.
    ///
    /// # Errors
    /// `None` when the cryptographic library fails, which happens for no input.
    #[must_use]
    pub fn part(&self, broker: &Id, subject: &RecordSubject) -> Option<PartKey> {
        struct Length;
        impl KeyType for Length {
            fn len(&self) -> usize {
                PartKey::LENGTH
            }
        }
        let subject = Sha256Digest::of(&[&subject.to_bytes()]);
        let info = length_prefixed(&[broker.as_str().as_bytes(), subject.as_bytes()]);
        let extracted = Salt::new(HKDF_SHA256, b"cleanroom/record-part/1").extract(self.0.as_slice());
        let mut key = Zeroizing::new([0; PartKey::LENGTH]);
        extracted.expand(&[&info], Length).ok()?.fill(key.as_mut_slice()).ok()?;
        Some(PartKey(key))
    }
}

impl PartKey {
    /// The length in bytes.
    pub const LENGTH: usize = 32;

    /// Reads a key. `None` when it has another length.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(bytes.try_into().ok()?)))
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// AES-256-GCM over the share. The nonce is zero, because the key is used once.
    pub(super) fn seal(&self, share: &Share) -> Option<[u8; PART_BYTES]> {
        let mut bytes = Zeroizing::new(share.as_bytes().to_vec());
        let (cipher, nonce) = self.cipher()?;
        let tag = cipher.seal_in_place_separate_tag(nonce, Aad::empty(), &mut bytes).ok()?;
        [bytes.as_slice(), tag.as_ref()].concat().try_into().ok()
    }

    /// The share, if it was sealed under this key.
    pub(super) fn open(&self, part: &[u8; PART_BYTES]) -> Option<Share> {
        let mut bytes = Zeroizing::new(*part);
        let (cipher, nonce) = self.cipher()?;
        Share::read(cipher.open_in_place(nonce, Aad::empty(), bytes.as_mut_slice()).ok()?)
    }

    fn cipher(&self) -> Option<(LessSafeKey, Nonce)> {
        let key = UnboundKey::new(&AES_256_GCM, self.0.as_slice()).ok()?;
        Some((LessSafeKey::new(key), Nonce::assume_unique_for_key([0; 12])))
    }
}
