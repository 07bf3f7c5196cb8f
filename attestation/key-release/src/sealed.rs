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
    const ENCAPPED_LENGTH: usize = 1120;
    /// The length in bytes.
    pub const LENGTH: usize = Self::ENCAPPED_LENGTH + Share::LENGTH + 16;

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
        let key = PublicKey::from_bytes(request.recipient.as_bytes()).ok()?;
        let (mode, binding) = (OpModeS::Base, request.binding());
        let (encapped, sealed) = hpke::single_shot_seal::<AesGcm256, HkdfSha256, XWing>(
            &mode,
            &key,
            INFO,
            share.as_bytes(),
            &binding,
        )
        .ok()?;
        let encapped = encapped.to_bytes();
        Some(Self([encapped.as_slice(), &sealed].concat()))
    }
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
        let (encapped, sealed) = sealed.0.split_at_checked(SealedShare::ENCAPPED_LENGTH)?;
        let encapped = EncappedKey::from_bytes(encapped).ok()?;
        let opened = hpke::single_shot_open::<AesGcm256, HkdfSha256, XWing>(
            &OpModeR::Base,
            &self.private,
            &encapped,
            INFO,
            sealed,
            &request.binding(),
        );
        Share::read(&Zeroizing::new(opened.ok()?))
    }
}
