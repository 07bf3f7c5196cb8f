//! Leases: an authority says, for one nonce, that a release may run for some seconds.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use super::denial::DenialNotice;
use super::envelope::PayloadType;
use super::error::{ReleaseError, in_range};
use super::fields::{List, first_repeated};
use super::manifest::{LEASE_SECONDS_LIMIT, Release};
use super::open::Payload;
use super::root::{Role, Root, VERSION_LIMIT};
use crate::digest::{DigestError, Sha256Digest};

/// The most denials in force that a lease can repeat. An issuer with more gives no lease.
pub const NOTICES_LIMIT: usize = 4096;

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

/// The payload of a lease envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The nonce that it answers.
    pub nonce: Nonce,
    /// Version of the root that the issuer holds.
    pub root_version: u64,
    /// The newest release that the issuer holds.
    pub release: ReleaseName,
    /// How long, counted from the moment the enclave sent the nonce.
    pub seconds: u64,
    /// The denials in force that the issuer knows.
    pub denials: List<DenialNotice, NOTICES_LIMIT>,
}

/// A release by version and digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseName {
    /// Its version, for people.
    pub version: u64,
    /// SHA-256 of its payload.
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

impl Payload for Lease {
    const TYPE: PayloadType = PayloadType::Lease;
    const ROLE: Role = Role::Lease;

    /// One: each issuer signs a lease of its own, because each names the denials that it knows. Whether the issuers of
    /// several leases are enough together is [`issuers_needed`]'s question.
    fn needed(_root: &Root) -> u64 {
        1
    }

    fn check(&self) -> Result<(), ReleaseError> {
        in_range("root_version", self.root_version, 1, VERSION_LIMIT)?;
        in_range("release.version", self.release.version, 1, VERSION_LIMIT)?;
        in_range("seconds", self.seconds, 1, LEASE_SECONDS_LIMIT)?;
        match first_repeated(self.denials.iter().map(|notice| &notice.denial)) {
            Some(denial) => Err(ReleaseError::Repeated { what: "the denial", value: denial.to_string() }),
            None => Ok(()),
        }
    }

    fn check_against(&self, _root: &Root) -> Result<(), ReleaseError> {
        // What a lease must agree with is the state that it is to renew, see `TrustedState::accept_lease`.
        Ok(())
    }
}
