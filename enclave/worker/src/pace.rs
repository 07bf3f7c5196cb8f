//! Handshakes compute in turns, so that partners' running sessions do not wait for strangers' arithmetic.
//!
//! A handshake costs the enclave about a millisecond of cryptography before it knows whose key it is. When a hundred of them are ready
//! at once, a runtime that polls whatever is ready lets a session wait for all of them. Here a handshake is polled only in its turn.
//! It has the turn for one poll, and the next handshake gets it after everything else that was ready has run and the system
//! was asked for more. There are turns for half of the runtime's threads. So on each thread a session waits for one handshake's step at
//! most, and half of the threads are always free of handshakes. Turns go round in the order in which they were asked for.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// The turns of all handshakes.
pub(crate) struct Pace(Arc<Semaphore>);

impl Pace {
    /// Turns for half of the threads of the runtime that this is called in, and one at least.
    pub(crate) fn new() -> Self {
        let threads = Handle::try_current().map_or(1, |runtime| runtime.metrics().num_workers());
        Self::of((threads / 2).max(1))
    }

    fn of(turns: usize) -> Self {
        Self(Arc::new(Semaphore::new(turns)))
    }

    /// Runs `handshake`, each poll of it in its turn.
    pub(crate) async fn run<F: Future>(&self, handshake: F) -> F::Output {
        let mut handshake = pin!(handshake);
        loop {
            // Nobody closes the semaphore; if it were closed, there would be no turns to wait for.
            let turn = Arc::clone(&self.0).acquire_owned().await;
            let polled = poll_fn(|context| Poll::Ready(handshake.as_mut().poll(context))).await;
            // By a task of its own, because this one would miss what wakes it meanwhile.
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                drop(turn);
            });
            match polled {
                Poll::Ready(output) => return output,
                Poll::Pending => woken().await,
            }
        }
    }
}

/// Returns when the task is woken. What it waits for has its waker already.
async fn woken() {
    let mut is_polled = false;
    poll_fn(|_| match core::mem::replace(&mut is_polled, true) {
        false => Poll::Pending,
        true => Poll::Ready(()),
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use tokio::sync::Notify;
    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    /// A future that is ready in its next poll, `steps` times, and counts its polls.
    async fn work(steps: usize, done: Rc<Cell<usize>>) {
        for _ in 0..steps {
            done.set(done.get() + 1);
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_session_waits_for_one_step_of_a_handshake_however_many_are_ready() {
        const HANDSHAKES: usize = 100;
        const STEPS: usize = 8;
        let tasks = LocalSet::new();
        let (pace, done) = (Rc::new(Pace::of(1)), Rc::new(Cell::new(0)));
        let waits = Rc::new(RefCell::new(Vec::new()));
        for _ in 0..HANDSHAKES {
            let (pace, done) = (Rc::clone(&pace), Rc::clone(&done));
            tasks.spawn_local(async move { pace.run(work(STEPS, done)).await });
        }
        let (session, waited) = (Rc::clone(&done), Rc::clone(&waits));
        tasks.spawn_local(async move {
            while session.get() < HANDSHAKES * STEPS {
                let before = session.get();
                tokio::task::yield_now().await;
                waited.borrow_mut().push(session.get() - before);
            }
        });
        tasks.await;
        let waits = waits.borrow();
        // In the first round, every task is polled for the first time and asks for its turn.
        assert!(waits.len() >= HANDSHAKES, "{} rounds", waits.len());
        assert!(waits.iter().all(|steps| *steps <= 2), "{waits:?}");
    }

    #[tokio::test]
    async fn a_handshake_that_waits_for_its_client_takes_nobodys_turn() {
        let tasks = LocalSet::new();
        tasks
            .run_until(async {
                let (pace, client) = (Rc::new(Pace::of(1)), Rc::new(Notify::new()));
                let (slow, said) = (Rc::clone(&pace), Rc::clone(&client));
                let slow = spawn_local(async move { slow.run(said.notified()).await });
                tokio::task::yield_now().await;
                pace.run(async {}).await;
                client.notify_one();
                slow.await.unwrap();
            })
            .await;
    }
}
