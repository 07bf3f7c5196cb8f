//! The one clock that the program judges by.

use std::time::{SystemTime, UNIX_EPOCH};

use cleanroom_attestation::time::Timestamp;

/// The verifier's clock.
#[must_use]
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
