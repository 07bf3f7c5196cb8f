//! Proven sessions to several clean rooms: one for each, new ones when they are due.
//!
//! ```text
//! pick ─────► a usable session with the fewest requests under way
//!   │ none, or time to look again
//!   ▼
//! round ────► addresses side by side; each clean room that is proven joins at once
//!   │ each session
//!   ▼
//! watch ────► when it ends: the same clean room is proven again, or what runs is cut
//! ```

mod round;
mod watched;

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_program::clock::{BootInstant, Clock};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::watch;

use self::round::{Progress, Rest, Round};
use self::watched::Watched;
use super::error::{Reach, SendError, SessionError};
use super::{EXCHANGE_TIMEOUT, Session};
use crate::address::Address;
use crate::channel::RelyingParty;
use crate::dial::{Dialer, Endpoint};

pub use self::round::{appraise, appraise_within};

/// How long a session lives on one attestation when the policy does not say.
pub const DEFAULT_MAX_SESSION: Duration = Duration::from_secs(15 * 60);

/// How often a request that was never sent goes on a further session, beside those that there were.
const FURTHER_ATTEMPTS: usize = 2;

/// The first and the longest pause between two searches for a clean room while none can be reached. It doubles in
/// between.
const OUTAGE_PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(1));

/// The most sessions at once when each address has one.
const MOST_ADDRESSES: usize = 16;

/// How many clean rooms have a session at the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Spread {
    /// One. The others are tried when it is gone.
    #[default]
    One,
    /// One for each address, and at most 16.
    EachAddress,
    /// So many. If there are fewer addresses, a balancer stands behind one of them, and further connections
    /// through it lead to further clean rooms.
    UpTo(NonZeroUsize),
}

/// Keeps usable sessions to clean rooms and makes new ones when they are due. Clones share them.
///
/// When a session ends, requests that run on it go on only if the same clean room is proven again within five
/// seconds. Otherwise they are cut. With the last clone the sessions end as soon as nothing runs on them.
#[derive(Clone)]
pub struct Sessions {
    owner: Arc<Owner>,
}

/// What came of an attempt to prove a clean room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProofResult {
    /// `proven`; `refused` by this program's own checks; `failed` for any other reason.
    pub result: &'static str,
    /// The code of the reason ([`SessionError::code`]); `none` when it was proven.
    pub code: &'static str,
}

impl ProofResult {
    fn of(proof: Result<&Session, &SessionError>) -> Self {
        match proof {
            Ok(_) => Self { result: "proven", code: "none" },
            Err(error) if error.is_refusal() => Self { result: "refused", code: error.code() },
            Err(error) => Self { result: "failed", code: error.code() },
        }
    }
}

/// A response, and the session that it came on.
pub struct Answer {
    /// What the clean room answers. Its body fails when the connection is cut, it never just ends.
    pub response: Response<Incoming>,
    /// What was proven before the request was sent.
    pub session: InUse,
}

/// A session on which a request is under way, for as long as this value lives.
pub struct InUse(Arc<Session>);

impl InUse {
    fn of(session: &Arc<Session>) -> Self {
        session.running.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(session))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Clone for InUse {
    fn clone(&self) -> Self {
        Self::of(&self.0)
    }
}

impl Deref for InUse {
    type Target = Arc<Session>;

    fn deref(&self) -> &Arc<Session> {
        &self.0
    }
}

/// Ends the current sessions with the last [`Sessions`], although watches still hold what is shared.
struct Owner(Arc<Shared>);

struct Shared {
    /// SHA-256 of the partner's key, the same under every policy.
    partner: Sha256Digest,
    clock: Clock,
    /// Told when another policy is in force.
    policies: watch::Sender<()>,
    dialer: Dialer,
    spread: Spread,
    /// How long a request waits while no clean room can be reached.
    outage: Duration,
    state: Mutex<State>,
}

struct State {
    /// Who asks, under the policy that is in force.
    party: Arc<RelyingParty>,
    /// The sessions that take requests: one for each clean room, the one that was proven first at the front.
    sessions: Vec<Arc<Session>>,
    /// Further addresses of clean rooms that have a session, with their receipt keys.
    aliases: Vec<(Endpoint, Arc<[u8]>)>,
    /// The search for sessions that goes on now. All who wait for a session share its end.
    round: Option<Round>,
    /// When to look for further sessions while there are some.
    rest: Rest,
    /// Nobody can ask any more.
    is_closed: bool,
    /// How many attempts to prove a clean room had each result.
    proofs: BTreeMap<ProofResult, u64>,
}

impl Sessions {
    /// Sessions to the clean room behind `address`. Nothing is connected yet.
    #[must_use]
    pub fn new(party: RelyingParty, address: Address) -> Self {
        Self::through(party, address.into())
    }

    /// Sessions to the clean room that `dialer` reaches first. Nothing is connected yet.
    #[must_use]
    pub fn through(party: RelyingParty, dialer: Dialer) -> Self {
        Self::spread(party, dialer, Spread::One)
    }

    /// Sessions to the clean rooms that `dialer` reaches. Nothing is connected yet.
    #[must_use]
    pub fn spread(party: RelyingParty, dialer: Dialer, spread: Spread) -> Self {
        let (partner, clock, outage) = (party.key_digest(), party.clock().clone(), Duration::ZERO);
        let state = Mutex::new(State::new(party));
        let shared =
            Shared { partner, clock, policies: watch::Sender::default(), dialer, spread, outage, state };
        Self { owner: Arc::new(Owner(Arc::new(shared))) }
    }

    /// The same, for which a request that was not sent waits for at most `outage` while no clean room can be reached, as when
    /// a balancer starts again. It does not wait when a proof fails, or when a host says that its clean room is not permitted
    /// to serve. Sessions that are shared already stay as they are.
    #[must_use]
    pub fn waiting_out(mut self, outage: Duration) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.owner).and_then(|owner| Arc::get_mut(&mut owner.0)) {
            shared.outage = outage;
        }
        self
    }

    /// SHA-256 of the partner's key.
    #[must_use]
    pub fn partner(&self) -> Sha256Digest {
        self.owner.0.partner
    }

    /// Who asks, under the policy that is in force.
    #[must_use]
    pub fn party(&self) -> Arc<RelyingParty> {
        self.owner.0.party()
    }

    /// How many sessions take requests now.
    #[must_use]
    pub fn usable(&self) -> usize {
        self.owner.0.state().sessions.iter().filter(|session| session.is_usable()).count()
    }

    /// How many attempts to prove a clean room had each result so far.
    #[must_use]
    pub fn proofs(&self) -> BTreeMap<ProofResult, u64> {
        self.owner.0.state().proofs.clone()
    }

    /// Puts another policy into force. Nothing more is sent on a session that was proven under another one. What runs
    /// there goes on only if the same clean room is proven under the new policy within five seconds.
    pub fn adopt(&self, party: RelyingParty) {
        let mut state = self.owner.0.state();
        state.party = Arc::new(party.with_clock(self.owner.0.clock.clone()));
        let ended = std::mem::take(&mut state.sessions);
        ended.iter().for_each(|session| session.validity.connection.supersede());
        state.aliases.clear();
        state.rest = Rest::default();
        self.owner.0.policies.send_replace(());
        drop(state);
        log_ends(&ended);
    }

    /// A session that takes requests, to the clean room with the fewest under way. Requests that run on older
    /// ones go on there.
    ///
    /// All who wait for one search share its end. Needs a tokio runtime, on which the search goes on even if
    /// this call is dropped.
    ///
    /// # Errors
    /// [`SessionError`]. Nothing was sent then.
    pub async fn get(&self) -> Result<Arc<Session>, Arc<SessionError>> {
        Ok(Arc::clone(&*self.owner.0.pick_or_look().await?))
    }

    /// Sends a request to the clean room with the fewest under way, and again on another session if it was
    /// never sent.
    ///
    /// # Errors
    /// [`SendError`], which says how far the request got.
    pub async fn send(&self, request: &Request<Bytes>) -> Result<Answer, SendError> {
        let shared = &self.owner.0;
        // Each session that there is may turn out to be at its end.
        let mut attempts_left = FURTHER_ATTEMPTS + shared.state().sessions.len().max(1);
        loop {
            let session = shared.pick_or_wait().await.map_err(SendError::never)?;
            let error = match session.send(request.clone().map(Full::new)).await {
                Ok(response) => return Ok(Answer { response, session }),
                Err(error) => error,
            };
            attempts_left -= 1;
            if error.reach != Reach::NeverSent || attempts_left == 0 {
                return Err(error);
            }
            shared.give_up(&session);
        }
    }

    /// Sends a request to the clean room of `session` and to no other one. If that session has ended, the same
    /// clean room is proven again.
    ///
    /// # Errors
    /// [`SendError`], which says how far the request got.
    pub async fn send_to(&self, session: &Session, request: &Request<Bytes>) -> Result<Answer, SendError> {
        let proven = self.owner.0.prove_again(session.receipt_key(), session.way.as_ref()).await;
        let session = InUse::of(&proven.map_err(|cut| SendError::never(SessionError::Cut(cut)))?);
        let response = session.send(request.clone().map(Full::new)).await?;
        Ok(Answer { response, session })
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_closed = true;
        let ended = std::mem::take(&mut state.sessions);
        drop(state);
        drop(ended);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn party(&self) -> Arc<RelyingParty> {
        Arc::clone(&self.state().party)
    }

    /// Whether `party` asks under the policy that is in force.
    fn is_in_force(&self, party: &Arc<RelyingParty>) -> bool {
        Arc::ptr_eq(&self.state().party, party)
    }

    /// The session in use with the fewest requests, or the first that the search for one finds.
    async fn pick_or_look(self: &Arc<Self>) -> Result<InUse, Arc<SessionError>> {
        let mut round = match self.picked_or_round() {
            Ok(session) => return Ok(session),
            Err(round) => round,
        };
        // The round has a last word, unless the runtime is shutting down.
        if round.changed().await.is_err() {
            return Err(Arc::new(SessionError::Unreachable(io::ErrorKind::Interrupted.into())));
        }
        let progress = round.borrow().clone();
        match progress {
            Progress::Found(session) => {
                let picked = self.state().pick(self.clock.now());
                Ok(picked.unwrap_or_else(|| InUse::of(&session)))
            }
            Progress::Failed(error) => Err(error),
            Progress::Looking => Err(Arc::new(SessionError::Timeout)),
        }
    }

    /// As [`Self::pick_or_look`], again and again while nobody can be reached, for as long as an outage may last.
    async fn pick_or_wait(self: &Arc<Self>) -> Result<InUse, Arc<SessionError>> {
        let clock = &self.clock;
        let last = clock.now() + self.outage;
        let (mut pause, longest) = OUTAGE_PAUSES;
        loop {
            match self.pick_or_look().await {
                Err(error) if error.may_pass() && clock.now() + pause <= last => {
                    clock.sleep(pause).await;
                    pause = (pause * 2).min(longest);
                }
                looked => return looked,
            }
        }
    }

    /// A session, or the round that looks for one. A round is begun if it is time for one.
    fn picked_or_round(self: &Arc<Self>) -> Result<InUse, Round> {
        let mut state = self.state();
        let now = self.clock.now();
        let picked = state.pick(now);
        let is_due =
            picked.is_none() || !state.is_closed && self.spread != Spread::One && state.rest.is_over(now);
        if state.round.is_none() && is_due {
            state.round = Some(Arc::clone(self).begin_round());
        }
        match (picked, &mut state.round) {
            (Some(session), _) => Ok(session),
            (None, Some(round)) => {
                // What was found before has been looked at.
                round.mark_unchanged();
                Err(round.clone())
            }
            (None, None) => Err(Arc::clone(self).begin_round()),
        }
    }

    /// Puts a proven session into use. Gives the one of the same clean room that there was before, if it still
    /// takes requests; nothing if another policy came into force since `party` began to prove it.
    fn keep(self: &Arc<Self>, session: Session, party: &Arc<RelyingParty>) -> Option<Arc<Session>> {
        let mut state = self.state();
        if !Arc::ptr_eq(&state.party, party) {
            return None;
        }
        state.forget_ended(self.clock.now());
        if let Some(known) = state.of_room(session.receipt_key()) {
            if let Some(way) = session.way.clone().filter(|way| known.way.as_ref() != Some(way)) {
                let receipt_key = session.receipt_key().into();
                state.aliases.retain(|(other, _)| *other != way);
                state.aliases.push((way, receipt_key));
            }
            return Some(known);
        }
        // Before another policy can come into force, so that the watch hears of it.
        let policies = self.policies.subscribe();
        let session = Arc::new(session);
        if !state.is_closed {
            state.sessions.push(Arc::clone(&session));
        }
        drop(state);
        tracing::info!(
            at = session.way.as_ref().map(tracing::field::display),
            boot = %cleanroom_attestation::log::boot_of(session.receipt_key()),
            "a clean room is proven"
        );
        tokio::spawn(Arc::clone(self).watch(Watched::of(&session, policies)));
        Some(session)
    }

    /// Takes `session` out of use, because it did not take a request.
    fn give_up(&self, session: &Arc<Session>) {
        let mut state = self.state();
        state.sessions.retain(|other| !Arc::ptr_eq(other, session));
        state.rest.end_soon(self.clock.now());
    }

    /// Takes a clean room's session that ended at `until` or before out of use.
    fn retire(&self, receipt_key: &[u8], until: BootInstant) {
        let mut state = self.state();
        let is_over =
            |session: &mut Arc<Session>| session.receipt_key() == receipt_key && session.until() <= until;
        let ended: Vec<_> = state.sessions.extract_if(.., is_over).collect();
        state.rest = Rest::default();
        drop(state);
        log_ends(&ended);
    }
}

impl State {
    fn new(party: RelyingParty) -> Self {
        let party = Arc::new(party);
        Self {
            party,
            sessions: Vec::new(),
            aliases: Vec::new(),
            round: None,
            rest: Rest::default(),
            is_closed: false,
            proofs: BTreeMap::new(),
        }
    }

    /// The usable session with the fewest requests under way; of several, the one that was proven first.
    fn pick(&mut self, now: BootInstant) -> Option<InUse> {
        self.forget_ended(now);
        let fewest = self.sessions.iter().min_by_key(|session| session.running.load(Ordering::Relaxed));
        fewest.map(InUse::of)
    }

    /// The usable session to the clean room with this receipt key.
    fn of_room(&self, receipt_key: &[u8]) -> Option<Arc<Session>> {
        let mut usable = self.sessions.iter().filter(|session| session.is_usable());
        usable.find(|session| session.receipt_key() == receipt_key).cloned()
    }

    fn forget_ended(&mut self, now: BootInstant) {
        let ended: Vec<_> = self.sessions.extract_if(.., |session| !session.is_usable()).collect();
        log_ends(&ended);
        if !ended.is_empty() {
            self.rest.end_soon(now);
        }
        let Self { sessions, aliases, .. } = self;
        aliases.retain(|(_, key)| sessions.iter().any(|session| session.receipt_key() == &**key));
    }
}

/// Says why sessions take no more requests.
fn log_ends(ended: &[Arc<Session>]) {
    for session in ended {
        tracing::info!(
            at = session.way.as_ref().map(tracing::field::display),
            "a session has ended: {}",
            session.why_ended()
        );
    }
}
