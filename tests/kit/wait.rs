//! Waiting for what comes in its own time. Every wait has an end, so that a test fails and does not hang.

use std::time::{Duration, Instant};

/// Longer than anything takes here, on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The pause between two looks. A wait that never pauses takes a processor from what it waits for.
const PAUSE: Duration = Duration::from_millis(5);

/// Returns when `is_so`. `what` completes the sentence "waited in vain until …".
///
/// # Panics
/// After [`PATIENCE`].
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    found(what, async || is_so().then_some(())).await;
}

/// Looks until `look` finds something, and gives it.
///
/// # Panics
/// When [`PATIENCE`] is over after a look. A look has to end by itself.
pub async fn found<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// The same as [`until`], outside of an asynchronous runtime.
///
/// # Panics
/// After [`PATIENCE`].
pub fn until_blocking(what: &str, mut is_so: impl FnMut() -> bool) {
    found_blocking(what, || is_so().then_some(()));
}

/// The same as [`found`], outside of an asynchronous runtime.
///
/// # Panics
/// When [`PATIENCE`] is over after a look.
pub fn found_blocking<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(PAUSE);
    }
}
