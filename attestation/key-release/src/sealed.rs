//! A share on its way: HPKE (RFC 9180) in base mode, with the KEM X-Wing (ML-KEM-768 and X25519, draft-ietf-hpke-pq), HKDF-SHA-256
//! and AES-256-GCM.

use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable as _, Kem as KemTrait, OpModeR, OpModeS, Serializable as _};
use zeroize::Zeroizing;

use crate::recipient::RecipientKey;
use crate::request::ShareRequest;
use crate::secret::Share;

/// What every sealed share is sealed for.
const INFO: &[u8] = b"cleanroom/sealed-share/1";

/// The length of an encapsulated key in bytes.
pub(crate) const ENCAPPED_LENGTH: usize = 1120;

type PublicKey = <XWing as KemTrait>::PublicKey;
type PrivateKey = <XWing as KemTrait>::PrivateKey;
type EncappedKey = <XWing as KemTrait>::EncappedKey;

/// A key pair of one enclave. It exists in the enclave's memory alone.
pub struct Recipient {
    private: PrivateKey,
    public: RecipientKey,
}

/// A share that one recipient can open, for one request: the encapsulated key (1120 bytes), then the share and a tag (49 bytes).
#[derive(Clone, PartialEq, Eq)]
pub struct SealedShare(Vec<u8>);

impl SealedShare {
    /// The length in bytes.
    pub const LENGTH: usize = ENCAPPED_LENGTH + Share::LENGTH + 16;

    /// Reads a sealed share. `None` when it has another length.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == Self::LENGTH).then(|| Self(bytes.to_vec()))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Seals `share` to the recipient of `request`, for this request alone. `None` when the library fails.
    #[must_use]
    pub fn seal(share: &Share, request: &ShareRequest) -> Option<Self> {
        seal_to(&request.recipient, INFO, share.as_bytes(), &request.binding()).map(Self)
    }
}

/// The encapsulated key, then `secret` and a tag, for the holder of `key`. `None` when the library fails.
pub(crate) fn seal_to(key: &RecipientKey, info: &[u8], secret: &[u8], aad: &[u8]) -> Option<Vec<u8>> {
    let key = PublicKey::from_bytes(key.as_bytes()).ok()?;
    let mode = OpModeS::Base;
    let sealed = hpke::single_shot_seal::<AesGcm256, HkdfSha256, XWing>(&mode, &key, info, secret, aad);
    let (encapped, sealed) = sealed.ok()?;
    Some([encapped.to_bytes().as_slice(), &sealed].concat())
}

impl Recipient {
    /// A new key pair.
    #[must_use]
    pub fn generate() -> Self {
        let (private, public) = XWing::gen_keypair();
        Self { private, public: RecipientKey::of(&public) }
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &RecipientKey {
        &self.public
    }

    /// Opens a share that was sealed for `request`. `None` for every other.
    #[must_use]
    pub fn open(&self, sealed: &SealedShare, request: &ShareRequest) -> Option<Share> {
        Share::read(&self.open_bytes(INFO, &sealed.0, &request.binding())?)
    }

    /// Opens what was sealed with this `info` and `aad`. `None` for everything else.
    pub(crate) fn open_bytes(&self, info: &[u8], sealed: &[u8], aad: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (encapped, sealed) = sealed.split_at_checked(ENCAPPED_LENGTH)?;
        let encapped = EncappedKey::from_bytes(encapped).ok()?;
        let mode = OpModeR::Base;
        let opened = hpke::single_shot_open::<AesGcm256, HkdfSha256, XWing>(
            &mode,
            &self.private,
            &encapped,
            info,
            sealed,
            aad,
        );
        opened.ok().map(Zeroizing::new)
    }

    /// The private half: 32 bytes, for a receiver's own file.
    #[must_use]
    pub fn private_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.private.to_bytes().to_vec())
    }

    /// A key pair by its private half. `None` when it is none.
    #[must_use]
    pub fn from_private_bytes(bytes: &[u8]) -> Option<Self> {
        let private = PrivateKey::from_bytes(bytes).ok()?;
        let public = RecipientKey::of(&XWing::sk_to_pk(&private));
        Some(Self { private, public })
    }
}
