//! The relay on real sockets: what the kernel buffers, closes and resets.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cleanroom_host::endpoint::{EnclaveAddress, ListenAddress};
use cleanroom_host::relay::{Balancers, Counters, Limits, Partners, Snapshot, Threads, Times, begin};
use cleanroom_proxy_protocol::{Addresses, Header, written};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_vsock::{VMADDR_CID_LOCAL, VsockAddr, VsockListener};

const LIMITS: Limits = Limits {
    connections: NonZeroUsize::new(600).unwrap(),
    per_client: NonZeroUsize::new(600).unwrap(),
    connect: Duration::from_secs(10),
    drain: Duration::from_secs(10),
    times: Times {
        opening: Duration::from_secs(60),
        idle: Duration::from_secs(60),
        lifetime: Duration::from_secs(60),
    },
};

struct Relay {
    address: String,
    counters: Arc<Counters>,
    stop: CancellationToken,
    task: JoinHandle<u64>,
}

impl Relay {
    /// Returns when the counters are as they should be. The relay closes a connection first and counts it then, so
    /// whoever sees it closed may be ahead of the counters.
    async fn counts(&self, as_they_should_be: impl Fn(&Snapshot) -> bool) {
        let counted = async {
            while !as_they_should_be(&self.counters.snapshot()) {
                tokio::task::yield_now().await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(60), counted).await;
        assert!(in_time.is_ok(), "{:?}", self.counters.snapshot());
    }
}

async fn relay_to(enclave: EnclaveAddress, limits: Limits) -> Relay {
    let listener = "127.0.0.1:0".parse::<ListenAddress>().unwrap().bind().await.unwrap();
    let address = listener.address().unwrap().to_string();
    let (counters, stop) = (Arc::new(Counters::default()), CancellationToken::new());
    let stopped = stop.clone().cancelled_owned();
    let threads = Threads::start().unwrap();
    let running = begin(threads, listener, Arc::new(enclave), limits, Arc::clone(&counters)).unwrap();
    let task = tokio::spawn(running.until(stopped));
    Relay { address, counters, stop, task }
}

struct World {
    relay: Relay,
    enclave: UnixListener,
    _folder: TempDir,
}

async fn world(limits: Limits) -> World {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("enclave.sock");
    let enclave = UnixListener::bind(&path).unwrap();
    World { relay: relay_to(EnclaveAddress::Unix(path), limits).await, enclave, _folder: folder }
}

impl World {
    async fn connected(&self) -> (TcpStream, UnixStream) {
        let mut partner = TcpStream::connect(&self.relay.address).await.unwrap();
        // The enclave hears of a connection with its first byte.
        partner.write_all(b"x").await.unwrap();
        let (mut enclave, _) = self.enclave.accept().await.unwrap();
        enclave.read_exact(&mut [0]).await.unwrap();
        (partner, enclave)
    }
}

/// Bytes that are different at every position within 16 MiB.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index ^ (index >> 8) ^ (index >> 16)) as u8).collect()
}

/// Writes in pieces of many sizes while reading until the end, and gives what was read.
async fn exchange(stream: impl AsyncRead + AsyncWrite, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        let (mut rest, mut size) = (bytes, 1);
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(size.min(rest.len()));
            writer.write_all(piece).await?;
            rest = later;
            size = (size * 3) % 1_000_003;
        }
        writer.shutdown().await
    };
    let mut heard = Vec::new();
    tokio::try_join!(write, reader.read_to_end(&mut heard))?;
    Ok(heard)
}

#[tokio::test]
async fn every_byte_arrives_in_both_directions_at_once() {
    let world = world(LIMITS).await;
    let (partner, enclave) = world.connected().await;
    let (question, answer) = (pattern(3_000_000), pattern(5_000_000));
    let (heard_by_partner, heard_by_enclave) =
        tokio::try_join!(exchange(partner, &question), exchange(enclave, &answer)).unwrap();
    assert!(heard_by_partner == answer && heard_by_enclave == question);
    world.relay.stop.cancel();
    assert_eq!(world.relay.task.await.unwrap(), 0);
    let snapshot = world.relay.counters.snapshot();
    assert_eq!((snapshot.closed, snapshot.active), (1, 0));
    assert_eq!((snapshot.bytes_to_enclave, snapshot.bytes_to_partner), (3_000_001, 5_000_000));
}

#[tokio::test]
async fn each_half_is_closed_by_itself() {
    let world = world(LIMITS).await;
    let (mut partner, mut enclave) = world.connected().await;
    partner.shutdown().await.unwrap();
    assert_eq!(enclave.read(&mut [0]).await.unwrap(), 0, "the enclave sees the partner's end");
    enclave.write_all(b"still here").await.unwrap();
    let mut heard = [0; 10];
    partner.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");

    let (mut partner, mut enclave) = world.connected().await;
    enclave.shutdown().await.unwrap();
    assert_eq!(partner.read(&mut [0]).await.unwrap(), 0, "the partner sees the enclave's end");
    partner.write_all(b"still here").await.unwrap();
    enclave.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");
}

#[tokio::test]
async fn a_partner_that_is_reset_takes_the_enclaves_side_with_it() {
    let world = world(LIMITS).await;
    let (partner, mut enclave) = world.connected().await;
    partner.set_zero_linger().unwrap();
    drop(partner);
    assert_eq!(enclave.read(&mut [0]).await.unwrap(), 0);
    world.relay.counts(|counted| counted.failed == 1).await;
}

#[tokio::test]
async fn an_enclave_that_stops_reading_stalls_the_partner() {
    let limits = Limits { times: Times { idle: Duration::from_millis(500), ..LIMITS.times }, ..LIMITS };
    let world = world(limits).await;
    let (partner, enclave) = world.connected().await;
    // What the sender's socket, the relay's sockets and the relay itself hold is all that is ever taken.
    let mut taken = 0_usize;
    let piece = vec![0; 1 << 20];
    loop {
        partner.writable().await.unwrap();
        match partner.try_write(&piece) {
            Ok(count) => taken += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The idle limit has ended the connection: it was stalled for half a second.
            Err(_) => break,
        }
        assert!(taken < 64 << 20, "the relay takes bytes that nobody reads");
    }
    world.relay.counts(|counted| counted.idle == 1).await;
    let read = exchange(enclave, b"").await.unwrap_or_default().len();
    assert!(read <= 1 << 20, "{read} bytes were on the way to an enclave that read none");
}

#[tokio::test]
async fn a_header_counts_from_a_listed_balancer_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("enclave.sock");
    let enclave = UnixListener::bind(&path).unwrap();
    let listen: ListenAddress = "127.0.0.1:0".parse().unwrap();
    let balancers = Balancers::new(vec!["127.0.0.2".parse().unwrap()], &listen).unwrap();
    let listener = listen.bind().await.unwrap();
    let address = listener.address().unwrap().to_string().parse().unwrap();
    let limits = Limits { per_client: NonZeroUsize::new(1).unwrap(), ..LIMITS };
    let (counters, enclave_address) = (Arc::new(Counters::default()), Arc::new(EnclaveAddress::Unix(path)));
    let partners = Partners { listener, balancers };
    let threads = Threads::start().unwrap();
    let running = begin(threads, partners, enclave_address, limits, Arc::clone(&counters)).unwrap();
    tokio::spawn(running.until(std::future::pending()));
    let header = |client: &str| {
        let client = format!("{client}:40000").parse().unwrap();
        written(&Header::Passed(Addresses { client, server: address }))
    };
    // Says that it comes from `client`, and then a word.
    let connect = async |from: &str, client: &str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        stream.write_all(&[header(client), b"word".to_vec()].concat()).await.unwrap();
        stream
    };
    let heard = async |length: usize| {
        let (mut stream, _) = enclave.accept().await.unwrap();
        let mut heard = vec![0; length];
        stream.read_exact(&mut heard).await.unwrap();
        (stream, heard)
    };

    let _balanced = [connect("127.0.0.2", "192.0.2.1").await, connect("127.0.0.2", "192.0.2.2").await];
    let held = [heard(4).await, heard(4).await];
    assert!(
        held.iter().all(|(_, heard)| heard == b"word"),
        "the balancer is believed, and its header ends here"
    );

    // Somebody else's header is whatever it says, and no second client.
    let _own = connect("127.0.0.1", "192.0.2.3").await;
    let said = [header("192.0.2.3"), b"word".to_vec()].concat();
    assert_eq!(heard(said.len()).await.1, said);
    let mut second = connect("127.0.0.1", "192.0.2.4").await;
    assert_eq!(second.read(&mut [0]).await.unwrap_or(0), 0);
    let snapshot = counters.snapshot();
    assert_eq!((snapshot.accepted, snapshot.shed_by_client, snapshot.shed_by_header), (3, 1, 0));
}

#[tokio::test]
async fn hundreds_of_connections_are_carried_at_once() {
    let world = world(LIMITS).await;
    let address = world.relay.address.clone();
    let partners: Vec<_> = (0..500_usize)
        .map(|index| {
            let address = address.clone();
            tokio::spawn(async move {
                let question = pattern(1000 + index);
                let stream = TcpStream::connect(address).await?;
                Ok::<_, io::Error>(exchange(stream, &question).await? == question)
            })
        })
        .collect();
    for _ in 0..partners.len() {
        let (mut enclave, _) = world.enclave.accept().await.unwrap();
        tokio::spawn(async move {
            let (mut reader, mut writer) = enclave.split();
            tokio::io::copy(&mut reader, &mut writer).await?;
            writer.shutdown().await
        });
    }
    for partner in partners {
        assert!(partner.await.unwrap().unwrap());
    }
    world.relay.stop.cancel();
    world.relay.task.await.unwrap();
    assert_eq!(world.relay.counters.snapshot().closed, 500);
}

#[tokio::test]
async fn bytes_cross_vsock_whole() {
    // The kernel's loopback transport, if this machine has it.
    let address = VsockAddr::new(VMADDR_CID_LOCAL, 50_443);
    let Ok(listener) = VsockListener::bind(address) else {
        eprintln!("this machine has no AF_VSOCK: not tried");
        return;
    };
    let enclave = EnclaveAddress::Vsock { cid: address.cid(), port: address.port() };
    let limits = Limits { connect: Duration::from_secs(2), ..LIMITS };
    let relay = relay_to(enclave, limits).await;
    let mut partner = TcpStream::connect(&relay.address).await.unwrap();
    partner.write_all(b"x").await.unwrap();
    let accepted = tokio::time::timeout(Duration::from_secs(2), listener.accept()).await;
    let Ok(Ok((mut enclave, _))) = accepted else {
        eprintln!("this machine has no AF_VSOCK loopback: not tried");
        return;
    };
    enclave.read_exact(&mut [0]).await.unwrap();
    let (question, answer) = (pattern(1_000_000), pattern(2_000_000));
    let (heard_by_partner, heard_by_enclave) =
        tokio::try_join!(exchange(partner, &question), exchange(enclave, &answer)).unwrap();
    assert!(heard_by_partner == answer && heard_by_enclave == question);
}
