//! The time by which jobs and kept pages expire.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A clock that never goes back.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    Monotonic,
    Scripted { begun: Instant, milliseconds: Arc<AtomicU64> },
}

impl Clock {
    /// The operating system's monotonic clock, which nobody can set.
    pub fn monotonic() -> Self {
        Self(Source::Monotonic)
    }

    /// A clock that stands still until it is moved, and the hand that moves it.
    pub fn scripted() -> (Self, Hand) {
        let milliseconds = Arc::new(AtomicU64::new(0));
        let clock = Source::Scripted { begun: Instant::now(), milliseconds: Arc::clone(&milliseconds) };
        (Self(clock), Hand(milliseconds))
    }

    /// Now.
    pub fn now(&self) -> Instant {
        match &self.0 {
            Source::Monotonic => Instant::now(),
            Source::Scripted { begun, milliseconds } => {
                *begun + Duration::from_millis(milliseconds.load(Ordering::SeqCst))
            }
        }
    }
}

/// Moves a scripted clock. An engine looks at its clock before every step.
pub struct Hand(Arc<AtomicU64>);

impl Hand {
    /// Moves the clock on, in whole milliseconds.
    pub fn advance(&self, by: Duration) {
        let milliseconds = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.0.fetch_add(milliseconds, Ordering::SeqCst);
    }
}
