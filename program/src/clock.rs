//! Deadlines that go on while the machine sleeps.
//!
//! tokio's timers stand still while a machine is suspended (`CLOCK_MONOTONIC`). A promise such as "this
//! session is at most an hour old" must not. [`Clock`] reads Linux's `CLOCK_BOOTTIME`, which counts suspended
//! time too.

use std::fmt;
use std::ops::Add;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// The longest that a timer sleeps before it looks at the clock again. A deadline that passed while the
/// machine slept is noticed within this time after it wakes.
const LOOK: Duration = Duration::from_secs(1);

/// A point in this machine's own time, since it was started. The time that it spent suspended counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootInstant(Duration);

impl BootInstant {
    /// The instant `millis` milliseconds after the machine was started.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// Milliseconds since the machine was started, rounded down. `u64::MAX` if they are more.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        self.0.as_millis().try_into().unwrap_or(u64::MAX)
    }

    /// How much later this instant is than `earlier`; zero if it is not later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A sum that does not fit is the last instant that there is.
impl Add<Duration> for BootInstant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// The time was up before the work was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the time is up")]
pub struct Elapsed;

/// Where the time comes from. A copy reads the same time.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    Machine,
    Tokio { origin: tokio::time::Instant },
    Manual(watch::Receiver<Duration>),
}

impl Clock {
    /// The machine's clock: `CLOCK_BOOTTIME` on Linux, `CLOCK_MONOTONIC` on macOS. Both count suspended time.
    #[must_use]
    pub fn machine() -> Self {
        Self(Source::Machine)
    }

    /// tokio's clock, for tests under `#[tokio::test(start_paused = true)]`. It begins at zero.
    #[must_use]
    pub fn tokio() -> Self {
        Self(Source::Tokio { origin: tokio::time::Instant::now() })
    }

    /// A clock for tests that stands still until [`Hands::advance`] moves it, as if the machine had slept. It
    /// begins at zero.
    #[must_use]
    pub fn manual() -> (Self, Hands) {
        let (sender, receiver) = watch::channel(Duration::ZERO);
        (Self(Source::Manual(receiver)), Hands(Arc::new(sender)))
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> BootInstant {
        match &self.0 {
            Source::Machine => BootInstant(machine_time()),
            Source::Tokio { origin } => BootInstant(origin.elapsed()),
            Source::Manual(time) => BootInstant(*time.borrow()),
        }
    }

    /// Waits until `deadline`. On the machine's clock it returns at most one second late after a suspension.
    ///
    /// A manual clock whose [`Hands`] are gone never moves again, so this never returns then.
    pub async fn sleep_until(&self, deadline: BootInstant) {
        match &self.0 {
            Source::Machine => loop {
                let left = deadline.since(self.now());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(LOOK)).await;
            },
            Source::Tokio { .. } => tokio::time::sleep(deadline.since(self.now())).await,
            Source::Manual(time) => {
                let mut time = time.clone();
                if time.wait_for(|now| BootInstant(*now) >= deadline).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Waits for `duration`.
    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.now() + duration).await;
    }

    /// Runs `work` until `deadline`, and drops it then.
    ///
    /// # Errors
    /// [`Elapsed`] at the deadline. Work that is already done counts even if the deadline has passed.
    pub async fn timeout_at<T>(
        &self,
        deadline: BootInstant,
        work: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.sleep_until(deadline) => Err(Elapsed),
        }
    }

    /// Runs `work` for at most `duration`.
    ///
    /// # Errors
    /// [`Elapsed`] when the time is up.
    pub async fn timeout<T>(&self, duration: Duration, work: impl Future<Output = T>) -> Result<T, Elapsed> {
        self.timeout_at(self.now() + duration, work).await
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self.0 {
            Source::Machine => "machine",
            Source::Tokio { .. } => "tokio",
            Source::Manual(_) => "manual",
        };
        formatter.debug_tuple("Clock").field(&source).finish()
    }
}

/// Moves a manual clock.
#[derive(Debug, Clone)]
pub struct Hands(Arc<watch::Sender<Duration>>);

impl Hands {
    /// Moves the clock forward.
    pub fn advance(&self, duration: Duration) {
        self.0.send_modify(|now| *now = now.saturating_add(duration));
    }
}

fn machine_time() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(CLOCK);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_deadline_passes_while_the_machine_sleeps() {
        let (clock, hands) = Clock::manual();
        let deadline = clock.now() + HOUR;
        let waiting = tokio::spawn({
            let clock = clock.clone();
            async move { clock.timeout_at(deadline, std::future::pending::<()>()).await }
        });
        tokio::task::yield_now().await;
        hands.advance(HOUR - Duration::from_millis(1));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        hands.advance(Duration::from_millis(1));
        assert_eq!(waiting.await.unwrap(), Err(Elapsed));
        assert_eq!(clock.now().as_millis(), 3_600_000);
        // What is ready counts, however late it is.
        assert_eq!(clock.timeout_at(deadline, async { 7 }).await, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn tests_with_a_paused_clock_do_not_wait() {
        let clock = Clock::tokio();
        clock.sleep(HOUR).await;
        assert_eq!(clock.now(), BootInstant::from_millis(3_600_000));
        assert_eq!(clock.timeout(HOUR, std::future::pending::<()>()).await, Err(Elapsed));
    }

    #[tokio::test]
    async fn the_machines_clock_runs_and_is_awaited() {
        let clock = Clock::machine();
        let before = clock.now();
        assert!(before > BootInstant::from_millis(0));
        clock.sleep(Duration::from_millis(20)).await;
        assert!(clock.now().since(before) >= Duration::from_millis(20));
        // A deadline in the past is over at once.
        clock.sleep_until(BootInstant::from_millis(0)).await;
    }

    #[test]
    fn arithmetic_does_not_wrap() {
        let last = BootInstant::from_millis(1) + Duration::MAX;
        assert_eq!(last + Duration::MAX, last);
        assert_eq!(last.as_millis(), u64::MAX);
        assert_eq!(BootInstant::from_millis(1).since(last), Duration::ZERO);
    }
}
