//! The threads that carry connections.
//!
//! Each thread has a runtime of its own, and a connection stays on one thread from its beginning to its end. So no
//! byte waits until another thread is woken, and threads share nothing for it. Each thread accepts connections, and
//! gives one away only if another thread has fewer.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Accept, Moves};

/// The most threads of one relay. Each carries a gigabyte a second.
const MOST: usize = 8;

/// The threads of one relay. Dropping this ends them, and the connections on them.
#[derive(Debug)]
pub struct Threads {
    all: Vec<Thread>,
    _end: Option<DropGuard>,
}

#[derive(Debug)]
struct Thread {
    runtime: Handle,
    /// How many connections it carries.
    connections: Arc<AtomicUsize>,
}

impl Threads {
    /// Starts one thread for each processor, and at most 8.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start() -> io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let end = CancellationToken::new();
        let mut all = Vec::new();
        for number in 0..processors.min(MOST) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            all.push(Thread::of(runtime.handle().clone()));
            let ended = end.clone().cancelled_owned();
            let work = move || runtime.block_on(ended);
            std::thread::Builder::new().name(format!("relay-{number}")).spawn(work)?;
        }
        Ok(Self { all, _end: Some(end.drop_guard()) })
    }

    /// The caller's own runtime alone.
    #[must_use]
    pub fn of_caller() -> Self {
        Self { all: vec![Thread::of(Handle::current())], _end: None }
    }

    /// Accepts connections on every thread for which there is a listener, until `work` ends.
    ///
    /// # Errors
    /// When the system does not let a thread accept.
    pub(super) fn accept<L: Accept, F: Future<Output = ()> + Send + 'static>(
        &self,
        listener: L,
        work: impl Fn(usize, L) -> F,
    ) -> io::Result<()> {
        let listeners = listener.copies(self.all.len())?;
        for (number, (Thread { runtime, .. }, listener)) in self.all.iter().zip(listeners).enumerate() {
            let listener = runtime_of(runtime, || listener.here())?;
            runtime.spawn(work(number, listener));
        }
        Ok(())
    }

    /// Carries a connection that the thread `accepted_on` has accepted: there, unless another one has at least two fewer.
    /// To move is dear, and to have one more is not.
    pub(super) fn carry<S: Moves, F: Future<Output = ()> + Send + 'static>(
        &self,
        accepted_on: usize,
        stream: S,
        connection: impl FnOnce(io::Result<S>) -> F,
    ) {
        let count = |thread: &Thread| thread.connections.load(Ordering::Relaxed);
        let least = self.all.iter().min_by_key(|thread| count(thread));
        let (Some(here), Some(least)) = (self.all.get(accepted_on), least) else { return };
        let (thread, stream) = if count(here) <= count(least) + 1 {
            (here, Ok(stream))
        } else {
            (least, runtime_of(&least.runtime, || stream.here()))
        };
        let (held, connection) = (Held::one_of(&thread.connections), connection(stream));
        thread.runtime.spawn(async move {
            connection.await;
            drop(held);
        });
    }
}

/// Does `work`, of which `runtime` is to know.
fn runtime_of<T>(runtime: &Handle, work: impl FnOnce() -> T) -> T {
    let _entered = runtime.enter();
    work()
}

impl Thread {
    fn of(runtime: Handle) -> Self {
        Self { runtime, connections: Arc::default() }
    }
}

/// One connection of a thread's.
struct Held(Arc<AtomicUsize>);

impl Held {
    fn one_of(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn connections_are_shared_out_and_end_with_the_threads() {
        let threads = Threads::start().unwrap();
        let (told, on) = mpsc::channel();
        for _ in 0..4 * threads.all.len() {
            let told = told.clone();
            threads.carry(0, tokio::io::duplex(1).0, |_| async move {
                told.send(thread::current().name().map(str::to_owned)).unwrap();
                std::future::pending::<()>().await;
            });
        }
        drop(told);
        let counts = || threads.all.iter().map(|thread| thread.connections.load(Ordering::Relaxed));
        assert!(counts().max().unwrap() - counts().min().unwrap() <= 2, "{threads:?}");
        let mut names: Vec<_> = on.iter().take(4 * threads.all.len()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), threads.all.len());
        drop(threads);
        // Whoever could still tell something is gone.
        assert!(on.recv().is_err());
    }
}
