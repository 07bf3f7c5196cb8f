//! One proven session at a time, a new one when it is due, and the watch over what runs on those that ended.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_program::clock::BootInstant;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::timeout;

use super::content::Validity;
use super::error::{Reach, SendError, SessionError};
use super::{EXCHANGE_TIMEOUT, FAREWELL, Session};
use crate::address::Address;
use crate::channel::{Appraised, ChannelError, RelyingParty};
use crate::clock::now;
use crate::dial::{Dialer, Endpoint, Transport, race};

/// How long a session lives on one attestation when the policy does not say.
const DEFAULT_MAX_SESSION: Duration = Duration::from_secs(15 * 60);

/// The longest time after the end of a session until what runs on it is cut, unless the same clean room is
/// proven again.
const CUT_WITHIN: Duration = Duration::from_secs(5);

/// How often a request is sent again that was never sent.
const ATTEMPTS: u32 = 3;

/// Keeps one usable session and makes a new one when it is due. Clones share it.
///
/// When a session ends, requests that run on it go on only if the same clean room is proven again within five
/// seconds. Otherwise they are cut. With the last clone the session ends as soon as nothing runs on it.
#[derive(Clone)]
pub struct Sessions {
    owner: Arc<Owner>,
}

/// A response, and the session that it came on.
pub struct Answer {
    /// What the clean room answers. Its body fails when the connection is cut, it never just ends.
    pub response: Response<Incoming>,
    /// What was proven before the request was sent.
    pub session: Arc<Session>,
}

/// Ends the current session with the last [`Sessions`], although watches still hold what is shared.
struct Owner(Arc<Shared>);

struct Shared {
    party: RelyingParty,
    dialer: Dialer,
    state: Mutex<State>,
}

enum State {
    /// There is no session.
    Empty,
    /// The session that takes requests.
    Current(Arc<Session>),
    /// One is being made. All who wait for it share its end.
    Making(Attempt),
    /// Nobody can ask any more.
    Closed,
}

type Proven = Result<Arc<Session>, Arc<SessionError>>;
type Attempt = watch::Receiver<Option<Proven>>;

impl Sessions {
    /// Sessions to the clean room behind `address`. Nothing is connected yet.
    #[must_use]
    pub fn new(party: RelyingParty, address: Address) -> Self {
        Self::through(party, address.into())
    }

    /// Sessions to the clean room that `dialer` reaches. Nothing is connected yet.
    #[must_use]
    pub fn through(party: RelyingParty, dialer: Dialer) -> Self {
        let shared = Shared { party, dialer, state: Mutex::new(State::Empty) };
        Self { owner: Arc::new(Owner(Arc::new(shared))) }
    }

    /// SHA-256 of the partner's key.
    #[must_use]
    pub fn partner(&self) -> Sha256Digest {
        self.owner.0.party.key_digest()
    }

    /// A session that takes requests. Requests that run on an older one go on there.
    ///
    /// All who wait for one attempt share its end. Needs a tokio runtime, on which the attempt goes on even
    /// if this call is dropped.
    ///
    /// # Errors
    /// [`SessionError`]. Nothing was sent then.
    pub async fn get(&self) -> Result<Arc<Session>, Arc<SessionError>> {
        self.owner.0.get().await
    }

    /// Sends a request on a proven session, and again on another one if it was never sent.
    ///
    /// # Errors
    /// [`SendError`], which says how far the request got.
    pub async fn send(&self, request: &Request<Bytes>) -> Result<Answer, SendError> {
        let mut attempts_left = ATTEMPTS;
        loop {
            let session = self.get().await.map_err(SendError::never)?;
            let error = match session.send(request.clone().map(Full::new)).await {
                Ok(response) => return Ok(Answer { response, session }),
                Err(error) => error,
            };
            attempts_left -= 1;
            if error.reach != Reach::NeverSent || attempts_left == 0 {
                return Err(error);
            }
            self.owner.0.replace(&session);
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        *self.0.state() = State::Closed;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn get(self: &Arc<Self>) -> Proven {
        let mut attempt = match self.current_or_attempt() {
            Ok(session) => return Ok(session),
            Err(attempt) => attempt,
        };
        match attempt.wait_for(Option::is_some).await.map(|proven| proven.clone()) {
            Ok(Some(proven)) => proven,
            // The runtime is shutting down.
            _ => Err(Arc::new(SessionError::Unreachable(io::ErrorKind::Interrupted.into()))),
        }
    }

    /// The session in use, or the attempt to make one, which is begun if there is none.
    fn current_or_attempt(self: &Arc<Self>) -> Result<Arc<Session>, Attempt> {
        let mut state = self.state();
        match &*state {
            State::Current(session) if session.is_usable() => return Ok(Arc::clone(session)),
            State::Making(attempt) => return Err(attempt.clone()),
            _ => {}
        }
        let (told, attempt) = watch::channel(None);
        let ended = if matches!(*state, State::Closed) {
            None
        } else {
            Some(std::mem::replace(&mut *state, State::Making(attempt.clone())))
        };
        drop(state);
        tokio::spawn(Arc::clone(self).make(told));
        log_end(ended);
        Err(attempt)
    }

    /// Makes a session, keeps it, and tells all who wait.
    async fn make(self: Arc<Self>, told: watch::Sender<Option<Proven>>) {
        let proven = self.attest().await.map(Arc::new).map_err(Arc::new);
        if let Ok(session) = &proven {
            let receipt_key = session.receipt_key().into();
            tokio::spawn(Arc::clone(&self).watch(session.validity.clone(), receipt_key));
        }
        let mut state = self.state();
        if matches!(*state, State::Making(_)) {
            *state = proven.as_ref().map_or(State::Empty, |session| State::Current(Arc::clone(session)));
        }
        drop(state);
        told.send_replace(Some(proven));
    }

    /// Ends a session when what it rests on ends.
    ///
    /// Requests that run on it go on only if the same clean room is proven again, with a lease that has not
    /// ended.
    async fn watch(self: Arc<Self>, ended: Validity, receipt_key: Arc<[u8]>) {
        let Validity { clock, mut until, connection } = ended;
        loop {
            tokio::select! {
                () = connection.ended() => return,
                () = clock.sleep_until(until) => {}
            }
            self.retire(until);
            if timeout(FAREWELL, connection.ended()).await.is_ok() {
                return;
            }
            match clock.timeout_at(until + CUT_WITHIN, self.get()).await {
                Ok(Ok(proven)) if proven.receipt_key() == &*receipt_key => until = proven.until(),
                Ok(Ok(_)) => {
                    return connection.cut("enclave-restarted", "another enclave answers now");
                }
                Ok(Err(error)) => return connection.cut(error.code(), &error.to_string()),
                Err(_) => {
                    let reason = "the clean room was not proven again in time";
                    return connection.cut("not-proven-in-time", reason);
                }
            }
        }
    }

    /// Takes a session that ended at `until` or before out of use.
    fn retire(&self, until: BootInstant) {
        let mut state = self.state();
        if matches!(&*state, State::Current(session) if session.until() <= until) {
            let ended = std::mem::replace(&mut *state, State::Empty);
            drop(state);
            log_end(Some(ended));
        }
    }

    /// Takes `session` out of use, because it did not take a request.
    fn replace(&self, session: &Arc<Session>) {
        let mut state = self.state();
        if matches!(&*state, State::Current(current) if Arc::ptr_eq(current, session)) {
            *state = State::Empty;
        }
    }

    async fn attest(&self) -> Result<Session, SessionError> {
        let lifetime = self.party.policy().freshness().max_session.unwrap_or(DEFAULT_MAX_SESSION);
        try_each(&self.dialer, |stream| async move {
            let appraised = challenge(&self.party, stream).await?;
            if let Err(refused) = appraised.accepted() {
                let verdict = Box::new(appraised.verdict().clone());
                return Err(SessionError::Refused { error: ChannelError::Rejected(refused), verdict });
            }
            Session::open(appraised.confirm().await?, lifetime).await
        })
        .await
    }
}

/// Says why a session takes no more requests.
fn log_end(state: Option<State>) {
    if let Some(State::Current(session)) = state {
        tracing::info!("a session has ended: {}", session.why_ended());
    }
}

/// Connects and appraises what answers, without confirming it.
///
/// # Errors
/// [`SessionError`] when there is nothing to appraise.
pub async fn appraise(
    party: &RelyingParty,
    dialer: impl Into<Dialer>,
) -> Result<Appraised<Transport>, SessionError> {
    try_each(&dialer.into(), |stream| challenge(party, stream)).await
}

async fn challenge(party: &RelyingParty, stream: Transport) -> Result<Appraised<Transport>, SessionError> {
    Ok(party.challenge(stream).await?.appraise(now())?)
}

/// Makes something of the first address with which `exchange` succeeds. Each address has its own time.
async fn try_each<T, F>(dialer: &Dialer, exchange: impl Fn(Transport) -> F) -> Result<T, SessionError>
where
    F: Future<Output = Result<T, SessionError>>,
{
    let mut endpoints = dialer.endpoints().await.map_err(SessionError::Unreachable)?;
    let mut most_telling: Option<SessionError> = None;
    while !endpoints.is_empty() {
        let error = match race(&mut endpoints, Endpoint::connect).await {
            Err(error) => SessionError::Unreachable(error),
            Ok(stream) => match timeout(EXCHANGE_TIMEOUT, exchange(stream)).await {
                Ok(Ok(made)) => return Ok(made),
                Ok(Err(error)) => error,
                Err(_) => SessionError::Timeout,
            },
        };
        if most_telling.as_ref().is_none_or(|most| error.weight() > most.weight()) {
            most_telling = Some(error);
        }
    }
    Err(most_telling.unwrap_or(SessionError::Unreachable(io::ErrorKind::NotFound.into())))
}
