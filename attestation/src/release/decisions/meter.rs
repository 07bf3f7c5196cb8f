//! Counts one partner's requests and tokens, and compares them with the limits in the release.

use std::collections::VecDeque;

use crate::release::documents::{BootMillis, Limits};

/// The use that one partner makes of one enclave, over all its sessions.
///
/// Kept in the enclave's memory: it begins again when the enclave does. Windows slide in steps (1 second and 15 minutes) and are
/// counted one step longer than they are, so that no span of 60 seconds or 24 hours ever exceeds its limit.
#[derive(Debug, Clone)]
pub struct Meter {
    running: u32,
    requests: Window,
    tokens: Window,
}

/// Which limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitReached {
    /// As many requests run as may.
    #[error("{limit} requests are running, which is the limit; wait for one to end")]
    Concurrency {
        /// The limit.
        limit: u32,
    },
    /// As many requests began within 60 seconds as may.
    #[error("the limit of {limit} requests per minute is reached; try again in {retry_after_ms} ms")]
    RequestsPerMinute {
        /// The limit.
        limit: u32,
        /// When the oldest request leaves the window, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// As many tokens were used within 24 hours as may.
    #[error("the limit of {limit} tokens per day is reached; try again in {retry_after_ms} ms")]
    TokensPerDay {
        /// The limit.
        limit: u64,
        /// When the oldest tokens leave the window, in milliseconds from now.
        retry_after_ms: u64,
    },
}

impl LimitReached {
    /// A stable word for programs, receipts and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Concurrency { .. } => "concurrency-limit",
            Self::RequestsPerMinute { .. } => "requests-per-minute-limit",
            Self::TokensPerDay { .. } => "tokens-per-day-limit",
        }
    }
}

impl Meter {
    /// Nothing used yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { running: 0, requests: Window::new(1_000, 60), tokens: Window::new(900_000, 96) }
    }

    /// Admits a new request and counts it as running; [`Self::finish`] ends it.
    ///
    /// # Errors
    ///
    /// [`LimitReached`], and nothing is counted.
    pub fn admit(&mut self, limits: &Limits, now: BootMillis) -> Result<(), LimitReached> {
        if self.running >= limits.concurrency {
            return Err(LimitReached::Concurrency { limit: limits.concurrency });
        }
        if self.requests.total(now) >= limits.requests_per_minute.into() {
            let retry_after_ms = self.requests.until_next_step_frees(now);
            return Err(LimitReached::RequestsPerMinute {
                limit: limits.requests_per_minute,
                retry_after_ms,
            });
        }
        self.check_tokens(limits, 1, now)?;
        self.requests.add(1, now);
        self.running = self.running.saturating_add(1);
        Ok(())
    }

    /// Counts `tokens` before they are used: those of a prompt, or the next of a completion.
    ///
    /// # Errors
    ///
    /// [`LimitReached::TokensPerDay`] when they would exceed the limit, and nothing is counted.
    pub fn spend(&mut self, tokens: u64, limits: &Limits, now: BootMillis) -> Result<(), LimitReached> {
        self.check_tokens(limits, tokens, now)?;
        self.tokens.add(tokens, now);
        Ok(())
    }

    /// Takes back `tokens` that [`Self::spend`] counted since the time `since`, so that they count no longer.
    pub fn give_back(&mut self, tokens: u64, since: BootMillis) {
        self.tokens.take_back(tokens, since);
    }

    /// Ends a request that [`Self::admit`] admitted.
    pub const fn finish(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Requests that are running.
    #[must_use]
    pub const fn running(&self) -> u32 {
        self.running
    }

    fn check_tokens(&mut self, limits: &Limits, tokens: u64, now: BootMillis) -> Result<(), LimitReached> {
        if self.tokens.total(now).saturating_add(tokens) <= limits.tokens_per_day {
            return Ok(());
        }
        let retry_after_ms = self.tokens.until_next_step_frees(now);
        Err(LimitReached::TokensPerDay { limit: limits.tokens_per_day, retry_after_ms })
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}

/// Counts per step, over as many steps as the window has and the one that has begun.
#[derive(Debug, Clone)]
pub(super) struct Window {
    step_ms: u64,
    steps: u64,
    /// (number of the step, count), ascending; at most `steps + 1` of them.
    counts: VecDeque<(u64, u64)>,
    total: u64,
}

impl Window {
    pub(super) const fn new(step_ms: u64, steps: u64) -> Self {
        Self { step_ms, steps, counts: VecDeque::new(), total: 0 }
    }

    /// What was counted within the window that ends `now`.
    pub(super) fn total(&mut self, now: BootMillis) -> u64 {
        let step = now.0 / self.step_ms;
        while let Some((oldest, count)) = self.counts.front().copied()
            && oldest.saturating_add(self.steps) < step
        {
            self.counts.pop_front();
            self.total = self.total.saturating_sub(count);
        }
        self.total
    }

    pub(super) fn add(&mut self, count: u64, now: BootMillis) {
        // A clock that went back counts into the newest step, so that the order holds.
        let step = (now.0 / self.step_ms).max(self.counts.back().map_or(0, |(newest, _)| *newest));
        match self.counts.back_mut() {
            Some((newest, sum)) if *newest == step => *sum = sum.saturating_add(count),
            _ => self.counts.push_back((step, count)),
        }
        self.total = self.total.saturating_add(count);
    }

    /// Takes back what was counted since a time. Where others counted as well, the rest is never counted in an older
    /// step than it belongs to.
    fn take_back(&mut self, mut count: u64, since: BootMillis) {
        let first = since.0 / self.step_ms;
        for (_, sum) in self.counts.iter_mut().filter(|(step, _)| *step >= first) {
            let taken = count.min(*sum);
            (*sum, count) = (sum.saturating_sub(taken), count.saturating_sub(taken));
            self.total = self.total.saturating_sub(taken);
        }
    }

    /// Milliseconds until the oldest step leaves the window.
    fn until_next_step_frees(&self, now: BootMillis) -> u64 {
        let leaves =
            self.counts.front().map_or(0, |(oldest, _)| oldest.saturating_add(self.steps).saturating_add(1));
        leaves.saturating_mul(self.step_ms).saturating_sub(now.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { requests_per_minute: 3, tokens_per_day: 100, concurrency: 2, share: None };
    const MINUTE: u64 = 60_000;
    const DAY: u64 = 24 * 60 * MINUTE;

    #[test]
    fn concurrency_is_freed_by_finishing() {
        let mut meter = Meter::new();
        meter.admit(&LIMITS, BootMillis(0)).unwrap();
        meter.admit(&LIMITS, BootMillis(0)).unwrap();
        assert_eq!(meter.admit(&LIMITS, BootMillis(0)), Err(LimitReached::Concurrency { limit: 2 }));
        meter.finish();
        meter.admit(&LIMITS, BootMillis(0)).unwrap();
        assert_eq!(meter.running(), 2);
    }

    #[test]
    fn no_sixty_seconds_hold_more_requests_than_the_limit() {
        let mut meter = Meter::new();
        let mut admitted = Vec::new();
        for at in (0..5 * MINUTE).step_by(700) {
            if meter.admit(&LIMITS, BootMillis(at)).is_ok() {
                meter.finish();
                admitted.push(at);
            }
        }
        assert!(admitted.windows(4).all(|four| four[3] - four[0] > MINUTE), "{admitted:?}");
        assert!(admitted.len() >= 12, "{admitted:?}");
    }

    #[test]
    fn the_answer_says_when_to_come_back() {
        let mut meter = Meter::new();
        for at in [500, 600, 700] {
            meter.admit(&LIMITS, BootMillis(at)).unwrap();
            meter.finish();
        }
        let refused = meter.admit(&LIMITS, BootMillis(1_000)).unwrap_err();
        assert_eq!(refused, LimitReached::RequestsPerMinute { limit: 3, retry_after_ms: MINUTE });
        assert!(meter.admit(&LIMITS, BootMillis(MINUTE + 999)).is_err());
        assert!(meter.admit(&LIMITS, BootMillis(MINUTE + 1_000)).is_ok());
    }

    #[test]
    fn tokens_are_counted_before_they_are_used_and_come_back_after_a_day() {
        let mut meter = Meter::new();
        meter.spend(99, &LIMITS, BootMillis(0)).unwrap();
        assert_eq!(meter.spend(2, &LIMITS, BootMillis(1)).unwrap_err().code(), "tokens-per-day-limit");
        meter.spend(1, &LIMITS, BootMillis(1)).unwrap();
        assert_eq!(meter.admit(&LIMITS, BootMillis(1)).unwrap_err().code(), "tokens-per-day-limit");
        assert!(meter.spend(1, &LIMITS, BootMillis(DAY)).is_err());
        meter.spend(1, &LIMITS, BootMillis(DAY + 900_000)).unwrap();
        // Sums that do not fit are over every limit.
        assert!(meter.spend(u64::MAX, &LIMITS, BootMillis(DAY + 900_000)).is_err());
    }
    #[test]
    fn tokens_that_are_given_back_do_not_count_and_others_count_as_long_as_before() {
        const STEP: u64 = 900_000;
        let mut meter = Meter::new();
        meter.spend(40, &LIMITS, BootMillis(0)).unwrap();
        meter.spend(60, &LIMITS, BootMillis(STEP)).unwrap();
        meter.give_back(60, BootMillis(STEP));
        assert!(meter.spend(61, &LIMITS, BootMillis(STEP)).is_err());
        meter.spend(60, &LIMITS, BootMillis(STEP)).unwrap();
        // The first are a day old. Of those that came later, the younger ones stay.
        meter.spend(40, &LIMITS, BootMillis(DAY + STEP)).unwrap();
        meter.give_back(60, BootMillis(STEP));
        assert!(meter.spend(61, &LIMITS, BootMillis(DAY + 2 * STEP)).is_err());
        meter.spend(60, &LIMITS, BootMillis(DAY + 2 * STEP)).unwrap();
        assert!(meter.spend(1, &LIMITS, BootMillis(DAY + 2 * STEP)).is_err());
        // More than was counted cannot come back.
        meter.give_back(u64::MAX, BootMillis(0));
        assert!(meter.spend(101, &LIMITS, BootMillis(DAY + 2 * STEP)).is_err());
    }
}
