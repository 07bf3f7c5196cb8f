//! The keeper as an attester (RFC 9334): the evidence that it shows and the statements that it signs, one method for each
//! purpose.

use std::sync::{Arc, Mutex, PoisonError};

use cleanroom_attestation::channel::{
    EvidenceFrame, EvidenceRequest, Exchange, ModelId, Nonce, PublicAttestation, RefusalCode, StreamEnd,
    Transcript, key_digest,
};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::document::Document;
use cleanroom_attestation::log::{BootRecord, Entry};
use cleanroom_attestation::receipt::{Receipt, SignedReceipt};
use cleanroom_attestation::release::{BootMillis, Refusal, UnixMillis};
use cleanroom_attestation::safeguard::SafeguardAction;
use cleanroom_config::Partners;
use cleanroom_guard::{Clock, Guard, InForce, ShownRelease};
use cleanroom_link::control::Batch;
use cleanroom_protocol::{
    Change, ChannelQuestion, EndQuestion, Evidence, PublicEvidence, ReceiptQuestion, SealedExchange,
    SignedEnd,
};
use tokio::sync::oneshot;

use crate::commitment::Committed;
use crate::log::{Log, NoSuchSize};
use crate::receipt_key::ReceiptKey;
use crate::retention::{Facts, Retention};
use crate::security_module::{Precedence, SecurityModule, SecurityModuleError};
use crate::tallies::Tallies;

/// Holds the security module and the receipt key, for one model that was committed to.
pub struct Attester {
    security_module: SecurityModule,
    receipt_key: ReceiptKey,
    model_id: ModelId,
    model_digest: Sha256Digest,
    guard: Option<Arc<Guard>>,
    partners: Partners,
    clock: Clock,
    /// A time of the security module, and the machine's own before it was asked.
    time: Mutex<Option<(BootMillis, UnixMillis)>>,
    log: Log,
    tallies: Tallies,
    retention: Retention,
}

/// A receipt that was issued.
pub(super) struct Issued {
    /// The signed envelope, as JSON.
    pub(super) envelope: Vec<u8>,
    /// What the worker is to be told before the receipt leaves: that the partner is held.
    pub(super) holding: Option<Change>,
}

impl Attester {
    /// An attester without release control.
    #[must_use]
    pub fn new(
        committed: Committed,
        model_id: ModelId,
        security_module: SecurityModule,
        receipt_key: ReceiptKey,
    ) -> Self {
        Self {
            log: Log::new(receipt_key.clone()),
            security_module,
            receipt_key,
            model_id,
            model_digest: committed.model(),
            guard: None,
            partners: Partners::Any,
            clock: Clock::boot(),
            time: Mutex::default(),
            tallies: Tallies::default(),
            retention: Retention::new(),
        }
    }

    /// The same attester, by another clock than the machine's own.
    #[must_use]
    pub fn timed_by(mut self, clock: Clock) -> Self {
        self.log = self.log.timed_by(clock.clone());
        self.clock = clock;
        self
    }

    /// The same attester, under release control: it shows release and lease, and no evidence to sessions that they do not
    /// permit.
    #[must_use]
    pub fn guarded(mut self, guard: Arc<Guard>) -> Self {
        self.guard = Some(guard);
        self
    }

    /// The same attester, which knows whom the configuration lists.
    #[must_use]
    pub fn listing(mut self, partners: Partners) -> Self {
        self.partners = partners;
        self
    }

    /// Whose question it is: a partner's that may use the model now, or a stranger's.
    pub(super) fn precedence(&self, question: &ChannelQuestion) -> Precedence {
        let permitted = |key: &Sha256Digest| {
            self.partners.admit(key) && self.guard.as_ref().is_none_or(|guard| guard.check(key).is_ok())
        };
        match key_digest(&question.partner_certificate) {
            Some(key) if permitted(&key) => Precedence::Partner,
            _ => Precedence::Stranger,
        }
    }

    /// The receipt key's public half, DER of its `SubjectPublicKeyInfo`.
    pub(super) fn receipt_key(&self) -> &[u8] {
        self.receipt_key.subject_public_key_info()
    }

    /// The evidence of a session with the enclave that shows `leaf`. The worker's part of the transcript is as good as its word;
    /// a partner compares all of it with its own connection.
    pub(super) async fn channel(
        &self,
        leaf: Sha384Digest,
        question: &ChannelQuestion,
        precedence: Precedence,
    ) -> Result<Evidence, RefusalCode> {
        let hello = question.hello();
        if hello.model_id != self.model_id {
            return Err(RefusalCode::UnknownModel);
        }
        let partner_key = key_digest(&question.partner_certificate).ok_or(RefusalCode::NoEvidence)?;
        let shown = self.shown(&partner_key).map_err(|refusal| {
            self.log.refused(refusal);
            RefusalCode::NotServed(refusal)
        })?;
        let transcript = Transcript {
            nonce: &hello.nonce,
            binder: &question.binder,
            enclave_leaf: leaf,
            partner_leaf: Sha384Digest::of(&[&question.partner_certificate]),
            cipher_suite: question.cipher_suite,
            group: question.group,
            model_id: &self.model_id,
            model_digest: self.model_digest,
            release: shown.as_ref().map(|shown| shown.release_digest),
            lease: shown.as_ref().map(|shown| shown.lease_digest),
            receipt_key: self.receipt_key(),
        };
        let document = self
            .document(&transcript.evidence_request(), precedence)
            .await
            .map_err(|error| refusal(&error))?;
        let mut evidence = EvidenceFrame {
            document: &document,
            release: shown.as_ref().map_or(&[], |shown| &shown.release),
            lease: shown.as_ref().map_or(&[], |shown| &shown.lease),
            model_digest: self.model_digest,
            signature: &[],
        };
        let transcript = transcript.digest();
        let message = Exchange::begin(question.hello_frame())
            .server_finished_message(&transcript, &evidence.encode_unsigned());
        let signature = self.receipt_key.sign(&message);
        evidence.signature = &signature;
        let ticket = self.receipt_key.ticket(&transcript, &partner_key);
        Ok(Evidence { transcript, ticket, body: evidence.encode() })
    }

    /// Evidence for everybody whose nonce stands behind `nonce` ([`cleanroom_attestation::channel::SharedNonces`]).
    pub(super) async fn public(&self, nonce: &Nonce) -> Result<PublicEvidence, RefusalCode> {
        let shown = self.guard.as_ref().and_then(|guard| guard.shown());
        let (release, lease) = shown.map(|shown| (shown.release_digest, shown.lease_digest)).unzip();
        let attestation = self.public_attestation(nonce, release, lease);
        let document = self
            .document(&attestation.evidence_request(), Precedence::Public)
            .await
            .map_err(|error| refusal(&error))?;
        Ok(PublicEvidence { document, release, lease })
    }

    /// The statement that the worker ended a stream. `None` without release control, under which nothing is ended.
    pub(super) fn end(&self, question: &EndQuestion) -> Option<SignedEnd> {
        let EndQuestion { transcript, stream, reason } = question;
        let InForce { at, release, lease } = self.guard.as_ref()?.in_force();
        let end = StreamEnd { transcript, stream, reason: reason.code(), at_ms: at.0, release, lease };
        Some(SignedEnd { at, release, lease, signature: self.receipt_key.sign(&end.message()) })
    }

    /// The security module.
    pub(super) const fn security_module(&self) -> &SecurityModule {
        &self.security_module
    }

    /// Signs the receipt of a request that has ended, and appends it to the log.
    ///
    /// # Errors
    /// [`NoReceipt`].
    pub(super) fn receipt(
        &self,
        question: ReceiptQuestion,
        record: Option<Sha256Digest>,
    ) -> Result<Issued, NoReceipt> {
        let ReceiptQuestion { session, id, request, response, finish, code, safeguard, started, exchange: _ } =
            question;
        if !self.receipt_key.knows(&session) {
            return Err(NoReceipt::NoSuchSession);
        }
        let now = self.clock.now();
        let started = BootMillis(started.0.min(now.0));
        let (release, lease) = self.in_force();
        let action = safeguard.as_ref().map(|verdict| verdict.action);
        let (model, model_sha256) = (self.model_id.clone(), self.model_digest);
        // Times are read under the log's lock, so that they never go back from one entry to the next.
        let signed = self.log.receipt(session.partner, |place| {
            let receipt = Receipt {
                version: 1,
                id,
                boot: place.boot,
                index: place.index,
                session: session.transcript,
                partner: session.partner,
                number: place.number,
                previous_sha256: place.previous,
                model,
                model_sha256,
                release_sha256: release,
                lease_sha256: lease,
                request,
                response,
                finish,
                code,
                safeguard,
                record_sha256: record,
                started_ms: self.unix(started).0,
                ended_ms: self.unix(now).0,
            };
            SignedReceipt::sign(receipt, self.receipt_key(), |message| self.receipt_key.sign(message)).ok()
        });
        let Ok(signed) = signed else { return Err(NoReceipt::Full) };
        if let Some(sha256) = record {
            self.note(|at_ms| Entry::Record { sha256, receipt_sha256: signed.digest(), at_ms });
        }
        let holding =
            action.and_then(|action| self.count_verdict(&session.partner, action, &signed.digest()));
        Ok(Issued { envelope: signed.to_json(), holding })
    }

    /// Seals the exchange of a request, and has it wait for the host. Gives the record's digest, and what resolves when the host
    /// has stored it. `None` when nothing can be sealed.
    ///
    /// # Errors
    /// [`NoReceipt::NoSuchSession`].
    pub(super) fn record(
        &self,
        question: &ReceiptQuestion,
        sealed: &SealedExchange,
    ) -> Result<Option<(Sha256Digest, oneshot::Receiver<()>)>, NoReceipt> {
        if !self.receipt_key.knows(&question.session) {
            return Err(NoReceipt::NoSuchSession);
        }
        let Some(guard) = &self.guard else { return Ok(None) };
        let (Some(release), Some(now)) = (guard.in_force().release, guard.wall_time()) else {
            return Ok(None);
        };
        let facts = Facts {
            room: guard.snapshot().root().room.clone(),
            model: self.model_id.clone(),
            model_sha256: self.model_digest,
            boot: self.log.boot(),
            release,
        };
        Ok(self.retention.seal(facts, question.session.partner, question.id.clone(), sealed, now))
    }

    /// What the keeper holds for retention.
    pub(super) const fn retention(&self) -> &Retention {
        &self.retention
    }

    /// The log.
    pub(super) const fn log(&self) -> &Log {
        &self.log
    }

    /// The model and the digest of its weights.
    pub(super) const fn model(&self) -> (&ModelId, &Sha256Digest) {
        (&self.model_id, &self.model_digest)
    }

    /// Counts the verdict on a request. If that reaches a limit, the partner is held here at once.
    fn count_verdict(
        &self,
        partner_key: &Sha256Digest,
        action: SafeguardAction,
        receipt: &Sha256Digest,
    ) -> Option<Change> {
        let guard = self.guard.as_ref()?;
        let partner = guard.partner(partner_key)?;
        let limit = self.tallies.count(&partner, action, &guard.safeguard_limits(), self.clock.now())?;
        let release = guard.in_force().release?;
        if guard.is_held(&partner) {
            return None;
        }
        guard.hold(&partner, release);
        self.note(|at_ms| Entry::Hold { receipt_sha256: *receipt, limit: limit.to_string(), at_ms });
        Some(Change::Hold { partner, release })
    }

    /// Begins the log: proves to it which enclave it is of.
    ///
    /// # Errors
    /// [`SecurityModuleError`] when there is no document to prove it with.
    pub(super) async fn begin_log(&self) -> Result<(), SecurityModuleError> {
        let mut nonce = [0; Nonce::LENGTH];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| SecurityModuleError::Gone)?;
        let nonce = Nonce::from_bytes(nonce);
        let attestation = self.public_attestation(&nonce, None, None);
        let document = self.document(&attestation.evidence_request(), Precedence::Enclave).await?;
        let (model, at) = (self.model_id.clone(), self.unix(self.clock.now()));
        let record = BootRecord::new(self.receipt_key(), model, self.model_digest, at.0, &document);
        self.log.append(&Entry::Boot(record));
        // Sealed weights need a release and a lease before there is an attester.
        if let Some(shown) = self.guard.as_ref().and_then(|guard| guard.shown()) {
            let (release, lease) = (shown.release_digest, shown.lease_digest);
            self.log.append(&Entry::Release { sha256: release, at_ms: at.0 });
            self.log.append(&Entry::Lease { sha256: lease, release_sha256: release, at_ms: at.0 });
        }
        Ok(())
    }

    /// Appends what has happened, with the time, to the log.
    pub(super) fn note(&self, entry: impl FnOnce(u64) -> Entry) {
        let at = self.unix(self.clock.now());
        self.log.append(&entry(at.0));
    }

    /// What the host does not have of the log, which says that it has `size` entries on its disk.
    ///
    /// # Errors
    /// [`NoSuchSize`].
    pub(super) fn log_from(&self, size: Option<u64>) -> Result<Batch, NoSuchSize> {
        self.log.batch(size, self.clock.now(), self.unix(self.clock.now()))
    }

    /// Ends the log, and returns when the host has all of it. A host that never asked for any is not waited for.
    pub(super) async fn end_log(&self) {
        let now = self.clock.now();
        self.log.end(self.unix(now)).await;
    }

    /// The newest release and the last lease.
    fn in_force(&self) -> (Option<Sha256Digest>, Option<Sha256Digest>) {
        self.guard.as_ref().map_or((None, None), |guard| {
            let InForce { at: _, release, lease } = guard.in_force();
            (release, lease)
        })
    }

    /// A document of the security module, whose time stamp is noted.
    async fn document(
        &self,
        request: &EvidenceRequest,
        precedence: Precedence,
    ) -> Result<Vec<u8>, SecurityModuleError> {
        let asked = self.clock.now();
        let document = self.security_module.evidence(request, precedence).await?;
        let nonsense = SecurityModuleError::Nonsense { expected: "a document" };
        let stamp = Document::parse(&document).map_err(|_| nonsense)?.timestamp();
        let mut time = self.time.lock().unwrap_or_else(PoisonError::into_inner);
        if time.is_none_or(|(last, _)| last < asked) {
            *time = Some((asked, UnixMillis(stamp.as_millis())));
        }
        Ok(document)
    }

    /// A time of the machine's own clock by that of the security module.
    fn unix(&self, at: BootMillis) -> UnixMillis {
        let time = *self.time.lock().unwrap_or_else(PoisonError::into_inner);
        time.map_or(UnixMillis(0), |(asked, stamp)| {
            let unix = if at >= asked {
                stamp.0.saturating_add(at.0.saturating_sub(asked.0))
            } else {
                stamp.0.saturating_sub(asked.0.saturating_sub(at.0))
            };
            UnixMillis(unix)
        })
    }

    fn public_attestation<'a>(
        &'a self,
        nonce: &'a Nonce,
        release: Option<Sha256Digest>,
        lease: Option<Sha256Digest>,
    ) -> PublicAttestation<'a> {
        PublicAttestation {
            nonce,
            model_id: &self.model_id,
            model_digest: self.model_digest,
            release,
            lease,
            receipt_key: self.receipt_key(),
        }
    }

    /// The release and lease that a session of this partner is shown; nothing without release control.
    fn shown(&self, partner_key: &Sha256Digest) -> Result<Option<ShownRelease>, Refusal> {
        let Some(guard) = &self.guard else { return Ok(None) };
        guard.check_session(partner_key)?;
        guard.shown().map(Some).ok_or(Refusal::NoLease)
    }
}

fn refusal(error: &SecurityModuleError) -> RefusalCode {
    match error {
        SecurityModuleError::Busy => RefusalCode::Busy,
        _ => RefusalCode::NoEvidence,
    }
}

/// Why a request gets no receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoReceipt {
    /// The keeper made no evidence for the session: the worker lies.
    NoSuchSession,
    /// The enclave has met more partners than it keeps count of.
    Full,
}
