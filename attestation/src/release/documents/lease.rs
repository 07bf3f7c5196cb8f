//! Leases: an authority says, for one nonce, that a release may run for some seconds.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::{ReleaseError, in_range};
use super::fields::{List, first_repeated};
use super::payload_type::PayloadType;
use super::release::{LEASE_SECONDS_LIMIT, Release};
use super::role::Role;
use super::root::{Root, VERSION_LIMIT};
use super::verified::{Payload, Sealed};
use crate::digest::{DigestError, Sha256Digest};

/// The most denials that one lease can list. It lists one for each model and partner that is halted, so an issuer gives no lease
/// while more of them are halted in one release.
pub const LEASE_DENIALS_LIMIT: usize = 256;

/// 32 random bytes that one enclave drew for one lease; hexadecimal as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nonce(Sha256Digest);

impl Nonce {
    /// The nonce of these bytes. The caller draws them from the system's random generator.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Sha256Digest::from_bytes(bytes))
    }

    /// The nonce's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Whether every byte is zero, which no random generator that works returns.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.is_zero()
    }
}

impl FromStr for Nonce {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The payload of a lease envelope: the statement of one issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The nonce that it answers.
    pub nonce: Nonce,
    /// The newest root that the issuer holds.
    pub root: DocumentName,
    /// The newest release that the issuer holds.
    pub release: DocumentName,
    /// How long, counted from the moment the enclave sent the nonce.
    pub seconds: u64,
    /// Digests of denials: one for each model, partner and attribute of the release that is halted, as far as the issuer knows. A digest
    /// says nothing by itself. An enclave that does not hold the denial refuses the lease.
    pub denials: List<Sha256Digest, LEASE_DENIALS_LIMIT>,
}

/// A root or a release by version and digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentName {
    /// Its version, for people.
    pub version: u64,
    /// SHA-256 of its payload: this is what names it.
    pub sha256: Sha256Digest,
}

/// The digest by which the channel and receipts name a lease, which may consist of the statements of several issuers:
/// SHA-256 over the SHA-256 digests of the lease payloads, in ascending order, one after the other.
#[must_use]
pub fn lease_digest(payloads: &[Sha256Digest]) -> Sha256Digest {
    let mut sorted = payloads.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let parts: Vec<&[u8]> = sorted.iter().map(|digest| digest.as_bytes().as_slice()).collect();
    Sha256Digest::of(&parts)
}

/// How many distinct lease keys it takes: the root's threshold or the release's, whichever is higher.
#[must_use]
pub fn issuers_needed(root: &Root, release: &Release) -> u64 {
    root.roles.lease.threshold.max(release.lease.issuers)
}

impl Sealed for Lease {}

impl Payload for Lease {
    const TYPE: PayloadType = PayloadType::Lease;
    const ROLE: Role = Role::Lease;

    /// One: each issuer signs a lease of its own, because each names the denials that it knows. Whether the issuers of
    /// several leases are enough together is [`issuers_needed`]'s question.
    fn needed(_root: &Root) -> u64 {
        1
    }

    fn check(&self) -> Result<(), ReleaseError> {
        in_range("root.version", self.root.version, 1, VERSION_LIMIT)?;
        in_range("release.version", self.release.version, 1, VERSION_LIMIT)?;
        in_range("seconds", self.seconds, 1, LEASE_SECONDS_LIMIT)?;
        match first_repeated(self.denials.iter()) {
            Some(denial) => Err(ReleaseError::Repeated { what: "the denial", value: denial.to_string() }),
            None => Ok(()),
        }
    }

    fn check_against(&self, _root: &Root) -> Result<(), ReleaseError> {
        // A lease must agree with the state that it renews: `TrustedState::accept_lease` compares the two.
        Ok(())
    }
}
