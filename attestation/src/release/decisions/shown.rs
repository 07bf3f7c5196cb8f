//! The partner's side: what a release and a lease that an enclave shows are worth to somebody who pins only the root.

use super::accepted::Accepted;
use super::decision::{Decision, Question};
use super::state::TrustedState;
use crate::channel::ShownLease;
use crate::digest::Sha256Digest;
use crate::release::documents::{BootMillis, Lease, Release, ReleaseError, Root, UnixMillis, Verified};

/// A release and the lease for it, whose signatures have been counted under one root.
///
/// The same [`TrustedState`] judges them that the enclave uses, so the two cannot drift apart. Its clock begins when the enclave
/// sent the nonce; where it stands now follows from the time that the enclave says is left.
///
/// A lease lists denials by digest. The partner does not see them. The measured code holds every one of them, or it would not
/// have accepted the lease, and it shows nothing to a partner that one of them halts.
#[derive(Debug, Clone)]
pub struct ShownTerms {
    state: TrustedState,
    release: Verified<Release>,
    lease: Sha256Digest,
    now: BootMillis,
}

impl ShownTerms {
    /// Verifies a release and a lease field as they stand in an `Evidence` frame.
    ///
    /// The time left is the enclave's word: it is believed once the receipt key's signature over the frame is.
    ///
    /// # Errors
    ///
    /// [`ShownError`] when one is missing, too few keys signed it, or the two do not belong together.
    pub fn open(root: &Verified<Root>, release: &[u8], lease: &[u8]) -> Result<Self, ShownError> {
        if release.is_empty() {
            return Err(ShownError::NoRelease);
        }
        if lease.is_empty() {
            return Err(ShownError::NoLease);
        }
        let lease = ShownLease::decode(lease).ok_or(ShownError::Form)?;
        let mut state = TrustedState::of(root.clone());
        state.accept_release(release)?;

        let first: Verified<Lease> = root.open(lease.envelopes.first().ok_or(ShownError::NoLease)?)?;
        state.begin_lease(first.nonce, BootMillis(0))?;
        let mut live = false;
        for envelope in &lease.envelopes {
            live = state.accept_shown_lease(envelope, BootMillis(0))? != Accepted::MoreIssuersNeeded;
        }
        let (true, Some(lease_now)) = (live, state.lease()) else { return Err(ShownError::Issuers) };
        let end = lease_now.end().0;
        let now = end
            .checked_sub(lease.left_ms)
            .ok_or(ShownError::TooLong { most_ms: end, actual_ms: lease.left_ms })?;
        let (lease, release) = (lease_now.digest(), state.release().cloned().ok_or(ShownError::NoRelease)?);
        Ok(Self { state, release, lease, now: BootMillis(now) })
    }

    /// The root under which they were counted.
    #[must_use]
    pub fn root(&self) -> &Root {
        self.state.root()
    }

    /// The release.
    #[must_use]
    pub const fn release(&self) -> &Verified<Release> {
        &self.release
    }

    /// The digest by which the transcript names the lease.
    #[must_use]
    pub const fn lease(&self) -> Sha256Digest {
        self.lease
    }

    /// Milliseconds that the lease still runs, by the enclave's word.
    #[must_use]
    pub fn lease_left_ms(&self) -> u64 {
        self.state.lease().map_or(0, |lease| lease.end().0.saturating_sub(self.now.0))
    }

    /// The answer to `question` at `unix`, by the partner's own clock; on `Serve`, the milliseconds for which it holds.
    ///
    /// # Errors
    ///
    /// [`Refusal`](super::Refusal), for the reasons that the enclave itself would have.
    pub fn decide(&self, question: &Question<'_>, unix: UnixMillis) -> Result<u64, super::Refusal> {
        match self.state.decide(question, self.now, unix) {
            Decision::Serve { until, .. } => Ok(until.0.saturating_sub(self.now.0)),
            Decision::Refuse(refusal) => Err(refusal),
        }
    }
}

/// Why a release and a lease that an enclave showed are worth nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShownError {
    /// The enclave showed no release.
    #[error("the policy pins a release root, and the clean room shows no release")]
    NoRelease,
    /// The enclave showed no lease.
    #[error("the policy pins a release root, and the clean room shows no lease")]
    NoLease,
    /// The lease field is not one.
    #[error("the lease does not have the form in docs/protocol.md")]
    Form,
    /// Fewer distinct issuers than root and release ask for.
    #[error("too few distinct authorities signed the lease")]
    Issuers,
    /// More time than any of the issuers gave.
    #[error(
        "the enclave says that the lease runs for {actual_ms} ms more, but its issuers gave at most {most_ms} ms"
    )]
    TooLong {
        /// What the issuers gave.
        most_ms: u64,
        /// What is said to be left.
        actual_ms: u64,
    },
    /// A signature, a rule or a version.
    #[error(transparent)]
    Release(#[from] ReleaseError),
}

impl ShownError {
    /// A stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoRelease => "no-release",
            Self::NoLease => "no-lease",
            Self::Form => "lease-form",
            Self::Issuers => "lease-issuers",
            Self::TooLong { .. } => "lease-too-long",
            Self::Release(error) => error.code(),
        }
    }
}
