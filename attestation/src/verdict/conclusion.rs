//! The verdict: every answer, and the one way from them to a value that may be trusted.

use super::axis::{Axis, AxisStatus, Outcome};
use super::check::{Check, Rejection};
use super::evidence::{AcceptedEvidence, AcceptedSession};
use crate::chain::Tier;
use crate::digest::Sha256Digest;
use crate::time::Timestamp;

/// What the verifier concluded.
///
/// Serialises as an object with `outcome`, `judged_at`, `policy_sha256`, `axes`, `tier`, `debug`, `checks`, `evidence` and
/// `rejection`; displays as a report for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub(super) judged_at: Timestamp,
    pub(super) policy_sha256: Sha256Digest,
    pub(super) axes: [AxisStatus; Axis::ALL.len()],
    pub(super) tier: Option<Tier>,
    pub(super) debug: bool,
    pub(super) checks: Vec<Check>,
    pub(super) conclusion: Conclusion,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Conclusion {
    /// A check failed.
    Rejected(Rejection),
    /// Every check passed, but a channel needs one that was not made.
    Document(Box<AcceptedEvidence>, Rejection),
    /// Every check passed, and all that a channel needs were made.
    Session(Box<AcceptedSession>),
}

impl Verdict {
    /// The verifier's time, at which the document was judged.
    #[must_use]
    pub const fn judged_at(&self) -> Timestamp {
        self.judged_at
    }

    /// The SHA-256 of the policy file that the document was judged by.
    #[must_use]
    pub const fn policy_sha256(&self) -> &Sha256Digest {
        &self.policy_sha256
    }

    /// The answer on all axes together.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match &self.conclusion {
            Conclusion::Rejected(_) => Outcome::Fail,
            _ if self.axes.iter().all(|status| *status == AxisStatus::Passed) => Outcome::Pass,
            _ => Outcome::Partial,
        }
    }

    /// The answer on one axis.
    #[must_use]
    pub fn axis(&self, axis: Axis) -> AxisStatus {
        let statuses = Axis::ALL.iter().zip(&self.axes);
        statuses
            .filter(|(other, _)| **other == axis)
            .map(|(_, status)| *status)
            .next()
            .unwrap_or(AxisStatus::Failed)
    }

    /// Everything that was checked, in order. After a failure of structure, chain, signature or time stamp nothing more
    /// is checked, because nothing in the document can be believed.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// What the root vouches for; `None` when the document is not genuine under a root of the policy.
    #[must_use]
    pub const fn tier(&self) -> Option<Tier> {
        self.tier
    }

    /// Whether a genuine document comes from an enclave in debug mode. Accepted only where the policy says
    /// `debug = true`; nothing about the image is proven then, and its operator can read its console.
    #[must_use]
    pub const fn debug(&self) -> bool {
        self.debug
    }

    /// The evidence, if everything that was asked holds. What was not asked is not known: see [`Self::outcome`].
    ///
    /// # Errors
    ///
    /// The [`Rejection`] of the first check that failed.
    pub fn accepted(&self) -> Result<&AcceptedEvidence, &Rejection> {
        match &self.conclusion {
            Conclusion::Rejected(rejection) => Err(rejection),
            Conclusion::Document(evidence, _) => Ok(evidence),
            Conclusion::Session(session) => Ok(&session.0),
        }
    }

    /// The evidence, if every asked check holds **and** the checks that a channel needs were all asked:
    /// platform, image, PCR 16 (model), PCR 17 (receipt key), a nonce of at least
    /// [`MIN_SESSION_NONCE_LENGTH`](super::MIN_SESSION_NONCE_LENGTH), user data and public key. Deployment
    /// and greatest age are the policy's choice.
    ///
    /// # Errors
    ///
    /// The [`Rejection`] of the first check that failed; with the code `session-not-asked` for the first that was not made.
    pub fn accepted_session(&self) -> Result<&AcceptedSession, &Rejection> {
        match &self.conclusion {
            Conclusion::Rejected(rejection) | Conclusion::Document(_, rejection) => Err(rejection),
            Conclusion::Session(session) => Ok(session),
        }
    }

    /// As [`Self::accepted_session`], by value.
    ///
    /// # Errors
    ///
    /// As [`Self::accepted_session`].
    pub fn into_accepted_session(self) -> Result<AcceptedSession, Rejection> {
        match self.conclusion {
            Conclusion::Rejected(rejection) | Conclusion::Document(_, rejection) => Err(rejection),
            Conclusion::Session(session) => Ok(*session),
        }
    }
}
