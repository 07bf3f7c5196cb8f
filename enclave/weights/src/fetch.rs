//! Fetches pieces over several connections at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::model::ModelDigester;
use cleanroom_console::Line;
use cleanroom_link::listener::Listener;
use cleanroom_link::store::{self, Description};
use cleanroom_sealing::SealError;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::plan::{Plan, Range};
use crate::{Limits, WeightsError};

/// A piece of the weights and its identity.
pub(crate) type Hashed = (Zeroizing<Vec<u8>>, Sha256Digest);

/// All pieces, in order.
pub(crate) async fn all<L: Listener>(
    listener: &mut L,
    first: L::Stream,
    plan: Plan,
    limits: &Limits,
) -> Result<Vec<Hashed>, WeightsError> {
    let pieces = plan.pieces();
    let mut fetch = Fetch {
        plan: Arc::new(plan),
        limits: *limits,
        waiting: (0..pieces).map(Piece::new).collect(),
        tasks: JoinSet::new(),
        done: BTreeMap::new(),
        idle: Vec::new(),
    };
    fetch.go_on(Connection { stream: first, is_new: false });
    let mut lonely = 0;
    while (fetch.done.len() as u64) < pieces {
        let has_work = !fetch.waiting.is_empty();
        let is_alone = fetch.tasks.is_empty();
        tokio::select! {
            Some(ended) = fetch.tasks.join_next() => fetch.ended(ended)?,
            stream = listener.connection(), if has_work && fetch.tasks.len() < limits.connections => {
                fetch.go_on(Connection { stream, is_new: true });
                lonely = 0;
            }
            () = tokio::time::sleep(limits.range_time), if is_alone => {
                lonely += 1;
                if lonely >= limits.attempts {
                    return Err(WeightsError::Stalled { failures: lonely });
                }
            }
        }
    }
    for mut stream in fetch.idle {
        store::farewell(&mut stream).await;
    }
    Ok(fetch.done.into_values().collect())
}

/// Where the fetching stands.
struct Fetch<S> {
    plan: Arc<Plan>,
    limits: Limits,
    /// Pieces that nobody fetches at the moment.
    waiting: VecDeque<Piece>,
    tasks: JoinSet<Ended<S>>,
    done: BTreeMap<u64, Hashed>,
    /// Connections for which there is nothing left.
    idle: Vec<S>,
}

struct Connection<S> {
    stream: S,
    /// Whether the store has yet to say what it has.
    is_new: bool,
}

/// How the work on a piece ended.
enum Ended<S> {
    Whole(Piece, S),
    /// The connection is given up.
    Failed(Piece, Failure),
}

/// Why a range was not to be had.
enum Failure {
    Store,
    Changed,
    Sealed(SealError),
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Fetch<S> {
    /// Fetches the next piece that waits over this connection.
    fn go_on(&mut self, connection: Connection<S>) {
        let Some(mut piece) = self.waiting.pop_front() else { return self.idle.push(connection.stream) };
        let (plan, limits) = (Arc::clone(&self.plan), self.limits);
        self.tasks.spawn(async move {
            let Connection { mut stream, is_new } = connection;
            match fetch(&mut stream, is_new, &mut piece, &plan, &limits).await {
                Ok(()) => Ended::Whole(piece, stream),
                Err(failure) => Ended::Failed(piece, failure),
            }
        });
    }

    fn ended(&mut self, ended: Result<Ended<S>, JoinError>) -> Result<(), WeightsError> {
        match ended {
            // A task that panics ends the process; one that was cancelled had no more use.
            Err(_) => Err(WeightsError::Stalled { failures: 0 }),
            Ok(Ended::Whole(piece, stream)) => {
                let Piece { number, bytes, digester, .. } = piece;
                self.done.insert(number, (bytes, digester.finish()));
                self.go_on(Connection { stream, is_new: false });
                Ok(())
            }
            Ok(Ended::Failed(_, Failure::Changed)) => Err(WeightsError::Changed),
            Ok(Ended::Failed(mut piece, failure)) => {
                piece.failures += 1;
                Line::RangeAskedAgain { failures: piece.failures }.say();
                if piece.failures >= self.limits.attempts {
                    return Err(match failure {
                        Failure::Sealed(error) => error.into(),
                        Failure::Store | Failure::Changed => {
                            WeightsError::Stalled { failures: piece.failures }
                        }
                    });
                }
                self.waiting.push_front(piece);
                Ok(())
            }
        }
    }
}

/// A piece that grows.
struct Piece {
    number: u64,
    bytes: Zeroizing<Vec<u8>>,
    /// How many bytes of it are there.
    filled: usize,
    is_whole: bool,
    digester: ModelDigester,
    /// How often in a row its next range failed.
    failures: u32,
}

impl Piece {
    fn new(number: u64) -> Self {
        Self {
            number,
            bytes: Zeroizing::default(),
            filled: 0,
            is_whole: false,
            digester: ModelDigester::new(),
            failures: 0,
        }
    }
}

/// Fetches what a piece lacks, range by range. What was fetched and opened stays in the piece when a range fails.
async fn fetch<S>(
    stream: &mut S,
    is_new: bool,
    piece: &mut Piece,
    plan: &Plan,
    limits: &Limits,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if is_new {
        let description = timeout(limits.range_time, Description::read(stream)).await;
        let description = description.map_err(|_| Failure::Store)?.map_err(|_| Failure::Store)?;
        if description != plan.description {
            return Err(Failure::Changed);
        }
    }
    if piece.bytes.is_empty() {
        let length = usize::try_from(plan.piece_bytes(piece.number)).unwrap_or(usize::MAX);
        // The system gives zeros, and no memory before they are written.
        piece.bytes = Zeroizing::new(vec![0; length]);
    }
    let mut sealed = Vec::new();
    while !piece.is_whole {
        let range = plan.next(piece.number, piece.filled).ok_or(Failure::Store)?;
        let fetched = timeout(limits.range_time, piece.take(stream, plan, &range, &mut sealed)).await;
        fetched.map_err(|_| Failure::Store)??;
        piece.is_whole = piece.filled == piece.bytes.len();
        piece.failures = 0;
    }
    Ok(())
}

impl Piece {
    /// Fetches a range, and opens and hashes each step of it as soon as it is there. `sealed` is room for a step.
    async fn take<S>(
        &mut self,
        stream: &mut S,
        plan: &Plan,
        range: &Range,
        sealed: &mut Vec<u8>,
    ) -> Result<(), Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if range.stored == 0 {
            // A question for no bytes is a farewell.
            return Ok(());
        }
        store::begin(stream, range.offset, range.stored).await.map_err(|_| Failure::Store)?;
        for step in plan.steps(range) {
            let until = self.filled.saturating_add(step.plain);
            let place = self.bytes.get_mut(self.filled..until).ok_or(Failure::Store)?;
            if plan.is_sealed() {
                sealed.resize(step.stored, 0);
                stream.read_exact(sealed).await.map_err(|_| Failure::Store)?;
                plan.open(&step, sealed, place).map_err(Failure::Sealed)?;
            } else {
                stream.read_exact(place).await.map_err(|_| Failure::Store)?;
            }
            self.digester.update(place);
            self.filled = until;
        }
        Ok(())
    }
}
