//! The issuer's side of a lease: what an authority may sign, and what it must not.

use serde::{Deserialize, Serialize};

use super::denial::DenialNotice;
use super::envelope::to_json;
use super::error::{ReleaseError, in_range};
use super::fields::List;
use super::lease::{Lease, NOTICES_LIMIT, Nonce, ReleaseName};
use super::root::VERSION_LIMIT;
use super::state::TrustedState;
use super::time::UnixMillis;
use crate::digest::Sha256Digest;

/// What an enclave asks an issuer for, as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// The nonce that the enclave drew.
    pub nonce: Nonce,
    /// Version of the root that it holds.
    pub root_version: u64,
    /// SHA-256 of the payload of the newest release that it holds.
    pub release_sha256: Sha256Digest,
}

impl LeaseRequest {
    /// The most bytes of one.
    pub const LIMIT: usize = 1 << 10;

    /// Reads one, as a stranger sent it.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] when it is too large or has another form.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ReleaseError> {
        const WHAT: &str = "lease request";
        if bytes.len() > Self::LIMIT {
            return Err(ReleaseError::TooLarge { what: WHAT, limit: Self::LIMIT, actual: bytes.len() });
        }
        let request: Self =
            serde_json::from_slice(bytes).map_err(|error| ReleaseError::form(WHAT, &error))?;
        in_range("root_version", request.root_version, 1, VERSION_LIMIT)?;
        Ok(request)
    }

    /// The request as JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

/// Why an issuer does not sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseRefusal {
    /// The nonce is all zero.
    #[error("the nonce is all zero; draw 32 random bytes")]
    ZeroNonce,
    /// The issuer has no release.
    #[error("this issuer has not been given a release")]
    NoRelease,
    /// The issuer's root has expired.
    #[error("the root has expired; the authorities have to rotate it")]
    RootExpired,
    /// The issuer's release has expired.
    #[error("the release has expired; the authorities have to sign a newer one")]
    ReleaseExpired,
    /// The enclave holds another root version.
    #[error("this issuer holds another version of the root; give the enclave every root up to it")]
    RootOutdated,
    /// The enclave holds another release.
    #[error("this issuer holds another release; give the enclave the newest one")]
    ReleaseOutdated,
    /// More denials are in force than a lease can repeat.
    #[error("more denials are in force than a lease can repeat; the authorities have to sign a release")]
    TooManyDenials,
}

impl LeaseRefusal {
    /// A stable word for programs and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::ZeroNonce => "zero-nonce",
            Self::NoRelease => "no-release",
            Self::RootExpired => "root-expired",
            Self::ReleaseExpired => "release-expired",
            Self::RootOutdated => "root-outdated",
            Self::ReleaseOutdated => "release-outdated",
            Self::TooManyDenials => "too-many-denials",
        }
    }
}

impl TrustedState {
    /// The lease that an issuer who holds this state may sign at `unix`, by the issuer's own clock.
    ///
    /// # Errors
    ///
    /// [`LeaseRefusal`]: only the newest release under the newest root gets a lease, and only while neither has expired.
    pub fn draft_lease(&self, request: &LeaseRequest, unix: UnixMillis) -> Result<Lease, LeaseRefusal> {
        if request.nonce.is_zero() {
            return Err(LeaseRefusal::ZeroNonce);
        }
        let release = self.release().ok_or(LeaseRefusal::NoRelease)?;
        let seconds_left =
            |expires: UnixMillis| Some(expires.0.saturating_sub(unix.0) / 1000).filter(|left| *left > 0);
        let root_left = seconds_left(self.root().expires).ok_or(LeaseRefusal::RootExpired)?;
        let release_left = seconds_left(release.expires).ok_or(LeaseRefusal::ReleaseExpired)?;
        if request.root_version != self.root().version {
            return Err(LeaseRefusal::RootOutdated);
        }
        if request.release_sha256 != release.digest() {
            return Err(LeaseRefusal::ReleaseOutdated);
        }
        let notices = self.denials_in_force().take(NOTICES_LIMIT + 1);
        let notices =
            notices.map(|(denial, halt)| DenialNotice { denial: *denial, halt: halt.clone() }).collect();
        let denials = List::new(notices).ok_or(LeaseRefusal::TooManyDenials)?;
        if self.halted_by_overflow() {
            return Err(LeaseRefusal::TooManyDenials);
        }
        Ok(Lease {
            nonce: request.nonce,
            root_version: self.root().version,
            release: ReleaseName { version: release.version, sha256: release.digest() },
            // No lease outlives what it is for.
            seconds: release.lease.seconds.min(root_left).min(release_left),
            denials,
        })
    }
}
