//! The relay: carries bytes between partners and the enclave, and understands none of them.
//!
//! TLS begins and ends elsewhere. The relay adds limits: how many connections there are in all and for one
//! client, how long they live, and how much of them is in memory. It logs numbers of connections, bytes and
//! durations only.
//!
//! The enclave hears of a connection when its first bytes are there, so silent connections take none of its
//! slots.

mod connection;
mod counters;
mod pipe;
mod slots;

use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cleanroom_vsock::WRITE_CAP;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use connection::{Carried, Ended, Times, carry};
pub use counters::{Counters, Snapshot};
pub use pipe::pass;

use slots::{Client, NoSlot, Slot, Slots};

/// A stream of bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// Where connections of partners come from.
pub trait Accept: Send {
    /// A connection.
    type Stream: Stream;

    /// The next connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<Accepted<Self::Stream>>> + Send;
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted<Stream> {
    /// The connection.
    pub stream: Stream,
    /// The address that it comes from; none for a program on this machine.
    pub from: Option<IpAddr>,
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
    /// Open connections. When there are so many, a new one takes the slot of one of the client that has
    /// most, or is closed at once.
    pub connections: NonZeroUsize,
    /// Open connections of one client: an IPv4 address, or the first 64 bits of an IPv6 address. A further
    /// one takes the slot of one that is silent, or is closed at once.
    pub per_client: NonZeroUsize,
    /// How long the enclave may take to accept a connection. Until then it is tried again.
    pub connect: Duration,
    /// How long open connections may go on after the relay was asked to stop.
    pub drain: Duration,
    /// Limits on each connection.
    pub times: Times,
}

/// How long the relay waits before it asks the system again for a connection after an error, such as too many
/// open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the log repeats that connections cannot be accepted.
const ACCEPT_COMPLAINT: Duration = Duration::from_secs(10);
/// How long one attempt to reach the enclave may take.
const DIAL_LIMIT: Duration = Duration::from_secs(3);
/// The first and the longest pause between two attempts to reach the enclave.
const DIAL_PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Relays until `stop` completes, then takes no more connections and lets the open ones end, for at most
/// `limits.drain`.
///
/// Returns how many connections had to be cut.
pub async fn serve<D: Dial>(
    mut listener: impl Accept,
    enclave: Arc<D>,
    limits: Limits,
    counters: Arc<Counters>,
    stop: impl Future<Output = ()>,
) -> u64 {
    let slots = Slots::new(limits.connections.get(), limits.per_client.get());
    let connections = TaskTracker::new();
    let (stopping, cut) = (CancellationToken::new(), CancellationToken::new());
    let mut stop = std::pin::pin!(stop);
    let mut next_id = 0_u64;
    let mut complaint: Option<Instant> = None;
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
                if complaint.is_none_or(|last| last.elapsed() >= ACCEPT_COMPLAINT) {
                    complaint = Some(Instant::now());
                    tracing::warn!(error = %error.kind(), "could not accept a connection");
                }
                tokio::select! {
                    () = &mut stop => break,
                    () = sleep(ACCEPT_PAUSE) => continue,
                }
            }
        };
        let Accepted { stream: partner, from } = partner;
        let slot = match slots.take(Client::new(from)) {
            Ok(slot) => slot,
            Err(NoSlot::Full) => {
                counters.shed();
                continue;
            }
            Err(NoSlot::Client) => {
                counters.shed_by_client();
                continue;
            }
        };
        counters.accepted();
        next_id += 1;
        let (enclave, counters) = (Arc::clone(&enclave), Arc::clone(&counters));
        let ends = Ends { stopping: stopping.clone(), cut: cut.clone() };
        connections.spawn(connection(next_id, slot, partner, enclave, limits, counters, ends));
    }
    drop(listener);
    connections.close();
    stopping.cancel();
    let before = counters.snapshot().drained;
    if timeout(limits.drain, connections.wait()).await.is_err() {
        cut.cancel();
        connections.wait().await;
    }
    counters.snapshot().drained - before
}

/// How a relay that was asked to stop reaches its connections.
struct Ends {
    /// No new work is taken: a connection that has not sent a byte ends at once.
    stopping: CancellationToken,
    /// The time is over.
    cut: CancellationToken,
}

/// One connection from its beginning to its end; it gives its slot back then.
async fn connection<D: Dial>(
    id: u64,
    slot: Slot,
    partner: impl Stream,
    enclave: Arc<D>,
    limits: Limits,
    counters: Arc<Counters>,
    ends: Ends,
) {
    let carried = Arc::clone(&slot.carried);
    let ended = tokio::select! {
        biased;
        () = ends.cut.cancelled() => Ended::Drained,
        () = slot.displaced.cancelled() => Ended::Displaced,
        ended = relayed(partner, &*enclave, &limits, &ends.stopping, &carried) => ended,
    };
    drop(slot);
    let (to_enclave, to_partner) =
        (carried.to_enclave.load(Ordering::Relaxed), carried.to_partner.load(Ordering::Relaxed));
    counters.ended(ended, to_enclave, to_partner);
    // A balancer that looks whether the host is there connects and closes, every second.
    if to_enclave == 0 && ended == Ended::Closed {
        tracing::debug!(connection = id, "connection closed before its first byte");
        return;
    }
    tracing::info!(
        connection = id,
        ended = ended.as_str(),
        to_enclave,
        to_partner,
        milliseconds = u64::try_from(carried.age().as_millis()).unwrap_or(u64::MAX),
        "connection ended"
    );
}

/// Waits for the first bytes, reaches the enclave, and carries both directions to their end.
async fn relayed<D: Dial>(
    mut partner: impl Stream,
    enclave: &D,
    limits: &Limits,
    stopping: &CancellationToken,
    carried: &Carried,
) -> Ended {
    let mut first = vec![0; WRITE_CAP];
    let read = tokio::select! {
        read = timeout(limits.times.opening, partner.read(&mut first)) => read,
        () = stopping.cancelled() => return Ended::Drained,
    };
    match read {
        Err(_) => return Ended::Silent,
        Ok(Err(error)) => return Ended::Failed(error.kind()),
        Ok(Ok(0)) => return Ended::Closed,
        Ok(Ok(count)) => first.truncate(count),
    }
    match reach(enclave, limits.connect).await {
        Some(enclave) => carry(partner, enclave, first, &limits.times, carried).await,
        None => Ended::Unreachable,
    }
}

/// A connection to the enclave, tried until there is one or the time is over: an enclave that restarts is
/// back soon.
async fn reach<D: Dial>(enclave: &D, within: Duration) -> Option<D::Stream> {
    let (mut pause, longest) = DIAL_PAUSES;
    timeout(within, async {
        loop {
            // An attempt that hangs must not use up the time of those after it.
            match timeout(DIAL_LIMIT, enclave.dial()).await {
                Ok(Ok(stream)) => return stream,
                Ok(Err(error)) => {
                    tracing::debug!(error = %error.kind(), "the enclave did not accept a connection");
                }
                Err(_) => tracing::debug!("an attempt to reach the enclave took too long"),
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
