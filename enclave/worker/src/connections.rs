//! The bounds on connections, for each class of partner.
//!
//! A connection passes two bounds. While it is set up, it holds a *handshake*. When all are held, a connection that has said
//! nothing makes space for a new one soon, and any other after a second, the oldest first. So silent connections keep nobody
//! out, also when new ones come all the time. Once its key is known, it holds a
//! *session* of its class: partners that may use the model have seven eighths, and all other keys together have the rest.
//! The last quarter of the partners' part is for partners who have no session, so that they find a place beside several
//! who have many.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cleanroom_channel::first_byte::FirstByte;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::admission::partners_share;
use crate::session::PartnerId;

/// How long a handshake is left alone when others wait for its place. An honest one takes a few round trips.
const GRACE: Duration = Duration::from_secs(1);
/// The same for one of which no byte has come. A client speaks first, and what it says is with the host when the host connects.
const SILENT_GRACE: Duration = Duration::from_millis(100);

/// Connections that are being set up.
pub(crate) struct Handshakes {
    limit: usize,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    last: u64,
    /// The oldest first.
    oldest: VecDeque<Begun>,
}

struct Begun {
    id: u64,
    at: Instant,
    spoken: Arc<AtomicBool>,
    /// Dropped to tell the handshake to end.
    _keep: oneshot::Sender<()>,
}

impl Begun {
    fn may_be_shed(&self) -> bool {
        let grace = if self.spoken.load(Ordering::Relaxed) { GRACE } else { SILENT_GRACE };
        self.at.elapsed() >= grace
    }
}

/// A handshake's place, given back when dropped.
pub(crate) struct Handshake {
    handshakes: Arc<Handshakes>,
    id: u64,
    shed: oneshot::Receiver<()>,
    spoken: Arc<AtomicBool>,
}

impl Handshakes {
    pub(crate) fn new(limit: NonZeroUsize) -> Arc<Self> {
        Arc::new(Self { limit: limit.get(), running: Mutex::default() })
    }

    /// A place for a new connection. `None` when every place is held and none has had its time.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Handshake> {
        let mut running = lock(&self.running);
        if running.oldest.len() >= self.limit {
            let shed = running.oldest.iter().position(Begun::may_be_shed)?;
            running.oldest.remove(shed);
        }
        running.last = running.last.wrapping_add(1);
        let (id, (keep, shed), spoken) = (running.last, oneshot::channel(), Arc::<AtomicBool>::default());
        running.oldest.push_back(Begun { id, at: Instant::now(), spoken: Arc::clone(&spoken), _keep: keep });
        Some(Handshake { handshakes: Arc::clone(self), id, shed, spoken })
    }
}

impl Handshake {
    /// The connection, which is seen to speak.
    pub(crate) fn heard<S>(&self, stream: S) -> FirstByte<S, impl FnOnce() + Unpin + Send + use<S>> {
        let spoken = Arc::clone(&self.spoken);
        FirstByte::watch(stream, move || spoken.store(true, Ordering::Relaxed))
    }

    /// Returns when the place is needed for another connection.
    pub(crate) async fn shed(&mut self) {
        let _ = (&mut self.shed).await;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        lock(&self.handshakes.running).oldest.retain(|begun| begun.id != self.id);
    }
}

/// Whether a key may use the model now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// It may.
    Partner,
    /// It may not: it gets evidence and refusals, which anybody may have.
    Stranger,
}

/// Established sessions.
pub(crate) struct Sessions {
    partners: usize,
    strangers: usize,
    /// Sessions of partners, when one who has some already asks for more.
    for_more: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    partners: usize,
    strangers: usize,
    /// Holds no entry for a partner without sessions.
    by_partner: HashMap<PartnerId, usize>,
}

/// A session's place, given back when dropped.
pub(crate) struct SessionPlace {
    sessions: Arc<Sessions>,
    partner: PartnerId,
    pub(crate) class: Class,
}

impl Sessions {
    pub(crate) fn new(limit: NonZeroUsize) -> Arc<Self> {
        // At least one for each class.
        let strangers = (limit.get() / 8).max(1);
        let partners = limit.get().saturating_sub(strangers).max(1);
        let for_more = NonZeroUsize::new(partners).map_or(1, |partners| partners_share(partners).get());
        Arc::new(Self { partners, strangers, for_more, held: Mutex::default() })
    }

    /// A place for a session of `partner`. `None` when its class is full, or has places left only for partners who have
    /// none.
    pub(crate) fn begin(self: &Arc<Self>, partner: PartnerId, class: Class) -> Option<SessionPlace> {
        let mut held = lock(&self.held);
        match class {
            Class::Partner => {
                let own = held.by_partner.get(&partner).copied().unwrap_or(0);
                let most = if own == 0 { self.partners } else { self.for_more };
                if held.partners >= most {
                    return None;
                }
                held.partners += 1;
                held.by_partner.insert(partner, own + 1);
            }
            Class::Stranger => {
                if held.strangers >= self.strangers {
                    return None;
                }
                held.strangers += 1;
            }
        }
        drop(held);
        Some(SessionPlace { sessions: Arc::clone(self), partner, class })
    }
}

impl Drop for SessionPlace {
    fn drop(&mut self) {
        let mut held = lock(&self.sessions.held);
        match self.class {
            Class::Stranger => held.strangers = held.strangers.saturating_sub(1),
            Class::Partner => {
                held.partners = held.partners.saturating_sub(1);
                if let Some(own) = held.by_partner.get_mut(&self.partner) {
                    *own = own.saturating_sub(1);
                    if *own == 0 {
                        held.by_partner.remove(&self.partner);
                    }
                }
            }
        }
    }
}

/// The locks protect values that are whole at every instruction that could unwind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use cleanroom_attestation::digest::Sha256Digest;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn partner(byte: u8) -> PartnerId {
        Sha256Digest::from_bytes([byte; 32]).into()
    }

    #[test]
    fn strangers_never_hold_a_partners_place() {
        let sessions = Sessions::new(NonZeroUsize::new(16).unwrap());
        let strangers: Vec<_> = (0..99).filter_map(|n| sessions.begin(partner(n), Class::Stranger)).collect();
        assert_eq!(strangers.len(), 2);
        let partners: Vec<_> = (0..99).filter_map(|n| sessions.begin(partner(n), Class::Partner)).collect();
        assert_eq!(partners.len(), 14);
        drop(strangers);
        assert!(sessions.begin(partner(1), Class::Stranger).is_some());
    }

    #[test]
    fn one_partner_leaves_places_for_the_others() {
        let sessions = Sessions::new(NonZeroUsize::new(16).unwrap());
        let one: Vec<_> = (0..99).filter_map(|_| sessions.begin(partner(1), Class::Partner)).collect();
        assert_eq!(one.len(), 11);
        assert!(sessions.begin(partner(2), Class::Partner).is_some());
        drop(one);
        assert!(lock(&sessions.held).by_partner.is_empty());
    }

    #[test]
    fn several_partners_leave_places_for_one_who_has_none() {
        let sessions = Sessions::new(NonZeroUsize::new(16).unwrap());
        let in_turn = (0..99).map(|n| partner(n % 2));
        let both: Vec<_> = in_turn.filter_map(|who| sessions.begin(who, Class::Partner)).collect();
        assert_eq!(both.len(), 11);
        let newcomers: Vec<_> = (2..99).filter_map(|n| sessions.begin(partner(n), Class::Partner)).collect();
        assert_eq!(newcomers.len(), 3);
    }

    #[test]
    fn the_smallest_limit_has_a_place_for_each_class() {
        let sessions = Sessions::new(NonZeroUsize::MIN);
        let _stranger = sessions.begin(partner(1), Class::Stranger).unwrap();
        assert!(sessions.begin(partner(2), Class::Partner).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_handshake_that_had_its_second_makes_space() {
        let handshakes = Handshakes::new(NonZeroUsize::new(2).unwrap());
        let mut silent = handshakes.begin().unwrap();
        let second = handshakes.begin().unwrap();
        assert!(handshakes.begin().is_none(), "both are young");
        tokio::time::advance(GRACE).await;
        let third = handshakes.begin().unwrap();
        silent.shed().await;
        drop(silent);
        assert_eq!(lock(&handshakes.running).oldest.len(), 2);
        drop((second, third));
        assert!(lock(&handshakes.running).oldest.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_makes_space_before_who_speaks() {
        let handshakes = Handshakes::new(NonZeroUsize::new(2).unwrap());
        let mut speaking = handshakes.begin().unwrap();
        let (mut client, enclave) = tokio::io::duplex(8);
        let mut enclave = speaking.heard(enclave);
        client.write_all(b"x").await.unwrap();
        assert_eq!(enclave.read_u8().await.unwrap(), b'x');
        let mut silent = handshakes.begin().unwrap();
        tokio::time::advance(SILENT_GRACE).await;
        let newcomer = handshakes.begin().unwrap();
        silent.shed().await;
        drop(silent);
        assert!(tokio::time::timeout(Duration::ZERO, speaking.shed()).await.is_err(), "it goes on");
        drop(newcomer);
    }
}
