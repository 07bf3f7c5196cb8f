//! The primitives of the thread pool: the standard library's here, loom's in `tests/interleavings.rs`.

pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize};
pub(crate) use std::sync::{Arc, Mutex, MutexGuard};
pub(crate) use std::thread::{self, JoinHandle};

/// Rounds of waiting awake before a thread sleeps: some hundred microseconds, longer than the work between two
/// loops of a step.
pub(crate) const ROUNDS_AWAKE: u32 = 20_000;
