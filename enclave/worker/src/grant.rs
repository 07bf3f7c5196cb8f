//! The authorities' grant for one request. The worker asks for it again at every token.

use std::collections::HashMap;
use std::num::NonZeroU8;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::release::{BootMillis, Id, LimitReached, Limits, Meter, Phase, Refusal};
use cleanroom_guard::Guard;
use cleanroom_protocol::{EndQuestion, EndReason};

use crate::session::SessionIdentity;

/// Release control as requests meet it: the guard, and the meters of every partner.
pub struct Grants {
    guard: Arc<Guard>,
    /// By the partner's name, because limits hold for all its keys together. At most one for each partner ever released.
    meters: Mutex<HashMap<Id, Arc<Mutex<Meter>>>>,
}

impl Grants {
    /// Nothing is counted yet.
    #[must_use]
    pub fn new(guard: Arc<Guard>) -> Self {
        Self { guard, meters: Mutex::default() }
    }

    /// The state that decides.
    pub(crate) fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Admits a request that came on `session`.
    ///
    /// # Errors
    ///
    /// [`Stop`] says why not.
    pub fn admit(&self, session: &SessionIdentity) -> Result<Grant, Stop> {
        let partner_key = *session.partner.digest();
        // Read before the decision: a change in between is then noticed at the first token.
        let generation = self.guard.generation();
        let (until, limits) = self.guard.decide(&partner_key, Phase::Start)?;
        let name = self.guard.partner(&partner_key).ok_or(Refusal::PartnerUnknown)?;
        let meter = Arc::clone(lock(&self.meters).entry(name).or_default());
        lock(&meter).admit(&limits, self.guard.now())?;
        let (guard, transcript) = (Arc::clone(&self.guard), session.transcript);
        let permission = Permission { guard, partner_key, transcript, generation, until, limits };
        Ok(Grant { permission, meter, trial: None })
    }
}

/// The locks protect values that are whole at every instruction that could unwind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One running request. It counts as running until it is dropped.
pub struct Grant {
    permission: Permission,
    meter: Arc<Mutex<Meter>>,
    trial: Option<Trial>,
}

/// A request that may still turn out to be refused: then none of its tokens has counted.
#[derive(Clone)]
pub(crate) struct Trial {
    meter: Arc<Mutex<Meter>>,
    used: Arc<Mutex<Used>>,
}

/// What a request on trial has used.
struct Used {
    tokens: u64,
    since: BootMillis,
    is_refused: bool,
}

impl Trial {
    /// The request is refused: what it used is the partner's again, and it may use no more.
    pub(crate) fn refuse(self) {
        let mut used = lock(&self.used);
        if !std::mem::replace(&mut used.is_refused, true) {
            lock(&self.meter).give_back(used.tokens, used.since);
        }
    }
}

/// Whether what a request has made may still leave. It counts nothing.
#[derive(Clone)]
pub(crate) struct Permission {
    guard: Arc<Guard>,
    partner_key: Sha256Digest,
    transcript: Sha384Digest,
    /// Of the decision that `until` and `limits` are from.
    generation: u64,
    until: BootMillis,
    limits: Limits,
}

/// Why a request is not begun, or not gone on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// What the authorities released and leased does not permit it.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// A limit of the partner is reached.
    #[error("{0}")]
    Limit(#[from] LimitReached),
    /// A rule of the safeguards refuses the answer. Its name stands in the record of the request.
    #[error("a rule of the model's safeguards refuses the answer")]
    Safeguard,
}

impl Stop {
    /// A stable word for programs, as `docs/release.md` lists them.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Limit(limit) => limit.code(),
            Self::Safeguard => EndReason::SAFEGUARD.code(),
        }
    }
}

impl Grant {
    /// Counts the tokens of the prompt before they are read.
    ///
    /// # Errors
    ///
    /// [`Stop`] when the limit is reached.
    pub fn prompt(&self, tokens: usize) -> Result<(), Stop> {
        self.spend(tokens as u64, self.permission.guard.now())
    }

    /// Puts the request on trial, before it uses anything.
    pub(crate) fn on_trial(&mut self) -> Trial {
        let used = Used { tokens: 0, since: self.permission.guard.now(), is_refused: false };
        let trial = Trial { meter: Arc::clone(&self.meter), used: Arc::new(Mutex::new(used)) };
        self.trial.insert(trial).clone()
    }

    fn spend(&self, tokens: u64, now: BootMillis) -> Result<(), Stop> {
        let spend = || lock(&self.meter).spend(tokens, &self.permission.limits, now);
        let Some(trial) = &self.trial else { return Ok(spend()?) };
        let mut used = lock(&trial.used);
        if used.is_refused {
            return Err(Stop::Safeguard);
        }
        spend()?;
        used.tokens = used.tokens.saturating_add(tokens);
        Ok(())
    }

    /// The partner's share of what the enclave can do.
    pub(crate) fn share(&self) -> NonZeroU8 {
        self.permission.limits.share()
    }

    /// Permits the next token. Two loads and a clock while nothing has changed.
    ///
    /// # Errors
    ///
    /// [`Stop`] says why the request ends here.
    pub fn next_token(&mut self) -> Result<(), Stop> {
        let now = self.permission.still_permitted()?;
        self.spend(1, now)
    }

    /// The permission by itself, for what was made under this grant and leaves later.
    pub(crate) fn permission(&self) -> Permission {
        self.permission.clone()
    }

    /// What the keeper is asked to sign when the stream `stream` ends because of `stop`.
    pub(crate) fn end(&self, stream: &str, stop: Stop) -> EndQuestion {
        self.permission.end(stream, stop)
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        lock(&self.meter).finish();
    }
}

impl Permission {
    /// Whether the request may go on. Returns the time at which it was asked.
    ///
    /// # Errors
    ///
    /// [`Stop`] says why the request ends here.
    pub(crate) fn still_permitted(&mut self) -> Result<BootMillis, Stop> {
        let (now, generation) = (self.guard.now(), self.guard.generation());
        if now >= self.until || generation != self.generation {
            (self.until, self.limits) = self.guard.decide(&self.partner_key, Phase::Continue)?;
            self.generation = generation;
        }
        Ok(now)
    }

    /// What the keeper is asked to sign when the stream `stream` ends because of `stop`.
    pub(crate) fn end(&self, stream: &str, stop: Stop) -> EndQuestion {
        let reason = match stop {
            Stop::Refused(refusal) => EndReason::from(refusal),
            Stop::Limit(limit) => EndReason::from(limit),
            Stop::Safeguard => EndReason::SAFEGUARD,
        };
        EndQuestion { transcript: self.transcript, stream: stream.to_owned(), reason }
    }
}
