//! The two clocks of release control, as two types that cannot be mistaken for each other.

use core::fmt;
use core::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::fields::from_text;

/// A point in absolute time: milliseconds since 1970-01-01T00:00:00Z without leap seconds.
///
/// Inside the enclave it comes from the security module's timestamp, never from a clock that the host sets. As text it is
/// RFC 3339 in UTC to the second, in exactly one spelling: `2027-01-31T12:00:00Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixMillis(pub u64);

/// A point in this machine's own time: milliseconds since boot that also count while it sleeps (Linux `CLOCK_BOOTTIME`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BootMillis(pub u64);

impl BootMillis {
    /// The point `millis` later; stops at the end of the type.
    #[must_use]
    pub const fn plus(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

/// Why some text is not a [`UnixMillis`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time of the form 2027-01-31T12:00:00Z")]
pub struct TimeError(String);

impl FromStr for UnixMillis {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        let refused = || TimeError(text.chars().take(40).collect());
        let time = humantime::parse_rfc3339(text).map_err(|_| refused())?;
        let since = time.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| refused())?;
        let millis = since.as_secs().checked_mul(1000).map(Self).ok_or_else(refused)?;
        // One spelling per instant: fractions and the like do not come out as they went in.
        if millis.to_string() == text { Ok(millis) } else { Err(refused()) }
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// 9999-12-31T23:59:59Z, the last second that RFC 3339 can write.
        const LAST_SECOND: u64 = 253_402_300_799;
        let second = (self.0 / 1000).min(LAST_SECOND);
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        write!(formatter, "{}", humantime::format_rfc3339_seconds(time))
    }
}

impl Serialize for UnixMillis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UnixMillis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a time of the form 2027-01-31T12:00:00Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_per_instant() {
        let time = "2027-01-31T12:00:00Z".parse::<UnixMillis>().unwrap();
        assert_eq!(time, UnixMillis(1_801_396_800_000));
        assert_eq!(time.to_string(), "2027-01-31T12:00:00Z");
        for bad in [
            "2027-01-31T12:00:00.0Z",
            "2027-01-31T12:00:00.5Z",
            "2027-01-31 12:00:00Z",
            "2027-01-31T12:00:00+00:00",
            "2027-02-30T12:00:00Z",
            "1969-12-31T23:59:59Z",
            "2027-01-31",
            "",
        ] {
            assert!(bad.parse::<UnixMillis>().is_err(), "{bad}");
        }
        assert_eq!(UnixMillis(u64::MAX).to_string(), "9999-12-31T23:59:59Z");
        assert_eq!("9999-12-31T23:59:59Z".parse::<UnixMillis>().unwrap().to_string(), "9999-12-31T23:59:59Z");
    }
}
