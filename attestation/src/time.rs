//! Points in time as the caller or a document gives them. The library itself reads no clock.

use core::fmt;
use core::time::Duration;

/// A point in time: milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted (POSIX time).
///
/// Displays and serialises as RFC 3339 with milliseconds (`2025-02-17T15:20:36.407Z`); years after 9999, which RFC 3339
/// cannot write, display as a count of milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The last moment that RFC 3339 and X.509 can write: 9999-12-31T23:59:59.999Z.
    const LAST: u64 = 253_402_300_799_999;

    /// `millis` milliseconds after the epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// `seconds` seconds after the epoch; a count too large for milliseconds becomes the latest point there is.
    #[must_use]
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub const fn as_seconds(self) -> u64 {
        self.0 / 1000
    }

    /// How long ago `earlier` was, seen from here; `None` when it lies in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Option<Duration> {
        self.0.checked_sub(earlier.0).map(Duration::from_millis)
    }

    /// The time this much later; the latest there is when it would be later still.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Reads RFC 3339 with a `Z` offset, with or without fractions of a second.
    ///
    /// # Errors
    ///
    /// [`TimestampError`] when the text is anything else or lies before 1970.
    pub fn from_rfc3339(text: &str) -> Result<Self, TimestampError> {
        // The library also takes a second Z, and whatever follows the first.
        if text.find('Z') != text.len().checked_sub(1) {
            return Err(TimestampError);
        }
        let time = humantime::parse_rfc3339(text).map_err(|_| TimestampError)?;
        let elapsed = time.duration_since(std::time::UNIX_EPOCH).map_err(|_| TimestampError)?;
        u64::try_from(elapsed.as_millis()).map(Self).map_err(|_| TimestampError)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 > Self::LAST {
            return write!(formatter, "{} ms after 1970", self.0);
        }
        let time = std::time::UNIX_EPOCH + Duration::from_millis(self.0);
        write!(formatter, "{}", humantime::format_rfc3339_millis(time))
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why some text is not a [`Timestamp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a time like 2025-02-17T15:20:36Z (RFC 3339, UTC, 1970 or later)")]
pub struct TimestampError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_rfc_3339() {
        let time = Timestamp::from_rfc3339("2025-02-17T15:20:36.407Z").unwrap();
        assert_eq!(time.as_millis(), 1_739_805_636_407);
        assert_eq!(time.as_seconds(), 1_739_805_636);
        assert_eq!(time.to_string(), "2025-02-17T15:20:36.407Z");
        assert_eq!(Timestamp::from_seconds(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Timestamp::from_seconds(7).as_millis(), 7000);
    }

    #[test]
    fn refuses_what_is_not_a_time() {
        for text in [
            "",
            "now",
            "2025-02-17",
            "1969-12-31T23:59:59Z",
            "2025-02-17T15:20:36+01:00",
            "2025-02-17T15:20:36ZZ",
            "2025-02-17T15:20:36Z+01:00",
            "2025-02-17T15:20:36.4Z0",
        ] {
            assert_eq!(Timestamp::from_rfc3339(text), Err(TimestampError), "{text}");
        }
    }

    #[test]
    fn every_value_can_be_displayed() {
        assert_eq!(Timestamp::from_millis(Timestamp::LAST).to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Timestamp::from_millis(Timestamp::LAST + 1).to_string(), "253402300800000 ms after 1970");
        assert_eq!(Timestamp::from_seconds(u64::MAX).as_millis(), u64::MAX);
    }

    #[test]
    fn since_is_none_for_the_future() {
        let (early, late) = (Timestamp::from_millis(5), Timestamp::from_millis(8));
        assert_eq!(late.since(early), Some(Duration::from_millis(3)));
        assert_eq!(early.since(early), Some(Duration::ZERO));
        assert_eq!(early.since(late), None);
    }
}
