//! The thread pool under loom, which runs it in every order of steps that the memory model allows.
//!
//! The pool lends its threads a closure whose lifetime it has erased. That is sound only if no thread touches the
//! closure after the loop has returned. The caller here writes, after each loop, what the closure read and wrote.
//! Loom reports the write when it is not ordered behind every access of every thread.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

#[path = "../src/pool.rs"]
#[expect(dead_code, reason = "the tests on real threads ask how many sleep")]
mod pool;

/// What `src/primitives.rs` takes from the standard library.
mod primitives {
    pub(crate) use loom::hint::spin_loop;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize};
    pub(crate) use loom::sync::{Arc, Mutex, MutexGuard};
    pub(crate) use loom::thread::{self, JoinHandle};

    /// A thread sleeps after its first round, so that sleep and wake-up meet in every order.
    pub(crate) const ROUNDS_AWAKE: u32 = 0;
}

use std::num::NonZeroUsize;

use loom::cell::UnsafeCell;
use pool::Pool;

/// Memory that the caller lends to the loop; loom checks each access.
struct Lent(UnsafeCell<usize>);

// SAFETY: loom reports two accesses at once instead of making them.
#[expect(unsafe_code, reason = "loom's cell stands for memory that the loop borrows")]
unsafe impl Sync for Lent {}

impl Lent {
    fn read(&self) -> usize {
        // SAFETY: loom has checked that nobody writes.
        #[expect(unsafe_code, reason = "as above")]
        self.0.with(|value| unsafe { *value })
    }

    fn write(&mut self, new: usize) {
        // SAFETY: loom has checked that nobody else reads or writes.
        #[expect(unsafe_code, reason = "as above")]
        self.0.with_mut(|value| unsafe { *value = new });
    }
}

fn explore(threads: usize, preemptions: usize, loops: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || {
        let pool = Pool::new(NonZeroUsize::new(threads).unwrap()).unwrap();
        assert_eq!(pool.threads(), threads);
        let (mut lent, mut slots) = (Lent(UnsafeCell::new(0)), [0; 2]);
        for round in 1..=loops {
            lent.write(round);
            pool.for_each(slots.iter_mut().collect(), |slot| *slot += lent.read());
        }
        lent.write(0);
        assert_eq!(slots, [loops * (loops + 1) / 2; 2]);
    });
}

#[test]
fn a_loop_ends_before_its_closure_is_given_up() {
    explore(2, 3, 1);
}

#[test]
fn a_sleeping_thread_hears_of_the_next_loop() {
    explore(2, 2, 2);
}

#[test]
fn two_helpers_are_both_awaited() {
    explore(3, 1, 1);
}
