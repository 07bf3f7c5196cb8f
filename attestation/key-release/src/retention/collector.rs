//! The secrets of days that an enclave has, and those that it waits for.

use cleanroom_attestation::release::{Day, DayBrokers, Id, UnixMillis};

use super::asked::{Asked, DayError};
use super::day::DaySecret;
use super::request::{RetentionAnswer, RetentionRequest, Wanted};
use crate::recipient::RecipientKey;

/// How long after its end the secret of a day may still be given and seal, in milliseconds: ten minutes. Clocks differ, and a
/// host needs time to bring the secrets of the next day.
pub const SEALS_AFTER_MS: u64 = 600_000;

/// The days whose secrets an enclave keeps: the present one, and the one before until its time is over.
const DAYS: usize = 2;

/// Collects the secrets of days for one model under one release.
pub struct DayCollector {
    asked: Asked,
    days: Vec<(Day, Vec<(Id, DaySecret)>)>,
}

/// The secrets that records are sealed under.
pub struct DaySecrets<'a> {
    pub(super) day: Day,
    pub(super) needed: u8,
    pub(super) secrets: &'a [(Id, DaySecret)],
}

impl DaySecrets<'_> {
    /// Their day.
    #[must_use]
    pub const fn day(&self) -> Day {
        self.day
    }
}

/// Whether the secret of `day` seals at `now`.
pub(super) fn seals(day: Day, now: UnixMillis) -> bool {
    let end = Day(day.0.saturating_add(1)).begin().0.saturating_add(SEALS_AFTER_MS);
    (day.begin().0..end).contains(&now.0)
}

impl DayCollector {
    /// Collects what `brokers` hold.
    #[must_use]
    pub fn new(brokers: DayBrokers) -> Self {
        Self { asked: Asked::of(brokers), days: Vec::new() }
    }

    /// The key that secrets are to be sealed to.
    #[must_use]
    pub const fn recipient(&self) -> &RecipientKey {
        self.asked.recipient()
    }

    /// The brokers whose secret of the day of `now` is not there.
    #[must_use]
    pub fn missing(&self, now: UnixMillis) -> Vec<Id> {
        let secrets = self.secrets(Day::of(now));
        let is_missing = |name: &Id| !secrets.iter().any(|(broker, _)| broker == name);
        self.asked
            .brokers()
            .of
            .iter()
            .map(|broker| &broker.name)
            .filter(|name| is_missing(name))
            .cloned()
            .collect()
    }

    fn secrets(&self, day: Day) -> &[(Id, DaySecret)] {
        self.days.iter().find(|(known, _)| *known == day).map_or(&[], |(_, secrets)| secrets)
    }

    /// Notes that `request` leaves. It takes the place of an earlier one to the same broker.
    ///
    /// # Errors
    /// [`DayError::UnknownBroker`].
    pub fn ask(&mut self, request: RetentionRequest) -> Result<(), DayError> {
        self.asked.note(request)
    }

    /// Takes the answer of `broker` to the request that was made last.
    ///
    /// # Errors
    /// [`DayError`].
    pub fn take(&mut self, broker: &Id, answer: &RetentionAnswer) -> Result<(), DayError> {
        let (request, opened) = self.asked.open(broker, answer)?;
        let Wanted::Secret(day) = request.wanted else { return Err(DayError::NotAsked) };
        let secret = DaySecret::read(&opened).ok_or(DayError::NotTheBrokers)?;
        self.asked.answered(broker);
        match self.days.iter_mut().find(|(known, _)| *known == day) {
            Some((_, secrets)) => {
                secrets.retain(|(name, _)| name != broker);
                secrets.push((broker.clone(), secret));
            }
            None => {
                self.days.push((day, vec![(broker.clone(), secret)]));
                self.days.sort_by_key(|(day, _)| *day);
                // Of a day that is long over nothing stays in memory.
                let over = self.days.len().saturating_sub(DAYS);
                self.days.drain(..over);
            }
        }
        Ok(())
    }

    /// The newest day whose secrets seal at `now`, with the secrets of at least as many brokers as are needed. `None` when too few
    /// are there: nothing can be sealed.
    #[must_use]
    pub fn sealing(&self, now: UnixMillis) -> Option<DaySecrets<'_>> {
        let needed = usize::try_from(self.asked.brokers().needed).ok()?;
        let mut days = self.days.iter().rev();
        let (day, secrets) =
            days.find(|(day, secrets)| seals(*day, now) && secrets.len() >= needed.max(1))?;
        Some(DaySecrets { day: *day, needed: u8::try_from(needed).ok()?, secrets })
    }
}
