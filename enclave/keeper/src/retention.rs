//! Sealed retention, as the keeper carries it out: the secrets of days, the records that wait for the host, and openings.
//!
//! The keeper sees no exchange. The worker encrypts one under a key of its own, and the keeper splits that key among the brokers of
//! the day. To open a record the keeper joins the key again and seals it to the receiver.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::Entry;
use cleanroom_attestation::record::{MAX_RECORD_BYTES, RecordHead, RecordSubject};
use cleanroom_attestation::release::{
    BootMillis, Day, DayBrokers, Id, Opening, OpeningRefusal, Refusal, ReleaseError, Retention as Rule,
    UnixMillis, Verified,
};
use cleanroom_console::Line;
use cleanroom_guard::{Guard, RetentionTerms};
use cleanroom_key_release::{
    DayCollector, DayError, OpeningCollector, RecipientKey, RetentionAnswer, RetentionRequest,
    SEALS_AFTER_MS, Wanted, seal_record,
};
use cleanroom_link::control::{OpeningMessage, ShareMessage, ShareState};
use cleanroom_protocol::SealedExchange;
use tokio::sync::{Notify, oneshot};

use crate::broker_request::unattested;
use crate::log::Log;
use crate::security_module::{Precedence, SecurityModule, SecurityModuleError};

/// Bytes of records that wait for the host. Then no more are sealed, and what would need one fails.
const MAX_WAITING_BYTES: usize = 4 * MAX_RECORD_BYTES;
/// How long a record may wait for the host. Then nothing new is begun until the host has taken it.
pub(super) const STORED_WITHIN: Duration = Duration::from_secs(10);
/// How long a host that asks for a record waits for one.
const WAIT: Duration = Duration::from_secs(1);
/// How long the end waits for the host to fetch the last records, and how often it looks.
const LAST_FETCH: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(20);
/// Openings that are under way.
const OPENINGS: usize = 8;

/// What the keeper holds for retention.
pub(super) struct Retention {
    state: Mutex<State>,
    /// There is a record for the host.
    added: Notify,
}

#[derive(Default)]
struct State {
    /// The secrets of days, and the brokers that they are of.
    days: Option<(DayBrokers, DayCollector)>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// The host has asked for records.
    is_taken: bool,
    /// A record waited too long.
    is_stuck: bool,
    openings: VecDeque<Under>,
}

/// A record that the host has not stored.
struct Waiting {
    digest: Sha256Digest,
    record: Vec<u8>,
    stored: oneshot::Sender<()>,
}

/// An opening that is under way.
struct Under {
    opening: Verified<Opening>,
    head: RecordHead,
    envelope: Vec<u8>,
    collector: OpeningCollector,
    /// The log's size with the entry of this opening, once there is one.
    logged: Option<u64>,
}

/// What a record is of, as the keeper knows it.
pub(super) struct Facts {
    pub(super) room: Id,
    pub(super) model: ModelId,
    pub(super) model_sha256: Sha256Digest,
    pub(super) boot: Sha256Digest,
    pub(super) release: Sha256Digest,
}

/// Why nothing came of what the host brought.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// Release, lease or a denial do not permit it, or the release has no retention.
    #[error(transparent)]
    Terms(#[from] Refusal),
    /// The answer of a broker does not count.
    #[error(transparent)]
    Answer(#[from] DayError),
    /// The opening is not signed as it must be.
    #[error(transparent)]
    Signatures(#[from] ReleaseError),
    /// The opening does not open this record.
    #[error(transparent)]
    Opening(#[from] OpeningRefusal),
    /// The record is of another room or another model.
    #[error("the record is of another room or another model")]
    Elsewhere,
    /// No opening with this digest is under way.
    #[error("no opening with this digest is under way")]
    UnknownOpening,
    /// Brokers have still to give their parts.
    #[error("brokers have still to give their parts of the record")]
    PartsMissing,
    /// The host has not said that the log's entry of this opening is on its disk.
    #[error("the host has not stored the log's entry of this opening")]
    NotLogged,
    /// The release demands witnesses, and too few have cosigned the log's entry of this opening.
    #[error("too few of the release's witnesses have cosigned the log's entry of this opening")]
    NotWitnessed,
    /// The receiver's key is none.
    #[error("the receiver's key is no key")]
    Receiver,
    /// The security module gave no evidence.
    #[error(transparent)]
    SecurityModule(#[from] SecurityModuleError),
    /// It is not what it should be.
    #[error("the host's message does not have the form in docs/retention.md")]
    Form,
}

impl Refused {
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::Terms(refusal) => refusal.code(),
            Self::Answer(error) => error.code(),
            Self::Signatures(error) => error.code(),
            Self::Opening(refusal) => refusal.code(),
            Self::Elsewhere => "record-elsewhere",
            Self::UnknownOpening => "opening-unknown",
            Self::PartsMissing => "opening-parts-missing",
            Self::NotLogged => "opening-not-logged",
            Self::NotWitnessed => "opening-not-witnessed",
            Self::Receiver => "opening-receiver",
            Self::SecurityModule(_) => "security-module",
            Self::Form => "retention-form",
        }
    }
}

impl Retention {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), added: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole at every instruction that could unwind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until when records can be sealed, by the machine's own clock: while the secrets of a day are there that the release in
    /// force asks for, and a host that takes records. 0 when they cannot be.
    pub(super) fn seals_until(&self, guard: &Guard) -> BootMillis {
        let (now, never) = (guard.now(), BootMillis(0));
        let (Some(rule), Some(unix)) = (guard.retention(), guard.wall_time()) else { return never };
        let state = self.lock();
        let Some((brokers, days)) = &state.days else { return never };
        if *brokers != rule.brokers || !state.is_taken || state.is_stuck {
            return never;
        }
        days.sealing(unix).map_or(never, |secrets| {
            let end = Day(secrets.day().0.saturating_add(1)).begin().0.saturating_add(SEALS_AFTER_MS);
            now.plus(end.saturating_sub(unix.0))
        })
    }

    /// The brokers whose secret of the present day is wanted.
    pub(super) fn wanted(&self, guard: &Guard) -> ShareState {
        let none = ShareState { needed: 0, missing: Vec::new() };
        let (Ok(terms), Some(unix)) = (guard.retention_terms(), guard.wall_time()) else { return none };
        let mut state = self.lock();
        let missing = state.days(&terms.rule).missing(unix);
        ShareState { needed: missing.len() as u64, missing }
    }

    /// What a broker that gave a challenge is to get for the secret of the present day.
    pub(super) async fn ask(
        &self,
        guard: &Guard,
        model: &ModelId,
        security_module: &SecurityModule,
        body: &[u8],
    ) -> Result<Vec<u8>, Refused> {
        let ShareMessage { broker, bytes } = ShareMessage::decode(body).ok_or(Refused::Form)?;
        let terms = guard.retention_terms()?;
        let unix = guard.wall_time().ok_or(Refused::Form)?;
        let recipient = self.lock().days(&terms.rule).recipient().clone();
        let wanted = Wanted::Secret(Day::of(unix));
        let request = request(&bytes, broker, model, terms, recipient, wanted, security_module).await?;
        let bytes = request.encode();
        self.lock().collector()?.ask(request)?;
        Ok(bytes)
    }

    /// Takes a broker's answer with the secret of a day.
    pub(super) fn take(&self, guard: &Guard, body: &[u8]) -> Result<ShareState, Refused> {
        let ShareMessage { broker, bytes } = ShareMessage::decode(body).ok_or(Refused::Form)?;
        let answer = RetentionAnswer::decode(&bytes).ok_or(Refused::Form)?;
        let terms = guard.retention_terms()?;
        {
            let mut state = self.lock();
            state.days(&terms.rule).take(&broker, &answer)?;
        }
        Line::DayTaken { broker: &broker }.say();
        Ok(self.wanted(guard))
    }

    /// Makes the record of an exchange and has it wait for the host. Gives its digest, and what resolves when the host has stored
    /// it. `None` when it cannot be sealed now, or too many wait.
    pub(super) fn seal(
        &self,
        facts: Facts,
        partner: Sha256Digest,
        receipt: cleanroom_attestation::receipt::ReceiptId,
        sealed: &SealedExchange,
        now: UnixMillis,
    ) -> Option<(Sha256Digest, oneshot::Receiver<()>)> {
        let Facts { room, model, model_sha256, boot, release } = facts;
        let mut state = self.lock();
        let subject = RecordSubject {
            serial: [0; 32],
            room,
            model,
            model_sha256,
            boot,
            receipt,
            partner,
            day: Day(0),
            release,
            body: Sha256Digest::of(&[&sealed.body]),
        };
        let (_, days) = state.days.as_ref()?;
        let head = seal_record(subject, &sealed.key, &days.sealing(now)?)?;
        let (digest, record) = (head.digest(), head.record(&sealed.body));
        if state.waiting_bytes.saturating_add(record.len()) > MAX_WAITING_BYTES {
            return None;
        }
        let (stored, is_stored) = oneshot::channel();
        state.waiting_bytes = state.waiting_bytes.saturating_add(record.len());
        state.waiting.push_back(Waiting { digest, record, stored });
        drop(state);
        self.added.notify_one();
        Some((digest, is_stored))
    }

    /// Notes that a record waited too long for the host.
    pub(super) fn stuck(&self) {
        self.lock().is_stuck = true;
    }

    /// The next record for the host, which has stored the one with the digest in `body`, if there is one there. `None` when none
    /// comes for a while.
    pub(super) async fn next(&self, body: &[u8]) -> Result<Option<Vec<u8>>, Refused> {
        let stored: Option<Sha256Digest> = match body {
            [] => None,
            digest => Some(digest.try_into().map_err(|_| Refused::Form)?),
        };
        {
            let mut state = self.lock();
            state.is_taken = true;
            if let Some(at) = state.waiting.iter().position(|one| Some(one.digest) == stored)
                && let Some(Waiting { record, stored, .. }) = state.waiting.remove(at)
            {
                state.waiting_bytes = state.waiting_bytes.saturating_sub(record.len());
                let _ = stored.send(());
            }
            if state.waiting.is_empty() {
                state.is_stuck = false;
            }
        }
        let there = || self.lock().waiting.front().map(|one| one.record.clone());
        if let Some(record) = there() {
            return Ok(Some(record));
        }
        let _ = tokio::time::timeout(WAIT, self.added.notified()).await;
        Ok(there())
    }

    /// Waits until the host has stored every record that waits, if it has ever taken any, but not for long.
    pub(super) async fn drained(&self) {
        let is_done = || {
            let state = self.lock();
            state.waiting.is_empty() || !state.is_taken
        };
        let all = async {
            while !is_done() {
                tokio::time::sleep(LOOK).await;
            }
        };
        // A host that does not come for them has receipts that name records which it does not have, or no receipts.
        let _ = tokio::time::timeout(LAST_FETCH, all).await;
    }

    /// Begins an opening, or says how far it is.
    pub(super) fn open(
        &self,
        guard: &Guard,
        model: &Sha256Digest,
        body: &[u8],
    ) -> Result<ShareState, Refused> {
        let OpeningMessage { head, opening: envelope } = OpeningMessage::decode(body).ok_or(Refused::Form)?;
        let terms = guard.retention_terms()?;
        let head = RecordHead::parse(&head).map_err(|_| Refused::Form)?;
        let snapshot = guard.snapshot();
        let opening: Verified<Opening> = snapshot.root().open(&envelope)?;
        if head.subject.room != snapshot.root().room || head.subject.model_sha256 != *model {
            return Err(Refused::Elsewhere);
        }
        check_use(guard, &terms.rule, &opening, &head)?;
        let mut state = self.lock();
        let digest = opening.digest();
        if !state.openings.iter().any(|under| under.opening.digest() == digest) {
            if state.openings.len() >= OPENINGS {
                state.openings.pop_front();
            }
            let collector = OpeningCollector::new(head.clone(), terms.rule.brokers);
            state.openings.push_back(Under { opening, head, envelope, collector, logged: None });
        }
        Ok(state.under(&digest)?.state())
    }

    /// What a broker that gave a challenge is to get for its part of a record.
    pub(super) async fn ask_part(
        &self,
        guard: &Guard,
        model: &ModelId,
        security_module: &SecurityModule,
        body: &[u8],
    ) -> Result<Vec<u8>, Refused> {
        let (digest, ShareMessage { broker, bytes }) = of_opening(body)?;
        let terms = guard.retention_terms()?;
        let (recipient, wanted) = {
            let mut state = self.lock();
            let under = state.under(&digest)?;
            check_use(guard, &terms.rule, &under.opening, &under.head)?;
            let wanted = Wanted::Part { head: under.head.to_bytes(), opening: under.envelope.clone() };
            (under.collector.recipient().clone(), wanted)
        };
        let request = request(&bytes, broker, model, terms, recipient, wanted, security_module).await?;
        let bytes = request.encode();
        self.lock().under(&digest)?.collector.ask(request)?;
        Ok(bytes)
    }

    /// Takes a broker's answer with the key of its part. With the last one that is needed, the opening gets its entry in `log`.
    pub(super) fn take_part(&self, guard: &Guard, log: &Log, body: &[u8]) -> Result<ShareState, Refused> {
        let (digest, ShareMessage { broker, bytes }) = of_opening(body)?;
        let answer = RetentionAnswer::decode(&bytes).ok_or(Refused::Form)?;
        let now = guard.wall_time().ok_or(Refused::Form)?;
        let mut state = self.lock();
        let under = state.under(&digest)?;
        under.collector.take(&broker, &answer)?;
        if under.collector.still_needed() == 0 && under.logged.is_none() {
            let Opening { record, reason, text, .. } = &*under.opening;
            under.logged = Some(log.append(&Entry::Opening {
                sha256: digest,
                record_sha256: *record,
                reason: reason.to_string(),
                text: text.to_string(),
                at_ms: now.0,
            }));
            Line::RecordOpened { record }.say();
        }
        Ok(under.state())
    }

    /// The key of the record, sealed to the receiver, once the host has the log's entry of the opening on its disk.
    pub(super) fn opened(&self, guard: &Guard, log: &Log, body: &[u8]) -> Result<Vec<u8>, Refused> {
        let digest: Sha256Digest = body.try_into().map_err(|_| Refused::Form)?;
        let terms = guard.retention_terms()?;
        let mut state = self.lock();
        let under = state.under(&digest)?;
        check_use(guard, &terms.rule, &under.opening, &under.head)?;
        let size = under.logged.ok_or(Refused::PartsMissing)?;
        if !log.has_stored(size) {
            return Err(Refused::NotLogged);
        }
        // A host may say that it has stored what it shows to nobody. Witnesses do not.
        if !guard.witness_rules().is_empty() && !log.is_witnessed(size) {
            return Err(Refused::NotWitnessed);
        }
        under.collector.finish(&under.opening.receiver, &digest).ok_or(Refused::Receiver)
    }
}

impl State {
    /// The collector for these brokers. With others it begins anew.
    fn days(&mut self, rule: &Rule) -> &mut DayCollector {
        let brokers = &rule.brokers;
        if self.days.as_ref().is_some_and(|(known, _)| known != brokers) {
            self.days = None;
        }
        let begin = || (brokers.clone(), DayCollector::new(brokers.clone()));
        &mut self.days.get_or_insert_with(begin).1
    }

    fn collector(&mut self) -> Result<&mut DayCollector, Refused> {
        self.days.as_mut().map(|(_, days)| days).ok_or(Refused::Form)
    }

    fn under(&mut self, digest: &Sha256Digest) -> Result<&mut Under, Refused> {
        let under = self.openings.iter_mut().find(|under| under.opening.digest() == *digest);
        under.ok_or(Refused::UnknownOpening)
    }
}

impl Under {
    fn state(&self) -> ShareState {
        let needed = self.collector.still_needed() as u64;
        ShareState { needed, missing: self.collector.missing() }
    }
}

/// Whether the opening opens the record now, under the release in force.
fn check_use(guard: &Guard, rule: &Rule, opening: &Opening, head: &RecordHead) -> Result<(), Refused> {
    let now = guard.wall_time().unwrap_or(UnixMillis(u64::MAX));
    Ok(opening.check_use(rule, &head.facts(), now)?)
}

/// Splits `SHA-256 of the opening, then a broker's message`.
fn of_opening(body: &[u8]) -> Result<(Sha256Digest, ShareMessage), Refused> {
    let (digest, message) = body.split_first_chunk::<{ Sha256Digest::LENGTH }>().ok_or(Refused::Form)?;
    let message = ShareMessage::decode(message).ok_or(Refused::Form)?;
    Ok((Sha256Digest::from_bytes(*digest), message))
}

async fn request(
    challenge: &[u8],
    broker: Id,
    model: &ModelId,
    terms: RetentionTerms,
    recipient: RecipientKey,
    wanted: Wanted,
    security_module: &SecurityModule,
) -> Result<RetentionRequest, Refused> {
    let RetentionTerms { documents, model: digest, rule: _ } = terms;
    let asked = unattested(challenge, broker, (model.clone(), digest), documents, recipient);
    let asked = asked.ok_or(Refused::Form)?;
    let mut request = RetentionRequest { asked, wanted };
    let evidence = request.evidence_request();
    request.asked.document = security_module.evidence(&evidence, Precedence::Enclave).await?;
    Ok(request)
}
