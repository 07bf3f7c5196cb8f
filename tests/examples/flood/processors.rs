//! Which processors the measured programs have, and which the strangers have.
//!
//! Strangers run on the machine that they attack. What they compute themselves is no cost of the enclave's, so they get a
//! processor of their own, and the enclave, its host and the partner get all others, also in quiet.

use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Takes the last processor from this process. `false` when there is one only, or the system does not let it.
pub(crate) fn leave_the_last_to_strangers() -> bool {
    let Some((last, mut all)) = last_of_all() else { return false };
    all.unset(last);
    all.count() > 0 && sched_setaffinity(None, &all).is_ok()
}

/// Takes all processors but the last from this process.
pub(crate) fn take_the_last() -> bool {
    let Some((last, _)) = last_of_all() else { return false };
    let mut own = CpuSet::new();
    own.set(last);
    sched_setaffinity(None, &own).is_ok()
}

/// The processor time that this process has had.
pub(crate) fn used() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// The last processor of the machine that this process may be given, and all of them.
fn last_of_all() -> Option<(usize, CpuSet)> {
    let mut all = CpuSet::new();
    let count = std::fs::read_to_string("/proc/cpuinfo").ok()?.matches("processor\t").count();
    (0..count.min(CpuSet::MAX_CPU)).for_each(|cpu| all.set(cpu));
    let mut permitted = sched_getaffinity(None).ok()?;
    // A child begins with its parent's processors, and may have the others all the same.
    if sched_setaffinity(None, &all).is_ok() {
        permitted = sched_getaffinity(None).ok()?;
    }
    let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| permitted.is_set(*cpu))?;
    Some((last, permitted))
}
