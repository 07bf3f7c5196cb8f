//! What the enclave has accepted from the authorities, and the answers that follow from it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use cleanroom_attestation::channel::{
    MAX_LEASE_BYTES, ModelId, Nonce as Challenge, PublicAttestation, ShownLease,
};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::document::Document;
use cleanroom_attestation::release::{
    Accepted, BootMillis, ControlState, Decision, Id, Lease, LeaseRequest, Limits, Meter, ModelState, Nonce,
    Phase, PublicKey, Question, Refusal, ReleaseError, TrustedState, UnixMillis, Verified, lease_digest,
};
use rustix::time::{ClockId, clock_gettime};

use super::pass::{Pass, Stop};
use crate::receipt_key::ReceiptKey;
use crate::security_module::{SecurityModule, SecurityModuleError};

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

/// Decides for one model. Shared by the channel, the API and the control connection.
pub struct Guard {
    model: ModelId,
    model_sha256: Sha256Digest,
    clock: Clock,
    security_module: SecurityModule,
    receipt_key: ReceiptKey,
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

/// A stream's last statement.
pub(crate) struct SignedEnd {
    pub(crate) at: UnixMillis,
    pub(crate) release: Option<Sha256Digest>,
    pub(crate) lease: Option<Sha256Digest>,
    pub(crate) signature: Vec<u8>,
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
        security_module: SecurityModule,
        receipt_key: ReceiptKey,
    ) -> Result<Arc<Self>, ReleaseError> {
        let state = TrustedState::new(root.as_bytes())?;
        let page = Page { state: state.clone(), shown: None };
        Ok(Arc::new(Self {
            model,
            model_sha256,
            clock,
            security_module,
            receipt_key,
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

    /// Says, signed, that the stream `stream` ends now for `reason`.
    pub(crate) fn sign_end(&self, transcript: &Sha384Digest, stream: &str, reason: &str) -> SignedEnd {
        let page = self.page();
        let at = self.unix(self.clock.now());
        let release = page.state.release().map(Verified::digest);
        let lease = page.state.lease().map(cleanroom_attestation::release::LiveLease::digest);
        let end = cleanroom_attestation::channel::StreamEnd {
            transcript,
            stream,
            reason,
            at_ms: at.0,
            release,
            lease,
        };
        SignedEnd { at, release, lease, signature: self.receipt_key.sign(&end.message()) }
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

    /// Begins a lease: draws its nonce and notes the time before the nonce can leave.
    ///
    /// # Errors
    ///
    /// [`AskError`] when there is no release yet, no time, or no randomness.
    pub async fn ask(&self) -> Result<LeaseRequest, AskError> {
        self.read_time().await?;
        let mut nonce = [0; 32];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| AskError::Random)?;
        let nonce = Nonce::from_bytes(nonce);
        self.change(|book| {
            let release_sha256 = book.state.release().map(Verified::digest).ok_or(ReleaseError::NoRelease)?;
            book.state.begin_lease(nonce, self.clock.now())?;
            book.statements.clear();
            Ok(LeaseRequest { nonce, root_version: book.state.root().version, release_sha256 })
        })
        .map_err(AskError::Release)
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

    /// Takes one issuer's lease.
    ///
    /// # Errors
    ///
    /// As [`TrustedState::accept_lease`].
    pub fn accept_lease(&self, envelope: &[u8]) -> Result<Accepted, ReleaseError> {
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
            let accepted = book.state.accept_lease(envelope, self.clock.now())?;
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

    /// Reads the security module's clock: the time stamp of a document that never leaves the enclave.
    async fn read_time(&self) -> Result<(), AskError> {
        let mut nonce = [0; Challenge::LENGTH];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| AskError::Random)?;
        let request = PublicAttestation {
            nonce: &Challenge::from_bytes(nonce),
            model_id: &self.model,
            model_digest: self.model_sha256,
            release: None,
            lease: None,
            receipt_key: self.receipt_key.subject_public_key_info(),
        }
        .evidence_request();
        // Noted before it is asked, so that the error makes things expire early and never late.
        let before = self.clock.now();
        let document = self.security_module.evidence(&request).await?;
        let document = Document::parse(&document).map_err(|_| AskError::Time)?;
        let unix = UnixMillis(document.timestamp().as_millis());
        *self.time.write().unwrap_or_else(PoisonError::into_inner) = Some((before, unix));
        Ok(())
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

/// Why no lease could be begun.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no release to ask for.
    #[error(transparent)]
    Release(ReleaseError),
    /// The security module did not answer.
    #[error(transparent)]
    SecurityModule(#[from] SecurityModuleError),
    /// The security module's time cannot be read.
    #[error("the security module's document cannot be read")]
    Time,
    /// No nonce could be drawn.
    #[error("the system's random number generator failed")]
    Random,
}

impl AskError {
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Release(error) => error.code(),
            Self::SecurityModule(_) | Self::Time => "security-module",
            Self::Random => "random",
        }
    }
}

/// What the locks protect is whole at every instruction that could unwind.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
