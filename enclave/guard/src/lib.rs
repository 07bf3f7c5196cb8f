//! Release control inside the enclave: the enclave serves only models that the authorities have released and
//! leased.
//!
//! ```text
//! host ─► the keeper's control connection ─► the keeper's Guard   may this session begin, and with what evidence?
//!                      every change             │
//!                                               ▼
//!                                            the worker's Guard   may this partner use this model now?
//! ```
//!
//! The keeper's guard decides what is shown and signed. The worker's guard is a copy that follows every change, because a
//! question to another process at every token would cost more than choosing the token. A worker that does not follow
//! gets no evidence for new sessions.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

mod safeguards;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use cleanroom_attestation::channel::{ModelId, ShownLease};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::WitnessRule;
use cleanroom_attestation::release::{
    Accepted, AuthorityDocument, BootMillis, Brokers, Decision, Id, Keep, LeaseRequest, Limits, LiveLease,
    ModelState, Nonce, Phase, Question, Refusal, Release, ReleaseError, Retention, SafeguardLimit,
    TrustedState, UnixMillis, Verified,
};
use cleanroom_protocol::Change;
use rustix::time::{ClockId, clock_gettime};

use self::safeguards::{Safeguards, policies, witness_rules};

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

    /// Waits until `time` has passed by this clock since the call, and not since the first poll. After the machine
    /// has slept it returns at most a second late.
    pub fn sleep(&self, time: Duration) -> impl Future<Output = ()> {
        // Timers stand still while the machine sleeps, so none is trusted for longer than this.
        const LOOK: Duration = Duration::from_secs(1);
        let begun = self.now();
        async move {
            loop {
                let passed = Duration::from_millis(self.now().0.saturating_sub(begun.0));
                let Some(left) = time.checked_sub(passed).filter(|left| !left.is_zero()) else { return };
                tokio::time::sleep(left.min(LOOK)).await;
            }
        }
    }

    /// What `work` gives within `time` of the call by this clock; `None` when the time is up.
    pub fn within<T>(
        &self,
        time: Duration,
        work: impl Future<Output = T>,
    ) -> impl Future<Output = Option<T>> {
        let over = self.sleep(time);
        async move {
            tokio::select! {
                biased;
                done = work => Some(done),
                () = over => None,
            }
        }
    }
}

/// Decides for one model.
pub struct Guard {
    model: ModelId,
    model_sha256: Sha256Digest,
    sealing: Sealing,
    clock: Clock,
    /// Only the control connection changes it.
    held: Mutex<TrustedState>,
    /// A copy of the accepted state, for everybody who asks.
    snapshot: RwLock<Arc<TrustedState>>,
    /// Rises with every change of the snapshot, so that a running request notices a change without a lock.
    generation: AtomicU64,
    /// What stands beside the documents. Its changes raise the generation, too.
    safeguards: RwLock<Safeguards>,
    /// Absolute time by the security module: at this boot time it was not yet later than that.
    time: RwLock<Option<(BootMillis, UnixMillis)>>,
}

/// How an enclave takes its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealing {
    /// As they are: the host has them.
    Plain,
    /// Sealed: the host has a file that it cannot read.
    Sealed,
}

/// The release and lease of one session's evidence.
pub struct ShownRelease {
    /// The release's envelope, as JSON.
    pub release: Vec<u8>,
    /// SHA-256 of the release's payload.
    pub release_digest: Sha256Digest,
    /// The lease's statements as [`ShownLease`] encodes them.
    pub lease: Vec<u8>,
    /// The digest of the lease that the statements make together.
    pub lease_digest: Sha256Digest,
}

/// The documents under which a broker is asked, as it is shown them. None has expired.
pub struct DocumentsInForce {
    /// Version of the newest root.
    pub root_version: u64,
    /// Digest of that root.
    pub root: Sha256Digest,
    /// Digest of the release, which is the newest and the one that the lease names.
    pub release: Sha256Digest,
    /// The lease's statements as [`ShownLease`] encodes them.
    pub lease: Vec<u8>,
}

/// Under what a key may be asked for, and of whom.
pub struct KeyTerms {
    /// Root, release and lease.
    pub documents: DocumentsInForce,
    /// The digest that the weights must have.
    pub model: Sha256Digest,
    /// The holders of shares of the key.
    pub brokers: Brokers,
}

/// Under what brokers are asked for secrets of days and parts of records, and by which rule.
pub struct RetentionTerms {
    /// Root, release and lease.
    pub documents: DocumentsInForce,
    /// The digest of the weights.
    pub model: Sha256Digest,
    /// What is kept, and who opens it.
    pub rule: Retention,
}

/// The time, release and lease in force, for the signed end of a stream.
pub struct InForce {
    /// Now, by the security module's clock.
    pub at: UnixMillis,
    /// The release's digest.
    pub release: Option<Sha256Digest>,
    /// The lease's digest.
    pub lease: Option<Sha256Digest>,
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
        sealing: Sealing,
        clock: Clock,
    ) -> Result<Arc<Self>, ReleaseError> {
        let state = TrustedState::new(root.as_bytes())?;
        Ok(Arc::new(Self {
            model,
            model_sha256,
            sealing,
            clock,
            snapshot: RwLock::new(Arc::new(state.clone())),
            held: Mutex::new(state),
            generation: AtomicU64::new(0),
            safeguards: RwLock::default(),
            time: RwLock::new(None),
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
    ///
    /// # Errors
    /// The refusal, when the release, the lease or a denial does not permit this partner a session.
    pub fn check_session(&self, partner_key: &Sha256Digest) -> Result<(), Refusal> {
        match self.check(partner_key) {
            Err(Refusal::PartnerUnknown) => Ok(()),
            other => other,
        }
    }

    /// The name under which the release lists the holder of `partner_key`.
    #[must_use]
    pub fn partner(&self, partner_key: &Sha256Digest) -> Option<Id> {
        self.snapshot().partner(partner_key).map(|partner| partner.id.clone())
    }

    /// Until when, and within which limits, the holder of `partner_key` may do what `phase` says.
    ///
    /// # Errors
    ///
    /// [`Refusal`] says why not at all.
    pub fn decide(&self, partner_key: &Sha256Digest, phase: Phase) -> Result<(BootMillis, Limits), Refusal> {
        let question =
            Question { partner_key, model: self.model.as_str(), model_sha256: &self.model_sha256, phase };
        let now = self.clock.now();
        let state = self.snapshot();
        match state.decide(&question, now, self.unix(now)) {
            Decision::Serve { until, limits } => {
                self.safeguards().check(&state, self.model.as_str(), partner_key, phase, now)?;
                Ok((until, limits))
            }
            Decision::Refuse(refusal) => Err(refusal),
        }
    }

    /// The digests of the policies that judge a request which begins now. None without safeguards.
    #[must_use]
    pub fn policies(&self) -> Vec<Sha256Digest> {
        policies(&self.snapshot(), self.model.as_str())
    }

    /// The limits of the safeguards of the newest release and, until that one is leased itself, of the leased one too.
    #[must_use]
    pub fn safeguard_limits(&self) -> Vec<SafeguardLimit> {
        let state = self.snapshot();
        let safeguards = state.safeguards(self.model.as_str());
        safeguards.flat_map(|safeguards| safeguards.limits.iter().cloned()).collect()
    }

    /// Takes the policy with this digest if a release names it for this model. Whoever calls this has it, and keeps it as long as it is named.
    ///
    /// # Errors
    /// [`ReleaseError::PolicyNotNamed`], and nothing has changed.
    pub fn accept_policy(&self, digest: Sha256Digest) -> Result<Accepted, ReleaseError> {
        if !self.policies().contains(&digest) {
            return Err(ReleaseError::PolicyNotNamed(digest));
        }
        let is_new = self.change_safeguards(|safeguards| safeguards.policies.insert(digest));
        Ok(if is_new { Accepted::New } else { Accepted::Known })
    }

    /// The retention in force: that of the leased release, or of the newest one where the leased one has none. While both have
    /// one, more is kept of the two.
    #[must_use]
    pub fn retention(&self) -> Option<Retention> {
        let state = self.snapshot();
        let mut rules = state.retention(self.model.as_str());
        let mut rule = rules.next()?.clone();
        rule.keep = rules.map(|other| other.keep).fold(rule.keep, Keep::max);
        Some(rule)
    }

    /// Records can be sealed until then, by the machine's own clock.
    pub fn seal_until(&self, until: BootMillis) {
        self.change_safeguards(|safeguards| safeguards.seals_until = until);
    }

    /// Until when records can be sealed, as [`Self::seal_until`] was told.
    #[must_use]
    pub fn seals_until(&self) -> BootMillis {
        self.safeguards().seals_until
    }

    /// What is demanded of the log's witnesses: by the newest release and, until that one is leased itself, by the leased one too.
    #[must_use]
    pub fn witness_rules(&self) -> Vec<WitnessRule> {
        witness_rules(&self.snapshot())
    }

    /// The log is witnessed by the rule with this digest until then, by the machine's own clock.
    pub fn witness(&self, rule: &Sha256Digest, until: BootMillis) {
        self.change_safeguards(|safeguards| safeguards.witness(rule, until));
    }

    /// Until when the log is witnessed by the rule with this digest, as [`Self::witness`] was told.
    #[must_use]
    pub fn witnessed_until(&self, rule: &Sha256Digest) -> BootMillis {
        self.safeguards().witnessed_until(rule)
    }

    /// Until when the log is witnessed by all that the releases demand; nothing when they demand no witnesses.
    #[must_use]
    pub fn witnessed_until_all(&self) -> Option<BootMillis> {
        self.safeguards().witnessed_until_all()
    }

    /// Holds a partner for as long as `release` is in force: until a lease names a newer one.
    pub fn hold(&self, partner: &Id, release: Sha256Digest) {
        self.change_safeguards(|safeguards| safeguards.held.insert(partner.clone(), release));
    }

    /// Whether the partner is held.
    #[must_use]
    pub fn is_held(&self, partner: &Id) -> bool {
        self.safeguards().holds(&self.snapshot(), partner)
    }

    fn safeguards(&self) -> RwLockReadGuard<'_, Safeguards> {
        self.safeguards.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change_safeguards<T>(&self, change: impl FnOnce(&mut Safeguards) -> T) -> T {
        let changed = change(&mut self.safeguards.write().unwrap_or_else(PoisonError::into_inner));
        self.generation.fetch_add(1, Ordering::Release);
        changed
    }

    /// Now, by the machine's own clock.
    #[must_use]
    pub fn now(&self) -> BootMillis {
        self.clock.now()
    }

    /// Absolute time by the security module's clock. `None` until it was told.
    #[must_use]
    pub fn wall_time(&self) -> Option<UnixMillis> {
        let is_known = self.time.read().unwrap_or_else(PoisonError::into_inner).is_some();
        is_known.then(|| self.unix(self.clock.now()))
    }

    /// A number that rises with every change. A decision holds until its time is over or this number has changed.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What evidence shows now: the lease in force and its release. `None` when no lease is in force.
    pub fn shown(&self) -> Option<ShownRelease> {
        let (state, now) = (self.snapshot(), self.clock.now());
        let (lease, release) = (state.lease_in_force(now).ok()?, state.leased_release()?);
        let left_ms = lease.end().0.saturating_sub(now.0);
        Some(ShownRelease {
            release: release.envelope().to_json(),
            release_digest: release.digest(),
            lease: ShownLease { left_ms, envelopes: lease.envelopes() }.encode(),
            lease_digest: lease.digest(),
        })
    }

    /// The root, release and lease under which the key of the sealed weights may be asked for now.
    ///
    /// # Errors
    ///
    /// [`Refusal`], when root, release, lease or a denial would not let the model serve anybody.
    pub fn key_terms(&self) -> Result<KeyTerms, Refusal> {
        let state = self.snapshot();
        let (documents, release) = self.documents_in_force(&state)?;
        let status = state.model(self.model.as_str()).ok_or(Refusal::ModelNotGranted)?;
        match status.state {
            _ if status.denied => return Err(Refusal::ModelDenied),
            ModelState::Active => {}
            ModelState::Draining => return Err(Refusal::ModelDraining),
            ModelState::Suspended => return Err(Refusal::ModelSuspended),
            ModelState::Revoked => return Err(Refusal::ModelRevoked),
        }
        let model = release.model(self.model.as_str()).ok_or(Refusal::ModelNotGranted)?;
        let weights = model.weights.as_ref().ok_or(Refusal::ModelNotGranted)?;
        Ok(KeyTerms { documents, model: model.sha256, brokers: weights.brokers.clone() })
    }

    /// The root, release and lease under which brokers may be asked for retention now. Whether the model serves is no matter of
    /// this: a record can be opened of a model that was halted.
    ///
    /// # Errors
    ///
    /// [`Refusal`], when there is no lease for the newest release, either has expired, or the release keeps nothing of the model.
    pub fn retention_terms(&self) -> Result<RetentionTerms, Refusal> {
        let state = self.snapshot();
        let (documents, release) = self.documents_in_force(&state)?;
        let model = release.model(self.model.as_str()).filter(|model| model.sha256 == self.model_sha256);
        let rule = model.and_then(|model| model.retention.clone()).ok_or(Refusal::ModelNotGranted)?;
        Ok(RetentionTerms { documents, model: self.model_sha256, rule })
    }

    /// Root, lease and newest release, none of which has expired, as a broker is shown them; and that release.
    fn documents_in_force<'s>(
        &self,
        state: &'s TrustedState,
    ) -> Result<(DocumentsInForce, &'s Verified<Release>), Refusal> {
        let now = self.clock.now();
        let lease = state.lease_in_force(now)?;
        let release = state.release().ok_or(Refusal::NoRelease)?;
        if release.digest() != lease.release() {
            return Err(Refusal::NoLease);
        }
        let (root, unix) = (state.root(), self.unix(now));
        if unix >= root.expires {
            return Err(Refusal::RootExpired);
        }
        if unix >= release.expires {
            return Err(Refusal::ReleaseExpired);
        }
        let left_ms = lease.end().0.saturating_sub(now.0);
        let documents = DocumentsInForce {
            root_version: root.version,
            root: root.digest(),
            release: release.digest(),
            lease: ShownLease { left_ms, envelopes: lease.envelopes() }.encode(),
        };
        Ok((documents, release))
    }

    /// What stands now, for the statement that a stream was ended.
    pub fn in_force(&self) -> InForce {
        let snapshot = self.snapshot();
        InForce {
            at: self.unix(self.clock.now()),
            release: snapshot.release().map(Verified::digest),
            lease: snapshot.lease().map(LiveLease::digest),
        }
    }

    /// Whether the newest release revokes this model: its weights must go.
    pub fn is_revoked(&self) -> bool {
        self.snapshot()
            .model(self.model.as_str())
            .is_some_and(|model| model.state == ModelState::Revoked && model.sha256 == self.model_sha256)
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
                AuthorityDocument::Root => self.accept_root(envelope),
                AuthorityDocument::Release => self.accept_release(envelope),
                AuthorityDocument::Denial => self.accept_denial(envelope),
                AuthorityDocument::Lease => self.accept_lease(envelope, *at),
            },
            Change::Policy(policy) => self.accept_policy(Sha256Digest::of(&[policy])),
            // It is the policy that counts, once it is complete.
            Change::Classifier(_) => Ok(Accepted::New),
            Change::Sealing { until } => {
                self.seal_until(*until);
                Ok(Accepted::New)
            }
            Change::Witnessed { rule, until } => {
                self.witness(rule, *until);
                Ok(Accepted::New)
            }
            Change::Hold { partner, release } => {
                self.hold(partner, *release);
                Ok(Accepted::New)
            }
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
        self.change(|state| {
            let release_sha256 = state.release().map(Verified::digest).ok_or(ReleaseError::NoRelease)?;
            state.begin_lease(nonce, sent)?;
            let root = state.root();
            Ok(LeaseRequest { nonce, root_version: root.version, root_sha256: root.digest(), release_sha256 })
        })
    }

    /// Takes the next root.
    ///
    /// # Errors
    ///
    /// As [`TrustedState::accept_root`].
    pub fn accept_root(&self, envelope: &[u8]) -> Result<Accepted, ReleaseError> {
        self.change(|state| state.accept_root(envelope))
    }

    /// Takes a release that says of this enclave's model what is so: that its weights are sealed, or that they are not.
    ///
    /// # Errors
    ///
    /// As [`TrustedState::accept_release`], and [`ReleaseError::Weights`].
    pub fn accept_release(&self, envelope: &[u8]) -> Result<Accepted, ReleaseError> {
        self.change(|state| {
            let mut next = state.clone();
            let accepted = next.accept_release(envelope)?;
            let in_release = next.release().and_then(|release| release.seals(self.model.as_str()));
            match in_release.filter(|sealed| *sealed != (self.sealing == Sealing::Sealed)) {
                Some(in_release) => Err(ReleaseError::Weights { in_release }),
                None => {
                    *state = next;
                    Ok(accepted)
                }
            }
        })
    }

    /// Takes a denial.
    ///
    /// # Errors
    ///
    /// As [`TrustedState::accept_denial`].
    pub fn accept_denial(&self, envelope: &[u8]) -> Result<Accepted, ReleaseError> {
        self.change(|state| state.accept_denial(envelope))
    }

    /// Takes one issuer's lease, which is there at the boot time `at`.
    ///
    /// # Errors
    ///
    /// As [`TrustedState::accept_lease`].
    pub fn accept_lease(&self, envelope: &[u8], at: BootMillis) -> Result<Accepted, ReleaseError> {
        self.change(|state| state.accept_lease(envelope, at))
    }

    /// Changes the accepted state and publishes it. A refused change leaves it as it is.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut TrustedState) -> Result<T, ReleaseError>,
    ) -> Result<T, ReleaseError> {
        let mut held = lock(&self.held);
        let changed = change(&mut held)?;
        let snapshot = Arc::new(held.clone());
        self.change_safeguards(|safeguards| safeguards.forget(&snapshot, self.model.as_str()));
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
        self.generation.fetch_add(1, Ordering::Release);
        Ok(changed)
    }

    /// The accepted state as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<TrustedState> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Absolute time by the security module's clock, carried on by the machine's own. Without one, everything has expired.
    fn unix(&self, now: BootMillis) -> UnixMillis {
        let time = *self.time.read().unwrap_or_else(PoisonError::into_inner);
        time.map_or(UnixMillis(u64::MAX), |(read, unix)| {
            UnixMillis(unix.0.saturating_add(now.0.saturating_sub(read.0)))
        })
    }
}

/// The values behind the locks are whole at every instruction that could unwind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
