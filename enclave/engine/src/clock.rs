//! The time by which jobs and kept pages expire.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A point in time, as a clock's distance from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// The beginning.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// So much later. The last moment that there is, if that is later still.
    #[must_use]
    pub const fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }

    /// So much earlier; nothing before the beginning.
    #[must_use]
    pub fn before(self, time: Duration) -> Option<Self> {
        self.0.checked_sub(time).map(Self)
    }

    /// How much later it is than `earlier`; zero if it is not later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A clock that never goes back.
///
/// The engine asks it before every step, and once a second while something waits for its time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Clock {
    /// The clock that `read` reads: the time since a beginning of its own. For promises that hold while the
    /// machine sleeps, `read` counts that time too.
    pub fn new(read: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The standard library's monotonic clock. On Linux it stands still while the machine sleeps.
    pub fn monotonic() -> Self {
        let begun = Instant::now();
        Self::new(move || begun.elapsed())
    }

    /// A clock that stands still until it is moved, and the hand that moves it.
    pub fn scripted() -> (Self, Hand) {
        let milliseconds = Arc::new(AtomicU64::new(0));
        let hand = Hand(Arc::clone(&milliseconds));
        (Self::new(move || Duration::from_millis(milliseconds.load(Ordering::SeqCst))), hand)
    }

    /// Now.
    pub fn now(&self) -> Moment {
        Moment((self.0)())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Clock").field(&self.now()).finish()
    }
}

/// Moves a scripted clock.
pub struct Hand(Arc<AtomicU64>);

impl Hand {
    /// Moves the clock on, in whole milliseconds.
    pub fn advance(&self, by: Duration) {
        let milliseconds = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.0.fetch_add(milliseconds, Ordering::SeqCst);
    }
}
