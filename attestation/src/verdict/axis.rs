//! The questions that a verdict answers, and the answers there are.

use core::fmt;

use serde::Serialize;

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
