//! A system clock that can be set, for a verifier that asks the system and nobody else, and the processor time of a thread.
//!
//! The program's own `clock_gettime` takes the place of the C library's; the other clocks are untouched.

use std::ffi::{c_int, c_long};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

static OFFSET: AtomicI64 = AtomicI64::new(0);

/// Sets the time of day to `seconds` since the epoch, for this process.
pub fn set(seconds: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    OFFSET.fetch_add(seconds as i64 - now as i64, Ordering::Relaxed);
}

#[repr(C)]
pub struct Timespec {
    seconds: c_long,
    nanoseconds: c_long,
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

#[cfg(target_arch = "x86_64")]
const SYS_CLOCK_GETTIME: c_long = 228;
#[cfg(target_arch = "aarch64")]
const SYS_CLOCK_GETTIME: c_long = 113;
const CLOCK_REALTIME: c_int = 0;
const CLOCK_THREAD_CPUTIME_ID: c_int = 3;

/// Processor time that this thread has used. What else runs on the machine does not count.
pub fn thread_time() -> Duration {
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: `time` may be written.
    let result = unsafe { clock_gettime(CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "every Linux has this clock");
    Duration::new(time.seconds as u64, time.nanoseconds as u32)
}

/// # Safety
///
/// As the C library's: `time` points to a `timespec` that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut Timespec) -> c_int {
    // SAFETY: the system call has the same contract as this function.
    let result = unsafe { syscall(SYS_CLOCK_GETTIME, c_long::from(clock), time) };
    if result == 0 && clock == CLOCK_REALTIME {
        // SAFETY: the system call has just written to it.
        unsafe { (*time).seconds += OFFSET.load(Ordering::Relaxed) };
    }
    result as c_int
}
