//! The pool on real threads. `tests/interleavings.rs` has the orders that real threads seldom take.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::pool::Pool;

fn pool(threads: usize) -> Pool {
    Pool::new(NonZeroUsize::new(threads).unwrap()).unwrap()
}

#[test]
fn every_item_is_taken_once_in_loop_after_loop() {
    for threads in [1, 2, 3] {
        let pool = pool(threads);
        for length in (0..200).chain([1000]) {
            let mut numbers = vec![0_usize; length];
            let items = numbers.iter_mut().enumerate().collect();
            pool.for_each(items, |(index, number): (usize, &mut usize)| *number += index + 1);
            assert!(numbers.iter().enumerate().all(|(index, number)| *number == index + 1));
        }
    }
}

#[test]
fn sleeping_threads_wake_and_all_take_part() {
    let pool = pool(3);
    for _ in 0..3 {
        while pool.sleeping() < 2 {
            thread::yield_now();
        }
        // Nobody passes the barrier before all three are there.
        let barrier = std::sync::Barrier::new(3);
        pool.for_each(vec![(); 3], |()| {
            barrier.wait();
        });
    }
}

#[test]
fn a_panic_on_any_thread_reaches_the_caller_and_the_pool_lives_on() {
    let pool = pool(2);
    for panicking in 0..2 {
        let barrier = std::sync::Barrier::new(2);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pool.for_each(vec![0, 1], |item| {
                barrier.wait();
                assert_ne!(item, panicking, "as the test wants");
            });
        }));
        assert!(outcome.is_err());
        let sum = AtomicUsize::new(0);
        pool.for_each(vec![1, 2, 3], |number| {
            sum.fetch_add(number, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 6);
    }
}
