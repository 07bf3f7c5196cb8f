//! The line in front of the security module: one bounded queue for each kind of asker.
//!
//! Requests of the enclave itself go first, then those of partners, then the public statement, then those of strangers. The
//! last two also get at most a tenth of the device's time: after each of their requests the device is kept from them for
//! nine times as long as the request took. So a partner waits for at most one request of somebody without rights, however
//! many ask and however slow the device is. The public statement answers everybody who asked, and there is one at a time.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use tokio::sync::oneshot;

use super::SecurityModuleError;

/// Whose request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precedence {
    /// The enclave's own: its commitments, and the time at which a lease begins.
    Enclave,
    /// A partner's that may use the model.
    Partner,
    /// The statement that everybody may have, partners among them.
    Public,
    /// Anybody else's.
    Stranger,
}

impl Precedence {
    /// How many requests may wait. Beyond that callers are refused, and told to come back.
    pub(crate) const fn limit(self) -> usize {
        match self {
            Self::Enclave => 8,
            Self::Partner => 64,
            // One that is asked for, and one whose answer is on its way to the worker.
            Self::Public => 2,
            Self::Stranger => 8,
        }
    }
}

/// After a request without rights, the device is kept from all such for so many times as long as the request took.
const REST: u32 = 9;

pub(super) struct Job {
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<Response>,
}

#[derive(Default)]
struct Waiting {
    enclave: VecDeque<Job>,
    partners: VecDeque<Job>,
    public: VecDeque<Job>,
    strangers: VecDeque<Job>,
    /// Before this time neither a stranger nor the public statement is served.
    strangers_from: Option<Instant>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // The queues are whole at every instruction that could unwind.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end at which requests come in. Dropping it ends the device's thread.
pub(super) struct Queue(Arc<Shared>);

/// The end at which the device takes them.
pub(super) struct Jobs(Arc<Shared>);

impl Queue {
    pub(super) fn new() -> (Self, Jobs) {
        let shared = Arc::new(Shared::default());
        (Self(Arc::clone(&shared)), Jobs(shared))
    }

    pub(super) fn push(&self, precedence: Precedence, job: Job) -> Result<(), SecurityModuleError> {
        let mut waiting = self.0.lock();
        if waiting.closed {
            return Err(SecurityModuleError::Gone);
        }
        let queue = match precedence {
            Precedence::Enclave => &mut waiting.enclave,
            Precedence::Partner => &mut waiting.partners,
            Precedence::Public => &mut waiting.public,
            Precedence::Stranger => &mut waiting.strangers,
        };
        // A caller that went away wants no answer any more, and takes no space.
        queue.retain(|job| !job.answer.is_closed());
        if queue.len() >= precedence.limit() {
            return Err(SecurityModuleError::Busy);
        }
        queue.push_back(job);
        drop(waiting);
        self.0.changed.notify_one();
        Ok(())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_one();
    }
}

impl Jobs {
    /// Serves until nobody can ask any more.
    pub(super) fn serve(self, mut process: impl FnMut(Request) -> Response) {
        while let Some((precedence, Job { request, answer })) = self.next() {
            if answer.is_closed() {
                continue;
            }
            let begun = Instant::now();
            let response = process(request);
            self.served(precedence, begun.elapsed());
            // The caller may have gone meanwhile.
            let _ = answer.send(response);
        }
    }

    /// Keeps the device from those without rights, after a request of theirs that took `time`.
    fn served(&self, precedence: Precedence, time: Duration) {
        if matches!(precedence, Precedence::Public | Precedence::Stranger) {
            self.0.lock().strangers_from = Instant::now().checked_add(time.saturating_mul(REST));
        }
    }

    fn next(&self) -> Option<(Precedence, Job)> {
        let mut waiting = self.0.lock();
        loop {
            if let Some(job) = waiting.enclave.pop_front() {
                return Some((Precedence::Enclave, job));
            }
            if let Some(job) = waiting.partners.pop_front() {
                return Some((Precedence::Partner, job));
            }
            // Once nobody can ask any more, there is nobody to rest for.
            let rest = waiting.rest().filter(|_| !waiting.closed);
            if rest.is_none() {
                if let Some(job) = waiting.public.pop_front() {
                    return Some((Precedence::Public, job));
                }
                if let Some(job) = waiting.strangers.pop_front() {
                    return Some((Precedence::Stranger, job));
                }
            }
            if waiting.closed {
                return None;
            }
            waiting = match rest.filter(|_| !(waiting.public.is_empty() && waiting.strangers.is_empty())) {
                Some(rest) => {
                    let result = self.0.changed.wait_timeout(waiting, rest);
                    result.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.0.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        // A device that panicked answers nobody any more.
        let mut waiting = self.0.lock();
        waiting.closed = true;
        (waiting.enclave, waiting.partners, waiting.public, waiting.strangers) = Default::default();
    }
}

impl Waiting {
    /// How long strangers have to wait still.
    fn rest(&self) -> Option<Duration> {
        let from = self.strangers_from?;
        Some(from.saturating_duration_since(Instant::now())).filter(|rest| !rest.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(index: u16) -> (Job, oneshot::Receiver<Response>) {
        let (answer, answered) = oneshot::channel();
        (Job { request: Request::DescribePCR { index }, answer }, answered)
    }

    fn index(request: &Request) -> u16 {
        match request {
            Request::DescribePCR { index } => *index,
            _ => u16::MAX,
        }
    }

    #[test]
    fn the_enclave_goes_first_then_partners_then_the_public_statement_then_strangers() {
        let (queue, jobs) = Queue::new();
        let asked = [
            (Precedence::Stranger, 4),
            (Precedence::Public, 3),
            (Precedence::Partner, 2),
            (Precedence::Enclave, 1),
            (Precedence::Partner, 2),
        ];
        let answers: Vec<_> = asked
            .into_iter()
            .map(|(precedence, index)| {
                let (job, answered) = job(index);
                assert!(queue.push(precedence, job).is_ok());
                answered
            })
            .collect();
        drop(queue);
        let mut order = Vec::new();
        jobs.serve(|request| {
            order.push(index(&request));
            Response::LockPCR
        });
        assert_eq!(order, [1, 2, 2, 3, 4]);
        drop(answers);
    }

    #[test]
    fn strangers_fill_their_own_queue_and_nobody_elses() {
        let (queue, _jobs) = Queue::new();
        let mut answers = Vec::new();
        for _ in 0..Precedence::Stranger.limit() {
            let (job, answered) = job(0);
            assert!(queue.push(Precedence::Stranger, job).is_ok());
            answers.push(answered);
        }
        assert_eq!(queue.push(Precedence::Stranger, job(0).0), Err(SecurityModuleError::Busy));
        assert!(queue.push(Precedence::Partner, job(0).0).is_ok());
        assert!(queue.push(Precedence::Enclave, job(0).0).is_ok());
        // Callers that went away make space.
        answers.truncate(1);
        assert!(queue.push(Precedence::Stranger, job(0).0).is_ok());
    }

    #[test]
    fn after_a_strangers_request_the_device_is_kept_from_strangers() {
        let (queue, jobs) = Queue::new();
        let asked: Vec<_> = [(Precedence::Stranger, 1), (Precedence::Stranger, 2)]
            .map(|(precedence, index)| {
                let (job, answered) = job(index);
                assert!(queue.push(precedence, job).is_ok());
                answered
            })
            .into();
        let (precedence, first) = jobs.next().unwrap();
        assert_eq!((precedence, index(&first.request)), (Precedence::Stranger, 1));
        jobs.served(Precedence::Stranger, Duration::from_secs(1));
        let rest = jobs.0.lock().rest().unwrap();
        assert!(rest > Duration::from_secs(8), "{rest:?} after a request of a second");
        // Those with rights cost strangers nothing.
        jobs.served(Precedence::Partner, Duration::from_secs(3600));
        assert!(jobs.0.lock().rest().unwrap() <= rest);
        let (partner, answered) = job(3);
        assert!(queue.push(Precedence::Partner, partner).is_ok());
        let (precedence, second) = jobs.next().unwrap();
        assert_eq!((precedence, index(&second.request)), (Precedence::Partner, 3));
        drop((asked, answered));
    }
}
