//! Validity periods, and the clock by which they are judged.

use core::time::Duration;

use crate::time::Timestamp;

/// A validity period: both ends belong to it (RFC 5280 section 4.1.2.5). Whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

impl Window {
    pub(super) const fn contains(&self, at: Timestamp) -> bool {
        self.not_before.as_seconds() <= at.as_seconds() && at.as_seconds() <= self.not_after.as_seconds()
    }

    pub(super) fn intersection(self, other: Self) -> Self {
        Self {
            not_before: self.not_before.max(other.not_before),
            not_after: self.not_after.min(other.not_after),
        }
    }
}

/// The verifier's clock, and how far it may be behind.
///
/// AWS does not backdate certificates: a document is often made four seconds after its leaf begins. A clock that is slow by
/// more would refuse it, so a certificate may begin up to `max_skew` after the verifier's time. The end of a certificate
/// has no tolerance.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    /// The verifier's time.
    pub(crate) at: Timestamp,
    /// By how much that time may be too early.
    pub(crate) max_skew: Duration,
}

/// Why a window does not hold the verifier's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outside {
    /// It begins more than the tolerance later.
    Early,
    /// It ended.
    Late,
}

impl Clock {
    /// The time at which certificates with this window are judged: the verifier's own, or the window's first second when
    /// that is at most the tolerance later.
    pub(super) fn within(self, window: Window) -> Result<Timestamp, Outside> {
        if self.at.saturating_add(self.max_skew) < window.not_before {
            return Err(Outside::Early);
        }
        let judged = self.at.max(window.not_before);
        if judged.as_seconds() > window.not_after.as_seconds() { Err(Outside::Late) } else { Ok(judged) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_has_a_tolerance_and_the_end_has_none() {
        let window =
            Window { not_before: Timestamp::from_seconds(100), not_after: Timestamp::from_seconds(110) };
        let judged = |millis: u64| {
            let clock = Clock { at: Timestamp::from_millis(millis), max_skew: Duration::from_secs(60) };
            clock.within(window).map(Timestamp::as_millis)
        };
        assert_eq!(judged(39_999), Err(Outside::Early));
        assert_eq!(judged(40_000), Ok(100_000));
        assert_eq!(judged(100_000), Ok(100_000));
        assert_eq!(judged(105_001), Ok(105_001));
        assert_eq!(judged(110_999), Ok(110_999));
        assert_eq!(judged(111_000), Err(Outside::Late));
    }

    #[test]
    fn a_window_that_ends_before_it_begins_holds_no_time() {
        let window =
            Window { not_before: Timestamp::from_seconds(110), not_after: Timestamp::from_seconds(100) };
        for seconds in [40, 99, 100, 105, 110, 111] {
            let clock = Clock { at: Timestamp::from_seconds(seconds), max_skew: Duration::from_secs(60) };
            assert!(clock.within(window).is_err(), "{seconds}");
        }
    }
}
