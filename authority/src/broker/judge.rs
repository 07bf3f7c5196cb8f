//! Whether an enclave gets the share: every check, in order, and an entry in the log before any answer.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use cleanroom_attestation::channel::EvidenceRequest;
use cleanroom_attestation::channel::boot_measurement::{self, Registers};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::document::Pcrs;
use cleanroom_attestation::measurement::extended_once;
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::record::RecordHead;
use cleanroom_attestation::release::{
    Model, ModelState, Opening, Release, Retention, ShownTerms, TrustedState, Verified,
};
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::{AcceptedEvidence, Expectation, appraise};
use cleanroom_key_release::{
    DaySecret, RetentionAnswer, RetentionRequest, SealedShare, ShareRequest, Wanted,
};
use cleanroom_program::clock::{BootInstant, Clock};
use serde_json::{Value, json};

use super::allowed::Allowed;
use super::challenge::{Challenges, Stale};
use super::days::Days;
use super::log::{Asked, Entry, Log, Proven, Result as Event, written};
use super::share_file::HeldShare;
use crate::add;
use crate::chain::{self, Fingerprint, LOOK_AGAIN, RootArguments};
use crate::failure::Failure;
use crate::files;
use crate::issuer::{Kind, Refusal, refusal};
use crate::serve::whether_another;
use crate::status::summary;

/// Shares for one security module, which is one boot of one enclave, within [`WINDOW`]. An enclave needs one.
const SHARES_PER_MODULE: usize = 10;
/// See [`SHARES_PER_MODULE`].
const WINDOW: Duration = Duration::from_secs(600);
/// Security modules that are remembered.
const MODULES: usize = 4096;
/// Entries for refusals within a minute: so many of requests that prove nothing, which anybody can send, and so many of genuine
/// enclaves, of which a host can start any number. They must not fill the disk.
const REFUSALS_PER_MINUTE: u64 = 60;

/// A broker: its share, and what it wants to see before it gives it.
pub(super) struct Broker {
    pub(super) roots: RootArguments,
    pub(super) release: PathBuf,
    pub(super) denials: PathBuf,
    pub(super) own: Own,
    pub(super) shares: Vec<HeldShare>,
    pub(super) days: Option<Days>,
    pub(super) challenges: Challenges,
    pub(super) clock: Clock,
    pub(super) held: Mutex<Documents>,
    pub(super) log: Mutex<Log>,
    pub(super) rates: Mutex<Rates>,
}

/// What this broker's operator says, in files that are read again when the operator asks for it.
pub(super) struct Own {
    policy: PathBuf,
    allow: PathBuf,
    in_force: RwLock<Arc<Rules>>,
}

/// What those files say. One request is judged by one of these.
pub(super) struct Rules {
    /// Which security modules are believed.
    policy: Policy,
    /// To whom the broker gives anything at all.
    allowed: Allowed,
}

impl Rules {
    fn read(policy: &Path, allow: &Path) -> Result<Self, Failure> {
        Ok(Self { policy: files::policy(policy)?, allowed: Allowed::read(allow)? })
    }

    /// The document is genuine, of an image of the release, and was made for exactly this request.
    fn appraise(
        &self,
        document: &[u8],
        expected: &EvidenceRequest,
        release: &Release,
    ) -> Result<AcceptedEvidence, Refusal> {
        let expectation = Expectation {
            nonce: Some(expected.nonce()),
            user_data: Some(expected.user_data()),
            ..Expectation::default()
        };
        let at = Timestamp::from_millis(chain::now().0);
        let policy = self.policy.with_release(release);
        let verdict = appraise(document, &policy, &expectation, at, None);
        match verdict.accepted() {
            Ok(evidence) => Ok(evidence.clone()),
            Err(rejection) => Err(refusal(Kind::Forbidden, rejection.code(), &rejection.to_string())),
        }
    }

    /// The enclave runs where it may, and its image is on the broker's own list. Gives its registers.
    fn check_enclave<'e>(
        &self,
        evidence: &'e AcceptedEvidence,
        release: &Release,
    ) -> Result<&'e Pcrs, Refusal> {
        let forbidden = |code, message: &str| Err(refusal(Kind::Forbidden, code, message));
        // A TPM's registers say nothing of a deployment.
        let register = |index| evidence.pcrs().enclave().and_then(|pcrs| pcrs.get(index));
        if !release.permits_deployment(register(3), register(4), register(8)) {
            return forbidden("deployment", "the release does not let its images run there");
        }
        if !self.allowed.allows_image(evidence.pcrs()) {
            return forbidden("image-not-allowed", "this image is not on the broker's own list");
        }
        Ok(evidence.pcrs())
    }
}

impl Own {
    pub(super) fn read(policy: PathBuf, allow: PathBuf) -> Result<Self, Failure> {
        let in_force = RwLock::new(Arc::new(Rules::read(&policy, &allow)?));
        Ok(Self { policy, allow, in_force })
    }

    /// Reads both files again, and says which of them is another one. If one cannot be used, neither counts.
    pub(super) fn read_again(&self) -> Result<String, Failure> {
        let new = Arc::new(Rules::read(&self.policy, &self.allow)?);
        let mut in_force = self.in_force.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *in_force, Arc::clone(&new));
        drop(in_force);
        let [policy, allowed] = [old.policy != new.policy, old.allowed != new.allowed].map(whether_another);
        Ok(format!(
            "policy: {policy}, own list: {allowed}; root, release and denials are looked at all the time"
        ))
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.in_force.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the authorities have signed.
pub(super) struct Documents {
    /// What was read from the files so far. It is only ever added to.
    state: Arc<TrustedState>,
    /// The files that were read last.
    looked_at: Option<Fingerprint>,
    /// When they could not be used.
    failed: Option<BootInstant>,
}

impl Documents {
    pub(super) fn new(state: TrustedState) -> Mutex<Self> {
        Mutex::new(Self { state: Arc::new(state), looked_at: None, failed: None })
    }
}

/// How much was given and refused lately.
#[derive(Default)]
pub(super) struct Rates {
    given: HashMap<String, VecDeque<BootInstant>>,
    unproven: Minute,
    proven: Minute,
    left_out: u64,
}

/// The entries of one minute.
#[derive(Default)]
struct Minute {
    since: Option<BootInstant>,
    entries: u64,
}

impl Minute {
    /// Whether there may be one more.
    fn may(&mut self, now: BootInstant) -> bool {
        if self.since.is_none_or(|since| now.since(since) >= Duration::from_secs(60)) {
            (self.since, self.entries) = (Some(now), 0);
        }
        self.entries += 1;
        self.entries <= REFUSALS_PER_MINUTE
    }
}

/// A request that was refused, and how far it came.
struct Refused {
    refusal: Refusal,
    asked: Option<Asked>,
    proven: Option<Proven>,
}

impl Broker {
    /// A challenge: 32 bytes.
    pub(super) fn challenge(&self) -> Result<Vec<u8>, Refusal> {
        let nonce = self.challenges.give(self.elapsed());
        let nonce = nonce.ok_or_else(|| refusal(Kind::Unusable, "random", "no random numbers"))?;
        Ok(nonce.as_bytes().to_vec())
    }

    /// The share for the enclave that sent `body`, sealed to it. The log has it, on the disk, when this returns.
    pub(super) fn share(&self, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        self.logged(
            self.judge(body).map(|(sealed, asked, proven)| (sealed.as_bytes().to_vec(), asked, proven)),
        )
    }

    /// The secret of the day, or the broker's part of a record, for the enclave that sent `body`, sealed to it and signed. The log
    /// has it, on the disk, when this returns.
    pub(super) fn retention(&self, body: &[u8]) -> Result<Vec<u8>, Refusal> {
        self.logged(self.judge_retention(body))
    }

    /// The answer, once the log has an entry for it, and an entry for a refusal.
    fn logged(&self, judged: Result<(Vec<u8>, Asked, Proven), Box<Refused>>) -> Result<Vec<u8>, Refusal> {
        match judged {
            Ok((answer, asked, proven)) => {
                let entry = self.entry(Event::Given, None, Some(asked), Some(proven));
                // Not in the log: not given.
                self.append(entry).map_err(|()| {
                    refusal(
                        Kind::Unusable,
                        "not-logged",
                        "the share could not be put into the log, so it is not given",
                    )
                })?;
                Ok(answer)
            }
            Err(refused) => {
                let Refused { refusal, asked, proven } = *refused;
                if self.may_log_refusal(proven.is_some()) {
                    let code = Some(refusal.code.to_owned());
                    // It is refused either way; the program's own log says that the disk is full.
                    let _ = self.append(self.entry(Event::Refused, code, asked, proven));
                }
                Err(refusal)
            }
        }
    }

    fn judge(&self, body: &[u8]) -> Result<(SealedShare, Asked, Proven), Box<Refused>> {
        let unproven = |refusal| Box::new(Refused { refusal, asked: None, proven: None });
        let request = ShareRequest::decode(body)
            .map_err(|error| unproven(refusal(Kind::Malformed, "share-request", &error.to_string())))?;
        let asked = asked(&request);
        let claimed = |refusal| Box::new(Refused { refusal, asked: Some(asked.clone()), proven: None });
        self.check_challenge(&request).map_err(claimed)?;
        let (rules, state) = (self.own.rules(), self.documents().map_err(claimed)?);
        let release = check_versions(&state, &request).map_err(claimed)?;
        let share = self.check_model(&rules, &state, release, &request).map_err(claimed)?;
        let expected = request.evidence().evidence_request();
        let evidence = rules.appraise(&request.document, &expected, release).map_err(claimed)?;
        let proven =
            Proven { module_id: evidence.module_id().to_owned(), image: evidence.image().to_owned() };
        let known =
            |refusal| Box::new(Refused { refusal, asked: Some(asked.clone()), proven: Some(proven.clone()) });
        let pcrs = rules.check_enclave(&evidence, release).map_err(known)?;
        check_untouched(pcrs).map_err(known)?;
        check_lease(&state, release, &request).map_err(known)?;
        self.check_rate(evidence.module_id()).map_err(known)?;
        let sealed = SealedShare::seal(share, &request)
            .ok_or_else(|| known(refusal(Kind::Unusable, "library", "the cryptographic library failed")))?;
        Ok((sealed, asked, proven))
    }

    fn judge_retention(&self, body: &[u8]) -> Result<(Vec<u8>, Asked, Proven), Box<Refused>> {
        let unproven = |refusal| Box::new(Refused { refusal, asked: None, proven: None });
        let request = RetentionRequest::decode(body)
            .map_err(|error| unproven(refusal(Kind::Malformed, "retention-request", &error.to_string())))?;
        let asked = Asked { retention: Some(words(&request.wanted)), ..asked(&request.asked) };
        let claimed = |refusal| Box::new(Refused { refusal, asked: Some(asked.clone()), proven: None });
        self.check_challenge(&request.asked).map_err(claimed)?;
        let (rules, state) = (self.own.rules(), self.documents().map_err(claimed)?);
        let release = check_versions(&state, &request.asked).map_err(claimed)?;
        let (days, rule) = self.check_retention(&rules, release, &request.asked).map_err(claimed)?;
        match &request.wanted {
            Wanted::Secret(_) => check_serves(&state, release, &request.asked),
            Wanted::Part { head, opening } => check_opening(&state, rule, &request.asked, head, opening),
        }
        .map_err(claimed)?;
        let expected = request.evidence_request();
        let evidence = rules.appraise(&request.asked.document, &expected, release).map_err(claimed)?;
        let proven =
            Proven { module_id: evidence.module_id().to_owned(), image: evidence.image().to_owned() };
        let known =
            |refusal| Box::new(Refused { refusal, asked: Some(asked.clone()), proven: Some(proven.clone()) });
        let pcrs = rules.check_enclave(&evidence, release).map_err(known)?;
        check_committed(pcrs, &request.asked.model_digest).map_err(known)?;
        check_lease(&state, release, &request.asked).map_err(known)?;
        self.check_rate(evidence.module_id()).map_err(known)?;
        let answer = answer_for(days, rule, &request).map_err(known)?;
        Ok((answer.encode(), asked, proven))
    }

    /// The model is the release's and on the broker's own list, and its retention names this broker and its key.
    fn check_retention<'r>(
        &self,
        rules: &Rules,
        release: &'r Release,
        asked: &ShareRequest,
    ) -> Result<(&Days, &'r Retention), Refusal> {
        let forbidden = |code, message: &str| Err(refusal(Kind::Forbidden, code, message));
        let (id, sha256) = (&asked.model_id, &asked.model_digest);
        let model = release.model(id.as_str()).filter(|model| model.sha256 == *sha256);
        let Some(rule) = model.and_then(|model| model.retention.as_ref()) else {
            return forbidden(
                "retention-not-released",
                "the release has no retention for this model and digest",
            );
        };
        if !rules.allowed.allows_model(id, sha256) {
            return forbidden("model-not-allowed", "this model is not on the broker's own list");
        }
        match (&self.days, rule.broker(&asked.broker)) {
            (Some(days), Some(broker)) if broker.key == days.public() => Ok((days, rule)),
            _ => forbidden(
                "broker-unknown",
                "the release names another key for this broker's answers, or none",
            ),
        }
    }

    /// Deletes the secrets of days whose retention is over by this machine's clock.
    pub(super) fn sweep(&self) {
        let Some(days) = &self.days else { return };
        // Documents that cannot be used shorten nothing; what was promised when a secret was made still holds.
        let state = self.documents().ok();
        let release = state.as_ref().and_then(|state| state.release());
        days.sweep(chain::now(), |sha256| {
            let model = release?.models.iter().find(|model| model.sha256 == *sha256)?;
            model.retention.as_ref().map(|rule| rule.days)
        });
    }

    /// The challenge is one of this broker's, fresh, and was not answered before.
    fn check_challenge(&self, request: &ShareRequest) -> Result<(), Refusal> {
        self.challenges.answer(&request.nonce, self.elapsed()).map_err(|stale| match stale {
            Stale::Unknown => refusal(
                Kind::Forbidden,
                "challenge-unknown",
                "this broker did not give this challenge within the last minute; ask for another",
            ),
            Stale::Answered => {
                refusal(Kind::Forbidden, "challenge-answered", "this challenge was answered before")
            }
        })
    }

    /// What the authorities have signed, by this broker's own files. Nothing is given while they cannot be used.
    ///
    /// Anybody can ask, so files that did not change are not read again.
    fn documents(&self) -> Result<Arc<TrustedState>, Refusal> {
        let mut held = self.held();
        let seen = self.roots.fingerprint(&self.release, &self.denials);
        let (is_unchanged, now) = (seen.as_ref().ok() == held.looked_at.as_ref(), self.clock.now());
        let is_known = match held.failed {
            None => is_unchanged && held.looked_at.is_some(),
            Some(failed) => is_unchanged && now.since(failed) < LOOK_AGAIN,
        };
        if !is_known {
            let mut state = TrustedState::clone(&held.state);
            held.looked_at = seen.as_ref().ok().cloned();
            let read =
                seen.and_then(|_| self.roots.update(&mut state, Some(&self.release), Some(&self.denials)));
            // Good documents are taken even if others are bad: denials above all.
            held.state = Arc::new(state);
            held.failed = read.err().map(|failure| {
                tracing::error!(%failure, "no shares until this is repaired");
                now
            });
        }
        match held.failed {
            None => Ok(Arc::clone(&held.state)),
            Some(_) => Err(refusal(
                Kind::Unusable,
                "inputs-unusable",
                "this broker's documents cannot be used; its operator finds the reason in its log",
            )),
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, Documents> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model is the release's, serves, names this broker and its share, and is on the broker's own list.
    fn check_model(
        &self,
        rules: &Rules,
        state: &TrustedState,
        release: &Release,
        request: &ShareRequest,
    ) -> Result<&cleanroom_key_release::Share, Refusal> {
        let forbidden = |code, message: &str| Err(refusal(Kind::Forbidden, code, message));
        let (id, sha256) = (&request.model_id, &request.model_digest);
        let model = release.model(id.as_str()).filter(|model| model.sha256 == *sha256);
        let Some(Model { weights: Some(weights), state: model_state, .. }) = model else {
            return forbidden(
                "model-not-released",
                "the release has no sealed model of this name and digest",
            );
        };
        if state.model(id.as_str()).is_none_or(|model| model.denied) {
            return forbidden("model-denied", "an authority has halted this model");
        }
        if *model_state != ModelState::Active {
            return forbidden("model-not-active", "the release does not let this model serve");
        }
        if !rules.allowed.allows_model(id, sha256) {
            return forbidden("model-not-allowed", "this model is not on the broker's own list");
        }
        let named = weights.brokers.of.iter().find(|broker| broker.name == request.broker);
        let held = self.shares.iter().find(|held| held.model == *sha256 && held.broker == request.broker);
        match (named, held) {
            (Some(named), Some(held)) if held.commitment() == named.sha256 => Ok(&held.share),
            _ => {
                forbidden("share-unknown", "this broker has no such share as the release names for the model")
            }
        }
    }

    /// Not more for one boot of an enclave than it can need.
    fn check_rate(&self, module_id: &str) -> Result<(), Refusal> {
        let now = self.clock.now();
        let Rates { given, .. } = &mut *self.rates();
        given.retain(|_, times| {
            times.retain(|time| now.since(*time) < WINDOW);
            !times.is_empty()
        });
        let many =
            refusal(Kind::Forbidden, "too-many-shares", "this enclave had its share often enough; wait");
        if given.len() >= MODULES && !given.contains_key(module_id) {
            return Err(many);
        }
        let times = given.entry(module_id.to_owned()).or_default();
        if times.len() >= SHARES_PER_MODULE {
            return Err(many);
        }
        times.push_back(now);
        Ok(())
    }

    /// Whether one more refusal gets an entry. Others are counted in the next entry.
    fn may_log_refusal(&self, is_proven: bool) -> bool {
        let has_room = self.log().takes_refusals();
        let Rates { unproven, proven, left_out, .. } = &mut *self.rates();
        let minute = if is_proven { proven } else { unproven };
        let may = has_room && minute.may(self.clock.now());
        *left_out += u64::from(!may);
        may
    }

    fn entry(
        &self,
        result: Event,
        code: Option<String>,
        asked: Option<Asked>,
        enclave: Option<Proven>,
    ) -> Entry {
        let left_out = std::mem::take(&mut self.rates().left_out);
        Entry { result, code, asked, enclave, left_out }
    }

    fn append(&self, entry: Entry) -> Result<(), ()> {
        let mut log = self.log();
        if log.is_full() {
            tracing::error!("no shares: the log is full; move it away and start again");
            return Err(());
        }
        log.append(chain::now(), entry).map_err(|error| tracing::error!(%error, "the log cannot be written"))
    }

    /// What the broker holds, without the share.
    pub(super) fn status(&self) -> Value {
        let problem = self.documents().err().map(|refusal| refusal.code);
        let state = Arc::clone(&self.held().state);
        let mut status = summary(&state, chain::now());
        let shares = self.shares.iter().map(|held| {
            json!({ "broker": held.broker, "model_sha256": held.model, "commitment": held.commitment() })
        });
        let log = self.log();
        add(&mut status, "shares", shares.collect::<Value>());
        add(
            &mut status,
            "log",
            json!({ "entries": log.number(), "last": log.last(), "full": log.is_full() }),
        );
        if let Some(days) = &self.days {
            add(&mut status, "days", json!(days.held()));
        }
        if let Some(code) = problem {
            add(&mut status, "problem", code);
        }
        status
    }

    /// Entries of the log.
    pub(super) fn entries(&self) -> u64 {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).number()
    }

    fn rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine's own time.
    fn elapsed(&self) -> Duration {
        self.clock.now().since(BootInstant::from_millis(0))
    }
}

/// The registers that commit to the model and to the receipt key, and the rules of their platform.
fn commitments(pcrs: &Pcrs) -> (Registers, [Option<&Sha384Digest>; 2]) {
    let registers = match pcrs {
        Pcrs::NitroEnclave(_) => Registers::Enclave,
        Pcrs::NitroTpm(_) => Registers::NitroTpm,
    };
    let values = [registers.model(), registers.receipt_key()].map(|index| match pcrs {
        Pcrs::NitroEnclave(pcrs) => pcrs.get(index),
        Pcrs::NitroTpm(pcrs) => pcrs.get(index),
    });
    (registers, values)
}

/// The enclave has committed to nothing yet.
fn check_untouched(pcrs: &Pcrs) -> Result<(), Refusal> {
    let (registers, values) = commitments(pcrs);
    // A register of an enclave that nothing was written into is absent, or zero. A TPM has all of its registers.
    let untouched = |value: Option<&Sha384Digest>| match registers {
        Registers::Enclave => value.is_none_or(Sha384Digest::is_zero),
        Registers::NitroTpm => value.is_some_and(Sha384Digest::is_zero),
    };
    if !values.into_iter().all(untouched) {
        let message = "this enclave has committed to a model already and needs no key";
        return Err(refusal(Kind::Forbidden, "model-committed", message));
    }
    Ok(())
}

/// The enclave has committed to this model and to a receipt key.
fn check_committed(pcrs: &Pcrs, model: &Sha256Digest) -> Result<(), Refusal> {
    let (registers, [committed, receipt_key]) = commitments(pcrs);
    let expected = registers.closed(&extended_once(boot_measurement::model(model).as_bytes()));
    if committed != Some(&expected) || receipt_key.is_none_or(Sha384Digest::is_zero) {
        let message = "this enclave has not committed to this model and to a receipt key";
        return Err(refusal(Kind::Forbidden, "model-not-committed", message));
    }
    Ok(())
}

/// The model serves, so that there can be something to seal.
fn check_serves(state: &TrustedState, release: &Release, asked: &ShareRequest) -> Result<(), Refusal> {
    let id = asked.model_id.as_str();
    if state.model(id).is_none_or(|model| model.denied) {
        return Err(refusal(Kind::Forbidden, "model-denied", "an authority has halted this model"));
    }
    match release.model(id).map(|model| model.state) {
        Some(ModelState::Active | ModelState::Draining) => Ok(()),
        _ => Err(refusal(Kind::Forbidden, "model-not-active", "the release does not let this model serve")),
    }
}

/// A quorum has signed the opening, and it opens this record of this room and model now.
fn check_opening(
    state: &TrustedState,
    rule: &Retention,
    asked: &ShareRequest,
    head: &[u8],
    opening: &[u8],
) -> Result<(), Refusal> {
    let head =
        RecordHead::parse(head).map_err(|error| refusal(Kind::Malformed, "record", &error.to_string()))?;
    if head.subject.room != state.root().room || head.subject.model_sha256 != asked.model_digest {
        let message = "the record is of another room or another model";
        return Err(refusal(Kind::Forbidden, "record-elsewhere", message));
    }
    let opening: Verified<Opening> = (state.root().open(opening))
        .map_err(|error| refusal(Kind::Forbidden, error.code(), &error.to_string()))?;
    opening
        .check_use(rule, &head.facts(), chain::now())
        .map_err(|error| refusal(Kind::Forbidden, error.code(), &error.to_string()))
}

/// What the enclave is given.
fn answer_for(days: &Days, rule: &Retention, request: &RetentionRequest) -> Result<RetentionAnswer, Refusal> {
    let (model, now) = (&request.asked.model_digest, chain::now());
    let failed = || refusal(Kind::Unusable, "library", "the cryptographic library failed");
    let seal = |bytes: &[u8; DaySecret::LENGTH]| {
        RetentionAnswer::seal(bytes, request, |message| days.sign(message)).ok_or_else(failed)
    };
    match &request.wanted {
        Wanted::Secret(day) => seal(days.to_seal(*day, model, rule.days, now)?.as_bytes()),
        Wanted::Part { head, opening: _ } => {
            let head = RecordHead::parse(head)
                .map_err(|error| refusal(Kind::Malformed, "record", &error.to_string()))?;
            let secret = days.to_open(head.subject.day, model, rule.days, now)?;
            let part = secret.part(&request.asked.broker, &head.subject).ok_or_else(failed)?;
            seal(part.as_bytes())
        }
    }
}

/// What is wanted, for the log.
fn words(wanted: &Wanted) -> String {
    match wanted {
        Wanted::Secret(day) => format!("secret {day}"),
        Wanted::Part { head, opening: _ } => format!("part {}", Sha256Digest::of(&[head])),
    }
}

/// The enclave holds the newest root and release, and neither has ended.
fn check_versions<'s>(
    state: &'s TrustedState,
    request: &ShareRequest,
) -> Result<&'s Verified<Release>, Refusal> {
    let at = chain::now();
    let root = state.root();
    if (request.root_version, request.root) != (root.version, root.digest()) {
        let message = "this broker holds another version of the root; give the enclave every root up to it";
        return Err(refusal(Kind::Outdated, "root-outdated", message));
    }
    if at >= root.expires {
        return Err(refusal(Kind::Forbidden, "root-expired", "the root has expired; rotate it"));
    }
    let release = state.release();
    let release =
        release.ok_or_else(|| refusal(Kind::Unusable, "no-release", "this broker has no release"))?;
    if request.release != release.digest() {
        let message = "this broker holds another release; give the enclave the newest one";
        return Err(refusal(Kind::Outdated, "release-outdated", message));
    }
    if at >= release.expires {
        return Err(refusal(Kind::Forbidden, "release-expired", "the release has expired; sign a newer one"));
    }
    Ok(release)
}

/// The enclave shows a lease for this release that enough issuers gave, and that has not ended.
fn check_lease(
    state: &TrustedState,
    release: &Verified<Release>,
    request: &ShareRequest,
) -> Result<(), Refusal> {
    let shown = ShownTerms::open(state.root(), &release.envelope().to_json(), &request.lease)
        .map_err(|error| refusal(Kind::Forbidden, error.code(), &error.to_string()))?;
    if shown.lease_left_ms() == 0 {
        return Err(refusal(Kind::Forbidden, "lease-lapsed", "the lease that the enclave shows has ended"));
    }
    Ok(())
}

fn asked(request: &ShareRequest) -> Asked {
    Asked {
        model: request.model_id.clone(),
        model_sha256: request.model_digest,
        root_version: request.root_version,
        release_sha256: request.release,
        nonce: written(&request.nonce),
        document_sha384: Sha384Digest::of(&[&request.document]),
        retention: None,
    }
}
