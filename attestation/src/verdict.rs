//! What a verifier concluded about one document, axis by axis.
//!
//! [`appraise`] takes evidence, a policy, what this session expects and a time, and always gives a [`Verdict`]: one shape
//! to print, whether the document is accepted or not even CBOR. There is one way from it to a value that may be trusted:
//! [`Verdict::accepted`] and, for a channel, [`Verdict::accepted_session`]. [`AcceptedEvidence`] and [`AcceptedSession`]
//! have no other constructor.

mod appraise;
mod checks;
mod report;

use core::fmt;

use serde::Serialize;

use crate::chain::Tier;
use crate::digest::{Sha256Digest, Sha384Digest};
use crate::document::Pcrs;
use crate::time::Timestamp;

pub use self::appraise::appraise;

/// What this session expects of the evidence, beyond what the policy says. A field that is `None` is not asked about.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expectation<'a> {
    /// The challenge that was sent, whole. Compared in constant time.
    pub nonce: Option<&'a [u8]>,
    /// The user data that the session's transcript gives.
    pub user_data: Option<&'a [u8]>,
    /// The public key that the session knows of.
    pub public_key: Option<&'a [u8]>,
    /// PCR 16 as the expected model gives it.
    pub pcr16: Option<Sha384Digest>,
    /// PCR 17 as the expected receipt key gives it.
    pub pcr17: Option<Sha384Digest>,
}

/// The shortest nonce, in bytes, that makes a session fresh.
pub const MIN_SESSION_NONCE_LENGTH: usize = 16;

/// One of the questions that a verdict answers separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Axis {
    /// Is it a genuine security module under a root that the policy trusts?
    Platform,
    /// Is it an image that the policy names?
    Image,
    /// Is it *this* deployment: account role, parent instance, image signer?
    Deployment,
    /// Has it committed to the expected model?
    Model,
    /// Was it made for this challenge, and recently?
    Freshness,
    /// Is it bound to this session: transcript, receipt key?
    Session,
}

impl Axis {
    /// Every axis, in the order of a report.
    pub const ALL: [Self; 6] =
        [Self::Platform, Self::Image, Self::Deployment, Self::Model, Self::Freshness, Self::Session];

    /// The axis's name, as in machine-readable verdicts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Image => "image",
            Self::Deployment => "deployment",
            Self::Model => "model",
            Self::Freshness => "freshness",
            Self::Session => "session",
        }
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The answer on one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AxisStatus {
    /// Something was asked, and everything that was asked holds.
    Passed,
    /// Something that was asked does not hold.
    Failed,
    /// Nothing was asked, or the appraisal ended before it came to the question.
    NotAsked,
}

/// The answer on all axes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every axis was asked about and passed.
    Pass,
    /// Nothing failed, but some axis was not asked about.
    Partial,
    /// Something failed.
    Fail,
}

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    axis: Axis,
    what: String,
    expected: String,
    actual: String,
    rejection: Option<&'static str>,
}

impl Check {
    /// The axis that the check belongs to.
    #[must_use]
    pub const fn axis(&self) -> Axis {
        self.axis
    }

    /// What was checked, for people.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What was expected, for people.
    #[must_use]
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// What was found, for people.
    #[must_use]
    pub fn actual(&self) -> &str {
        &self.actual
    }

    /// Whether the check passed.
    #[must_use]
    pub const fn passed(&self) -> bool {
        self.rejection.is_none()
    }

    /// The stable code of the rule that was broken; `None` when the check passed.
    #[must_use]
    pub const fn rejection(&self) -> Option<&'static str> {
        self.rejection
    }
}

/// Why evidence is not accepted: the first check that failed, or a question that had to be asked and was not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{code}: {what}: expected {expected}, got {actual}")]
pub struct Rejection {
    code: &'static str,
    axis: Axis,
    what: String,
    expected: String,
    actual: String,
}

impl Rejection {
    /// The stable code of the rule that was broken.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.code
    }

    /// The axis of the rule.
    #[must_use]
    pub const fn axis(&self) -> Axis {
        self.axis
    }
}

/// What the verifier concluded.
///
/// Serialises as an object with `outcome`, `axes`, `tier`, `debug`, `checks`, `evidence` and `rejection`; displays as a
/// report for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    axes: [AxisStatus; Axis::ALL.len()],
    tier: Option<Tier>,
    debug: bool,
    checks: Vec<Check>,
    conclusion: Conclusion,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Conclusion {
    /// A check failed.
    Rejected(Rejection),
    /// Every check passed, but a channel needs one that was not made.
    Document(Box<AcceptedEvidence>, Rejection),
    /// Every check passed, and all that a channel needs were made.
    Session(Box<AcceptedSession>),
}

impl Verdict {
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

    /// The evidence, if everything that was asked holds **and** everything was asked that a channel needs: platform,
    /// image, PCR 16 (model), PCR 17 (receipt key), a nonce of at least [`MIN_SESSION_NONCE_LENGTH`], user data and
    /// public key. Deployment and greatest age are the policy's choice.
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

/// What is known about a document that was accepted. Only an appraisal makes one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AcceptedEvidence {
    module_id: String,
    timestamp: Timestamp,
    pcrs: Pcrs,
    anchor: String,
    tier: Tier,
    debug: bool,
    image: String,
    root_sha256: Sha256Digest,
    leaf_sha256: Sha256Digest,
    not_after: Timestamp,
    #[serde(serialize_with = "report::hexadecimal")]
    nonce: Option<Vec<u8>>,
    #[serde(serialize_with = "report::hexadecimal")]
    user_data: Option<Vec<u8>>,
    #[serde(serialize_with = "report::hexadecimal")]
    public_key: Option<Vec<u8>>,
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

/// Accepted evidence of which everything was asked that a channel needs. See [`Verdict::accepted_session`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedSession(AcceptedEvidence);

impl AcceptedSession {
    /// What is known about the document.
    #[must_use]
    pub const fn evidence(&self) -> &AcceptedEvidence {
        &self.0
    }
}
