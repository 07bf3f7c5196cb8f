//! Retention: which exchanges are kept sealed, for how long, and who may be given one.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::{ReleaseError, in_range};
use super::fields::{Id, List, first_repeated, from_text};
use super::key::PublicKey;
use super::time::UnixMillis;
use crate::digest::Sha256Digest;

/// The most brokers that hold shares of one key.
pub const BROKERS_LIMIT: usize = 16;
/// The longest retention in days.
pub const RETENTION_DAYS_LIMIT: u64 = 366;
/// The most reasons for which a record may be opened.
pub const REASONS_LIMIT: usize = 16;
/// The most receivers of opened records.
pub const RECEIVERS_LIMIT: usize = 16;
/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;

/// Which exchanges with a model are kept as sealed records, and under which rule a record is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Which exchanges are kept.
    pub keep: Keep,
    /// For how many whole days after its own a record can be opened. Then the brokers delete the secret of its day.
    pub days: u64,
    /// Who makes, keeps and deletes the secrets of the days.
    pub brokers: DayBrokers,
    /// Who may be given a record, and why.
    pub opening: OpeningRule,
}

/// Which exchanges are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Those on which the safeguards gave a verdict other than `allow`.
    Flagged,
    /// All of them.
    All,
}

impl Keep {
    /// The word in a release.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flagged => "flagged",
            Self::All => "all",
        }
    }
}

/// The brokers that hold secrets of days, some of which together open a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DayBrokers {
    /// How many of them it takes.
    pub needed: u64,
    /// The brokers; at least one.
    pub of: List<DayBroker, BROKERS_LIMIT>,
}

/// A broker that holds secrets of days.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DayBroker {
    /// The broker's name.
    pub name: Id,
    /// The key that it signs its answers with. Without that signature a host could hand in a secret of its own.
    pub key: PublicKey,
}

/// Under which rule a record is opened. The `release` role of the root says how many authorities it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpeningRule {
    /// The codes of the reasons that count; at least one.
    pub reasons: List<Id, REASONS_LIMIT>,
    /// Who may be given a record; at least one.
    pub receivers: List<Receiver, RECEIVERS_LIMIT>,
}

/// Somebody who may be given a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receiver {
    /// The receiver's name.
    pub name: Id,
    /// SHA-256 over the receiver's public HPKE key.
    pub sha256: Sha256Digest,
}

impl Retention {
    /// Numbers are in range, and each name, key and reason stands for one.
    pub(super) fn check(&self) -> Result<(), ReleaseError> {
        let Self { keep: _, days, brokers: DayBrokers { needed, of }, opening } = self;
        let OpeningRule { reasons, receivers } = opening;
        in_range("days of a retention", *days, 1, RETENTION_DAYS_LIMIT)?;
        in_range("number of brokers of a retention", of.len() as u64, 1, BROKERS_LIMIT as u64)?;
        in_range("number of brokers needed by a retention", *needed, 1, of.len() as u64)?;
        in_range("number of reasons of a retention", reasons.len() as u64, 1, REASONS_LIMIT as u64)?;
        in_range("number of receivers of a retention", receivers.len() as u64, 1, RECEIVERS_LIMIT as u64)?;
        let repeated = |what, value: Option<String>| match value {
            Some(value) => Err(ReleaseError::Repeated { what, value }),
            None => Ok(()),
        };
        let name = first_repeated(of.iter().map(|broker| &broker.name));
        repeated("for one retention the broker", name.map(ToString::to_string))?;
        let key = first_repeated(of.iter().map(|broker| &broker.key));
        repeated("for one retention the broker key", key.map(ToString::to_string))?;
        repeated("for one retention the reason", first_repeated(reasons.iter()).map(ToString::to_string))?;
        let name = first_repeated(receivers.iter().map(|receiver| &receiver.name));
        repeated("for one retention the receiver", name.map(ToString::to_string))?;
        let key = first_repeated(receivers.iter().map(|receiver| &receiver.sha256));
        repeated("for one retention the receiver key", key.map(ToString::to_string))
    }

    /// The broker called `name`.
    #[must_use]
    pub fn broker(&self, name: &Id) -> Option<&DayBroker> {
        self.brokers.of.iter().find(|broker| broker.name == *name)
    }
}

/// A day in UTC, counted from 1970-01-01. As text it is `2027-01-31`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Day(pub u32);

/// Some text is not a [`Day`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a day of the form 2027-01-31")]
pub struct DayError;

impl Day {
    /// The day of a point in time.
    #[must_use]
    pub fn of(at: UnixMillis) -> Self {
        Self(u32::try_from(at.0 / DAY_MS).unwrap_or(u32::MAX))
    }

    /// Its first moment.
    #[must_use]
    pub fn begin(self) -> UnixMillis {
        UnixMillis(u64::from(self.0).saturating_mul(DAY_MS))
    }

    /// The first moment at which a record of this day cannot be opened any more, if it is kept for `days`.
    #[must_use]
    pub fn end_of_retention(self, days: u64) -> UnixMillis {
        UnixMillis(u64::from(self.0).saturating_add(1).saturating_add(days).saturating_mul(DAY_MS))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.begin().to_string();
        formatter.write_str(text.split('T').next().unwrap_or_default())
    }
}

impl FromStr for Day {
    type Err = DayError;

    fn from_str(text: &str) -> Result<Self, DayError> {
        let time: UnixMillis = format!("{text}T00:00:00Z").parse().map_err(|_| DayError)?;
        let day = Self::of(time);
        // One spelling.
        if day.to_string() == text { Ok(day) } else { Err(DayError) }
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a day of the form 2027-01-31")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_one_spelling_and_its_retention_ends_with_a_whole_day() {
        let day: Day = "2026-11-29".parse().unwrap();
        assert_eq!((day.to_string().as_str(), day), ("2026-11-29", Day::of(day.begin())));
        assert_eq!(Day::of(UnixMillis(day.begin().0 - 1)), Day(day.0 - 1));
        assert_eq!(day.end_of_retention(2).to_string(), "2026-12-02T00:00:00Z");
        for bad in ["", "2026-11-29T00:00:00Z", "2026-11-31", "26-11-29", "2026-11-29 "] {
            assert_eq!(bad.parse::<Day>(), Err(DayError), "{bad}");
        }
        assert_eq!(Day(u32::MAX).end_of_retention(u64::MAX), UnixMillis(u64::MAX));
    }
}
