//! What the system says about a process.

use std::fs;
use std::time::Duration;

/// Processor time of all threads that it has now.
pub(crate) fn processor_time(process: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let nanoseconds = threads.map(|thread| {
        let spent = fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap_or_default();
        spent.split_whitespace().next().and_then(|spent| spent.parse::<u64>().ok()).unwrap_or(0)
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// KiB of memory that it has and shares with nobody.
pub(crate) fn private_kib(process: u32) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap();
    let private = rollup.lines().filter_map(|line| line.strip_prefix("Private_"));
    let kib = private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.sum::<u64>() as f64
}
