//! One thing that was checked, and why evidence is not accepted.

use core::fmt;
use core::time::Duration;

use serde::Serialize;

use super::axis::Axis;
use crate::time::Timestamp;

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub(super) axis: Axis,
    pub(super) what: &'static str,
    pub(super) expected: String,
    pub(super) actual: String,
    pub(super) rejection: Option<&'static str>,
    #[serde(skip)]
    pub(super) explained: bool,
}

impl Check {
    /// The axis that the check belongs to.
    #[must_use]
    pub const fn axis(&self) -> Axis {
        self.axis
    }

    /// What was checked, for people.
    #[must_use]
    pub const fn what(&self) -> &str {
        self.what
    }

    /// What was expected, for people.
    #[must_use]
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// What was found, for people. Where [`Self::explained`] says so, a sentence about what is wrong.
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

    /// Whether [`Self::actual`] says by itself what is wrong, without [`Self::expected`] beside it.
    #[must_use]
    pub const fn explained(&self) -> bool {
        self.explained
    }
}

/// Why evidence is not accepted: the first check that failed, or a question that had to be asked and was not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejection {
    pub(super) code: &'static str,
    pub(super) axis: Axis,
    pub(super) what: &'static str,
    pub(super) expected: String,
    pub(super) actual: String,
    #[serde(skip)]
    pub(super) explained: bool,
    pub(super) clock: Option<ClockDifference>,
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

    /// For a rule about time: how the verifier's clock looks beside the document's own time stamp.
    #[must_use]
    pub const fn clock(&self) -> Option<ClockDifference> {
        self.clock
    }
}

impl core::error::Error for Rejection {}

impl fmt::Display for Rejection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, axis: _, what, expected, actual, explained, clock } = self;
        if *explained {
            write!(formatter, "{code}: {what}: {actual}")?;
        } else {
            write!(formatter, "{code}: {what}: expected {expected}, got {actual}")?;
        }
        match clock {
            Some(clock) => write!(formatter, "; {clock}"),
            None => Ok(()),
        }
    }
}

/// How the verifier's clock looks beside a document's own time stamp.
///
/// The time stamp is the document's word. Where the document is not genuine, nothing vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockDifference {
    /// The document was made later than the verifier's time.
    Slow(Duration),
    /// The document was made earlier than the verifier's time: the clock is fast, or the document is old.
    Fast(Duration),
}

impl ClockDifference {
    /// The difference, unless there is none.
    pub(super) fn between(time_stamp: Timestamp, at: Timestamp) -> Option<Self> {
        match (time_stamp.since(at), at.since(time_stamp)) {
            (Some(Duration::ZERO), _) => None,
            (Some(by), _) => Some(Self::Slow(by)),
            (None, by) => by.map(Self::Fast),
        }
    }
}

impl fmt::Display for ClockDifference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("by the document's own time stamp, your clock looks ")?;
        match self {
            Self::Slow(by) => write!(formatter, "slow by {}", humantime::format_duration(*by)),
            Self::Fast(by) => {
                write!(
                    formatter,
                    "fast by {}, unless the document is that old",
                    humantime::format_duration(*by)
                )
            }
        }
    }
}

impl Serialize for ClockDifference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Object {
            looks: &'static str,
            by_ms: u64,
        }
        let (looks, by) = match self {
            Self::Slow(by) => ("slow", by),
            Self::Fast(by) => ("fast", by),
        };
        Object { looks, by_ms: u64::try_from(by.as_millis()).unwrap_or(u64::MAX) }.serialize(serializer)
    }
}
