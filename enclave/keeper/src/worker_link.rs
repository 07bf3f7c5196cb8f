//! The keeper's end of the connection to its worker: questions are answered, changes are passed on.
//!
//! The keeper treats the worker as an adversary. The worker may ask at any rate: of each [`Precedence`], at most as many
//! questions are with the security module as may wait there, and further questions are refused. While the worker does not read its answers, the keeper reads nothing
//! more from it. Three things end the enclave: bytes that are not of the protocol, a frame out of turn, and a change that the
//! worker does not confirm within [`CONFIRM_WITHIN`].

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cleanroom_attestation::channel::{Nonce, RefusalCode};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_guard::Clock;
use cleanroom_link::load::Load;
use cleanroom_protocol::{
    self as protocol, Change, ChannelQuestion, EndQuestion, FromKeeper, FromWorker, ProtocolError, ReadError,
    ReceiptQuestion, WorkerKind,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use crate::attester::{Attester, Issued, NoReceipt};
use crate::retention::STORED_WITHIN;
use crate::security_module::Precedence;

/// Answers that wait to be written.
const REPLIES: usize = 8;
/// How long a worker may take to put a change in force. An honest worker needs milliseconds, or, for a
/// revoked model, the time to overwrite its memory. A compromised worker could serve a denied partner for as
/// long as the keeper waits.
pub const CONFIRM_WITHIN: Duration = Duration::from_secs(30);
/// How long a worker may take to say that it works: longer than any step of an engine that does.
pub const ALIVE_WITHIN: Duration = Duration::from_secs(30);

/// The keeper's words to the worker.
pub(super) struct Link {
    replies: mpsc::Sender<Zeroizing<Vec<u8>>>,
    clock: Clock,
    draining: AtomicBool,
    next: AtomicU32,
    /// Partners that the worker is to hold, each with the receipt that waits for it.
    holdings: mpsc::UnboundedSender<Told>,
    /// The change that the worker has yet to confirm.
    outstanding: Mutex<Option<(u32, oneshot::Sender<()>)>>,
    /// Whether the worker has yet to say that it works.
    is_probed: AtomicBool,
    /// What it said last.
    alive: watch::Sender<Load>,
}

/// A partner that the worker is to hold, and the answer that leaves once it does.
pub(super) struct Holding {
    change: Change,
    /// The question that the answer is for.
    id: u32,
    receipt: FromKeeper,
}

/// What the worker is to be told, one at a time with what the host brings.
pub(super) enum Told {
    /// That it is to hold a partner.
    Hold(Holding),
    /// Until when records can be sealed, if that has changed.
    Sealing,
}

/// Why there is no worker any more, or none that can be worked with.
#[derive(Debug, thiserror::Error)]
pub enum WorkerEnd {
    /// It closed the connection.
    #[error("the worker is gone")]
    Gone,
    /// It says why it cannot serve.
    #[error("{0}")]
    Failed(String),
    /// It does not speak the protocol.
    #[error("the worker does not speak the keeper's protocol: {0}")]
    Protocol(#[from] ProtocolError),
    /// It said something that it was not its turn to say, or asked for something that this deployment does not have.
    #[error("the worker sent a frame of kind {0:?} out of turn")]
    OutOfTurn(WorkerKind),
    /// It was told of a change in release control and did not say that the change is in force.
    #[error("the worker did not confirm a change of release control within {} seconds", CONFIRM_WITHIN.as_secs())]
    Unconfirmed,
}

impl From<ReadError> for WorkerEnd {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Gone(_) => Self::Gone,
            ReadError::Protocol(error) => Self::Protocol(error),
        }
    }
}

impl From<io::Error> for WorkerEnd {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl Link {
    /// A link whose frames go to `write`, and the task that writes them, for as long as `tasks` lives.
    pub(super) fn new(
        mut write: impl AsyncWrite + Unpin + Send + 'static,
        clock: Clock,
        tasks: &mut JoinSet<()>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Told>) {
        let (replies, mut waiting) = mpsc::channel::<Zeroizing<Vec<u8>>>(REPLIES);
        tasks.spawn(async move {
            while let Some(frame) = waiting.recv().await {
                if write.write_all(&frame).await.is_err() {
                    return;
                }
            }
        });
        // Each partner of a release is held once under it, so that no more wait here.
        let (holdings, waiting) = mpsc::unbounded_channel();
        let link = Self {
            replies,
            clock,
            draining: AtomicBool::new(false),
            next: AtomicU32::new(0),
            holdings,
            outstanding: Mutex::new(None),
            is_probed: AtomicBool::new(false),
            alive: watch::Sender::new(Load::Idle),
        };
        (Arc::new(link), waiting)
    }

    /// The clock that limits how long the worker may take.
    pub(super) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Lets partners come.
    pub(super) async fn serve(&self) {
        self.reply(0, &FromKeeper::Serve).await;
    }

    /// Has the worker drain. Whether it was not asked before.
    pub(super) async fn drain(&self) -> bool {
        let is_first = !self.draining.swap(true, Ordering::AcqRel);
        if is_first {
            self.reply(0, &FromKeeper::Drain).await;
        }
        is_first
    }

    /// Passes a change on, and returns when it is in force at the worker. One at a time.
    ///
    /// # Errors
    /// [`WorkerEnd::Unconfirmed`]: it does not follow.
    pub(super) async fn change(&self, change: Change) -> Result<(), WorkerEnd> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (done, confirmed) = oneshot::channel();
        *self.outstanding.lock().unwrap_or_else(PoisonError::into_inner) = Some((id, done));
        let in_force = async {
            self.reply(id, &FromKeeper::Change(change)).await;
            confirmed.await
        };
        match self.clock.within(CONFIRM_WITHIN, in_force).await {
            Some(confirmed) => confirmed.map_err(|_| WorkerEnd::Gone),
            None => Err(WorkerEnd::Unconfirmed),
        }
    }

    /// Has the worker hold a partner, and then lets the receipt leave with which it reached its limit.
    ///
    /// # Errors
    /// As [`Self::change`].
    pub(super) async fn hold(&self, Holding { change, id, receipt }: Holding) -> Result<(), WorkerEnd> {
        self.change(change).await?;
        self.reply(id, &receipt).await;
        Ok(())
    }

    /// Asks the worker whether it works, and how much it has to do. Nothing when it does not say so in time: then the next
    /// probe waits for the same answer.
    pub(super) async fn probe(&self) -> Option<Load> {
        let mut alive = self.alive.subscribe();
        let answer = async {
            if !self.is_probed.load(Ordering::Acquire) {
                let frame = FromKeeper::Probe.frame(0);
                let place = self.replies.reserve().await.ok()?;
                self.is_probed.store(true, Ordering::Release);
                place.send(frame);
            }
            alive.changed().await.ok()?;
            Some(*alive.borrow())
        };
        self.clock.within(ALIVE_WITHIN, answer).await.flatten()
    }

    fn alive(&self, load: Load) -> Result<(), WorkerEnd> {
        if !self.is_probed.swap(false, Ordering::AcqRel) {
            return Err(WorkerEnd::OutOfTurn(WorkerKind::Alive));
        }
        self.alive.send_replace(load);
        Ok(())
    }

    async fn reply(&self, id: u32, what: &FromKeeper) {
        let _ = self.replies.send(what.frame(id)).await;
    }

    fn done(&self, id: u32) -> Result<(), WorkerEnd> {
        let mut outstanding = self.outstanding.lock().unwrap_or_else(PoisonError::into_inner);
        match outstanding.take_if(|(expected, _)| *expected == id) {
            Some((_, done)) => Ok(_ = done.send(())),
            None => Err(WorkerEnd::OutOfTurn(WorkerKind::Done)),
        }
    }
}

/// The worker's first words.
pub(super) async fn leaf(stream: &mut (impl AsyncRead + Unpin)) -> Result<Sha384Digest, WorkerEnd> {
    let (header, body) = protocol::read(stream).await?;
    match FromWorker::decode(header.kind(), &body)? {
        FromWorker::Leaf(leaf) => Ok(leaf),
        FromWorker::Failed(reason) => Err(WorkerEnd::Failed(reason)),
        other => Err(WorkerEnd::OutOfTurn(other.kind())),
    }
}

/// Waits until the worker has loaded the model.
pub(super) async fn ready(stream: &mut (impl AsyncRead + Unpin)) -> Result<(), WorkerEnd> {
    let (header, body) = protocol::read(stream).await?;
    match FromWorker::decode(header.kind(), &body)? {
        FromWorker::Ready => Ok(()),
        FromWorker::Failed(reason) => Err(WorkerEnd::Failed(reason)),
        other => Err(WorkerEnd::OutOfTurn(other.kind())),
    }
}

/// How many questions of each precedence are answered at a time.
struct Slots {
    partners: Arc<Semaphore>,
    public: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

impl Slots {
    fn new() -> Self {
        let slots = |precedence: Precedence| Arc::new(Semaphore::new(precedence.limit()));
        Self {
            partners: slots(Precedence::Partner),
            public: slots(Precedence::Public),
            strangers: slots(Precedence::Stranger),
        }
    }

    fn of(&self, precedence: Precedence) -> Arc<Semaphore> {
        Arc::clone(match precedence {
            Precedence::Partner => &self.partners,
            Precedence::Public => &self.public,
            Precedence::Enclave | Precedence::Stranger => &self.strangers,
        })
    }
}

fn signed_end(attester: &Attester, question: &EndQuestion) -> Result<FromKeeper, WorkerEnd> {
    attester.end(question).map(FromKeeper::SignedEnd).ok_or(WorkerEnd::OutOfTurn(WorkerKind::End))
}

/// Answers the question for a receipt. One with a record waits until the host has stored the record, and is refused when the host
/// does not.
async fn receipt(
    attester: &Arc<Attester>,
    link: &Arc<Link>,
    answers: &mut JoinSet<()>,
    id: u32,
    mut question: ReceiptQuestion,
) -> Result<(), WorkerEnd> {
    let Some(sealed) = question.exchange.take() else {
        return receipted(attester, link, id, question, None).await;
    };
    let waiting = attester.record(&question, &sealed);
    let Some((record, stored)) = waiting.map_err(|_| WorkerEnd::OutOfTurn(WorkerKind::Receipt))? else {
        link.reply(id, &FromKeeper::Refused(RefusalCode::Busy)).await;
        return Ok(());
    };
    let (attester, link) = (Arc::clone(attester), Arc::clone(link));
    answers.spawn(async move {
        if let Some(Ok(())) = link.clock.within(STORED_WITHIN, stored).await {
            // The session was checked when the record was made, and nothing else is an error here but a worker that is gone.
            let _ = receipted(&attester, &link, id, question, Some(record)).await;
            return;
        }
        attester.retention().stuck();
        let _ = link.holdings.send(Told::Sealing);
        link.reply(id, &FromKeeper::Refused(RefusalCode::Busy)).await;
    });
    Ok(())
}

/// Gives the receipt. One with which the partner reached a limit waits until the worker holds the partner.
async fn receipted(
    attester: &Attester,
    link: &Link,
    id: u32,
    question: ReceiptQuestion,
    record: Option<Sha256Digest>,
) -> Result<(), WorkerEnd> {
    let answer = match attester.receipt(question, record) {
        Ok(Issued { envelope, holding: None }) => FromKeeper::Receipt(envelope),
        Ok(Issued { envelope, holding: Some(change) }) => {
            let holding = Holding { change, id, receipt: FromKeeper::Receipt(envelope) };
            // Without somebody who carries it out there is no release either.
            return link.holdings.send(Told::Hold(holding)).map_err(|_| WorkerEnd::Gone);
        }
        Err(NoReceipt::Full) => FromKeeper::Refused(RefusalCode::Busy),
        Err(NoReceipt::NoSuchSession) => return Err(WorkerEnd::OutOfTurn(WorkerKind::Receipt)),
    };
    link.reply(id, &answer).await;
    Ok(())
}

/// Answers a worker that shows `leaf` in its handshakes, until it has drained.
pub(super) async fn answer(
    mut stream: impl AsyncRead + Unpin,
    leaf: Sha384Digest,
    attester: &Arc<Attester>,
    link: &Arc<Link>,
) -> Result<(), WorkerEnd> {
    let slots = Slots::new();
    let mut answers = JoinSet::new();
    loop {
        let (header, body) = protocol::read(&mut stream).await?;
        // Forget the answers that have left.
        while answers.try_join_next().is_some() {}
        let id = header.id();
        let question = match FromWorker::decode(header.kind(), &body)? {
            FromWorker::End(question) => {
                link.reply(id, &signed_end(attester, &question)?).await;
                continue;
            }
            FromWorker::Receipt(question) => {
                receipt(attester, link, &mut answers, id, question).await?;
                continue;
            }
            FromWorker::Done => {
                link.done(id)?;
                continue;
            }
            FromWorker::Alive(load) => {
                link.alive(load)?;
                continue;
            }
            FromWorker::Drained if link.draining.load(Ordering::Acquire) => return Ok(()),
            FromWorker::Failed(reason) => return Err(WorkerEnd::Failed(reason)),
            FromWorker::Channel(question) => Question::Channel(question),
            FromWorker::Public(nonce) => Question::Public(nonce),
            other @ (FromWorker::Leaf(_) | FromWorker::Ready | FromWorker::Drained) => {
                return Err(WorkerEnd::OutOfTurn(other.kind()));
            }
        };
        let precedence = match &question {
            Question::Channel(question) => attester.precedence(question),
            Question::Public(_) => Precedence::Public,
        };
        let Ok(slot) = slots.of(precedence).try_acquire_owned() else {
            link.reply(id, &FromKeeper::Refused(RefusalCode::Busy)).await;
            continue;
        };
        let (attester, link) = (Arc::clone(attester), Arc::clone(link));
        answers.spawn(async move {
            let answer = match question {
                Question::Channel(question) => {
                    attester.channel(leaf, &question, precedence).await.map(FromKeeper::Evidence)
                }
                Question::Public(nonce) => attester.public(&nonce).await.map(FromKeeper::Public),
            };
            link.reply(id, &answer.unwrap_or_else(FromKeeper::Refused)).await;
            drop(slot);
        });
    }
}

/// A question that needs the security module.
enum Question {
    Channel(ChannelQuestion),
    Public(Nonce),
}
