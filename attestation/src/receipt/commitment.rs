//! Commitments to a text, with a salt that keeps the text from being guessed.

use core::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::channel::length_prefixed;
use crate::digest::{Sha256, Sha256Digest};

/// 32 random bytes of one request. The partner gets them with the receipt, and nobody else does.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Salt([u8; Self::LENGTH]);

impl Salt {
    /// The salt's length in bytes.
    pub const LENGTH: usize = 32;

    /// A salt of bytes that the caller drew from a cryptographic generator, or was given.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    /// The salt's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// The salt of one part: `SHA-256(LP(tag) LP(salt))`. Giving it away opens that part alone.
    #[must_use]
    pub fn of(&self, part: Part) -> Self {
        let salt = Sha256Digest::of(&[&length_prefixed(&[part.salt_tag(), &self.0])]);
        Self(*salt.as_bytes())
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Salt")
    }
}

/// What is committed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The body of the request, as it came.
    Request,
    /// The body of the response, as it left.
    Response,
}

impl Part {
    const fn salt_tag(self) -> &'static [u8] {
        match self {
            Self::Request => b"cleanroom/receipt/request-salt/1",
            Self::Response => b"cleanroom/receipt/response-salt/1",
        }
    }

    const fn tag(self) -> &'static [u8] {
        match self {
            Self::Request => b"cleanroom/receipt/request/1",
            Self::Response => b"cleanroom/receipt/response/1",
        }
    }
}

/// A commitment to some bytes, and their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commitment {
    /// `SHA-256(LP(tag) LP(the part's salt) bytes)`.
    pub sha256: Sha256Digest,
    /// How many bytes.
    pub bytes: u64,
}

impl Commitment {
    /// The commitment to bytes that are all there.
    #[must_use]
    pub fn to(bytes: &[u8], part: Part, salt: &Salt) -> Self {
        let mut committer = Committer::new(part, salt);
        committer.update(bytes);
        committer.finish()
    }
}

/// Makes a [`Commitment`] piece by piece.
#[derive(Clone)]
pub struct Committer {
    hasher: Sha256,
    bytes: u64,
}

impl Committer {
    /// Nothing committed to yet. `salt` is the salt of the request, from which that of the part follows.
    #[must_use]
    pub fn new(part: Part, salt: &Salt) -> Self {
        Self::with_part_salt(part, &salt.of(part))
    }

    /// The same with the part's own salt, for whoever was given no more.
    #[must_use]
    pub fn with_part_salt(part: Part, salt: &Salt) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(&length_prefixed(&[part.tag(), salt.as_bytes()]));
        Self { hasher, bytes: 0 }
    }

    /// Appends `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    }

    /// The commitment to all that was appended.
    #[must_use]
    pub fn finish(self) -> Commitment {
        Commitment { sha256: self.hasher.finish(), bytes: self.bytes }
    }
}
