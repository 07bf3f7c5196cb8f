//! The reasons for a missing session or answer, and how far the request got.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use cleanroom_attestation::channel::RefusalCode;
use cleanroom_attestation::verdict::Verdict;
use cleanroom_program::file::FileError;

use crate::channel::ChannelError;
use crate::record::Shown;

/// Why there is no session, or no answer on it.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Nobody answers at any address.
    #[error("cannot reach the host: {0}")]
    Unreachable(#[source] io::Error),
    /// The host took a connection and did not complete the exchange in time.
    #[error("the host did not complete the exchange in time")]
    Timeout,
    /// The clean room was not proven.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The clean room's evidence was refused.
    #[error("{error}")]
    Refused {
        /// The first reason.
        error: ChannelError,
        /// All that was asked of the evidence, and what it said. Absent when it was refused before anything could be asked.
        verdict: Option<Box<Verdict>>,
        /// The evidence as it came.
        shown: Box<Shown>,
    },
    /// The verification was not recorded, so it does not count.
    #[error("the verification could not be recorded, so it does not count: {0}")]
    Unrecorded(#[source] FileError),
    /// The clean room was proven, and HTTP/2 did not begin.
    #[error("the connection ended before the clean room began HTTP/2")]
    Http2,
    /// The session rests on something that has ended, so nothing more may be sent on it.
    #[error("the session has ended: {0}")]
    Ended(RestsOn),
    /// This program ended the session, and everything that ran on it.
    #[error("running requests on the session were cut: {}", .0.reason)]
    Cut(Cut),
    /// The connection was lost.
    #[error("the connection to the clean room was lost: {}", innermost(.0))]
    Lost(#[from] hyper::Error),
}

/// The last reason in an error's chain, which says most.
fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

impl SessionError {
    /// The stable code of the reason. A code that begins with `unproven/` is what a host said before anything
    /// was proven.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Timeout => "timeout",
            Self::Channel(error) | Self::Refused { error, .. } => error.code(),
            Self::Unrecorded(_) => "record",
            Self::Http2 => "http2",
            Self::Ended(_) => "session-ended",
            Self::Cut(cut) => cut.code,
            Self::Lost(_) => "connection-lost",
        }
    }

    /// Whether this program's own checks *refused* the clean room, in contrast to not reaching it.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Channel(error) | Self::Refused { error, .. } if error.is_refusal())
    }

    /// Whether the next attempt may go better by itself, as when a host or a balancer starts again. What was refused stays so,
    /// and a clean room that is not permitted to serve is not waited for.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Channel(ChannelError::Refused(code)) => {
                matches!(code, RefusalCode::Busy | RefusalCode::Draining | RefusalCode::NoEvidence)
            }
            Self::Unrecorded(_) => false,
            other => !other.is_refusal(),
        }
    }

    /// The verdict on evidence that was refused.
    #[must_use]
    pub fn verdict(&self) -> Option<&Verdict> {
        match self {
            Self::Refused { verdict, .. } => verdict.as_deref(),
            _ => None,
        }
    }

    /// How much the error tells when several addresses failed: the failed proof first, then a refusal by a
    /// host.
    pub(crate) fn weight(&self) -> u8 {
        match self {
            error if error.is_refusal() => 3,
            Self::Channel(ChannelError::Refused(_)) => 2,
            Self::Unreachable(_) => 0,
            _ => 1,
        }
    }
}

/// What a session rests on that ends first. The session ends with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestsOn {
    /// The evidence, which grows old.
    Evidence,
    /// What the authorities permit. Most of the time the lease ends first.
    Lease,
    /// The partner's policy, which another one has replaced.
    Policy,
}

impl fmt::Display for RestsOn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Evidence => "its evidence is as old as the policy allows",
            Self::Lease => "its lease has ended",
            Self::Policy => "it was proven under a policy that is no longer in force",
        })
    }
}

/// Why this program cut what ran on a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// A stable word.
    pub code: &'static str,
    /// The reason, for people.
    pub reason: String,
}

/// How far a request got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// No byte of the request's content left this machine, or the clean room says that it did not look at it.
    /// Sending it again cannot do anything twice.
    NeverSent,
    /// Some of it left, and nothing came back.
    MayHaveBeenSent,
    /// The clean room began to answer.
    WasSent,
}

impl Reach {
    /// A stable name, for programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NeverSent => "never-sent",
            Self::MayHaveBeenSent => "may-have-been-sent",
            Self::WasSent => "was-sent",
        }
    }

    /// The state in words, for the person who sent the request.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::NeverSent => "Your request was not sent.",
            Self::MayHaveBeenSent => "The clean room may have received your request.",
            Self::WasSent => "The clean room received your request.",
        }
    }
}

/// Why a request has no whole answer, and how far it got.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}. {}", reach.sentence())]
pub struct SendError {
    /// How far the request got.
    pub reach: Reach,
    /// What went wrong.
    pub reason: Arc<SessionError>,
}

impl SendError {
    /// The request did not leave this machine.
    pub(crate) fn never(reason: impl Into<Arc<SessionError>>) -> Self {
        Self { reach: Reach::NeverSent, reason: reason.into() }
    }

    /// The stable code of the reason.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.reason.code()
    }
}
