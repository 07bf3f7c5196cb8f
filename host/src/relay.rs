//! The relay: carries bytes between partners and the enclave, and understands none of them.
//!
//! TLS begins and ends elsewhere. The relay adds limits: how many connections there are in all and for one
//! client, how long they live, and how much of them is in memory. It logs numbers of connections, bytes and
//! durations only, and the address of a client that reaches its limit.
//!
//! Behind a balancer, a header before the first byte says whom a connection comes from (PROXY protocol). The
//! header ends here, so an enclave never sees one.
//!
//! The enclave hears of a connection when its first bytes are there, so silent connections take none of its
//! slots.

mod balancer;
mod connection;
mod counters;
mod pipe;
mod seldom;
mod slots;
mod threads;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cleanroom_proxy_protocol::{Addresses, Header, written};
use cleanroom_vsock::WRITE_CAP;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use balancer::{Balancer, BalancerError, Balancers, NextHost, Partners};
pub use connection::{Carried, Ended, Times, carry};
pub use counters::{Counters, Snapshot};
pub use threads::Threads;

use balancer::NoHeader;
use pipe::read_piece;
use seldom::Seldom;
use slots::{Client, NoSlot, Slot, Slots};

/// A stream of bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// Where connections of partners come from.
pub trait Accept: Sized + Send + 'static {
    /// A connection.
    type Stream: Moves;

    /// The next connection. The runtime of the caller knows it.
    fn accept(&mut self) -> impl Future<Output = io::Result<Accepted<Self::Stream>>> + Send;

    /// It and further ones for the same connections, `most` in all, so that several threads can accept.
    ///
    /// # Errors
    /// When the system refuses.
    fn copies(self, _most: usize) -> io::Result<Vec<Self>> {
        Ok(vec![self])
    }

    /// It on the runtime of the caller, so that no other one has to be woken for a connection.
    ///
    /// # Errors
    /// When the system refuses.
    fn here(self) -> io::Result<Self> {
        Ok(self)
    }
}

/// A stream that can move from one runtime to another.
pub trait Moves: Stream + Sized {
    /// It on the runtime of the caller.
    ///
    /// # Errors
    /// When the system refuses.
    fn here(self) -> io::Result<Self>;

    /// The address of this machine's end; none for a Unix socket.
    fn server(&self) -> Option<SocketAddr>;
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted<Stream> {
    /// The connection.
    pub stream: Stream,
    /// The address of the other end; none for a program on this machine.
    pub from: Option<SocketAddr>,
    /// Whether it begins with a balancer's header, which says whom it comes from instead.
    pub has_header: bool,
}

/// How the enclave is reached.
pub trait Dial: Send + Sync + 'static {
    /// A connection.
    type Stream: Stream;

    /// A new connection.
    fn dial(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Whether what is reached wants a header that names the client at the beginning of each connection. An
    /// enclave never does.
    fn wants_header(&self) -> bool {
        false
    }

    /// The longest write to it, in bytes. One of more than [`WRITE_CAP`] can stall a vsock.
    fn longest_write(&self) -> usize {
        WRITE_CAP
    }
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
/// How long a balancer may take for its header. Shorter times than 3 s lose it where a packet has to be sent again
/// (proxy-protocol.txt, section 2).
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// How long one attempt to reach the enclave may take.
const DIAL_LIMIT: Duration = Duration::from_secs(3);
/// The first and the longest pause between two attempts to reach the enclave.
const DIAL_PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Begins to take connections on `threads`, and to relay them.
///
/// # Errors
/// When the system does not let the threads accept.
pub fn begin<D: Dial>(
    threads: Threads,
    listener: impl Accept,
    enclave: Arc<D>,
    limits: Limits,
    counters: Arc<Counters>,
) -> io::Result<Running<D>> {
    let relay = Relay::new(threads, enclave, limits, counters);
    // Nothing has ended before the last thread has stopped accepting.
    let accept = |thread, listener| {
        let accepting = Arc::clone(&relay).accept(thread, listener);
        relay.connections.track_future(accepting)
    };
    relay.threads.accept(listener, accept)?;
    Ok(Running(relay))
}

/// A relay that takes connections.
pub struct Running<D>(Arc<Relay<D>>);

impl<D: Dial> Running<D> {
    /// Relays until `stop` completes, then takes no more connections and lets the open ones end, for at most
    /// `limits.drain`.
    ///
    /// Returns how many connections had to be cut.
    pub async fn until(self, stop: impl Future<Output = ()>) -> u64 {
        stop.await;
        let Self(relay) = self;
        relay.connections.close();
        relay.stopping.cancel();
        let before = relay.counters.snapshot().drained;
        if timeout(relay.limits.drain, relay.connections.wait()).await.is_err() {
            relay.cut.cancel();
            relay.connections.wait().await;
        }
        relay.counters.snapshot().drained - before
    }
}

/// What the connections of a relay share.
struct Relay<D> {
    threads: Threads,
    slots: Arc<Slots>,
    enclave: Arc<D>,
    limits: Limits,
    counters: Arc<Counters>,
    /// The relay was asked to stop. No new work is taken: a connection that has not sent a byte ends at once.
    stopping: CancellationToken,
    /// The time is over.
    cut: CancellationToken,
    next_id: AtomicU64,
    complaints: Complaints,
    /// Places for connections that wait for their header. They have no slot yet, and need a bound all the same.
    headers: Arc<Semaphore>,
    connections: TaskTracker,
}

/// What the log does not repeat for each connection.
#[derive(Debug, Default)]
struct Complaints {
    accept: Seldom,
    client: Seldom,
    header: Seldom,
}

impl<D: Dial> Relay<D> {
    fn new(threads: Threads, enclave: Arc<D>, limits: Limits, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            threads,
            slots: Slots::new(limits.connections.get(), limits.per_client.get()),
            enclave,
            limits,
            counters,
            stopping: CancellationToken::new(),
            cut: CancellationToken::new(),
            next_id: AtomicU64::new(1),
            complaints: Complaints::default(),
            headers: Arc::new(Semaphore::new(limits.connections.get().min(Semaphore::MAX_PERMITS))),
            connections: TaskTracker::new(),
        })
    }

    /// Takes connections on the thread with that number, until the relay is asked to stop.
    async fn accept(self: Arc<Self>, thread: usize, mut listener: impl Accept) {
        let accepting = async {
            loop {
                match listener.accept().await {
                    Ok(accepted) => self.carry(thread, accepted),
                    Err(error) => {
                        self.counters.accept_error();
                        if self.complaints.accept.is_due() {
                            tracing::warn!(error = %error.kind(), "could not accept a connection");
                        }
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => {}
            () = accepting => {}
        }
    }

    /// Gives a connection to a thread, if there is a place for it.
    fn carry(self: &Arc<Self>, thread: usize, accepted: Accepted<impl Moves>) {
        let Accepted { stream, from, has_header } = accepted;
        let own =
            self.enclave.wants_header().then(|| Some(Addresses { client: from?, server: stream.server()? }));
        let (relay, own) = (Arc::clone(self), own.flatten());
        if has_header {
            match Arc::clone(&self.headers).try_acquire_owned() {
                Ok(place) => self.threads.carry(thread, stream, |stream| {
                    self.connections.track_future(relay.balanced(place, stream, from, own))
                }),
                Err(_) => self.counters.shed(),
            }
        } else if let Some(slot) = self.slot(from) {
            let header = self.header(own);
            self.threads.carry(thread, stream, |stream| {
                self.connections.track_future(relay.connection(slot, stream, header))
            });
        }
    }

    /// A slot for a connection, if there is one; otherwise it is counted and closed.
    fn slot(&self, from: Option<SocketAddr>) -> Option<Slot> {
        let client = Client::new(from.map(|from| from.ip()));
        match self.slots.take(client) {
            Ok(slot) => {
                self.counters.accepted();
                return Some(slot);
            }
            Err(NoSlot::Full) => self.counters.shed(),
            Err(NoSlot::Client) => {
                self.counters.shed_by_client();
                if self.complaints.client.is_due() {
                    tracing::warn!(
                        %client,
                        most = self.limits.per_client,
                        "a client has as many connections as one may have; its further ones are closed"
                    );
                }
            }
        }
        None
    }

    /// What the next host is to be told about a connection before its first byte, if it is to be told anything.
    fn header(&self, ends: Option<Addresses>) -> Option<Vec<u8>> {
        self.enclave.wants_header().then(|| written(&ends.map_or(Header::Own, Header::Passed)))
    }

    /// A connection that a balancer passes on: learns whom it comes from, and takes a slot for that client.
    async fn balanced(
        self: Arc<Self>,
        place: OwnedSemaphorePermit,
        partner: io::Result<impl Stream>,
        balancer: Option<SocketAddr>,
        own: Option<Addresses>,
    ) {
        let Ok(mut partner) = partner else { return self.counters.accept_error() };
        let header = tokio::select! {
            biased;
            () = self.stopping.cancelled() => return,
            header = timeout(HEADER_LIMIT, balancer::header(&mut partner)) => header,
        };
        let (client, from) = match header.unwrap_or(Err(NoHeader::TooLate)) {
            Ok(Header::Passed(ends)) => (Some(ends.client), Some(ends)),
            Ok(Header::Own) => (balancer, own),
            // A look whether the host is there.
            Err(NoHeader::Nothing) => {
                return tracing::debug!("a balancer's connection closed without a byte");
            }
            Err(error) => {
                self.counters.shed_by_header();
                if self.complaints.header.is_due() {
                    let from = Client::new(balancer.map(|from| from.ip()));
                    tracing::warn!(%error, balancer = %from, "a balancer's connection is closed");
                }
                return;
            }
        };
        let Some(slot) = self.slot(client) else { return };
        drop(place);
        let header = self.header(from);
        self.connection(slot, Ok(partner), header).await;
    }

    /// One connection from its beginning to its end; it gives its slot back then.
    async fn connection(
        self: Arc<Self>,
        slot: Slot,
        partner: io::Result<impl Stream>,
        header: Option<Vec<u8>>,
    ) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let carried = Arc::clone(&slot.carried);
        let ended = tokio::select! {
            biased;
            () = self.cut.cancelled() => Ended::Drained,
            () = slot.displaced.cancelled() => Ended::Displaced,
            ended = self.relayed(partner, header, &carried) => ended,
        };
        drop(slot);
        let (to_enclave, to_partner) =
            (carried.to_enclave.load(Ordering::Relaxed), carried.to_partner.load(Ordering::Relaxed));
        self.counters.ended(ended, to_enclave, to_partner);
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
    async fn relayed(
        &self,
        partner: io::Result<impl Stream>,
        header: Option<Vec<u8>>,
        carried: &Carried,
    ) -> Ended {
        let mut partner = match partner {
            Ok(partner) => partner,
            Err(error) => return Ended::Failed(error.kind()),
        };
        let times = &self.limits.times;
        let mut first = Vec::with_capacity(WRITE_CAP);
        let read = tokio::select! {
            read = timeout(times.opening, read_piece(&mut partner, &mut first)) => read,
            () = self.stopping.cancelled() => return Ended::Drained,
        };
        match read {
            Err(_) => return Ended::Silent,
            Ok(Err(error)) => return Ended::Failed(error.kind()),
            Ok(Ok(0)) => return Ended::Closed,
            Ok(Ok(_)) => {}
        }
        match reach(&*self.enclave, header.as_deref(), self.limits.connect).await {
            Some(enclave) => {
                carry(partner, enclave, first, self.enclave.longest_write(), times, carried).await
            }
            None => Ended::Unreachable,
        }
    }
}

/// A connection to the enclave, tried until there is one or the time is over: an enclave that restarts is
/// back soon. The connection begins with `header`, if there is one.
async fn reach<D: Dial>(enclave: &D, header: Option<&[u8]>, within: Duration) -> Option<D::Stream> {
    let (mut pause, longest) = DIAL_PAUSES;
    let attempt = async || {
        let mut stream = enclave.dial().await?;
        if let Some(header) = header {
            stream.write_all(header).await?;
            stream.flush().await?;
        }
        io::Result::Ok(stream)
    };
    timeout(within, async {
        loop {
            // An attempt that hangs must not use up the time of those after it.
            match timeout(DIAL_LIMIT, attempt()).await {
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
