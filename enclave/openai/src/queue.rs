//! Who may ask the engine now: as many answers at once as are configured, divided among owners.

use std::collections::{HashMap, VecDeque};
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cleanroom_backend::Owner;
use tokio::sync::oneshot;

/// How much may run and wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueLimits {
    pub(crate) running: NonZeroUsize,
    pub(crate) per_owner: NonZeroUsize,
    pub(crate) waiting: usize,
}

/// Answers that run and wait.
pub(crate) struct Queue {
    limits: QueueLimits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    running: usize,
    /// Answers that run, by owner; none is zero.
    owners: HashMap<Owner, usize>,
    /// In the order in which they came.
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    id: u64,
    owner: Owner,
    share: NonZeroU8,
    start: oneshot::Sender<()>,
}

/// A place in the queue, and afterwards among those that run, until it is dropped.
pub(crate) struct Place {
    queue: Arc<Queue>,
    id: u64,
    owner: Owner,
    start: Option<oneshot::Receiver<()>>,
}

impl Queue {
    pub(crate) fn new(limits: QueueLimits) -> Arc<Self> {
        Arc::new(Self { limits, state: Mutex::default() })
    }

    /// Takes `count` places, or none.
    pub(crate) fn enter(
        self: &Arc<Self>,
        owner: Owner,
        share: NonZeroU8,
        count: usize,
    ) -> Option<Vec<Place>> {
        let mut state = self.lock();
        let taken = state.running.saturating_add(state.waiting.len());
        let most = self.limits.running.get().saturating_add(self.limits.waiting);
        if count > most.saturating_sub(taken) {
            return None;
        }
        let mut places = Vec::with_capacity(count);
        for _ in 0..count {
            let (start, started) = oneshot::channel();
            let id = state.next;
            state.next = state.next.wrapping_add(1);
            state.waiting.push_back(Waiting { id, owner, share, start });
            places.push(Place { queue: Arc::clone(self), id, owner, start: Some(started) });
        }
        state.schedule(self.limits);
        Some(places)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is whole before anything could unwind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn schedule(&mut self, limits: QueueLimits) {
        while self.running < limits.running.get() {
            let running = |owner: &Owner| self.owners.get(owner).copied().unwrap_or(0);
            let may_run = |waiting: &&Waiting| running(&waiting.owner) < limits.per_owner.get();
            // The owner with the least for its share comes first, and of one owner the answer that came first. Compared as
            // fractions of one denominator.
            let burden = |waiting: &&Waiting| {
                running(&waiting.owner).saturating_mul(usize::from(u8::MAX))
                    / usize::from(waiting.share.get())
            };
            let Some(next) = self.waiting.iter().filter(may_run).min_by_key(burden).map(|next| next.id)
            else {
                return;
            };
            let Some(at) = self.waiting.iter().position(|waiting| waiting.id == next) else { return };
            let Some(Waiting { owner, start, .. }) = self.waiting.remove(at) else { return };
            self.running = self.running.saturating_add(1);
            let count = self.owners.entry(owner).or_default();
            *count = count.saturating_add(1);
            // Its place is dropped with the receiver, and gives back what was counted here.
            let _ = start.send(());
        }
    }
}

impl Place {
    /// Waits until the answer may run.
    pub(crate) async fn ready(&mut self) {
        if let Some(start) = self.start.take() {
            // The sender is in the queue for as long as this place is.
            let _ = start.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        let before = state.waiting.len();
        state.waiting.retain(|waiting| waiting.id != self.id);
        if state.waiting.len() == before {
            state.running = state.running.saturating_sub(1);
            if let Some(count) = state.owners.get_mut(&self.owner) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    state.owners.remove(&self.owner);
                }
            }
        }
        state.schedule(self.queue.limits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(running: usize, per_owner: usize, waiting: usize) -> Arc<Queue> {
        let number = |number| NonZeroUsize::new(number).unwrap();
        Queue::new(QueueLimits { running: number(running), per_owner: number(per_owner), waiting })
    }

    fn owner(name: u8) -> Owner {
        Owner([name; 32])
    }

    fn enter(queue: &Arc<Queue>, name: u8, share: u8) -> Option<Place> {
        queue.enter(owner(name), NonZeroU8::new(share).unwrap(), 1).map(|mut places| places.remove(0))
    }

    fn runs(place: &mut Place) -> bool {
        place.start.as_mut().unwrap().try_recv().is_ok()
    }

    #[test]
    fn one_owner_cannot_take_everything_and_the_queue_has_an_end() {
        let queue = queue(3, 2, 1);
        let mut first: Vec<_> = (0..2).map(|_| enter(&queue, 1, 1).unwrap()).collect();
        let mut third = enter(&queue, 1, 1).unwrap();
        assert!(first.iter_mut().all(runs) && !runs(&mut third));
        let mut other = enter(&queue, 2, 1).unwrap();
        assert!(runs(&mut other), "another owner runs at once");
        assert!(enter(&queue, 3, 1).is_none(), "three run, one waits");
        drop(first);
        assert!(runs(&mut third));
        assert!(queue.enter(owner(4), NonZeroU8::MIN, 3).is_none(), "all or none");
        drop((third, other));
        assert!(queue.lock().running == 0 && queue.lock().owners.is_empty());
    }

    #[test]
    fn a_larger_share_gets_more_and_nobody_is_forgotten() {
        let queue = queue(3, 3, 16);
        let mut all: Vec<_> = (0..4).map(|_| enter(&queue, 1, 1).unwrap()).collect();
        let mut heavy: Vec<_> = (0..4).map(|_| enter(&queue, 2, 2).unwrap()).collect();
        // Three of the first owner run. As they end, the second owner gets two for each one of the first.
        for _ in 0..3 {
            drop(all.remove(0));
        }
        let heavy_running = heavy.iter_mut().map(runs).filter(|runs| *runs).count();
        assert_eq!((heavy_running, runs(&mut all[0])), (2, true));
        drop((all, heavy));
        assert_eq!(queue.lock().running, 0);
    }

    #[test]
    fn whoever_gives_up_takes_nobody_s_place() {
        let queue = queue(1, 1, 4);
        let running = enter(&queue, 1, 1).unwrap();
        let gone = enter(&queue, 2, 1).unwrap();
        let mut last = enter(&queue, 3, 1).unwrap();
        drop(gone);
        drop(running);
        assert!(runs(&mut last));
    }
}
