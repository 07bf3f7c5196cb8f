//! The transcript: everything that a session's evidence is bound to, in one hash.

use core::fmt;

use super::encoding::length_prefix;
use super::{ALPN, length_prefixed};
use crate::digest::{Sha256Digest, Sha384, Sha384Digest};

/// What both ends know about one connection, hashed into the evidence.
///
/// The relying party fills in every field from its own TLS stack, its own policy and the evidence frame; equality of the
/// digest then means that the enclave saw the same connection.
#[derive(Debug, Clone, Copy)]
pub struct Transcript<'a> {
    /// The partner's challenge.
    pub nonce: &'a Nonce,
    /// Keying material exported for [`Role::Server`](super::Role::Server).
    pub binder: &'a Binder,
    /// SHA-384 of the DER of the enclave's TLS leaf certificate.
    pub enclave_leaf: Sha384Digest,
    /// SHA-384 of the DER of the partner's TLS leaf certificate.
    pub partner_leaf: Sha384Digest,
    /// The TLS cipher suite's code point (RFC 8446 appendix B.4).
    pub cipher_suite: u16,
    /// The TLS named group's code point (RFC 8446 section 4.2.7).
    pub group: u16,
    /// The model that the partner asked for.
    pub model_id: &'a ModelId,
    /// The identity of the weights that the enclave holds.
    pub model_digest: Sha256Digest,
    /// The release in force, when the deployment has one.
    pub release: Option<Sha256Digest>,
    /// The lease in force, when the deployment has one.
    pub lease: Option<Sha256Digest>,
    /// The receipt key made at boot, DER of its `SubjectPublicKeyInfo` (RFC 5280 section 4.1.2.7).
    pub receipt_key: &'a [u8],
}

impl Transcript<'_> {
    /// `T` of the specification.
    #[must_use]
    pub fn digest(&self) -> Sha384Digest {
        // Destructured, so that a new field cannot be forgotten here.
        let Self {
            nonce,
            binder,
            enclave_leaf,
            partner_leaf,
            cipher_suite,
            group,
            model_id,
            model_digest,
            release,
            lease,
            receipt_key,
        } = self;
        let [suite_high, suite_low] = cipher_suite.to_be_bytes();
        let [group_high, group_low] = group.to_be_bytes();
        let fields: [&[u8]; 13] = [
            b"cleanroom/channel/1",
            b"server-attest",
            nonce.as_bytes(),
            binder.as_bytes(),
            enclave_leaf.as_bytes(),
            partner_leaf.as_bytes(),
            ALPN,
            &[suite_high, suite_low, group_high, group_low],
            model_id.as_str().as_bytes(),
            model_digest.as_bytes(),
            optional(release),
            optional(lease),
            receipt_key,
        ];
        let mut hasher = Sha384::new();
        for field in fields {
            hasher.update(&length_prefix(field));
            hasher.update(field);
        }
        hasher.finish()
    }
}

/// The bytes of a digest, or nothing.
pub(super) fn optional(digest: &Option<Sha256Digest>) -> &[u8] {
    digest.as_ref().map_or(&[], |digest| digest.as_bytes().as_slice())
}

/// A relying party's challenge: 32 bytes that it made at random for one use.
#[derive(Clone, PartialEq, Eq)]
pub struct Nonce([u8; Self::LENGTH]);

impl Nonce {
    /// The nonce's length in bytes.
    pub const LENGTH: usize = 32;

    /// A nonce from bytes that the caller drew from a cryptographic generator, or read from a frame.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    /// The nonce's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

/// Keying material that ties evidence to one TLS connection: 32 bytes exported under
/// [`EXPORTER_LABEL`](super::EXPORTER_LABEL).
///
/// It is not a key, but it identifies the connection, so it is not printed either.
#[derive(Clone, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct Binder([u8; Self::LENGTH]);

impl Binder {
    /// The binder's length in bytes.
    pub const LENGTH: usize = 32;

    /// A binder from exported keying material.
    #[must_use]
    pub const fn from_exported(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    /// The binder's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

impl fmt::Debug for Binder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Binder")
    }
}

/// A model's public name: 1 to 128 bytes of `a-z A-Z 0-9 . _ - /`, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelId(String);

impl ModelId {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// Checks the name.
    ///
    /// # Errors
    /// [`ModelIdError`] names the rule that the text breaks.
    pub fn new(text: &str) -> Result<Self, ModelIdError> {
        let first = text.chars().next().ok_or(ModelIdError::Empty)?;
        if text.len() > Self::MAX_BYTES {
            return Err(ModelIdError::TooLong { actual: text.len() });
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
        if !first.is_ascii_alphanumeric() || !text.chars().all(allowed) {
            return Err(ModelIdError::Character);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl core::str::FromStr for ModelId {
    type Err = ModelIdError;

    fn from_str(text: &str) -> Result<Self, ModelIdError> {
        Self::new(text)
    }
}

impl serde::Serialize for ModelId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for ModelId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Why some text is not a model's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelIdError {
    /// The text is empty.
    #[error("expected a model id of 1 to 128 characters, got an empty one")]
    Empty,
    /// The text is longer than [`ModelId::MAX_BYTES`].
    #[error("expected a model id of at most 128 bytes, got {actual}")]
    TooLong {
        /// Bytes that came.
        actual: usize,
    },
    /// The text has a character that no model id has.
    #[error("expected a model id of letters, digits and . _ - / that begins with a letter or digit")]
    Character,
}

/// What the receipt key signs when a session begins: `LP("server-finished") LP(T) LP(exchange)`.
pub(super) fn server_finished_message(transcript: &Sha384Digest, exchange: &Sha384Digest) -> Vec<u8> {
    length_prefixed(&[super::SERVER_FINISHED_TAG, transcript.as_bytes(), exchange.as_bytes()])
}
