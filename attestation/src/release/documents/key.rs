//! Verification keys, known by their value: the DER of their `SubjectPublicKeyInfo` (RFC 5280 section 4.1.2.7).

use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::fields::from_text;
use crate::crypto::backend::signature::{
    ECDSA_P384_SHA384_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm,
};
use crate::digest::Sha256Digest;

/// `SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING }` up to the 32 key bytes (RFC 8410).
const ED25519_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// `SEQUENCE { SEQUENCE { id-ecPublicKey, secp384r1 }, BIT STRING }` up to the 97 bytes of an uncompressed point (RFC 5480).
const P384_PREFIX: [u8; 23] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81,
    0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];

/// How a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// Ed25519 (RFC 8032); signatures of 64 bytes.
    Ed25519,
    /// ECDSA on P-384 with SHA-384 (FIPS 186-5); signatures in DER, at most 104 bytes.
    P384,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Ed25519 => "Ed25519",
            Self::P384 => "ECDSA P-384 with SHA-384",
        })
    }
}

/// A public key of an authority.
///
/// Only one encoding of each key is accepted (exact DER; P-384 points uncompressed; Ed25519 points reduced), so that equal
/// keys are equal bytes and one key cannot count twice towards a threshold under two spellings.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey {
    algorithm: Algorithm,
    spki: Box<[u8]>,
}

/// Why some bytes are not a [`PublicKey`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Another algorithm, or another encoding than the one that is accepted.
    #[error(
        "expected the SubjectPublicKeyInfo of an Ed25519 key (44 bytes) or of a P-384 key with an uncompressed point \
         (120 bytes), got {0} bytes of something else"
    )]
    Unsupported(usize),
    /// An Ed25519 key whose coordinate is not reduced: a second spelling of another key.
    #[error("the Ed25519 key's coordinate is 2^255 - 19 or more, which is a second spelling of another key")]
    NotReduced,
    /// The text is not base64.
    #[error("expected the base64 of a SubjectPublicKeyInfo")]
    Base64,
}

impl PublicKey {
    /// Reads the DER of a `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    ///
    /// [`KeyError`] for every other algorithm and for every second spelling. Whether a P-384 point lies on the curve is
    /// checked when a signature is: a point that does not verifies nothing.
    pub fn from_spki(spki: &[u8]) -> Result<Self, KeyError> {
        let algorithm = if let Some(key) = spki.strip_prefix(&ED25519_PREFIX)
            && key.len() == 32
        {
            if !is_reduced(key) {
                return Err(KeyError::NotReduced);
            }
            Algorithm::Ed25519
        } else if let Some(point) = spki.strip_prefix(&P384_PREFIX)
            && point.len() == 97
            && point.first() == Some(&4)
        {
            Algorithm::P384
        } else {
            return Err(KeyError::Unsupported(spki.len()));
        };
        Ok(Self { algorithm, spki: spki.into() })
    }

    /// A key as cryptographic libraries hand it out: 32 bytes of Ed25519, or the 97 bytes of an uncompressed P-384 point.
    ///
    /// # Errors
    ///
    /// [`KeyError`] when `key` is not that.
    pub fn from_raw(algorithm: Algorithm, key: &[u8]) -> Result<Self, KeyError> {
        let prefix: &[u8] = match algorithm {
            Algorithm::Ed25519 => &ED25519_PREFIX,
            Algorithm::P384 => &P384_PREFIX,
        };
        Self::from_spki(&[prefix, key].concat())
    }

    /// How this key signs.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The DER of the `SubjectPublicKeyInfo`: 44 bytes for Ed25519, 120 for P-384.
    #[must_use]
    pub const fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of [`Self::spki`]: the `keyid` that this project writes. A hint for people; nothing is decided by it.
    #[must_use]
    pub fn id(&self) -> Sha256Digest {
        Sha256Digest::of(&[&self.spki])
    }

    /// Whether `signature` over `message` was made with this key.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let verify = |algorithm: &'static dyn VerificationAlgorithm, prefix: &[u8]| {
            let key = self.spki.get(prefix.len()..).unwrap_or_default();
            UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
        };
        match self.algorithm {
            Algorithm::Ed25519 => verify(&ED25519, &ED25519_PREFIX),
            Algorithm::P384 => verify(&ECDSA_P384_SHA384_ASN1, &P384_PREFIX),
        }
    }
}

/// Whether a little-endian Ed25519 coordinate, its sign bit aside, is below 2^255 - 19.
fn is_reduced(key: &[u8]) -> bool {
    let [low, middle @ .., high] = key else { return false };
    !(high & 0x7f == 0x7f && middle.iter().all(|byte| *byte == 0xff) && *low >= 0xed)
}

impl core::str::FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        /// The longest accepted key, 120 bytes, is 160 characters of base64.
        const LIMIT: usize = 160;
        if text.len() > LIMIT {
            return Err(KeyError::Unsupported(text.len() / 4 * 3));
        }
        Self::from_spki(&STANDARD.decode(text).map_err(|_| KeyError::Base64)?)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&STANDARD.encode(&self.spki))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "the base64 of a SubjectPublicKeyInfo")
    }
}
