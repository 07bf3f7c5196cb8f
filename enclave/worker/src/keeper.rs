//! The worker's end of the connection to the keeper.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cleanroom_attestation::channel::{Nonce, RefusalCode};
use cleanroom_protocol::{
    self as protocol, Change, ChannelQuestion, EndQuestion, Evidence, FromKeeper, FromWorker, PublicEvidence,
    ReceiptQuestion, SignedEnd,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

/// Questions that wait to be written.
const WAITING: usize = 64;
/// Orders that wait to be carried out. The keeper gives one at a time.
const ORDERS: usize = 4;

/// What is asked of the keeper. Clones are the same connection.
#[derive(Clone)]
pub struct Keeper {
    frames: mpsc::Sender<Zeroizing<Vec<u8>>>,
    asked: Arc<Asked>,
    runtime: Handle,
}

#[derive(Default)]
struct Asked(Mutex<Questions>);

#[derive(Default)]
struct Questions {
    last: u32,
    /// The keeper is gone.
    closed: bool,
    waiting: HashMap<u32, oneshot::Sender<FromKeeper>>,
}

impl Asked {
    fn lock(&self) -> MutexGuard<'_, Questions> {
        // The table is whole at every instruction that could unwind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An order from the keeper.
pub(super) enum Order {
    /// Take partners' connections.
    Serve,
    /// Take no more, and say when the last session has ended.
    Drain,
    /// Say whether the engine works.
    Probe,
    /// Follow a change of release control, and confirm it under this id.
    Change(u32, Change),
}

/// The keeper did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the keeper is gone")]
pub struct KeeperGone;

impl Keeper {
    /// Begins to ask and to be told. The orders end when the keeper does.
    pub(super) fn connect<R, W>(mut read: R, mut write: W) -> (Self, mpsc::Receiver<Order>)
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let (frames, mut waiting) = mpsc::channel::<Zeroizing<Vec<u8>>>(WAITING);
        tokio::spawn(async move {
            while let Some(frame) = waiting.recv().await {
                if write.write_all(&frame).await.is_err() {
                    return;
                }
            }
        });
        let (orders, given) = mpsc::channel(ORDERS);
        let asked = Arc::new(Asked::default());
        let answers = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((header, body)) = protocol::read(&mut read).await {
                let Ok(said) = FromKeeper::decode(header.kind(), &body) else { break };
                let order = match said {
                    FromKeeper::Serve => Order::Serve,
                    FromKeeper::Drain => Order::Drain,
                    FromKeeper::Probe => Order::Probe,
                    FromKeeper::Change(change) => Order::Change(header.id(), change),
                    answer => {
                        // Whoever asked may have gone since.
                        if let Some(question) = answers.lock().waiting.remove(&header.id()) {
                            let _ = question.send(answer);
                        }
                        continue;
                    }
                };
                if orders.send(order).await.is_err() {
                    break;
                }
            }
            let mut questions = answers.lock();
            questions.closed = true;
            questions.waiting.clear();
        });
        (Self { frames, asked, runtime: Handle::current() }, given)
    }

    /// The evidence of a session.
    ///
    /// # Errors
    /// The keeper's refusal.
    pub(crate) async fn channel(&self, question: ChannelQuestion) -> Result<Evidence, RefusalCode> {
        match self.ask(&FromWorker::Channel(question)).await {
            Ok(FromKeeper::Evidence(evidence)) => Ok(evidence),
            Ok(FromKeeper::Refused(code)) => Err(code),
            _ => Err(RefusalCode::NoEvidence),
        }
    }

    /// Evidence for everybody whose nonce stands behind `nonce`.
    ///
    /// # Errors
    /// The keeper's refusal.
    pub(crate) async fn public(&self, nonce: Nonce) -> Result<PublicEvidence, RefusalCode> {
        match self.ask(&FromWorker::Public(nonce)).await {
            Ok(FromKeeper::Public(evidence)) => Ok(evidence),
            Ok(FromKeeper::Refused(code)) => Err(code),
            _ => Err(RefusalCode::NoEvidence),
        }
    }

    /// Gets the statement that a stream was ended, and gives it to `then` on the runtime that this connection is served by. Any thread
    /// may call it; none waits.
    pub(crate) fn sign_end(
        &self,
        question: EndQuestion,
        then: impl FnOnce(Result<SignedEnd, KeeperGone>) + Send + 'static,
    ) {
        let this = self.clone();
        self.runtime.spawn(async move {
            then(match this.ask(&FromWorker::End(question)).await {
                Ok(FromKeeper::SignedEnd(end)) => Ok(end),
                _ => Err(KeeperGone),
            });
        });
    }

    /// The receipt of a request that has ended: the signed envelope.
    ///
    /// # Errors
    /// [`KeeperGone`], also when the keeper gives none.
    pub(crate) async fn receipt(&self, question: ReceiptQuestion) -> Result<Vec<u8>, KeeperGone> {
        match self.ask(&FromWorker::Receipt(question)).await {
            Ok(FromKeeper::Receipt(envelope)) => Ok(envelope),
            _ => Err(KeeperGone),
        }
    }

    /// Goes on with `task` when nobody waits for it. Any thread may call it.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Says something that has no answer.
    pub(super) async fn say(&self, id: u32, what: &FromWorker) -> Result<(), KeeperGone> {
        self.frames.send(what.frame(id)).await.map_err(|_| KeeperGone)
    }

    async fn ask(&self, question: &FromWorker) -> Result<FromKeeper, KeeperGone> {
        let (answer, answered) = oneshot::channel();
        let id = {
            let mut questions = self.asked.lock();
            if questions.closed {
                return Err(KeeperGone);
            }
            questions.last = questions.last.wrapping_add(1);
            let id = questions.last;
            questions.waiting.insert(id, answer);
            id
        };
        // Dropped with this future, when nobody waits any more.
        let _question = Withdrawn { asked: &self.asked, id };
        self.frames.send(question.frame(id)).await.map_err(|_| KeeperGone)?;
        answered.await.map_err(|_| KeeperGone)
    }
}

/// Takes a question off the table.
struct Withdrawn<'a> {
    asked: &'a Asked,
    id: u32,
}

impl Drop for Withdrawn<'_> {
    fn drop(&mut self) {
        self.asked.lock().waiting.remove(&self.id);
    }
}
