//! The verdicts of the safeguards, counted for each partner.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use cleanroom_attestation::release::{BootMillis, Id, PARTNERS_LIMIT, SafeguardLimit, SafeguardTally};
use cleanroom_attestation::safeguard::SafeguardAction;

/// A tally for each partner on whose requests there was a verdict. At most [`PARTNERS_LIMIT`]; those that count nothing any more
/// make room. When there is none, a verdict is as good as a limit that is reached.
#[derive(Default)]
pub(super) struct Tallies(Mutex<HashMap<Id, SafeguardTally>>);

impl Tallies {
    /// Counts a verdict on a request of `partner`, and gives the name of the limit that it reaches.
    pub(super) fn count(
        &self,
        partner: &Id,
        action: SafeguardAction,
        limits: &[SafeguardLimit],
        now: BootMillis,
    ) -> Option<Id> {
        let first = limits.iter().find(|limit| limit.action <= action)?;
        let mut tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tallies.len() >= PARTNERS_LIMIT && !tallies.contains_key(partner) {
            tallies.retain(|_, tally| !tally.is_empty(now));
            if tallies.len() >= PARTNERS_LIMIT {
                return Some(first.id.clone());
            }
        }
        tallies.entry(partner.clone()).or_default().count(action, limits, now)
    }
}
