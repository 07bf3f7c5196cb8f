//! Facts about accepted evidence.

use serde::{Serialize, Serializer};

use crate::chain::Tier;
use crate::digest::Sha256Digest;
use crate::document::Pcrs;
use crate::time::Timestamp;

/// What is known about a document that was accepted. Only an appraisal makes one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AcceptedEvidence {
    pub(super) module_id: String,
    pub(super) timestamp: Timestamp,
    pub(super) pcrs: Pcrs,
    pub(super) anchor: String,
    pub(super) tier: Tier,
    pub(super) debug: bool,
    pub(super) image: String,
    pub(super) root_sha256: Sha256Digest,
    pub(super) leaf_sha256: Sha256Digest,
    pub(super) not_after: Timestamp,
    #[serde(serialize_with = "hexadecimal")]
    pub(super) nonce: Option<Vec<u8>>,
    #[serde(serialize_with = "hexadecimal")]
    pub(super) user_data: Option<Vec<u8>>,
    #[serde(serialize_with = "hexadecimal")]
    pub(super) public_key: Option<Vec<u8>>,
}

impl AcceptedEvidence {
    /// The security module that issued the document.
    #[must_use]
    pub fn module_id(&self) -> &str {
        &self.module_id
    }

    /// When the security module made the document, by its own clock.
    #[must_use]
    pub const fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// The registers.
    #[must_use]
    pub const fn pcrs(&self) -> &Pcrs {
        &self.pcrs
    }

    /// What the policy calls the root.
    #[must_use]
    pub fn anchor(&self) -> &str {
        &self.anchor
    }

    /// What the root vouches for.
    #[must_use]
    pub const fn tier(&self) -> Tier {
        self.tier
    }

    /// Whether the enclave runs in debug mode, which the policy then expects.
    #[must_use]
    pub const fn debug(&self) -> bool {
        self.debug
    }

    /// What the policy calls the image.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.image
    }

    /// The SHA-256 of the root certificate.
    #[must_use]
    pub const fn root_sha256(&self) -> &Sha256Digest {
        &self.root_sha256
    }

    /// The SHA-256 of the leaf certificate.
    #[must_use]
    pub const fn leaf_sha256(&self) -> &Sha256Digest {
        &self.leaf_sha256
    }

    /// The last second in which every certificate is valid.
    #[must_use]
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The nonce in the document.
    #[must_use]
    pub fn nonce(&self) -> Option<&[u8]> {
        self.nonce.as_deref()
    }

    /// The user data in the document.
    #[must_use]
    pub fn user_data(&self) -> Option<&[u8]> {
        self.user_data.as_deref()
    }

    /// The public key in the document.
    #[must_use]
    pub fn public_key(&self) -> Option<&[u8]> {
        self.public_key.as_deref()
    }
}

/// Accepted evidence of which everything was asked that a channel needs. See [`Verdict::accepted_session`](super::Verdict::accepted_session).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedSession(pub(super) AcceptedEvidence);

impl AcceptedSession {
    /// What is known about the document.
    #[must_use]
    pub const fn evidence(&self) -> &AcceptedEvidence {
        &self.0
    }
}

#[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
fn hexadecimal<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    bytes.as_ref().map(hex::encode).serialize(serializer)
}
