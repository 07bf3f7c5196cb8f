//! The search for clean rooms: all addresses side by side, until there are as many sessions as are wanted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use cleanroom_program::clock::BootInstant;
use cleanroom_program::network::{Attempts, race};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::{DEFAULT_MAX_SESSION, EXCHANGE_TIMEOUT, MOST_ADDRESSES, ProofResult, Shared, Spread};
use crate::channel::{Appraised, ChannelError, RelyingParty};
use crate::clock::now;
use crate::dial::{Dialer, Endpoint, Transport};
use crate::record::{self, Shown};
use crate::session::{Session, SessionError};

/// How long to rest until the addresses are looked at again, when there are as many sessions as are wanted.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// The first rest when there are fewer. It doubles until [`LOOK_AGAIN`], or until [`AFTER_FAILURE`] if some address did not
/// lead to a clean room.
const SOON: Duration = Duration::from_secs(1);
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// What a round has found so far.
#[derive(Clone)]
pub(super) enum Progress {
    /// Nothing yet.
    Looking,
    /// A session, the last one of possibly several.
    Found(Arc<Session>),
    /// The round is over, and there is no session.
    Failed(Arc<SessionError>),
}

pub(super) type Round = watch::Receiver<Progress>;

/// When to look for further clean rooms while there are sessions.
#[derive(Default)]
pub(super) struct Rest {
    until: Option<BootInstant>,
    /// The last rest, if fewer sessions were found than are wanted.
    last: Duration,
}

impl Rest {
    pub(super) fn is_over(&self, now: BootInstant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    /// A session was lost: its clean room may be back in a moment.
    pub(super) fn end_soon(&mut self, now: BootInstant) {
        let soon = now + SOON;
        self.until = Some(self.until.map_or(soon, |until| until.min(soon)));
        self.last = Duration::ZERO;
    }

    /// Begins after a search that found what is wanted, or not all of it. A failure is an address without a clean room.
    fn begin(&mut self, now: BootInstant, found: Result<bool, &SessionError>) {
        let longest = if found.is_err() { AFTER_FAILURE } else { LOOK_AGAIN };
        let is_all = matches!(found, Ok(true));
        self.last = if is_all { Duration::ZERO } else { (self.last * 2).clamp(SOON, longest) };
        self.until = Some(now + if is_all { LOOK_AGAIN } else { self.last });
    }
}

impl Shared {
    /// Begins a round.
    pub(super) fn begin_round(self: Arc<Self>) -> Round {
        let (told, round) = watch::channel(Progress::Looking);
        tokio::spawn(async move {
            let found = loop {
                let party = self.party();
                let found = self.look(&party, &told).await;
                // What was found under a policy that is no longer in force says nothing.
                if self.is_in_force(&party) {
                    break found;
                }
            };
            let mut state = self.state();
            state.round = None;
            state.rest.begin(self.clock.now(), found.as_ref().copied());
            drop(state);
            if let Err(error) = found
                && !matches!(*told.borrow(), Progress::Found(_))
            {
                told.send_replace(Progress::Failed(Arc::new(error)));
            }
        });
        round
    }

    /// Looks for clean rooms until there are as many sessions as are wanted or no address is left. Gives whether there are
    /// as many: behind a balancer, every choice may lead to a clean room that has a session.
    ///
    /// # Errors
    /// The most telling failure, even if other addresses led to sessions.
    async fn look(
        self: &Arc<Self>,
        party: &Arc<RelyingParty>,
        told: &watch::Sender<Progress>,
    ) -> Result<bool, SessionError> {
        let endpoints = self.dialer.endpoints().await.map_err(SessionError::Unreachable)?;
        let (wanted, candidates) = self.candidates(&endpoints);
        let begin = |way: Endpoint| async move {
            let proven = self.prove(party, &way).await;
            (way, proven)
        };
        let mut attempts = Attempts::new(candidates, begin);
        let mut most_telling: Option<SessionError> = None;
        while self.state().sessions.len() < wanted {
            let Some((way, proven)) = attempts.next().await else { break };
            let error = match proven {
                Ok(session) => {
                    let Some(session) = self.keep(session, party) else { break };
                    told.send_replace(Progress::Found(session));
                    continue;
                }
                Err(error) => error,
            };
            if error.is_refusal() {
                tracing::error!(code = error.code(), at = %way, "a host was refused: {error}");
            } else {
                tracing::info!(code = error.code(), at = %way, "no clean room was proven: {error}");
            }
            if most_telling.as_ref().is_none_or(|most| error.weight() > most.weight()) {
                most_telling = Some(error);
            }
        }
        match most_telling {
            None => Ok(self.state().sessions.len() >= wanted),
            Some(error) => Err(error),
        }
    }

    /// How many sessions are wanted, and what is tried for those that are missing.
    fn candidates(&self, endpoints: &[Endpoint]) -> (usize, VecDeque<Endpoint>) {
        let wanted = match self.spread {
            Spread::One => 1,
            Spread::EachAddress => endpoints.len().min(MOST_ADDRESSES),
            Spread::UpTo(most) => most.get(),
        };
        let mut state = self.state();
        state.forget_ended(self.clock.now());
        let is_known = |way: &Endpoint| {
            state.sessions.iter().any(|session| session.way.as_ref() == Some(way))
                || state.aliases.iter().any(|(alias, _)| alias == way)
        };
        let mut candidates: VecDeque<Endpoint> =
            endpoints.iter().filter(|way| !is_known(way)).cloned().collect();
        let missing = wanted.saturating_sub(state.sessions.len());
        if let Spread::UpTo(_) = self.spread
            && candidates.len() < missing
        {
            // A balancer stands behind some address. Half of its choices may be of no use.
            let further = 2 * (missing - candidates.len());
            candidates.extend(endpoints.iter().cycle().take(further).cloned());
        }
        (wanted, candidates)
    }

    /// Connects, makes a session of what is proven to `party`, and counts what came of it.
    pub(super) async fn prove(
        &self,
        party: &Arc<RelyingParty>,
        way: &Endpoint,
    ) -> Result<Session, SessionError> {
        let proven = self.try_to_prove(party, way).await;
        *self.state().proofs.entry(ProofResult::of(proven.as_ref())).or_default() += 1;
        proven
    }

    async fn try_to_prove(&self, party: &Arc<RelyingParty>, way: &Endpoint) -> Result<Session, SessionError> {
        let connected = way.clone().connect().await.map_err(SessionError::Unreachable);
        let deadline = Instant::now() + EXCHANGE_TIMEOUT;
        let proven = match connected {
            Ok(stream) => in_time(deadline, accepted(party, stream)).await,
            Err(error) => Err(error),
        };
        let proven = record::keep(party, &way.to_string(), proven).await?;
        let lifetime = party.policy().freshness().max_session.unwrap_or(DEFAULT_MAX_SESSION);
        let opened = async { Session::open(proven.confirm().await?, lifetime, Some(way.clone())).await };
        in_time(deadline, opened).await
    }
}

/// Connects and appraises what answers, without confirming it. The first address with which that succeeds
/// counts.
///
/// # Errors
/// [`SessionError`] when there is nothing to appraise.
pub async fn appraise(
    party: &RelyingParty,
    dialer: impl Into<Dialer>,
) -> Result<Appraised<Transport>, SessionError> {
    let dialer = dialer.into();
    let appraised = appraise_first(party, &dialer).await;
    record::keep(party, &dialer.to_string(), appraised).await
}

/// The same, and all of it in at most as long as `limit`.
///
/// # Errors
/// As [`appraise`]; [`SessionError::Timeout`] when it took longer.
pub async fn appraise_within(
    party: &RelyingParty,
    dialer: impl Into<Dialer>,
    limit: Duration,
) -> Result<Appraised<Transport>, SessionError> {
    let dialer = dialer.into();
    let appraised = in_time(Instant::now() + limit, appraise_first(party, &dialer)).await;
    record::keep(party, &dialer.to_string(), appraised).await
}

async fn appraise_first(party: &RelyingParty, dialer: &Dialer) -> Result<Appraised<Transport>, SessionError> {
    let mut endpoints = dialer.endpoints().await.map_err(SessionError::Unreachable)?;
    let mut most_telling: Option<SessionError> = None;
    while !endpoints.is_empty() {
        let error = match race(&mut endpoints, Endpoint::connect).await {
            Err(error) => SessionError::Unreachable(error),
            Ok(stream) => match in_time(Instant::now() + EXCHANGE_TIMEOUT, challenge(party, stream)).await {
                Ok(appraised) => return Ok(appraised),
                Err(error) => error,
            },
        };
        if most_telling.as_ref().is_none_or(|most| error.weight() > most.weight()) {
            most_telling = Some(error);
        }
    }
    Err(most_telling.unwrap_or(SessionError::Unreachable(std::io::ErrorKind::NotFound.into())))
}

async fn in_time<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, SessionError>>,
) -> Result<T, SessionError> {
    timeout_at(deadline, work).await.unwrap_or(Err(SessionError::Timeout))
}

async fn challenge(party: &RelyingParty, stream: Transport) -> Result<Appraised<Transport>, SessionError> {
    let challenged = party.challenge(stream).await?;
    let document = challenged.document().to_vec();
    challenged.appraise(now()).map_err(|error| {
        let shown = Box::new(Shown { document, expected: None, release: None });
        SessionError::Refused { error, verdict: None, shown }
    })
}

/// What answers, if a session may be made of it.
async fn accepted(party: &RelyingParty, stream: Transport) -> Result<Appraised<Transport>, SessionError> {
    let appraised = challenge(party, stream).await?;
    if let Err(refused) = appraised.accepted() {
        let (verdict, shown) = (Some(Box::new(appraised.verdict().clone())), Box::new(appraised.shown()));
        return Err(SessionError::Refused { error: ChannelError::Rejected(refused), verdict, shown });
    }
    Ok(appraised)
}
