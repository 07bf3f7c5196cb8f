//! Counts one partner's verdicts, and compares them with the limits of the safeguards in the release.

use std::collections::BTreeMap;

use super::meter::Window;
use crate::release::documents::{BootMillis, Id, SafeguardLimit};
use crate::safeguard::SafeguardAction;

/// A window slides in so many steps, and is counted one step longer than it is.
const STEPS: u64 = 32;

/// The verdicts on one partner's requests to one enclave, over all its sessions and keys.
///
/// Kept in the enclave's memory: it begins again when the enclave does. It holds numbers alone, at most `STEPS` and one
/// for each limit of the releases in force.
#[derive(Debug, Clone, Default)]
pub struct SafeguardTally {
    /// By the limit's name, with the time in seconds that it counts over.
    windows: BTreeMap<Id, (u64, Window)>,
}

impl SafeguardTally {
    /// Nothing counted yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { windows: BTreeMap::new() }
    }

    /// Counts a verdict. Returns the first of `limits` that it reaches, and then counts from zero again.
    pub fn count(
        &mut self,
        action: SafeguardAction,
        limits: &[SafeguardLimit],
        now: BootMillis,
    ) -> Option<Id> {
        self.windows.retain(|id, (seconds, _)| {
            limits.iter().any(|limit| limit.id == *id && limit.within_seconds == *seconds)
        });
        let mut reached = None;
        for limit in limits.iter().filter(|limit| limit.action <= action) {
            // A verdict counts for its whole window and up to one step longer.
            let step_ms = limit.within_seconds.saturating_mul(1000).div_ceil(STEPS).max(1);
            let (_, window) = self
                .windows
                .entry(limit.id.clone())
                .or_insert_with(|| (limit.within_seconds, Window::new(step_ms, STEPS)));
            window.add(1, now);
            if window.total(now) >= limit.count && reached.is_none() {
                reached = Some(limit.id.clone());
            }
        }
        if reached.is_some() {
            self.windows.clear();
        }
        reached
    }

    /// Whether nothing is counted any more at `now`.
    pub fn is_empty(&mut self, now: BootMillis) -> bool {
        self.windows.values_mut().all(|(_, window)| window.total(now) == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(id: &str, action: SafeguardAction, count: u64, within_seconds: u64) -> SafeguardLimit {
        SafeguardLimit { id: id.parse().unwrap(), action, count, within_seconds }
    }

    #[test]
    fn a_limit_is_reached_by_its_action_or_a_stricter_one_within_its_time() {
        let limits = [limit("tries", SafeguardAction::Refuse, 3, 3600)];
        let mut tally = SafeguardTally::new();
        let mut count = |action, at| tally.count(action, &limits, BootMillis(at)).map(|id| id.to_string());
        assert_eq!(count(SafeguardAction::Flag, 0), None);
        assert_eq!(count(SafeguardAction::Refuse, 1), None);
        assert_eq!(count(SafeguardAction::End, 2), None);
        assert_eq!(count(SafeguardAction::Refuse, 3_600_000), Some("tries".to_owned()));
        // It begins anew.
        assert_eq!(count(SafeguardAction::Refuse, 3_600_001), None);
    }

    #[test]
    fn what_lies_further_back_than_the_window_and_a_step_counts_no_more() {
        let limits = [limit("tries", SafeguardAction::Flag, 2, 32)];
        let mut tally = SafeguardTally::new();
        assert_eq!(tally.count(SafeguardAction::Flag, &limits, BootMillis(0)), None);
        assert!(!tally.is_empty(BootMillis(32_000)));
        assert!(tally.is_empty(BootMillis(33_000)));
        assert_eq!(tally.count(SafeguardAction::Flag, &limits, BootMillis(33_000)), None);
        assert!(tally.count(SafeguardAction::Flag, &limits, BootMillis(65_000)).is_some());
    }

    #[test]
    fn windows_of_limits_that_no_release_has_are_forgotten() {
        let mut tally = SafeguardTally::new();
        for name in 0..100 {
            let limits = [limit(&format!("l{name}"), SafeguardAction::Flag, 2, 60)];
            assert_eq!(tally.count(SafeguardAction::Flag, &limits, BootMillis(0)), None);
            assert_eq!(tally.windows.len(), 1);
        }
    }
}
