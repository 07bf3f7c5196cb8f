//! Where submitters and the worker meet.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{EngineConfig, Job, Owner, SubmitError};

/// The jobs that wait, and how many run.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    limits: EngineConfig,
}

struct State {
    waiting: VecDeque<Waiting>,
    /// How many jobs of each owner run; no entry for an owner without any.
    running: HashMap<Owner, usize>,
    /// Whose job started last.
    last: Option<Owner>,
    open: bool,
}

/// A job that waits for a sequence.
pub(super) struct Waiting {
    pub(super) job: Job,
    pub(super) cancelled: Cancelled,
}

/// Says whether nobody wants a job any more.
#[derive(Clone, Default)]
pub(super) struct Cancelled(Arc<AtomicBool>);

impl Cancelled {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl State {
    /// Jobs that run, of all owners.
    fn running(&self) -> usize {
        self.running.values().sum()
    }

    /// The job that has waited longest of those whose owners have fewest running, and of these of one whose turn it was not just now.
    /// No owner gets more than `most`.
    fn start_next(&mut self, most: usize) -> Option<Waiting> {
        let running = |waiting: &Waiting| self.running.get(&waiting.job.owner).copied().unwrap_or(0);
        let key = |waiting: &Waiting| (running(waiting), self.last == Some(waiting.job.owner));
        let may = self.waiting.iter().enumerate().filter(|(_, waiting)| running(waiting) < most);
        let (index, _) = may.min_by_key(|(_, waiting)| key(waiting))?;
        let next = self.waiting.remove(index)?;
        self.last = Some(next.job.owner);
        *self.running.entry(next.job.owner).or_default() += 1;
        Some(next)
    }
}

impl Queue {
    pub(super) fn new(limits: EngineConfig) -> Self {
        let state = State { waiting: VecDeque::new(), running: HashMap::new(), last: None, open: true };
        Self { state: Mutex::new(state), changed: Condvar::new(), limits }
    }

    pub(super) fn push(&self, job: Job) -> Result<Cancelled, SubmitError> {
        let mut state = self.lock();
        if !state.open {
            return Err(SubmitError::Stopped);
        }
        let most = self.limits.max_sequences.get().saturating_add(self.limits.max_queued);
        if state.waiting.len() + state.running() >= most {
            return Err(SubmitError::Busy);
        }
        let cancelled = Cancelled::default();
        state.waiting.push_back(Waiting { job, cancelled: cancelled.clone() });
        self.changed.notify_one();
        Ok(cancelled)
    }

    /// Marks a job cancelled. One that still waits leaves the queue at once.
    pub(super) fn cancel(&self, cancelled: &Cancelled) {
        cancelled.0.store(true, Ordering::Relaxed);
        let mut state = self.lock();
        let found = state.waiting.iter().position(|waiting| Arc::ptr_eq(&waiting.cancelled.0, &cancelled.0));
        let removed = found.and_then(|index| state.waiting.remove(index));
        // A sink's own drop must not run under the lock.
        drop(state);
        drop(removed);
    }

    /// For the worker: the next jobs to run. Waits while there is nothing to do and nothing runs; `None` when closed.
    pub(super) fn next(&self) -> Option<Vec<Waiting>> {
        let idle = |state: &mut State| state.open && state.waiting.is_empty() && state.running.is_empty();
        let mut state = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        if !state.open {
            return None;
        }
        let free = self.limits.max_sequences.get() - state.running();
        Some((0..free).map_while(|_| state.start_next(self.limits.max_per_owner.get())).collect())
    }

    /// For the worker: whether a sequence is free for a job that waits and whose owner has none running.
    pub(super) fn has_newcomer(&self) -> bool {
        let state = self.lock();
        let is_new = |waiting: &Waiting| !state.running.contains_key(&waiting.job.owner);
        state.running() < self.limits.max_sequences.get() && state.waiting.iter().any(is_new)
    }

    /// For the worker: a job of `owner` no longer runs.
    pub(super) fn finished(&self, owner: Owner) {
        let mut state = self.lock();
        if let Some(running) = state.running.get_mut(&owner) {
            *running -= 1;
            if *running == 0 {
                state.running.remove(&owner);
            }
        }
    }

    /// Refuses further jobs and drops those that wait.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.open = false;
        let waiting = std::mem::take(&mut state.waiting);
        self.changed.notify_all();
        drop(state);
        drop(waiting);
    }

    /// The state is plain data and valid after every statement, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroUsize, ops::ControlFlow};

    use super::*;
    use crate::{ChatMessage, Event, Model, Sampling, Sink};

    struct Deaf;

    impl Sink for Deaf {
        fn event(&mut self, _: Event) -> ControlFlow<()> {
            ControlFlow::Continue(())
        }
    }

    #[test]
    fn a_newcomer_has_a_sequence_to_go_to_and_none_yet() {
        let model = Model::from_gguf(include_bytes!("../../../../models/demo.gguf")).unwrap();
        let job = |owner| Job {
            owner: Owner([owner; 32]),
            prompt: model.prompt_from_chat(&[ChatMessage { role: "user", content: "?" }]).unwrap(),
            max_tokens: None,
            sampling: Sampling::greedy(),
            bias: zeroize::Zeroizing::default(),
            constraint: None,
            logprobs: None,
            stop: Vec::new(),
            sink: Box::new(Deaf),
        };
        let [one, two] = [1, 2].map(|number| NonZeroUsize::new(number).unwrap());
        let queue =
            Queue::new(EngineConfig { threads: one, max_sequences: two, max_per_owner: one, max_queued: 3 });
        let mut handles = vec![queue.push(job(1)).unwrap()];
        assert!(queue.has_newcomer());
        let running = queue.next().unwrap();
        assert_eq!(running.len(), 1);
        assert!(!queue.has_newcomer(), "nobody waits");
        handles.push(queue.push(job(1)).unwrap());
        assert!(!queue.has_newcomer(), "whoever waits has one running");
        assert_eq!(queue.next().unwrap().len(), 0, "and may have no more");
        handles.push(queue.push(job(2)).unwrap());
        assert!(queue.has_newcomer());
        assert_eq!(queue.next().unwrap().len(), 1);
        handles.push(queue.push(job(3)).unwrap());
        assert!(!queue.has_newcomer(), "no sequence is free");
        queue.finished(Owner([1; 32]));
        assert!(queue.has_newcomer());
    }
}
