//! Where submitters and the worker meet.

use std::{
    collections::{HashMap, VecDeque},
    iter,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{EngineConfig, Job, Owner, Room, SubmitError};

/// The jobs that wait, and how many run.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    limits: EngineConfig,
    room: Room,
}

struct State {
    waiting: VecDeque<Waiting>,
    /// What the running jobs of each owner have; no entry for an owner without any.
    running: HashMap<Owner, Use>,
    /// Whose job started last.
    last: Option<Owner>,
    open: bool,
}

/// Of running jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Use {
    sequences: usize,
    /// Reserved, whether written or not.
    pages: usize,
}

/// What a job can take at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    /// Tokens of the answer.
    pub(super) tokens: u32,
    /// Pages for keys and values.
    pub(super) pages: usize,
}

/// A job that waits for a sequence, and for its pages.
pub(super) struct Waiting {
    pub(super) job: Job,
    pub(super) need: Need,
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
        self.running.values().map(|used| used.sequences).sum()
    }

    /// What the jobs of `owner` have.
    fn used(&self, owner: Owner) -> Use {
        self.running.get(&owner).copied().unwrap_or_default()
    }

    /// The job to start next, if it can be: the one that has waited longest of those whose owners have fewest running, and of these of one
    /// whose turn it was not just now. No owner gets more than its part. While the pages of the next one are not free nobody else gets any,
    /// so that small jobs cannot keep a large one waiting for ever; all that run end, so it will have them.
    fn next(&self, limits: &EngineConfig, room: &Room) -> Option<usize> {
        if self.running() >= limits.max_sequences.get() {
            return None;
        }
        let may = self.waiting.iter().enumerate().filter(|(_, waiting)| {
            let used = self.used(waiting.job.owner);
            used.sequences < limits.max_per_owner.get() && used.pages + waiting.need.pages <= room.per_owner
        });
        let key = |waiting: &Waiting| {
            (self.used(waiting.job.owner).sequences, self.last == Some(waiting.job.owner))
        };
        let (index, next) = may.min_by_key(|(_, waiting)| key(waiting))?;
        let reserved: usize = self.running.values().map(|used| used.pages).sum();
        (reserved + next.need.pages <= room.pages).then_some(index)
    }

    fn start_next(&mut self, limits: &EngineConfig, room: &Room) -> Option<Waiting> {
        let next = self.next(limits, room)?;
        let next = self.waiting.remove(next)?;
        self.last = Some(next.job.owner);
        let used = self.running.entry(next.job.owner).or_default();
        used.sequences += 1;
        used.pages += next.need.pages;
        Some(next)
    }
}

impl Queue {
    pub(super) fn new(limits: EngineConfig, room: Room) -> Self {
        let state = State { waiting: VecDeque::new(), running: HashMap::new(), last: None, open: true };
        Self { state: Mutex::new(state), changed: Condvar::new(), limits, room }
    }

    pub(super) fn push(&self, job: Job, need: Need) -> Result<Cancelled, SubmitError> {
        let mut state = self.lock();
        if !state.open {
            return Err(SubmitError::Stopped);
        }
        let most = self.limits.max_sequences.get().saturating_add(self.limits.max_queued);
        if state.waiting.len() + state.running() >= most {
            return Err(SubmitError::Busy);
        }
        let cancelled = Cancelled::default();
        state.waiting.push_back(Waiting { job, need, cancelled: cancelled.clone() });
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
        Some(iter::from_fn(|| state.start_next(&self.limits, &self.room)).collect())
    }

    /// For the worker: whether the next job to start can, and its owner has none running.
    pub(super) fn has_newcomer(&self) -> bool {
        let state = self.lock();
        let next = state.next(&self.limits, &self.room).and_then(|next| state.waiting.get(next));
        next.is_some_and(|next| !state.running.contains_key(&next.job.owner))
    }

    /// For the worker: a job of `owner` no longer runs, and its pages are free.
    pub(super) fn finished(&self, owner: Owner, need: Need) {
        let mut state = self.lock();
        if let Some(used) = state.running.get_mut(&owner) {
            used.sequences -= 1;
            used.pages -= need.pages;
            if used.sequences == 0 {
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

    fn job(owner: u8) -> Job {
        let model = Model::from_gguf(include_bytes!("../../../../models/demo.gguf")).unwrap();
        Job {
            owner: Owner([owner; 32]),
            prompt: model.prompt_from_chat(&[ChatMessage { role: "user", content: "?" }]).unwrap(),
            max_tokens: None,
            sampling: Sampling::greedy(),
            bias: zeroize::Zeroizing::default(),
            constraint: None,
            logprobs: None,
            embedding: false,
            stop: Vec::new(),
            sink: Box::new(Deaf),
        }
    }

    /// A queue for so many sequences, and 8 pages, 6 of each owner.
    fn queue(max_sequences: usize, max_per_owner: usize) -> Queue {
        let [max_sequences, max_per_owner] =
            [max_sequences, max_per_owner].map(|number| NonZeroUsize::new(number).unwrap());
        let limits = EngineConfig {
            max_per_owner,
            max_queued: 3,
            ..EngineConfig::new(NonZeroUsize::MIN, max_sequences)
        };
        Queue::new(limits, Room { pages: 8, per_owner: 6, positions: 6 * crate::cache::PAGE })
    }

    fn push(queue: &Queue, owner: u8, pages: usize) -> Cancelled {
        queue.push(job(owner), Need { tokens: 1, pages }).unwrap()
    }

    fn started(queue: &Queue) -> Vec<u8> {
        queue.next().unwrap().iter().map(|waiting| waiting.job.owner.0[0]).collect()
    }

    fn finished(queue: &Queue, owner: u8, pages: usize) {
        queue.finished(Owner([owner; 32]), Need { tokens: 1, pages });
    }

    #[test]
    fn a_newcomer_has_a_sequence_to_go_to_and_none_yet() {
        let queue = queue(2, 1);
        push(&queue, 1, 1);
        assert!(queue.has_newcomer());
        assert_eq!(started(&queue), [1]);
        assert!(!queue.has_newcomer(), "nobody waits");
        push(&queue, 1, 1);
        assert!(!queue.has_newcomer(), "whoever waits has one running");
        assert_eq!(started(&queue), [0; 0], "and may have no more");
        push(&queue, 2, 1);
        assert!(queue.has_newcomer());
        assert_eq!(started(&queue), [2]);
        push(&queue, 3, 1);
        assert!(!queue.has_newcomer(), "no sequence is free");
        finished(&queue, 1, 1);
        assert!(queue.has_newcomer());
    }

    #[test]
    fn a_job_waits_for_all_its_pages_and_small_ones_do_not_pass_it() {
        let queue = queue(4, 4);
        push(&queue, 1, 5);
        assert_eq!(started(&queue), [1]);
        push(&queue, 2, 4);
        assert!(!queue.has_newcomer(), "three pages are free");
        assert_eq!(started(&queue), [0; 0]);
        push(&queue, 3, 1);
        assert_eq!(started(&queue), [0; 0], "or the larger one would wait for ever");
        finished(&queue, 1, 5);
        assert!(queue.has_newcomer());
        assert_eq!(started(&queue), [2, 3]);
    }

    #[test]
    fn an_owner_gets_no_more_than_its_part_of_the_pages() {
        let queue = queue(4, 4);
        push(&queue, 1, 4);
        push(&queue, 1, 3);
        assert_eq!(started(&queue), [1], "seven are more than its part");
        push(&queue, 2, 2);
        assert_eq!(started(&queue), [2], "and nobody waits behind it");
        finished(&queue, 1, 4);
        assert_eq!(started(&queue), [1]);
        [(1, 3), (2, 2)].into_iter().for_each(|(owner, pages)| finished(&queue, owner, pages));
        assert!(queue.lock().running.is_empty());
    }
}
