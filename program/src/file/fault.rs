//! Makes a chosen file operation fail. Only in tests: the feature `fault-injection` is for dev-dependencies.
//!
//! Every operation that opens a file or changes the disk counts: open, write, sync of a file, rename, sync of
//! a folder, create a folder, remove. A test runs its work with a fault at the first, then at the second, and
//! so on until the work passes: it has then failed at every place where it can.

use std::cell::Cell;
use std::io;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The environment variable that gives a whole process a fault: `3` fails its third operation, `3+` its third
/// and every later one, `3!` kills the process in place of the third, as a power cut does.
pub const VARIABLE: &str = "CLEANROOM_FAULT";

/// Which operations fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Once(u64),
    From(u64),
    Kill(u64),
}

static PROCESS: LazyLock<Option<Plan>> = LazyLock::new(|| {
    let text = std::env::var(VARIABLE).ok()?;
    let plan = parse(&text);
    if plan.is_none() {
        // A test that asks for a fault and gets none would prove nothing.
        std::process::abort();
    }
    plan
});
static STEPS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static THREAD: Cell<Option<(Plan, u64)>> = const { Cell::new(None) };
}

/// Runs `work` with the `number`th file operation of this thread failing (the first is 1), and says whether
/// it came to that.
pub fn at<T>(number: u64, work: impl FnOnce() -> T) -> (T, bool) {
    scoped(Plan::Once(number), number, work)
}

/// Like [`at`], with every later operation of this thread failing too, as on a full disk.
pub fn from<T>(number: u64, work: impl FnOnce() -> T) -> (T, bool) {
    scoped(Plan::From(number), number, work)
}

fn scoped<T>(plan: Plan, number: u64, work: impl FnOnce() -> T) -> (T, bool) {
    let before = THREAD.replace(Some((plan, 0)));
    let done = work();
    let steps = THREAD.replace(before).map_or(0, |(_, steps)| steps);
    (done, steps >= number)
}

/// One operation is about to happen.
pub(super) fn step() -> io::Result<()> {
    if let Some((plan, steps)) = THREAD.get() {
        THREAD.set(Some((plan, steps + 1)));
        judge(plan, steps + 1)?;
    }
    match *PROCESS {
        Some(plan) => judge(plan, STEPS.fetch_add(1, Ordering::SeqCst) + 1),
        None => Ok(()),
    }
}

fn judge(plan: Plan, step: u64) -> io::Result<()> {
    match plan {
        Plan::Kill(number) if step == number => std::process::abort(),
        Plan::Once(number) if step == number => Err(io::ErrorKind::StorageFull.into()),
        Plan::From(number) if step >= number => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    }
}

fn parse(text: &str) -> Option<Plan> {
    if let Some(number) = text.strip_suffix('+') {
        return number.parse().ok().map(Plan::From);
    }
    if let Some(number) = text.strip_suffix('!') {
        return number.parse().ok().map(Plan::Kill);
    }
    text.parse().ok().map(Plan::Once)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_told_apart() {
        assert_eq!(parse("3"), Some(Plan::Once(3)));
        assert_eq!(parse("3+"), Some(Plan::From(3)));
        assert_eq!(parse("3!"), Some(Plan::Kill(3)));
        for wrong in ["", "+", "!", "x", "-1", "3?"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_chosen_steps_fail() {
        let run = || [step().is_ok(), step().is_ok(), step().is_ok()];
        assert_eq!(at(2, run), ([true, false, true], true));
        assert_eq!(from(2, run), ([true, false, false], true));
        assert_eq!(at(4, run), ([true, true, true], false));
        assert_eq!(run(), [true, true, true]);
    }
}
