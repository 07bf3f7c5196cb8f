//! Lines of the log that a stranger could cause at will.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often a line is repeated.
const REPEAT: Duration = Duration::from_secs(10);

/// When a line was last written.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Whether the line may be written now. Counters have what is left out.
    pub(super) fn is_due(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| last.elapsed() >= REPEAT);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_is_written_once_in_a_while() {
        let seldom = Seldom::default();
        assert!(seldom.is_due() && !seldom.is_due());
        tokio::time::advance(REPEAT).await;
        assert!(seldom.is_due() && !seldom.is_due());
    }
}
