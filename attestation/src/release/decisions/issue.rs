//! The issuer's side of a lease: the conditions under which an authority signs one.

use serde::{Deserialize, Serialize};

use super::state::TrustedState;
use crate::digest::Sha256Digest;
use crate::release::documents::{
    DocumentName, Lease, List, Nonce, ReleaseError, UnixMillis, VERSION_LIMIT, in_range, to_json,
};

/// What an enclave asks an issuer for, as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// The nonce that the enclave drew.
    pub nonce: Nonce,
    /// Version of the root that it holds, for people.
    pub root_version: u64,
    /// SHA-256 of that root's payload.
    pub root_sha256: Sha256Digest,
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
    /// More models, partners and attributes are halted than a lease can list.
    #[error(
        "more models, partners and attributes are halted than a lease can list; a release has to lift some or leave them out"
    )]
    TooManyDenials,
    /// A halt that an enclave could not check, because the deny key that signed it has left the root.
    #[error(
        "something is halted by a denial whose key has left the root: halt it again with a key of the newest root, lift that \
         denial in a release, or take its file away from every lease service"
    )]
    DenialUnsigned,
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
            Self::DenialUnsigned => "denial-unsigned",
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
        let root = DocumentName { version: self.root().version, sha256: self.root().digest() };
        if (request.root_version, request.root_sha256) != (root.version, root.sha256) {
            return Err(LeaseRefusal::RootOutdated);
        }
        if request.release_sha256 != release.digest() {
            return Err(LeaseRefusal::ReleaseOutdated);
        }
        let denials = self.denials_to_list().ok_or(LeaseRefusal::NoRelease)?.into_iter();
        let denials = denials.collect::<Option<Vec<_>>>().ok_or(LeaseRefusal::DenialUnsigned)?;
        let denials = List::new(denials).ok_or(LeaseRefusal::TooManyDenials)?;
        Ok(Lease {
            nonce: request.nonce,
            root,
            release: DocumentName { version: release.version, sha256: release.digest() },
            // No lease outlives what it is for.
            seconds: release.lease.seconds.min(root_left).min(release_left),
            denials,
        })
    }
}
