//! The reasons to refuse a session after its evidence was read.

use core::fmt;

use cleanroom_attestation::verdict::Rejection;
use serde::Serialize;

/// Why appraised evidence does not make a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A check of the verdict failed.
    #[error(transparent)]
    Evidence(Rejection),
    /// The evidence was made for another connection: replayed, or relayed by somebody in between.
    #[error(
        "the evidence belongs to another connection: somebody stands between you and the enclave, or replays it"
    )]
    OtherSession,
    /// The evidence was made for something else.
    #[error("expected evidence for the purpose cleanroom/channel/1, got evidence for {actual}")]
    OtherPurpose {
        /// The tag that it has.
        actual: &'static str,
    },
    /// The receipt key did not sign this exchange.
    #[error("the receipt key's signature over this exchange is not valid")]
    ReceiptKeySignature,
    /// What the authorities released and leased does not permit this session, or the clean room cannot show
    /// that it does.
    #[error("{axis}: {message}")]
    Release {
        /// Which question failed.
        axis: ReleaseAxis,
        /// The code of the reason.
        code: &'static str,
        /// The reason, for people.
        message: String,
    },
    /// The enclave showed a release or a lease, and the policy names no root that could have signed it.
    #[error("the enclave showed a release or lease, but the policy has no root to check it with")]
    UnexpectedRelease,
}

impl Refused {
    /// The stable code of the reason.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Evidence(rejection) => rejection.code(),
            Self::OtherSession => "session-mismatch",
            Self::OtherPurpose { .. } => "purpose-mismatch",
            Self::ReceiptKeySignature => "receipt-key-signature",
            Self::Release { code, .. } => code,
            Self::UnexpectedRelease => "unexpected-release",
        }
    }
}

/// One of the questions about release control that are answered separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseAxis {
    /// Did a quorum release this image, here, with this model, and is the release in force?
    Release,
    /// Does a live lease let it run now?
    Lease,
    /// May this partner use it?
    Partner,
}

impl fmt::Display for ReleaseAxis {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Release => "release",
            Self::Lease => "lease",
            Self::Partner => "partner",
        })
    }
}
