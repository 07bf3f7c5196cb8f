//! The enclave's end of the control connections, on which the host hands in what the authorities sign, fetches the log, and
//! says that the enclave is to end.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::{CheckpointError, Entry, SignedCheckpoint};
use cleanroom_attestation::release::{
    Accepted, AuthorityDocument, BootMillis, Envelope, LeaseRequest, Nonce, ReleaseError, Verified,
};
use cleanroom_console::{Code, Line};
use cleanroom_guard::Guard;
use cleanroom_link::body;
use cleanroom_link::control::{CONTROL_HEADER_BYTES, ControlAnswer, ControlKind, ControlState};
use cleanroom_link::listener::Listener;
use cleanroom_protocol::Change;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinSet;

use crate::attester::Attester;
use crate::log::NoSuchSize;
use crate::security_module::{SecurityModule, SecurityModuleError};
use crate::worker_link::{Link, Told, WorkerEnd};

/// Control connections at once: one of the host's agent, and some for a host that has to say something else meanwhile. Of
/// more, the oldest is closed, so that a connection which the host has forgotten keeps out none that it uses.
const CONNECTIONS: usize = 4;

/// The answer to a host that offers shares to an enclave that needs none.
pub(super) const NO_KEY_NEEDED: &str = "no-key-needed";
/// The answer to a host that hands something in for an enclave whose configuration names no root.
const NO_RELEASE_CONTROL: &str = "no-release-control";

/// The answer to a probe when the worker, or its engine, says nothing.
const WORKER_SILENT: &str = "worker-silent";
/// The answer to a probe when the security module attests nothing.
const SECURITY_MODULE: &str = "security-module";
/// The answer to a checkpoint that the log has left behind for longer than the release permits.
const CHECKPOINT_OLD: &str = "checkpoint-old";
/// The least time between two looks into the enclave, in milliseconds: a host that probes without pause costs no more.
const PROBES_APART_MS: u64 = 500;

/// Who decides about what the host hands in, and who is told.
pub(super) struct Control {
    /// None without release control.
    guard: Option<Arc<Guard>>,
    security_module: SecurityModule,
    attester: Arc<Attester>,
    link: Arc<Link>,
    /// One change at a time, over all connections: the worker hears of changes in the order in which they were made.
    turn: Mutex<()>,
    /// When the enclave was looked into the last time, and what was found.
    probed: Mutex<Option<(BootMillis, ControlAnswer)>>,
}

impl Control {
    pub(super) fn new(guard: Option<Arc<Guard>>, attester: Arc<Attester>, link: Arc<Link>) -> Self {
        let security_module = attester.security_module().clone();
        Self { guard, security_module, attester, link, turn: Mutex::default(), probed: Mutex::default() }
    }

    /// Serves control connections, until the worker does not follow.
    pub(super) async fn serve(
        self,
        listener: &mut impl Listener,
        mut holdings: UnboundedReceiver<Told>,
    ) -> WorkerEnd {
        let control = Arc::new(self);
        let mut connections = JoinSet::new();
        let mut oldest_first: VecDeque<oneshot::Sender<()>> = VecDeque::new();
        loop {
            tokio::select! {
                stream = listener.connection() => {
                    oldest_first.retain(|connection| !connection.is_closed());
                    if oldest_first.len() >= CONNECTIONS {
                        oldest_first.pop_front();
                    }
                    let (keep, displaced) = oneshot::channel();
                    oldest_first.push_back(keep);
                    let control = Arc::clone(&control);
                    connections.spawn(async move { control.connection(stream, displaced).await });
                }
                Some(told) = holdings.recv() => {
                    let control = Arc::clone(&control);
                    connections.spawn(async move { control.tell(told).await });
                }
                // One that the host ended is forgotten.
                Some(Ok(ConnectionEnd::Worker(end))) = connections.join_next() => return end,
            }
        }
    }

    /// Tells the worker to hold a partner, or until when records can be sealed.
    async fn tell(&self, told: Told) -> ConnectionEnd {
        let done = match (told, &self.guard) {
            (Told::Hold(holding), _) => {
                let _turn = self.turn.lock().await;
                self.link.hold(holding).await
            }
            (Told::Sealing, Some(guard)) => self.sealing(guard).await,
            (Told::Sealing, None) => Ok(()),
        };
        match done {
            Ok(()) => ConnectionEnd::Host,
            Err(end) => ConnectionEnd::Worker(end),
        }
    }

    /// Has both processes know until when records can be sealed.
    async fn sealing(&self, guard: &Guard) -> Result<(), WorkerEnd> {
        let _turn = self.turn.lock().await;
        let until = self.attester.retention().seals_until(guard);
        // The clocks of two looks differ by a little. What counts is whether it can be sealed, and until which day.
        if until.0.abs_diff(guard.seals_until().0) > 1000 {
            guard.seal_until(until);
            self.link.change(Change::Sealing { until }).await?;
        }
        Ok(())
    }

    /// Answers what concerns retention.
    async fn retention(
        &self,
        guard: &Guard,
        kind: ControlKind,
        body: &[u8],
    ) -> Result<ControlAnswer, WorkerEnd> {
        let (retention, log) = (self.attester.retention(), self.attester.log());
        let ((model, digest), module) = (self.attester.model(), &self.security_module);
        let answer = match kind {
            ControlKind::Days => Ok(ControlAnswer::Shares(retention.wanted(guard))),
            ControlKind::DayAsk => {
                retention.ask(guard, model, module, body).await.map(ControlAnswer::ShareRequest)
            }
            ControlKind::Day => retention.take(guard, body).map(ControlAnswer::Shares),
            ControlKind::Open => retention.open(guard, digest, body).map(ControlAnswer::Shares),
            ControlKind::PartAsk => {
                retention.ask_part(guard, model, module, body).await.map(ControlAnswer::ShareRequest)
            }
            ControlKind::Part => retention.take_part(guard, log, body).map(ControlAnswer::Shares),
            ControlKind::Opened => retention.opened(guard, log, body).map(ControlAnswer::Opened),
            _ => retention
                .next(body)
                .await
                .map(|record| record.map_or(ControlAnswer::Accepted(Accepted::Known), ControlAnswer::Record)),
        };
        if matches!(kind, ControlKind::Days | ControlKind::Day | ControlKind::Record) {
            self.sealing(guard).await?;
        }
        Ok(answer.unwrap_or_else(|refused| ControlAnswer::Refused(refused.code().to_owned())))
    }

    /// Serves one connection until it ends or another takes its place, which waits for the end of a request: what was
    /// begun is told to the worker, too.
    async fn connection<S>(&self, mut stream: S, mut displaced: oneshot::Receiver<()>) -> ConnectionEnd
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            let request = tokio::select! {
                request = read_request(&mut stream) => request,
                _ = &mut displaced => return ConnectionEnd::Host,
            };
            let answered = async {
                let (kind, body) = request?;
                let answer = self.answer(kind, body).await?;
                Ok::<(), ConnectionEnd>(write_answer(&mut stream, kind, &answer).await?)
            };
            if let Err(end) = answered.await {
                return end;
            }
        }
    }

    /// Answers a request. An accepted change is in force in both processes before the answer leaves.
    async fn answer(&self, kind: ControlKind, body: Vec<u8>) -> Result<ControlAnswer, WorkerEnd> {
        Ok(match (kind, &self.guard) {
            (ControlKind::Log, _) => self.log(&body),
            (ControlKind::Probe, _) => self.probe().await,
            // A host may refuse service, with and without release control.
            (ControlKind::Drain, _) => match self.link.drain().await {
                true => ControlAnswer::Accepted(Accepted::New),
                false => ControlAnswer::Accepted(Accepted::Known),
            },
            (_, None) => ControlAnswer::Refused(NO_RELEASE_CONTROL.to_owned()),
            (ControlKind::State, Some(guard)) => ControlAnswer::State(state(guard)),
            (ControlKind::Ask, Some(guard)) => self.begin_lease(guard).await?,
            (ControlKind::Document(kind), Some(guard)) => self.document(guard, kind, body).await?,
            (ControlKind::SafeguardPolicy, Some(guard)) => self.policy(guard, body).await?,
            (ControlKind::SafeguardClassifier, Some(guard)) => self.classifier(guard, body).await?,
            (ControlKind::Witnessed, Some(guard)) => self.witnessed(guard, &body).await?,
            (
                ControlKind::Days
                | ControlKind::DayAsk
                | ControlKind::Day
                | ControlKind::Record
                | ControlKind::Open
                | ControlKind::PartAsk
                | ControlKind::Part
                | ControlKind::Opened,
                Some(guard),
            ) => self.retention(guard, kind, &body).await?,
            // The weights are in memory by now, or were never sealed.
            (
                ControlKind::Shares
                | ControlKind::ShareAsk
                | ControlKind::Share
                | ControlKind::KmsAsk
                | ControlKind::KmsShare,
                Some(_),
            ) => ControlAnswer::Refused(NO_KEY_NEEDED.to_owned()),
        })
    }

    /// Looks into what a partner's session needs: the worker, its engine, and the security module.
    async fn probe(&self) -> ControlAnswer {
        let mut last = self.probed.lock().await;
        let now = self.link.clock().now();
        if let Some((at, answer)) = &*last
            && now.0.saturating_sub(at.0) < PROBES_APART_MS
        {
            return answer.clone();
        }
        let answer = match self.link.probe().await {
            None => ControlAnswer::Refused(WORKER_SILENT.to_owned()),
            Some(load) => match self.security_module.time().await {
                Ok(_) => ControlAnswer::Alive(load),
                Err(_) => ControlAnswer::Refused(SECURITY_MODULE.to_owned()),
            },
        };
        *last = Some((self.link.clock().now(), answer.clone()));
        answer
    }

    async fn begin_lease(&self, guard: &Guard) -> Result<ControlAnswer, WorkerEnd> {
        let _turn = self.turn.lock().await;
        Ok(match ask(guard, &self.security_module).await {
            Ok((request, change)) => {
                self.link.change(change).await?;
                ControlAnswer::Ask(request)
            }
            Err(error) => ControlAnswer::Refused(error.code().to_owned()),
        })
    }

    async fn document(
        &self,
        guard: &Guard,
        kind: AuthorityDocument,
        envelope: Vec<u8>,
    ) -> Result<ControlAnswer, WorkerEnd> {
        let _turn = self.turn.lock().await;
        let change = Change::Document { kind, at: guard.now(), envelope };
        match guard.apply(&change) {
            // What is refused changes nothing, so neither the worker nor the log need know of it.
            Err(error) => Ok(ControlAnswer::Refused(error.code().to_owned())),
            Ok(accepted) => {
                self.note(guard, accepted, &change);
                self.link.change(change).await?;
                Ok(ControlAnswer::Accepted(accepted))
            }
        }
    }

    /// Takes a safeguard policy that a release names. Its rules are the worker's to read.
    async fn policy(&self, guard: &Guard, policy: Vec<u8>) -> Result<ControlAnswer, WorkerEnd> {
        let _turn = self.turn.lock().await;
        let sha256 = Sha256Digest::of(&[&policy]);
        let change = Change::Policy(policy);
        match guard.apply(&change) {
            Err(error) => Ok(ControlAnswer::Refused(error.code().to_owned())),
            Ok(accepted) => {
                if accepted == Accepted::New {
                    self.attester.note(|at_ms| Entry::Policy { sha256, at_ms });
                    self.link.change(change).await?;
                }
                Ok(ControlAnswer::Accepted(accepted))
            }
        }
    }

    /// Passes on the file of a classifier. The policy that names it is the worker's to read, and so is the file.
    async fn classifier(&self, guard: &Guard, file: Vec<u8>) -> Result<ControlAnswer, WorkerEnd> {
        let _turn = self.turn.lock().await;
        if guard.policies().is_empty() {
            let refused = ReleaseError::PolicyNotNamed(Sha256Digest::of(&[&file]));
            return Ok(ControlAnswer::Refused(refused.code().to_owned()));
        }
        self.link.change(Change::Classifier(file)).await?;
        Ok(ControlAnswer::Accepted(Accepted::New))
    }

    /// Takes a checkpoint of this boot's log that witnesses have cosigned. What it does not count of the log is younger than the
    /// time from which the log may run ahead of it.
    async fn witnessed(&self, guard: &Guard, note: &[u8]) -> Result<ControlAnswer, WorkerEnd> {
        let refused = |code: &str| Ok(ControlAnswer::Refused(code.to_owned()));
        let _turn = self.turn.lock().await;
        let rules = guard.witness_rules();
        if rules.is_empty() {
            return Ok(ControlAnswer::Accepted(Accepted::Known));
        }
        let note = SignedCheckpoint::parse(note);
        let stood = note.and_then(|note| Ok((self.attester.log().stood_until(&note)?, note)));
        let (stood_until, note) = match stood {
            Ok((Some(stood_until), note)) => (stood_until, note),
            Ok((None, _)) => return refused(CHECKPOINT_OLD),
            Err(CheckpointError::Form) => return refused("checkpoint-form"),
            Err(CheckpointError::OtherLog) => return refused("checkpoint-other-log"),
            Err(CheckpointError::Signature) => return refused("checkpoint-signature"),
        };
        let met: Vec<_> = rules.iter().filter(|rule| rule.is_met_by(&note)).collect();
        if met.len() == rules.len() {
            self.attester.log().witness(note.unverified().size);
        }
        let (mut is_in_time, mut accepted) = (false, Accepted::Known);
        for rule in &met {
            let (until, now) = (stood_until.plus(rule.within_ms()), guard.now());
            if until <= now {
                continue;
            }
            is_in_time = true;
            let (digest, known) = (rule.digest(), guard.witnessed_until(&rule.digest()));
            // The worker hears of it some four times within the time that the rule gives, and not with each note.
            let enough = (rule.within_ms() / 4).min(known.0.saturating_sub(now.0));
            if until.0.saturating_sub(known.0) > enough {
                guard.witness(&digest, until);
                self.link.change(Change::Witnessed { rule: digest, until }).await?;
                accepted = Accepted::New;
            }
        }
        match (met.is_empty(), is_in_time) {
            (true, _) => refused("witness-quorum"),
            (false, false) => refused(CHECKPOINT_OLD),
            (false, true) => Ok(ControlAnswer::Accepted(accepted)),
        }
    }

    /// What the host lacks of the log. It says how many entries it has stored, or nothing for the checkpoint alone.
    fn log(&self, body: &[u8]) -> ControlAnswer {
        let size = match body {
            [] => None,
            size => match size.try_into() {
                Ok(size) => Some(u64::from_be_bytes(size)),
                Err(_) => return ControlAnswer::Refused("log-size".to_owned()),
            },
        };
        match self.attester.log_from(size) {
            Ok(batch) => ControlAnswer::Log(batch),
            Err(NoSuchSize) => ControlAnswer::Refused("log-size".to_owned()),
        }
    }

    /// Appends a change of release control to the log.
    fn note(&self, guard: &Guard, accepted: Accepted, change: &Change) {
        let (Accepted::New, Change::Document { kind, envelope, .. }) = (accepted, change) else { return };
        let digest = || Envelope::parse(envelope, kind.payload_type()).map(|envelope| envelope.digest());
        match kind {
            AuthorityDocument::Root => {
                let Ok(sha256) = digest() else { return };
                self.attester.note(|at_ms| Entry::Root { sha256, at_ms });
            }
            AuthorityDocument::Release => {
                let Ok(sha256) = digest() else { return };
                self.attester.note(|at_ms| Entry::Release { sha256, at_ms });
            }
            AuthorityDocument::Denial => {
                let Ok(sha256) = digest() else { return };
                self.attester.note(|at_ms| Entry::Denial { sha256, at_ms });
            }
            AuthorityDocument::Lease => {
                let Some(shown) = guard.shown() else { return };
                let (sha256, release_sha256) = (shown.lease_digest, shown.release_digest);
                self.attester.note(|at_ms| Entry::Lease { sha256, release_sha256, at_ms });
            }
        }
    }
}

/// Reads what the host asks. A length is compared with its limit before a byte of the body is read.
pub(super) async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<(ControlKind, Vec<u8>)> {
    let mut header = [0; CONTROL_HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let (kind, length) =
        ControlKind::parse(header).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok((kind, body::read(stream, length).await?.to_vec()))
}

/// Answers, and says on the console what was refused.
pub(super) async fn write_answer(
    stream: &mut (impl AsyncWrite + Unpin),
    kind: ControlKind,
    answer: &ControlAnswer,
) -> io::Result<()> {
    if let ControlAnswer::Refused(code) = answer {
        Line::NotAccepted { what: Code::of(&format!("{kind:?}")), code: Code::of(code) }.say();
    }
    stream.write_all(&answer.frame()).await?;
    stream.flush().await
}

/// What is in force.
pub(super) fn state(guard: &Guard) -> ControlState {
    let (state, now) = (guard.snapshot(), guard.now());
    ControlState {
        root_version: state.root().version,
        release_version: state.release().map_or(0, |release| release.version),
        release_sha256: state.release().map(Verified::digest),
        lease_left_ms: state.lease().map_or(0, |lease| lease.end().0.saturating_sub(now.0)),
        denials: state.denials_known() as u64,
        witnessed_left_ms: guard.witnessed_until_all().map(|until| until.0.saturating_sub(now.0)),
    }
}

/// Begins a lease: draws its nonce and notes the time before the nonce can leave.
pub(super) async fn ask(
    guard: &Guard,
    security_module: &SecurityModule,
) -> Result<(LeaseRequest, Change), AskError> {
    // Noted before it is asked, so that the error makes things expire early and never late.
    let read_at = guard.now();
    let unix = security_module.time().await?;
    let mut nonce = [0; 32];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| AskError::Random)?;
    let (nonce, sent) = (Nonce::from_bytes(nonce), guard.now());
    let request = guard.begin_lease(nonce, sent, (read_at, unix)).map_err(AskError::Release)?;
    Ok((request, Change::Begin { nonce, sent, unix, read_at }))
}

/// Why a control connection ends.
enum ConnectionEnd {
    /// It broke, or the host talked nonsense.
    Host,
    /// The worker does not follow.
    Worker(WorkerEnd),
}

impl From<io::Error> for ConnectionEnd {
    fn from(_: io::Error) -> Self {
        Self::Host
    }
}

impl From<WorkerEnd> for ConnectionEnd {
    fn from(end: WorkerEnd) -> Self {
        Self::Worker(end)
    }
}

/// Why no lease could be begun.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// There is no release to ask for.
    #[error(transparent)]
    Release(ReleaseError),
    /// The security module does not say what time it is.
    #[error(transparent)]
    Time(#[from] SecurityModuleError),
    /// No nonce could be drawn.
    #[error("the system's random number generator failed")]
    Random,
}

impl AskError {
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::Release(error) => error.code(),
            Self::Time(_) => SECURITY_MODULE,
            Self::Random => "random",
        }
    }
}
