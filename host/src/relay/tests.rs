//! The relay with scripted ends and a paused clock.

use std::future::pending;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;

const LIMITS: Limits = Limits {
    connections: NonZeroUsize::new(2).unwrap(),
    per_client: NonZeroUsize::new(2).unwrap(),
    connect: Duration::from_secs(10),
    drain: Duration::from_secs(30),
    times: Times {
        opening: Duration::from_secs(45),
        idle: Duration::from_secs(60),
        lifetime: Duration::from_secs(3600),
    },
};

/// Partners: what is sent here is accepted by the relay.
struct Partners(mpsc::UnboundedReceiver<io::Result<Accepted<DuplexStream>>>);

impl Moves for DuplexStream {
    fn here(self) -> io::Result<Self> {
        Ok(self)
    }

    fn server(&self) -> Option<SocketAddr> {
        Some(ends("0.0.0.0").server)
    }
}

impl Accept for Partners {
    type Stream = DuplexStream;

    async fn accept(&mut self) -> io::Result<Accepted<DuplexStream>> {
        match self.0.recv().await {
            Some(accepted) => accepted,
            None => pending().await,
        }
    }
}

/// An enclave that refuses some connections and then gives each next one's other end to the test.
struct Enclave {
    refusals: AtomicUsize,
    ends: Mutex<mpsc::UnboundedSender<DuplexStream>>,
}

impl Dial for Enclave {
    type Stream = DuplexStream;

    async fn dial(&self) -> io::Result<DuplexStream> {
        if self
            .refusals
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok()
        {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (near, far) = duplex(1024);
        self.ends.lock().unwrap().send(far).map_err(io::Error::other)?;
        Ok(near)
    }
}

struct World {
    partners: mpsc::UnboundedSender<io::Result<Accepted<DuplexStream>>>,
    enclaves: mpsc::UnboundedReceiver<DuplexStream>,
    counters: Arc<Counters>,
    stop: CancellationToken,
    relay: tokio::task::JoinHandle<u64>,
}

fn begun<D: Dial>(
    accepted: mpsc::UnboundedReceiver<io::Result<Accepted<DuplexStream>>>,
    enclave: Arc<D>,
    counters: Arc<Counters>,
) -> Running<D> {
    begin(Threads::of_caller(), Partners(accepted), enclave, LIMITS, counters).unwrap()
}

fn world(refusals: usize) -> World {
    let (partners, accepted) = mpsc::unbounded_channel();
    let (ends, enclaves) = mpsc::unbounded_channel();
    let (counters, stop) = (Arc::new(Counters::default()), CancellationToken::new());
    let enclave = Arc::new(Enclave { refusals: refusals.into(), ends: Mutex::new(ends) });
    let stopped = stop.clone().cancelled_owned();
    let running = begun(accepted, enclave, Arc::clone(&counters));
    let relay = tokio::spawn(running.until(stopped));
    World { partners, enclaves, counters, stop, relay }
}

impl World {
    fn connect(&self) -> DuplexStream {
        self.connect_from(None)
    }

    fn connect_from(&self, from: Option<&str>) -> DuplexStream {
        let (near, stream) = duplex(1024);
        let from = from.map(|client| ends(client).client);
        self.partners.send(Ok(Accepted { stream, from, has_header: false })).unwrap();
        near
    }

    /// A connection of a balancer.
    fn connect_balanced(&self) -> DuplexStream {
        let (near, stream) = duplex(1024);
        let from = Some(ends("10.0.0.5").client);
        self.partners.send(Ok(Accepted { stream, from, has_header: true })).unwrap();
        near
    }

    /// A partner's end and the enclave's end of a connection that is up.
    async fn connected(&mut self) -> (DuplexStream, DuplexStream) {
        self.connected_from(None).await
    }

    async fn connected_from(&mut self, from: Option<&str>) -> (DuplexStream, DuplexStream) {
        let mut partner = self.connect_from(from);
        // The enclave hears of a connection with its first byte.
        partner.write_all(b"x").await.unwrap();
        let mut enclave = self.enclaves.recv().await.unwrap();
        enclave.read_exact(&mut [0]).await.unwrap();
        (partner, enclave)
    }
}

/// The ends of a connection from an address.
fn ends(client: &str) -> Addresses {
    let server = "198.51.100.1:8443".parse().unwrap();
    Addresses { client: SocketAddr::new(client.parse().unwrap(), 40_000), server }
}

/// The header of a connection from an address.
fn header(client: &str) -> Vec<u8> {
    written(&Header::Passed(ends(client)))
}

async fn assert_closed(stream: &mut DuplexStream) {
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_connection_more_than_there_are_places_is_closed_at_once() {
    let mut world = world(0);
    let mut first = world.connected().await;
    let _second = world.connected().await;
    let begun = Instant::now();
    assert_closed(&mut world.connect()).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    let snapshot = world.counters.snapshot();
    assert_eq!((snapshot.accepted, snapshot.active, snapshot.shed), (2, 2, 1));

    // The slot of a connection that ended is free again.
    first.0.shutdown().await.unwrap();
    first.1.shutdown().await.unwrap();
    assert_closed(&mut first.0).await;
    assert_closed(&mut first.1).await;
    let (mut partner, mut enclave) = world.connected().await;
    partner.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    enclave.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test(start_paused = true)]
async fn an_enclave_that_is_not_there_yet_is_tried_again() {
    let mut world = world(5);
    let begun = Instant::now();
    let (_partner, _enclave) = world.connected().await;
    // 20 + 40 + 80 + 160 + 320 ms
    assert_eq!(begun.elapsed(), Duration::from_millis(620));
}

#[tokio::test(start_paused = true)]
async fn an_enclave_that_never_answers_ends_the_connection() {
    let world = world(usize::MAX);
    let begun = Instant::now();
    let mut partner = world.connect();
    partner.write_all(b"x").await.unwrap();
    assert_closed(&mut partner).await;
    assert_eq!(begun.elapsed(), LIMITS.connect);
    assert_eq!(world.counters.snapshot().unreachable, 1);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_does_not_use_up_the_time_of_the_next() {
    /// An enclave whose first connection is never answered.
    struct HangsOnce(AtomicUsize, Mutex<Option<DuplexStream>>);
    impl Dial for HangsOnce {
        type Stream = DuplexStream;
        async fn dial(&self) -> io::Result<DuplexStream> {
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                return pending().await;
            }
            self.1.lock().unwrap().take().ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
        }
    }
    let (near, _far) = duplex(16);
    let begun = Instant::now();
    let enclave = HangsOnce(AtomicUsize::new(0), Mutex::new(Some(near)));
    assert!(reach(&enclave, None, LIMITS.connect).await.is_some());
    assert!(begun.elapsed() < LIMITS.connect);
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_ends_and_the_enclave_never_hears_of_it() {
    let mut world = world(0);
    let begun = Instant::now();
    assert_closed(&mut world.connect()).await;
    assert_eq!(begun.elapsed(), LIMITS.times.opening);
    // One that closes without a byte, as a balancer's health check does, is no failure.
    drop(world.connect());
    while world.counters.snapshot().accepted < 2 || world.counters.snapshot().active > 0 {
        tokio::task::yield_now().await;
    }
    let snapshot = world.counters.snapshot();
    assert_eq!((snapshot.silent, snapshot.closed, snapshot.unreachable), (1, 1, 0));
    assert!(world.enclaves.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_address_that_takes_every_place_does_not_keep_others_out() {
    let mut world = world(0);
    let [mut first, mut second] =
        [world.connect_from(Some("192.0.2.1")), world.connect_from(Some("192.0.2.1"))];
    // It has its share.
    assert_closed(&mut world.connect_from(Some("192.0.2.1"))).await;
    second.write_all(b"x").await.unwrap();
    let mut enclave = world.enclaves.recv().await.unwrap();
    // Another client comes: the silent one of the two makes room.
    let (mut other, mut other_enclave) = world.connected_from(Some("192.0.2.2")).await;
    assert_closed(&mut first).await;
    // Both have one now, and a third client does not displace them.
    assert_closed(&mut world.connect_from(Some("192.0.2.3"))).await;
    for (partner, enclave) in [(&mut second, &mut enclave), (&mut other, &mut other_enclave)] {
        enclave.write_all(b"still here").await.unwrap();
        let mut heard = [0; 10];
        partner.read_exact(&mut heard).await.unwrap();
    }
    let snapshot = world.counters.snapshot();
    assert_eq!((snapshot.displaced, snapshot.shed_by_client, snapshot.shed), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn behind_a_balancer_the_header_says_whose_connection_it_is_and_ends_there() {
    let mut world = world(0);
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut partner = world.connect_balanced();
        // The header comes in pieces, and the last one has the client's first bytes.
        let bytes = [header("192.0.2.1"), b"TLS".to_vec()].concat();
        for piece in [&bytes[..5], &bytes[5..20], &bytes[20..]] {
            partner.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut enclave = world.enclaves.recv().await.unwrap();
        let mut heard = [0; 3];
        enclave.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"TLS", "an enclave hears the client and no header");
        held.push((partner, enclave));
    }
    // The client has its share, and one with another address takes a slot of it.
    let mut third = world.connect_balanced();
    third.write_all(&header("192.0.2.1")).await.unwrap();
    assert_closed(&mut third).await;
    let mut other = world.connect_balanced();
    other.write_all(&[header("192.0.2.2"), b"TLS".to_vec()].concat()).await.unwrap();
    let _other = world.enclaves.recv().await.unwrap();
    let snapshot = world.counters.snapshot();
    assert_eq!((snapshot.accepted, snapshot.shed_by_client, snapshot.displaced), (3, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_balancers_connection_without_its_header_is_closed_and_nobody_elses_header_is_looked_at() {
    let mut world = world(0);
    let begun = Instant::now();
    let mut late = world.connect_balanced();
    late.write_all(b"\r\n\r\n").await.unwrap();
    assert_closed(&mut late).await;
    assert_eq!(begun.elapsed(), HEADER_LIMIT);
    for wrong in [b"\x16\x03\x01".as_slice(), b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"] {
        let mut partner = world.connect_balanced();
        partner.write_all(wrong).await.unwrap();
        assert_closed(&mut partner).await;
    }
    assert_eq!(begun.elapsed(), HEADER_LIMIT, "what cannot become a header is closed at once");
    // A balancer's look, with a header of its own and without.
    drop(world.connect_balanced());
    let mut look = world.connect_balanced();
    look.write_all(&written(&Header::Own)).await.unwrap();
    drop(look);
    while world.counters.snapshot().closed < 1 {
        tokio::task::yield_now().await;
    }
    assert!(world.enclaves.try_recv().is_err(), "the enclave heard of none of them");
    let snapshot = world.counters.snapshot();
    assert_eq!((snapshot.accepted, snapshot.shed_by_header), (1, 3));

    let mut direct = world.connect_from(Some("192.0.2.1"));
    direct.write_all(&header("203.0.113.9")).await.unwrap();
    let mut enclave = world.enclaves.recv().await.unwrap();
    let mut heard = vec![0; header("203.0.113.9").len()];
    enclave.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, header("203.0.113.9"), "it is whatever the client says");
}

#[tokio::test(start_paused = true)]
async fn connections_that_wait_for_their_header_are_bounded_and_end_with_the_relay() {
    let world = world(0);
    let mut waiting: Vec<_> = (0..LIMITS.connections.get()).map(|_| world.connect_balanced()).collect();
    assert_closed(&mut world.connect_balanced()).await;
    assert_eq!(world.counters.snapshot().shed, 1);
    let begun = Instant::now();
    world.stop.cancel();
    assert_eq!(world.relay.await.unwrap(), 0);
    assert_closed(&mut waiting[0]).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn another_host_is_told_whose_connection_it_gets() {
    /// A host that wants a header and takes one connection.
    struct Host(Mutex<Option<DuplexStream>>);
    impl Dial for Host {
        type Stream = DuplexStream;
        async fn dial(&self) -> io::Result<DuplexStream> {
            self.0.lock().unwrap().take().ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
        }
        fn wants_header(&self) -> bool {
            true
        }
    }
    for (from, expected) in [(Some("2001:db8::7"), header("2001:db8::7")), (None, written(&Header::Own))] {
        let (near, mut far) = duplex(1024);
        let (partners, accepted) = mpsc::unbounded_channel();
        let (mut partner, stream) = duplex(1024);
        let from = from.map(|client| ends(client).client);
        partners.send(Ok(Accepted { stream, from, has_header: false })).unwrap();
        let host = Arc::new(Host(Mutex::new(Some(near))));
        let relay = tokio::spawn(begun(accepted, host, Arc::default()).until(pending()));
        partner.write_all(b"TLS").await.unwrap();
        let mut heard = vec![0; expected.len() + 3];
        far.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, [expected, b"TLS".to_vec()].concat());
        relay.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_listener_does_not_end_the_relay() {
    let mut world = world(0);
    world.partners.send(Err(io::ErrorKind::ConnectionAborted.into())).unwrap();
    let _connection = world.connected().await;
    assert_eq!(world.counters.snapshot().accept_errors, 1);
}

#[tokio::test(start_paused = true)]
async fn stopping_lets_open_connections_end() {
    let mut world = world(0);
    let (mut partner, mut enclave) = world.connected().await;
    let mut silent = world.connect();
    while world.counters.snapshot().active < 2 {
        tokio::task::yield_now().await;
    }
    let begun = Instant::now();
    world.stop.cancel();
    // Nothing was asked on this one, so nothing is waited for.
    assert_closed(&mut silent).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(world.partners.is_closed(), "no further connection is taken");
    enclave.write_all(b"the rest of the answer").await.unwrap();
    enclave.shutdown().await.unwrap();
    let mut answer = String::new();
    partner.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "the rest of the answer");
    assert!(!world.relay.is_finished());
    partner.shutdown().await.unwrap();
    assert_eq!(world.relay.await.unwrap(), 1);
    assert_eq!(world.counters.snapshot().closed, 1);
}

#[tokio::test(start_paused = true)]
async fn stopping_cuts_what_does_not_end_in_time() {
    let mut world = world(0);
    let (mut partner, _enclave) = world.connected().await;
    let begun = Instant::now();
    world.stop.cancel();
    assert_closed(&mut partner).await;
    assert_eq!(begun.elapsed(), LIMITS.drain);
    assert_eq!(world.relay.await.unwrap(), 1);
    assert_eq!(world.counters.snapshot().drained, 1);
}
