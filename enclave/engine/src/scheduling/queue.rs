//! Where submitters and the worker meet.

use std::{
    collections::{HashMap, VecDeque},
    iter,
    num::NonZeroU8,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{Capacity, EngineConfig, Job, MemoryUse, SubmitError};
use crate::{
    clock::{Clock, Moment},
    owner::Owner,
};

/// The longest wait before the clock is asked again: it goes on while the machine sleeps, and the waiting does
/// not.
const LOOK: Duration = Duration::from_secs(1);

/// The jobs that wait, and how many run.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    limits: EngineConfig,
    capacity: Capacity,
    clock: Clock,
}

struct State {
    waiting: VecDeque<Waiting>,
    /// What the running jobs of each owner have; no entry for an owner without any.
    running: HashMap<Owner, Use>,
    /// Whose job started last.
    last: Option<Owner>,
    /// How often each owner is there; no entry for one who is not.
    present: HashMap<Owner, usize>,
    /// Owners of whom nothing is to be kept, for the worker to hear.
    forgotten: Vec<Owner>,
    /// Who wants to hear of the end of the step.
    step_ends: Vec<StepEnd>,
    memory: MemoryUse,
    open: bool,
}

/// Is called between two steps.
pub(super) type StepEnd = Box<dyn FnOnce() + Send>;

/// Of running jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Use {
    sequences: usize,
    /// Reserved, whether written or not. A paused job has none.
    pages: usize,
}

/// What a job takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    /// Most tokens of the answer.
    pub(super) tokens: u32,
    /// Pages for keys and values: those to begin with, and later those that it has.
    pub(super) pages: usize,
}

/// Why an answer gets no further page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Short {
    /// Its owner has its part of the pages.
    Owner,
    /// All pages are reserved.
    All,
}

/// A job that could start if there were memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) owner: Owner,
    /// Pages that are missing.
    pub(super) missing: usize,
    /// What its owner would have, as it counts for its share.
    pub(super) weight: usize,
}

/// A job that waits for a sequence, and for its pages.
pub(super) struct Waiting {
    pub(super) job: Job,
    pub(super) need: Need,
    pub(super) cancelled: Cancelled,
    /// How often a later job started because this one lacked memory.
    passed: usize,
    /// Whether a step was interrupted for it because it lacks memory that others may have to give back.
    has_interrupted: bool,
}

/// After being passed so often, a job is next. Running jobs all end, so it will start.
const MAX_PASSED: usize = 64;

/// Says whether nobody wants a job any more.
#[derive(Clone, Default)]
pub(super) struct Cancelled(Arc<AtomicBool>);

impl Cancelled {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// An owner's use in proportion to its share, comparable with other owners'.
pub(super) fn weighted(count: usize, share: NonZeroU8) -> usize {
    /// Divisible by every small share.
    const UNIT: usize = 5040;
    count * UNIT / usize::from(share.get())
}

/// What the worker does next.
pub(super) struct Work {
    /// The time at which that was looked at.
    pub(super) now: Moment,
    /// Jobs that start.
    pub(super) jobs: Vec<Waiting>,
    /// Jobs whose time was over before they could start.
    pub(super) late: Vec<Waiting>,
    /// Owners of whom nothing is kept any longer.
    pub(super) forgotten: Vec<Owner>,
}

impl State {
    /// Whether the worker has nothing to do.
    fn is_idle(&self) -> bool {
        self.open && self.waiting.is_empty() && self.running.is_empty() && self.forgotten.is_empty()
    }

    /// Jobs that run, of all owners.
    fn running(&self) -> usize {
        self.running.values().map(|used| used.sequences).sum()
    }

    /// What the jobs of `owner` have.
    fn used(&self, owner: Owner) -> Use {
        self.running.get(&owner).copied().unwrap_or_default()
    }

    /// Jobs that a free sequence and their owner's part permit to start, in the order of their turns. The last
    /// free sequences are for owners who have none running. First come jobs whose owners have fewest running for their share; among these, owners other than the last
    /// one; among these, the jobs that have waited longest.
    fn turns(&self, limits: &EngineConfig, capacity: &Capacity) -> Vec<usize> {
        let running = self.running();
        if running >= limits.max_sequences.get() {
            return Vec::new();
        }
        let may = self.waiting.iter().enumerate().filter(|(_, waiting)| {
            let used = self.used(waiting.job.owner);
            (used.sequences == 0 || running < limits.max_per_owner.get())
                && used.pages + waiting.need.pages <= capacity.per_owner
        });
        let mut turns: Vec<usize> = may.map(|(index, _)| index).collect();
        turns.sort_by_key(|index| {
            self.waiting.get(*index).map(|Waiting { job, .. }| {
                (weighted(self.used(job.owner).sequences, job.share), self.last == Some(job.owner))
            })
        });
        turns
    }

    /// The job to start next: the first in turn that has enough pages. A job that has been passed too often
    /// lets no other pass.
    fn next(&self, limits: &EngineConfig, capacity: &Capacity) -> Option<usize> {
        let turns = self.turns(limits, capacity);
        let fits = |waiting: &Waiting| self.reserved() + waiting.need.pages <= capacity.pages;
        let next = turns.into_iter().filter_map(|index| Some((index, self.waiting.get(index)?)));
        let mut next = next.skip_while(|(_, waiting)| !fits(waiting) && waiting.passed < MAX_PASSED);
        next.next().filter(|(_, waiting)| fits(waiting)).map(|(index, _)| index)
    }

    /// Whether the owner of this job has none running.
    fn is_newcomer(&self, waiting: usize) -> bool {
        self.waiting.get(waiting).is_some_and(|waiting| !self.running.contains_key(&waiting.job.owner))
    }

    /// Pages of all running jobs.
    fn reserved(&self) -> usize {
        self.running.values().map(|used| used.pages).sum()
    }

    /// Takes out the jobs whose deadline is over.
    fn take_late(&mut self, now: Moment) -> Vec<Waiting> {
        let is_late = |waiting: &Waiting| waiting.job.deadline.is_some_and(|deadline| deadline <= now);
        let (late, waiting) = self.waiting.drain(..).partition(is_late);
        self.waiting = Vec::into(waiting);
        late
    }

    /// Notes an owner to forget. Each owner is listed once, so the list is no longer than the number of
    /// owners.
    fn forget(&mut self, owner: Owner) {
        if !self.forgotten.contains(&owner) {
            self.forgotten.push(owner);
        }
    }

    fn start_next(&mut self, limits: &EngineConfig, capacity: &Capacity) -> Option<Waiting> {
        let turns = self.turns(limits, capacity);
        let next = self.next(limits, capacity)?;
        for passed in turns.into_iter().take_while(|index| *index != next) {
            if let Some(waiting) = self.waiting.get_mut(passed) {
                waiting.passed += 1;
            }
        }
        let next = self.waiting.remove(next)?;
        self.last = Some(next.job.owner);
        let used = self.running.entry(next.job.owner).or_default();
        used.sequences += 1;
        used.pages += next.need.pages;
        Some(next)
    }
}

impl Queue {
    pub(super) fn new(limits: EngineConfig, capacity: Capacity, clock: Clock) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            running: HashMap::new(),
            last: None,
            present: HashMap::new(),
            forgotten: Vec::new(),
            step_ends: Vec::new(),
            memory: MemoryUse { pages: capacity.pages, free: capacity.pages, kept: 0 },
            open: true,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), limits, capacity, clock }
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
        state.waiting.push_back(Waiting {
            job,
            need,
            cancelled: cancelled.clone(),
            passed: 0,
            has_interrupted: false,
        });
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

    /// For the worker: what to do next. Waits while there is nothing to do and nothing runs, at most `until`;
    /// `None` when closed.
    pub(super) fn next(&self, memory: MemoryUse, until: Option<Moment>) -> Option<Work> {
        loop {
            // Nobody waits for the lock while the clock is looked at.
            let now = self.clock.now();
            let mut state = self.lock();
            state.memory = memory;
            let step_ends = std::mem::take(&mut state.step_ends);
            if !step_ends.is_empty() {
                drop(state);
                step_ends.into_iter().for_each(|step_end| step_end());
                continue;
            }
            let left = until.map(|until| until.since(now));
            if state.is_idle() && left != Some(Duration::ZERO) {
                self.wait(state, left);
                continue;
            }
            if !state.open {
                return None;
            }
            let forgotten = std::mem::take(&mut state.forgotten);
            let late = state.take_late(now);
            let jobs = iter::from_fn(|| state.start_next(&self.limits, &self.capacity)).collect();
            return Some(Work { now, jobs, late, forgotten });
        }
    }

    /// Waits for a change, and not for longer than the clock may go unasked.
    fn wait(&self, state: MutexGuard<'_, State>, left: Option<Duration>) {
        match left {
            None => drop(self.changed.wait(state)),
            Some(left) => drop(self.changed.wait_timeout(state, left.min(LOOK))),
        }
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(super) fn enter(&self, owner: Owner) {
        *self.lock().present.entry(owner).or_default() += 1;
    }

    pub(super) fn leave(&self, owner: Owner) {
        let mut state = self.lock();
        let left = state.present.get_mut(&owner).is_none_or(|times| {
            *times -= 1;
            *times == 0
        });
        if left {
            state.present.remove(&owner);
            state.forget(owner);
            self.changed.notify_one();
        }
    }

    pub(super) fn forget(&self, owner: Owner) {
        self.lock().forget(owner);
        self.changed.notify_one();
    }

    /// For the worker: whether pages of this owner's prompts may be kept. An owner that leaves later is
    /// forgotten later.
    pub(super) fn is_present(&self, owner: Owner) -> bool {
        self.lock().present.contains_key(&owner)
    }

    /// Has the worker call `step_end` before its next step, or at once when it has nothing to do. A closed queue drops it.
    pub(super) fn after_step(&self, step_end: StepEnd) {
        let mut state = self.lock();
        if state.open {
            state.step_ends.push(step_end);
            self.changed.notify_one();
        }
    }

    pub(super) fn memory(&self) -> MemoryUse {
        self.lock().memory
    }

    pub(super) fn present(&self) -> Vec<Owner> {
        self.lock().present.keys().copied().collect()
    }

    /// For the worker: whether the next job to start can, and its owner has none running. A job of such an owner
    /// that is first in turn and lacks memory alone counts, too, but once: others may have to give it back.
    pub(super) fn has_newcomer(&self) -> bool {
        let mut state = self.lock();
        let next = state.next(&self.limits, &self.capacity);
        if next.is_some_and(|next| state.is_newcomer(next)) {
            return true;
        }
        let first = state.turns(&self.limits, &self.capacity).first().copied();
        let short = first.filter(|first| Some(*first) != next && state.is_newcomer(*first));
        let waiting = short.and_then(|short| state.waiting.get_mut(short));
        waiting.is_some_and(|waiting| !std::mem::replace(&mut waiting.has_interrupted, true))
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

    /// For the worker: one more page for a running job of `owner`.
    pub(super) fn grow(&self, owner: Owner) -> Result<(), Short> {
        let mut state = self.lock();
        if state.used(owner).pages >= self.capacity.per_owner {
            return Err(Short::Owner);
        }
        if state.reserved() >= self.capacity.pages {
            return Err(Short::All);
        }
        state.running.entry(owner).or_default().pages += 1;
        Ok(())
    }

    /// For the worker: a job of `owner` goes on later, and so many pages are free.
    pub(super) fn paused(&self, owner: Owner, pages: usize) {
        if let Some(used) = self.lock().running.get_mut(&owner) {
            used.pages -= pages;
        }
    }

    /// For the worker: so many pages for a paused job of `owner`, if there are. Some must be left over while
    /// others run, so that it is not paused again at once.
    pub(super) fn resume(&self, owner: Owner, pages: usize) -> bool {
        /// One part in so many of all pages.
        const LEFT_OVER: usize = 8;
        let mut state = self.lock();
        let reserved = state.reserved();
        let left_over = if reserved == 0 { 0 } else { self.capacity.pages / LEFT_OVER };
        let fits = reserved + pages + left_over <= self.capacity.pages
            && state.used(owner).pages + pages <= self.capacity.per_owner;
        if fits {
            state.running.entry(owner).or_default().pages += pages;
        }
        fits
    }

    /// For the worker: the pages that the first job in turn lacks, if it lacks nothing else.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        let state = self.lock();
        let next = *state.turns(&self.limits, &self.capacity).first()?;
        let Waiting { job, need, .. } = state.waiting.get(next)?;
        let missing =
            (state.reserved() + need.pages).checked_sub(self.capacity.pages).filter(|pages| *pages > 0)?;
        let weight = weighted(state.used(job.owner).pages + need.pages, job.share);
        Some(Wanted { owner: job.owner, missing, weight })
    }

    /// For the worker: pages that the running jobs of an owner have.
    pub(super) fn pages_of(&self, owner: Owner) -> usize {
        self.lock().used(owner).pages
    }

    /// Refuses further jobs and drops those that wait.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.open = false;
        let dropped = (std::mem::take(&mut state.waiting), std::mem::take(&mut state.step_ends));
        self.changed.notify_all();
        drop(state);
        drop(dropped);
    }

    /// The state is plain data and valid after every statement, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroUsize, ops::ControlFlow, sync::atomic::AtomicUsize};

    use super::*;
    use crate::{ChatMessage, Event, Model, Sink};

    struct Deaf;

    impl Sink for Deaf {
        fn event(&mut self, _: Event) -> ControlFlow<()> {
            ControlFlow::Continue(())
        }
    }

    fn job(owner: u8) -> Job {
        let model = Model::from_gguf(include_bytes!("../../../../models/demo.gguf")).unwrap();
        let prompt = model.prompt_from_chat(&[ChatMessage::new("user", "?")]).unwrap();
        Job { owner: Owner([owner; 32]), ..Job::new(prompt, Box::new(Deaf)) }
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
        let capacity = Capacity { pages: 8, per_owner: 6, positions: 6 * crate::cache::PAGE };
        Queue::new(limits, capacity, Clock::monotonic())
    }

    fn push(queue: &Queue, owner: u8, pages: usize) -> Cancelled {
        push_with_share(queue, owner, pages, 1)
    }

    fn push_with_share(queue: &Queue, owner: u8, pages: usize, share: u8) -> Cancelled {
        let job = Job { share: NonZeroU8::new(share).unwrap(), ..job(owner) };
        queue.push(job, Need { tokens: 1, pages }).unwrap()
    }

    fn started(queue: &Queue) -> Vec<u8> {
        queue
            .next(MemoryUse::default(), None)
            .unwrap()
            .jobs
            .iter()
            .map(|waiting| waiting.job.owner.0[0])
            .collect()
    }

    fn finished(queue: &Queue, owner: u8, pages: usize) {
        queue.finished(Owner([owner; 32]), Need { tokens: 1, pages });
    }

    #[test]
    fn the_end_of_a_step_is_told_at_once_when_there_is_nothing_to_do_and_else_between_two_steps() {
        let told = Arc::new(AtomicUsize::new(0));
        let count = || told.load(Ordering::SeqCst);
        let tell = || {
            let told = Arc::clone(&told);
            Box::new(move || _ = told.fetch_add(1, Ordering::SeqCst))
        };
        let queue = queue(2, 2);
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| started(&queue));
            queue.after_step(tell());
            while count() == 0 {
                std::thread::yield_now();
            }
            push(&queue, 1, 1);
            assert_eq!(worker.join().unwrap(), [1]);
        });
        // A step is under way until the worker asks again.
        queue.after_step(tell());
        assert_eq!(count(), 1);
        assert!(started(&queue).is_empty());
        assert_eq!(count(), 2);
        // Whoever waits for an engine that has ended hears of it.
        queue.after_step(tell());
        queue.close();
        queue.after_step(tell());
        assert_eq!((count(), Arc::strong_count(&told)), (2, 1));
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
    fn the_last_sequences_are_for_owners_who_have_none() {
        let queue = queue(4, 3);
        (0..3).for_each(|_| _ = push(&queue, 1, 1));
        push(&queue, 2, 1);
        assert_eq!(started(&queue), [1, 2, 1]);
        push(&queue, 2, 1);
        assert_eq!(started(&queue), [0; 0], "two owners together leave one sequence, too");
        push(&queue, 3, 1);
        assert!(queue.has_newcomer());
        assert_eq!(started(&queue), [3]);
        finished(&queue, 1, 1);
        assert_eq!(started(&queue), [0; 0]);
        finished(&queue, 3, 1);
        assert_eq!(started(&queue), [1], "each of the two has one, and this one has waited longer");
    }

    #[test]
    fn a_job_waits_for_its_pages_and_nobody_waits_behind_it_until_it_was_passed_often() {
        let queue = queue(4, 4);
        push(&queue, 1, 5);
        assert_eq!(started(&queue), [1]);
        push(&queue, 2, 4);
        assert!(queue.has_newcomer(), "three pages are free, and others may give back one");
        assert!(!queue.has_newcomer(), "which they are asked once");
        assert_eq!(started(&queue), [0; 0]);
        let wanted = Wanted { owner: Owner([2; 32]), missing: 1, weight: weighted(4, NonZeroU8::MIN) };
        assert_eq!(queue.wanted(), Some(wanted));
        for _ in 0..MAX_PASSED {
            push(&queue, 3, 1);
            assert!(queue.has_newcomer());
            assert_eq!(started(&queue), [3], "there is a page for it");
            finished(&queue, 3, 1);
        }
        push(&queue, 3, 1);
        assert_eq!(started(&queue), [0; 0], "or the larger one would wait for ever");
        finished(&queue, 1, 5);
        assert!(queue.has_newcomer());
        assert_eq!(started(&queue), [2, 3]);
        assert_eq!(queue.wanted(), None);
    }

    #[test]
    fn a_running_job_gets_further_pages_as_far_as_there_are() {
        let queue = queue(4, 4);
        let [one, two] = [1, 2].map(|owner| Owner([owner; 32]));
        push(&queue, 1, 5);
        push(&queue, 2, 1);
        assert_eq!(started(&queue), [1, 2]);
        assert_eq!(queue.grow(one), Ok(()));
        assert_eq!(queue.grow(one), Err(Short::Owner), "six are an owner's part");
        assert_eq!(queue.grow(two), Ok(()));
        assert_eq!(queue.grow(two), Err(Short::All));
        queue.paused(one, 6);
        assert_eq!((queue.pages_of(one), queue.pages_of(two)), (0, 2));
        assert_eq!(queue.grow(two), Ok(()));
        assert!(!queue.resume(one, 5), "one page must be left over");
        finished(&queue, 2, 3);
        assert!(queue.resume(one, 6), "nobody else runs");
        finished(&queue, 1, 6);
        assert!(queue.lock().running.is_empty());
    }

    #[test]
    fn an_owner_gets_no_more_than_its_part_of_the_pages() {
        let queue = queue(4, 4);
        push(&queue, 1, 4);
        push(&queue, 1, 3);
        assert_eq!(started(&queue), [1], "seven are more than its part");
        let grown = [(); 3].map(|()| queue.grow(Owner([1; 32])));
        assert_eq!(grown, [Ok(()), Ok(()), Err(Short::Owner)], "an answer grows to its part and no further");
        push(&queue, 2, 2);
        assert_eq!(started(&queue), [2], "and nobody waits behind it");
        finished(&queue, 1, 6);
        assert_eq!(started(&queue), [1]);
        [(1, 3), (2, 2)].into_iter().for_each(|(owner, pages)| finished(&queue, owner, pages));
        assert!(queue.lock().running.is_empty());
    }

    #[test]
    fn sequences_go_to_whoever_has_fewest_for_its_share() {
        let queue = queue(6, 6);
        // As many as may wait beside those that run.
        for (owner, share) in [(1, 1), (1, 1), (1, 1), (2, 3), (2, 3), (2, 3), (2, 3), (2, 3), (2, 3)] {
            push_with_share(&queue, owner, 1, share);
        }
        let mut order = started(&queue);
        assert_eq!(order.len(), 6);
        assert_eq!(order[..2], [1, 2], "everybody has one first");
        order.sort_unstable();
        assert_eq!(order, [1, 1, 2, 2, 2, 2]);
    }
}
