//! The relay: carries bytes between partners and the enclave, and understands none of them.
//!
//! TLS begins and ends elsewhere. What the relay adds is limits: on how many connections there are, how long they live and
//! how much of them is in memory. It logs numbers of connections, bytes and durations only.

mod connection;
mod counters;
mod pipe;

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use connection::{Carried, Ended, Times, carry};
pub use counters::{Counters, Snapshot};
pub use pipe::pass;

/// A stream of bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// Where connections of partners come from.
pub trait Accept: Send {
    /// A connection.
    type Stream: Stream;

    /// The next connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// How the enclave is reached.
pub trait Dial: Send + Sync + 'static {
    /// A connection.
    type Stream: Stream;

    /// A new connection.
    fn dial(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Limits of a relay.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections; further ones are closed at once.
    pub connections: NonZeroUsize,
    /// How long the enclave may take to accept a connection. Until then it is tried again.
    pub connect: Duration,
    /// How long open connections may go on after the relay was asked to stop.
    pub drain: Duration,
    /// Limits on each connection.
    pub times: Times,
}

/// How long the relay waits before it asks the system again for a connection after an error, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The first and the longest pause between two attempts to reach the enclave.
const DIAL_PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Relays until `stop` completes, then takes no more connections and lets the open ones end, for at most `limits.drain`.
///
/// Returns how many connections had to be cut.
pub async fn serve<D: Dial>(
    mut listener: impl Accept,
    enclave: Arc<D>,
    limits: Limits,
    counters: Arc<Counters>,
    stop: impl Future<Output = ()>,
) -> u64 {
    let places = Arc::new(Semaphore::new(limits.connections.get().min(Semaphore::MAX_PERMITS)));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    let mut stop = std::pin::pin!(stop);
    let mut next_id = 0_u64;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        let partner = match accepted {
            Ok(partner) => partner,
            Err(error) => {
                counters.accept_error();
                tracing::warn!(error = %error.kind(), "could not accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            counters.shed();
            continue;
        };
        counters.accepted();
        next_id += 1;
        let (enclave, counters, cut) = (Arc::clone(&enclave), Arc::clone(&counters), cut.clone());
        connections.spawn(connection(next_id, place, partner, enclave, limits, counters, cut));
    }
    drop(listener);
    connections.close();
    let before = counters.snapshot().drained;
    if timeout(limits.drain, connections.wait()).await.is_err() {
        cut.cancel();
        connections.wait().await;
    }
    counters.snapshot().drained - before
}

/// One connection from its beginning to its end; it gives its place back then.
async fn connection<D: Dial>(
    id: u64,
    _place: OwnedSemaphorePermit,
    partner: impl Stream,
    enclave: Arc<D>,
    limits: Limits,
    counters: Arc<Counters>,
    cut: CancellationToken,
) {
    let begun = Instant::now();
    let carried = Carried::default();
    let reached = tokio::select! {
        reached = reach(&*enclave, limits.connect) => reached.ok_or(Ended::Unreachable),
        () = cut.cancelled() => Err(Ended::Drained),
    };
    let ended = match reached {
        Ok(enclave) => carry(partner, enclave, &limits.times, cut.cancelled(), &carried).await,
        Err(ended) => ended,
    };
    let (to_enclave, to_partner) =
        (carried.to_enclave.load(Ordering::Relaxed), carried.to_partner.load(Ordering::Relaxed));
    counters.ended(ended, to_enclave, to_partner);
    tracing::info!(
        connection = id,
        ended = ended.as_str(),
        to_enclave,
        to_partner,
        milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        "connection ended"
    );
}

/// A connection to the enclave, tried until there is one or the time is over: an enclave that restarts is back soon.
async fn reach<D: Dial>(enclave: &D, within: Duration) -> Option<D::Stream> {
    let (mut pause, longest) = DIAL_PAUSES;
    timeout(within, async {
        loop {
            match enclave.dial().await {
                Ok(stream) => return stream,
                Err(error) => {
                    tracing::debug!(error = %error.kind(), "the enclave did not accept a connection");
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    })
    .await
    .ok()
}

#[cfg(test)]
mod tests;
