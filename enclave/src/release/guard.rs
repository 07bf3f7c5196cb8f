//! What the enclave has accepted from the authorities, and the answers that follow from it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use cleanroom_attestation::channel::{MAX_LEASE_BYTES, ModelId, ShownLease};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::release::{
    Accepted, BootMillis, ControlKind, ControlState, Decision, Id, Lease, LeaseRequest, Limits, LiveLease,
    Meter, ModelState, Nonce, Phase, PublicKey, Question, Refusal, ReleaseError, TrustedState, UnixMillis,
    Verified, lease_digest,
};
use cleanroom_protocol::Change;
use rustix::time::{ClockId, clock_gettime};

use super::pass::{Pass, Stop};

/// This machine's own time, which nobody can set.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> BootMillis + Send + Sync>);

impl Clock {
    /// `CLOCK_BOOTTIME`.
    #[must_use]
    pub fn boot() -> Self {
        Self::from_fn(|| {
            let time = clock_gettime(ClockId::Boottime);
            let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
            BootMillis(
                seconds.unwrap_or(0).saturating_mul(1000).saturating_add(nanos.unwrap_or(0) / 1_000_000),
            )
        })
    }

    /// A clock that tests move.
    #[must_use]
    pub fn from_fn(now: impl Fn() -> BootMillis + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> BootMillis {
        (self.0)()
    }
}

/// Decides for one model. The keeper's decides what is shown and signed; the worker's, which is given every change that the keeper's
/// accepted, decides at every request and token.
pub struct Guard {
    model: ModelId,
    model_sha256: Sha256Digest,
    clock: Clock,
    /// Changed by the control connection alone.
    book: Mutex<Book>,
    /// A copy of the book, for everybody who asks.
    page: RwLock<Arc<Page>>,
    /// Rises with every change of the page, so that a running request notices one without a lock.
    edition: AtomicU64,
    /// Absolute time by the security module: at this boot time it was not yet later than that.
    time: RwLock<Option<(BootMillis, UnixMillis)>>,
    /// By the partner's name, because limits hold for all its keys together. At most one for each partner ever released.
    meters: Mutex<HashMap<Id, Arc<Mutex<Meter>>>>,
}

struct Book {
    state: TrustedState,
    /// Statements for the nonce that is outstanding or was answered last.
    statements: Vec<Statement>,
    /// The statements that make the live lease.
    live: Vec<Statement>,
}

#[derive(Clone)]
struct Statement {
    issuers: Vec<PublicKey>,
    payload: Sha256Digest,
    envelope: Arc<[u8]>,
}

struct Page {
    state: TrustedState,
    shown: Option<Shown>,
}

/// What a session is told that it runs under.
struct Shown {
    release: Vec<u8>,
    release_digest: Sha256Digest,
    statements: Vec<Statement>,
    lease_digest: Sha256Digest,
    end: BootMillis,
}

/// The release and lease of one session's evidence.
pub(crate) struct Evidence {
    pub(crate) release: Vec<u8>,
    pub(crate) release_digest: Sha256Digest,
    pub(crate) lease: Vec<u8>,
    pub(crate) lease_digest: Sha256Digest,
}

/// What the end of a stream is signed with.
pub(crate) struct Standing {
    pub(crate) at: UnixMillis,
    pub(crate) release: Option<Sha256Digest>,
    pub(crate) lease: Option<Sha256Digest>,
}

impl Guard {
    /// A guard under the measured root. It permits nothing yet.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] when `root` is not a root that its own root role signed.
    pub fn new(
        root: &str,
        model: ModelId,
        model_sha256: Sha256Digest,
        clock: Clock,
    ) -> Result<Arc<Self>, ReleaseError> {
        let state = TrustedState::new(root.as_bytes())?;
        let page = Page { state: state.clone(), shown: None };
        Ok(Arc::new(Self {
            model,
            model_sha256,
            clock,
            book: Mutex::new(Book { state, statements: Vec::new(), live: Vec::new() }),
            page: RwLock::new(Arc::new(page)),
            edition: AtomicU64::new(0),
            time: RwLock::new(None),
            meters: Mutex::default(),
        }))
    }

    /// Whether the holder of `partner_key` may start something now.
    ///
    /// # Errors
    ///
    /// [`Refusal`] says why not.
    pub fn check(&self, partner_key: &Sha256Digest) -> Result<(), Refusal> {
        self.decide(partner_key, Phase::Start).map(|_| ())
    }

    /// Whether a session may begin. A key that the release does not know gets evidence and nothing else, so that anybody can
    /// audit a clean room.
    pub(crate) fn check_session(&self, partner_key: &Sha256Digest) -> Result<(), Refusal> {
        match self.check(partner_key) {
            Err(Refusal::PartnerUnknown) => Ok(()),
            other => other,
        }
    }

    /// Admits a request of the holder of `partner_key`, on the session with this transcript.
    ///
    /// # Errors
    ///
    /// [`Stop`] says why not.
    pub fn admit(
        self: &Arc<Self>,
        partner_key: &Sha256Digest,
        transcript: Sha384Digest,
    ) -> Result<Pass, Stop> {
        // Read before the decision: a change in between is then noticed at the first token.
        let edition = self.edition();
        let (until, limits) = self.decide(partner_key, Phase::Start)?;
        let name = self.page().state.partner(partner_key).map(|partner| partner.id.clone());
        let meter = Arc::clone(lock(&self.meters).entry(name.ok_or(Refusal::PartnerUnknown)?).or_default());
        lock(&meter).admit(&limits, self.clock.now())?;
        Ok(Pass::new(Arc::clone(self), meter, *partner_key, transcript, edition, until, limits))
    }

    pub(crate) fn decide(
        &self,
        partner_key: &Sha256Digest,
        phase: Phase,
    ) -> Result<(BootMillis, Limits), Refusal> {
        let question =
            Question { partner_key, model: self.model.as_str(), model_sha256: &self.model_sha256, phase };
        let now = self.clock.now();
        match self.page().state.decide(&question, now, self.unix(now)) {
            Decision::Serve { until, limits } => Ok((until, limits)),
            Decision::Refuse(refusal) => Err(refusal),
        }
    }

    /// Now, by the machine's own clock.
    pub(crate) fn now(&self) -> BootMillis {
        self.clock.now()
    }

    pub(crate) fn edition(&self) -> u64 {
        self.edition.load(Ordering::Acquire)
    }

    /// What the evidence of a session that begins now shows.
    pub(crate) fn evidence(&self) -> Option<Evidence> {
        let page = self.page();
        let shown = page.shown.as_ref()?;
        let left_ms = shown.end.0.saturating_sub(self.clock.now().0);
        let envelopes = shown.statements.iter().map(|statement| &*statement.envelope).collect();
        Some(Evidence {
            release: shown.release.clone(),
            release_digest: shown.release_digest,
            lease: ShownLease { left_ms, envelopes }.encode(),
            lease_digest: shown.lease_digest,
        })
    }

    /// What stands now, for the statement that a stream was ended.
    pub(crate) fn standing(&self) -> Standing {
        let page = self.page();
        Standing {
            at: self.unix(self.clock.now()),
            release: page.state.release().map(Verified::digest),
            lease: page.state.lease().map(LiveLease::digest),
        }
    }

    /// Whether the newest release revokes this model: its weights must go.
    pub(crate) fn is_revoked(&self) -> bool {
        self.page()
            .state
            .model(self.model.as_str())
            .is_some_and(|model| model.state == ModelState::Revoked && model.sha256 == self.model_sha256)
    }

    pub(crate) fn state(&self) -> ControlState {
        let page = self.page();
        let (state, now) = (&page.state, self.clock.now());
        ControlState {
            root_version: state.root().version,
            release_version: state.release().map_or(0, |release| release.version),
            release_sha256: state.release().map(Verified::digest),
            lease_left_ms: state.lease().map_or(0, |lease| lease.end().0.saturating_sub(now.0)),
            denials: state.denials().len() as u64,
        }
    }

    /// Takes a change that was accepted elsewhere, or the host's document.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`], as what the change is says.
    pub fn apply(&self, change: &Change) -> Result<Accepted, ReleaseError> {
        match change {
            Change::Begin { nonce, sent, unix, read_at } => {
                self.begin_lease(*nonce, *sent, (*read_at, *unix)).map(|_| Accepted::New)
            }
            Change::Document { kind, at, envelope } => match kind {
                ControlKind::Root => self.accept_root(envelope),
                ControlKind::Release => self.accept_release(envelope),
                ControlKind::Denial => self.accept_denial(envelope),
                ControlKind::Lease => self.accept_lease(envelope, *at),
                ControlKind::State | ControlKind::Ask => Err(ReleaseError::NoLeaseAsked),
            },
        }
    }

    /// Begins a lease with a nonce that is sent at `sent` or later. `time` is a boot time, and the absolute time by the security
    /// module that had not passed then.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] when there is no release yet, and as [`TrustedState::begin_lease`].
    pub fn begin_lease(
        &self,
        nonce: Nonce,
        sent: BootMillis,
        time: (BootMillis, UnixMillis),
    ) -> Result<LeaseRequest, ReleaseError> {
        *self.time.write().unwrap_or_else(PoisonError::into_inner) = Some(time);
        self.change(|book| {
            let release_sha256 = book.state.release().map(Verified::digest).ok_or(ReleaseError::NoRelease)?;
            book.state.begin_lease(nonce, sent)?;
            book.statements.clear();
            Ok(LeaseRequest { nonce, root_version: book.state.root().version, release_sha256 })
        })
    }

    /// Takes the next root.
    ///
    /// # Errors
    ///
    /// As [`TrustedState::accept_root`].
    pub fn accept_root(&self, envelope: &[u8]) -> Result<Accepted, ReleaseError> {
        self.change(|book| {
            let accepted = book.state.accept_root(envelope)?;
            if accepted == Accepted::New {
                book.statements.clear();
                let root = book.state.root();
                book.live.retain(|statement| root.open::<Lease>(&statement.envelope).is_ok());
            }
            Ok(accepted)
        })
    }

    /// Takes a release.
    ///
    /// # Errors
    ///
    /// As [`TrustedState::accept_release`].
    pub fn accept_release(&self, envelope: &[u8]) -> Result<Accepted, ReleaseError> {
        self.change(|book| {
            let accepted = book.state.accept_release(envelope)?;
            if accepted == Accepted::New {
                book.statements.clear();
            }
            Ok(accepted)
        })
    }

    /// Takes a denial.
    ///
    /// # Errors
    ///
    /// As [`TrustedState::accept_denial`].
    pub fn accept_denial(&self, envelope: &[u8]) -> Result<Accepted, ReleaseError> {
        self.change(|book| book.state.accept_denial(envelope))
    }

    /// Takes one issuer's lease, which is there at the boot time `at`.
    ///
    /// # Errors
    ///
    /// As [`TrustedState::accept_lease`].
    pub fn accept_lease(&self, envelope: &[u8], at: BootMillis) -> Result<Accepted, ReleaseError> {
        self.change(|book| {
            let lease: Verified<Lease> = book.state.root().open(envelope)?;
            let issuers: Vec<PublicKey> = lease.signers().iter().map(|key| key.spki.clone()).collect();
            let known = issuers
                .iter()
                .all(|issuer| book.statements.iter().any(|statement| statement.issuers.contains(issuer)));
            // All statements together must fit into one evidence frame, or no partner could be shown the lease.
            let bytes: usize =
                book.statements.iter().map(|statement| statement.envelope.len().saturating_add(4)).sum();
            let actual = bytes.saturating_add(envelope.len()).saturating_add(16);
            if !known && actual > MAX_LEASE_BYTES {
                return Err(ReleaseError::TooLarge { what: "lease", limit: MAX_LEASE_BYTES, actual });
            }
            let accepted = book.state.accept_lease(envelope, at)?;
            if !known {
                book.statements.push(Statement {
                    issuers,
                    payload: lease.digest(),
                    envelope: envelope.into(),
                });
            }
            if accepted != Accepted::MoreIssuersNeeded {
                book.live.clone_from(&book.statements);
            }
            Ok(accepted)
        })
    }

    /// Changes the book and publishes it, whatever came of the change: the one refusal that changes something halts everything.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Book) -> Result<T, ReleaseError>,
    ) -> Result<T, ReleaseError> {
        let mut book = lock(&self.book);
        let result = change(&mut book);
        let page = Arc::new(Page { shown: book.shown(), state: book.state.clone() });
        *self.page.write().unwrap_or_else(PoisonError::into_inner) = page;
        self.edition.fetch_add(1, Ordering::Release);
        result
    }

    fn page(&self) -> Arc<Page> {
        Arc::clone(&self.page.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Absolute time by the security module's clock, carried on by the machine's own. Without one, everything has expired.
    fn unix(&self, now: BootMillis) -> UnixMillis {
        let time = *self.time.read().unwrap_or_else(PoisonError::into_inner);
        time.map_or(UnixMillis(u64::MAX), |(read, unix)| {
            UnixMillis(unix.0.saturating_add(now.0.saturating_sub(read.0)))
        })
    }
}

impl Book {
    /// What sessions are shown; nothing while the statements at hand are not the ones that the live lease rests on.
    fn shown(&self) -> Option<Shown> {
        let (release, lease) = (self.state.leased_release()?, self.state.lease()?);
        let payloads: Vec<Sha256Digest> = self.live.iter().map(|statement| statement.payload).collect();
        let digest = lease.digest();
        (lease_digest(&payloads) == digest).then(|| Shown {
            release: release.envelope().to_json(),
            release_digest: release.digest(),
            statements: self.live.clone(),
            lease_digest: digest,
            end: lease.end(),
        })
    }
}

/// What the locks protect is whole at every instruction that could unwind.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
