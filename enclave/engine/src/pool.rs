//! Threads for parallel loops that take microseconds.
//!
//! A step of a small model runs several hundred such loops, one after the other. Waking a sleeping thread costs
//! about as much as one loop. The threads therefore wait awake for the next loop. They sleep only when none has
//! come for a while, so an idle engine uses no processor.
//!
//! `tests/interleavings.rs` compiles this file with loom's primitives and runs it under every order of steps.

use std::{
    cell::Cell,
    marker::PhantomData,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{PoisonError, atomic::Ordering},
};

use crate::primitives::{
    Arc, AtomicBool, AtomicUsize, JoinHandle, Mutex, MutexGuard, ROUNDS_AWAKE, spin_loop, thread,
};

/// Rounds of waiting after which a thread lets others run, in case the processors are shared.
const ROUNDS_ALONE: u32 = 2_000;

/// The loop under way, as the threads see it.
type Loop = &'static (dyn Fn() + Sync);

/// Threads that wait for loops. Dropping the pool joins them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// Loops start from one thread at a time.
    _not_sync: PhantomData<Cell<()>>,
}

struct Shared {
    /// Counts the loops that were started. Written after `current`.
    started: AtomicUsize,
    /// Helpers that have yet to finish the current loop.
    busy: AtomicUsize,
    asleep: AtomicUsize,
    closed: AtomicBool,
    panicked: AtomicBool,
    current: Mutex<Option<Loop>>,
}

impl Pool {
    /// A pool of `threads`, of which the caller's is one.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub(crate) fn new(threads: NonZeroUsize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            started: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            asleep: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            current: Mutex::new(None),
        });
        let mut pool = Self { shared, helpers: Vec::new(), _not_sync: PhantomData };
        for index in 1..threads.get() {
            let shared = Arc::clone(&pool.shared);
            let helper = thread::Builder::new().name(format!("engine-{index}"));
            pool.helpers.push(helper.spawn(move || shared.help())?);
        }
        Ok(pool)
    }

    /// Number of threads, the caller's among them.
    pub(crate) fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Number of threads that sleep.
    #[cfg(test)]
    pub(crate) fn sleeping(&self) -> usize {
        self.shared.asleep.load(Ordering::Acquire)
    }

    /// Calls `each` once for every item, on whichever thread is free, and returns when all are done.
    pub(crate) fn for_each<T: Send>(&self, items: Vec<T>, each: impl Fn(T) + Sync) {
        if self.helpers.is_empty() || items.len() < 2 {
            items.into_iter().for_each(each);
            return;
        }
        let items: Vec<Mutex<Option<T>>> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
        let next = AtomicUsize::new(0);
        self.everywhere(&|| {
            while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                let item = item.lock().unwrap_or_else(PoisonError::into_inner).take();
                item.into_iter().for_each(&each);
            }
        });
    }

    /// Calls `body` on every thread at once, and returns when the last is done.
    fn everywhere(&self, body: &(dyn Fn() + Sync)) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. Helpers use `body` between `start` and the end of their part of
        // this loop, and `AwaitHelpers` waits for that before this function returns or unwinds.
        #[expect(unsafe_code, reason = "threads that outlive the loop borrow what it borrows")]
        let erased = unsafe { std::mem::transmute::<&(dyn Fn() + Sync), Loop>(body) };
        let awaited = AwaitHelpers(shared);
        shared.start(erased, &self.helpers);
        body();
        drop(awaited);
        if shared.panicked.swap(false, Ordering::Relaxed) {
            resume_unwind(Box::new("a thread of the engine panicked"));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // A helper catches the panics of its loops; it has none of its own.
            let _ = helper.join();
        }
    }
}

/// Waits, when dropped, until no helper is busy.
struct AwaitHelpers<'a>(&'a Shared);

impl Drop for AwaitHelpers<'_> {
    fn drop(&mut self) {
        let mut rounds = 0;
        while self.0.busy.load(Ordering::Acquire) > 0 {
            wait(&mut rounds);
        }
        *self.0.lock() = None;
    }
}

impl Shared {
    fn start(&self, body: Loop, helpers: &[JoinHandle<()>]) {
        *self.lock() = Some(body);
        self.busy.store(helpers.len(), Ordering::Relaxed);
        self.started.fetch_add(1, Ordering::Release);
        // Adds nothing, but must be a write: it and the one in `sleep` have an order. If this one is first, the
        // helper sees the new loop. If the helper's is first, this one sees the sleeper.
        if self.asleep.fetch_add(0, Ordering::AcqRel) > 0 {
            helpers.iter().for_each(|helper| helper.thread().unpark());
        }
    }

    fn help(&self) {
        let mut seen = 0;
        while self.await_loop(seen) {
            seen += 1;
            let body = *self.lock();
            if let Some(body) = body
                && catch_unwind(AssertUnwindSafe(body)).is_err()
            {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.busy.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for a loop after the first `seen`; `false` when the pool is dropped.
    fn await_loop(&self, seen: usize) -> bool {
        let mut rounds = 0;
        while self.started.load(Ordering::Acquire) == seen {
            if self.closed.load(Ordering::Relaxed) {
                return false;
            }
            wait(&mut rounds);
            if rounds > ROUNDS_AWAKE {
                self.sleep(seen);
            }
        }
        true
    }

    fn sleep(&self, seen: usize) {
        self.asleep.fetch_add(1, Ordering::AcqRel);
        // A wake-up that came before the call ends the parking at once.
        while self.started.load(Ordering::Acquire) == seen && !self.closed.load(Ordering::Acquire) {
            thread::park();
        }
        self.asleep.fetch_sub(1, Ordering::AcqRel);
    }

    /// Each change is a single assignment, so a panic leaves no half-made value behind.
    fn lock(&self) -> MutexGuard<'_, Option<Loop>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wait(rounds: &mut u32) {
    *rounds = rounds.saturating_add(1);
    if rounds.is_multiple_of(ROUNDS_ALONE) { thread::yield_now() } else { spin_loop() }
}
