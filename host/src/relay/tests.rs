//! The relay with scripted ends and a paused clock.

use std::future::pending;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;

use super::*;

const LIMITS: Limits = Limits {
    connections: NonZeroUsize::new(2).unwrap(),
    connect: Duration::from_secs(10),
    drain: Duration::from_secs(30),
    times: Times { idle: Duration::from_secs(60), lifetime: Duration::from_secs(3600) },
};

/// Partners: what is sent here is accepted by the relay.
struct Partners(mpsc::UnboundedReceiver<io::Result<DuplexStream>>);

impl Accept for Partners {
    type Stream = DuplexStream;

    async fn accept(&mut self) -> io::Result<DuplexStream> {
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
    partners: mpsc::UnboundedSender<io::Result<DuplexStream>>,
    enclaves: mpsc::UnboundedReceiver<DuplexStream>,
    counters: Arc<Counters>,
    stop: CancellationToken,
    relay: tokio::task::JoinHandle<u64>,
}

fn world(refusals: usize) -> World {
    let (partners, accepted) = mpsc::unbounded_channel();
    let (ends, enclaves) = mpsc::unbounded_channel();
    let (counters, stop) = (Arc::new(Counters::default()), CancellationToken::new());
    let enclave = Arc::new(Enclave { refusals: refusals.into(), ends: Mutex::new(ends) });
    let stopped = stop.clone().cancelled_owned();
    let relay = tokio::spawn(serve(Partners(accepted), enclave, LIMITS, Arc::clone(&counters), stopped));
    World { partners, enclaves, counters, stop, relay }
}

impl World {
    fn connect(&self) -> DuplexStream {
        let (near, far) = duplex(1024);
        self.partners.send(Ok(far)).unwrap();
        near
    }

    /// A partner's end and the enclave's end of a connection that is up.
    async fn connected(&mut self) -> (DuplexStream, DuplexStream) {
        let partner = self.connect();
        (partner, self.enclaves.recv().await.unwrap())
    }
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

    // The place of a connection that ended is free again.
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
    assert_closed(&mut world.connect()).await;
    assert_eq!(begun.elapsed(), LIMITS.connect);
    assert_eq!(world.counters.snapshot().unreachable, 1);
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
    world.stop.cancel();
    // No further connection is taken: its stream is dropped with the listener.
    assert_closed(&mut world.connect()).await;
    enclave.write_all(b"the rest of the answer").await.unwrap();
    enclave.shutdown().await.unwrap();
    let mut answer = String::new();
    partner.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "the rest of the answer");
    assert!(!world.relay.is_finished());
    partner.shutdown().await.unwrap();
    assert_eq!(world.relay.await.unwrap(), 0);
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
