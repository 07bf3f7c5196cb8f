//! A share that AWS KMS holds: sealed to a key of KMS by whoever makes the shares, and on its way from KMS to
//! one enclave.
//!
//! KMS decrypts the share only if its key's policy allows that for the registers in an attestation document
//! of AWS. It then encrypts the share to the RSA key in this document. What it gives is a CMS message (RFC
//! 5652); the host reads that (`cleanroom-kms`), so that an enclave takes three fields of fixed length and
//! parses nothing.
//!
//! Nothing of an answer is authenticated, and CBC lets a host change what is decrypted without knowing it. A
//! host that heard which part of an answer is wrong could learn a share from many changed answers. So the
//! enclave compares all of what it decrypts, the share with its commitment and the padding with what it has
//! to be, says no in one way, and does the same work for each answer. The only answer that it takes is one
//! whose whole content is the right one, and that tells a host nothing.

use aws_lc_rs::cipher::{AES_256, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey,
    PublicEncryptingKey,
};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::secret::Share;

/// The length of the key and of what it encrypts, in bytes: RSA of 2048 bits.
const KEY_BYTES: usize = 256;
/// A block of AES, in bytes.
const BLOCK: usize = 16;
/// A share and its padding, in bytes: three blocks.
const CONTENT_BYTES: usize = 48;
/// What stands behind a share: PKCS #7 (RFC 5652, section 6.3).
const PADDING: [u8; CONTENT_BYTES - Share::LENGTH] = [15; CONTENT_BYTES - Share::LENGTH];

/// A key pair of one enclave, RSA of 2048 bits, which KMS can encrypt to. It exists in the enclave's memory
/// alone.
pub struct KmsRecipient {
    private: OaepPrivateDecryptingKey,
    public: Vec<u8>,
}

impl KmsRecipient {
    /// A new key pair. It takes some tenths of a second. `None` when the library fails.
    #[must_use]
    pub fn generate() -> Option<Self> {
        let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).ok()?;
        let public: PublicKeyX509Der<'_> = private.public_key().as_der().ok()?;
        let public = public.as_ref().to_vec();
        Some(Self { private: OaepPrivateDecryptingKey::new(private).ok()?, public })
    }

    /// The public half: DER of its `SubjectPublicKeyInfo`, 294 bytes.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The share in an answer, if `is_right` says that it is the right one and the padding is what belongs to
    /// it. `None` says nothing about which of the two is wrong.
    #[must_use]
    pub(crate) fn open(&self, answer: &KmsAnswer, is_right: impl FnOnce(&Share) -> bool) -> Option<Share> {
        let KmsAnswer { encrypted_key, initialisation_vector, content } = answer;
        let mut room = Zeroizing::new([0; KEY_BYTES]);
        let key = self.private.decrypt(&OAEP_SHA256_MGF1SHA256, encrypted_key, room.as_mut_slice(), None);
        let key = UnboundCipherKey::new(&AES_256, key.ok()?).ok()?;
        let mut content = Zeroizing::new(*content);
        let context = DecryptionContext::Iv128(FixedLength::from(initialisation_vector));
        DecryptingKey::cbc(key).ok()?.decrypt(content.as_mut_slice(), context).ok()?;
        let (share, padding) = content.split_at_checked(Share::LENGTH)?;
        // The first byte of a share is its place, which is no secret, so this may end early.
        let share = Share::read(share)?;
        // Both are computed, whatever the first one says.
        let (is_right, is_padded) = (is_right(&share), bool::from(padding.ct_eq(&PADDING)));
        (is_right & is_padded).then_some(share)
    }
}

/// KMS's answer as a host hands it in: the encrypted key (256 bytes), the initialisation vector (16), the
/// encrypted share (48).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KmsAnswer {
    encrypted_key: [u8; KEY_BYTES],
    initialisation_vector: [u8; BLOCK],
    content: [u8; CONTENT_BYTES],
}

impl KmsAnswer {
    /// The length in bytes.
    pub const LENGTH: usize = KEY_BYTES + BLOCK + CONTENT_BYTES;

    /// Reads an answer. `None` when it has another length.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (encrypted_key, rest) = bytes.split_first_chunk()?;
        let (initialisation_vector, content) = rest.split_first_chunk()?;
        Some(Self {
            encrypted_key: *encrypted_key,
            initialisation_vector: *initialisation_vector,
            content: content.try_into().ok()?,
        })
    }
}

/// Why a share cannot be sealed to a key of KMS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KmsKeyError {
    /// The bytes are no public key for RSA.
    #[error("expected an RSA public key (SubjectPublicKeyInfo), as `aws kms get-public-key` gives it")]
    Form,
    /// A key of another size than KMS has.
    #[error("expected an RSA key of 2048, 3072 or 4096 bits, got one of {0}")]
    Size(usize),
    /// The cryptographic library failed.
    #[error("the share could not be encrypted")]
    Library,
}

/// Seals `share` to a key of KMS: RSAES-OAEP with SHA-256, as long as the key. `key` is the DER of its
/// `SubjectPublicKeyInfo`.
///
/// # Errors
/// [`KmsKeyError`].
pub fn seal_to_kms(share: &Share, key: &[u8]) -> Result<Vec<u8>, KmsKeyError> {
    let key = PublicEncryptingKey::from_der(key).map_err(|_| KmsKeyError::Form)?;
    match key.key_size_bits() {
        2048 | 3072 | 4096 => {}
        other => return Err(KmsKeyError::Size(other)),
    }
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| KmsKeyError::Library)?;
    let mut sealed = vec![0; key.ciphertext_size()];
    let sealed = key.encrypt(&OAEP_SHA256_MGF1SHA256, share.as_bytes(), &mut sealed, None);
    Ok(sealed.map_err(|_| KmsKeyError::Library)?.to_vec())
}

#[cfg(test)]
mod tests;
