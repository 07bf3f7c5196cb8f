//! Slots for local connections: a bounded number, of which those that only wait give way to newcomers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The slots of one proxy.
pub(super) struct Slots {
    limit: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    /// Connections that got no slot, or lost theirs.
    shed: u64,
    /// Rises with everything that happens, so that the oldest is the lowest.
    turn: u64,
    connections: HashMap<u64, Connection>,
}

/// How many connections there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// With a slot.
    pub(super) open: usize,
    /// Of these, with a request under way.
    pub(super) under_way: usize,
    /// That got no slot, or lost theirs, so far.
    pub(super) shed: u64,
}

struct Connection {
    /// Since which turn the connection waits for its client. `None` while a request of it is under way.
    waiting_since: Option<u64>,
    shed: CancellationToken,
}

impl Slots {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: Mutex::default() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for a new connection. If all are taken, the connection that has waited longest for its client
    /// loses its own. `None` if requests are under way on all of them.
    pub(super) fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut taken = self.taken();
        if taken.connections.len() >= self.limit {
            taken.shed += 1;
            let waiting = taken.connections.iter().filter_map(|(id, one)| Some((one.waiting_since?, *id)));
            let (_, oldest) = waiting.min()?;
            if let Some(oldest) = taken.connections.remove(&oldest) {
                oldest.shed.cancel();
            }
        }
        taken.turn += 1;
        let (id, shed) = (taken.turn, CancellationToken::new());
        let connection = Connection { waiting_since: Some(id), shed: shed.clone() };
        taken.connections.insert(id, connection);
        Some(Slot { slots: Arc::clone(self), id, shed })
    }

    pub(super) fn counts(&self) -> Counts {
        let taken = self.taken();
        let under_way = taken.connections.values().filter(|one| one.waiting_since.is_none()).count();
        Counts { open: taken.connections.len(), under_way, shed: taken.shed }
    }
}

/// The slot of one connection. It is free once this is dropped.
pub(super) struct Slot {
    slots: Arc<Slots>,
    id: u64,
    shed: CancellationToken,
}

impl Slot {
    /// Waits until the slot is lost to a newcomer.
    pub(super) async fn lost(&self) {
        self.shed.cancelled().await;
    }

    /// Keeps the slot while a request is under way. `None` if it is lost already.
    pub(super) fn keep(&self) -> Option<Kept> {
        let mut taken = self.slots.taken();
        taken.connections.get_mut(&self.id)?.waiting_since = None;
        Some(Kept { slots: Arc::clone(&self.slots), id: self.id })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.taken().connections.remove(&self.id);
    }
}

/// A request is under way on a connection.
pub(super) struct Kept {
    slots: Arc<Slots>,
    id: u64,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut taken = self.slots.taken();
        taken.turn += 1;
        let turn = taken.turn;
        if let Some(connection) = taken.connections.get_mut(&self.id) {
            connection.waiting_since = Some(turn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_has_waited_longest_gives_way() {
        let slots = Slots::new(3);
        let (first, second, third) = (slots.take().unwrap(), slots.take().unwrap(), slots.take().unwrap());
        // A request of the first is under way, and the second had one since the third came.
        let kept = first.keep().unwrap();
        drop(second.keep().unwrap());
        let fourth = slots.take().unwrap();
        assert_eq!([&first, &second, &third].map(|slot| slot.shed.is_cancelled()), [false, false, true]);
        assert!(third.keep().is_none());
        // The end of one that lost its slot frees nobody else's.
        drop(third);
        let fifth = slots.take().unwrap();
        assert!(second.shed.is_cancelled() && !fourth.shed.is_cancelled());
        assert_eq!(slots.counts(), Counts { open: 3, under_way: 1, shed: 2 });
        drop((kept, fifth));
        assert_eq!(slots.taken().connections.len(), 2);
    }

    #[test]
    fn requests_under_way_keep_their_places() {
        let slots = Slots::new(2);
        let (first, second) = (slots.take().unwrap(), slots.take().unwrap());
        let kept = [first.keep().unwrap(), second.keep().unwrap()];
        assert!(slots.take().is_none());
        assert_eq!(slots.counts(), Counts { open: 2, under_way: 2, shed: 1 });
        drop(kept);
        assert!(slots.take().is_some());
        assert!(first.shed.is_cancelled() && !second.shed.is_cancelled());
    }
}
