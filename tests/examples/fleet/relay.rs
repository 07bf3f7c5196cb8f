//! The host's relay against `HAProxy`: the same clients, and the same server behind a Unix socket.
//!
//! [`measure`] compares speed, on a machine that does nothing else. [`measure_cost`] compares processor time in many short
//! pairs, of which the least disturbed count, so it can be believed on a busy machine, too.
//!
//! Both log each connection. Clients and server are this program, on the same processors, and cost both sides the same. So
//! the processor time that each carrier used itself is compared as well.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use cleanroom_tests::balancer::{Balancer, Program};
use cleanroom_tests::processes::Running;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::MANY_CONNECTIONS;
use crate::process::processor_time;
use crate::report::{Limit, Report, at, median};

/// Bytes of a bulk transfer in one direction, over all of its connections.
const BULK: u64 = 1 << 30;
/// What one write has: the most that a TLS record carries.
const RECORD: usize = 16 << 10;
/// How long connections are counted.
const COUNTED: Duration = Duration::from_secs(2);
/// The same of a short pair.
const SHORT_BULK: u64 = 1 << 27;
const SHORT_COUNTED: Duration = Duration::from_millis(250);
/// Clients that connect again and again.
const CLIENTS: usize = 16;

/// What a client asks of the server: so many bytes to it, and then so many back.
const ORDER: usize = 16;

/// A carrier.
struct Carrier {
    process: u32,
    address: SocketAddr,
}

/// Work for both carriers.
#[derive(Clone, Copy)]
enum Work {
    /// Bytes to the enclave, and from it, over so many connections.
    Bulk { up: u64, down: u64, connections: u64 },
    /// Connections for so long, one after the other, by [`CLIENTS`].
    Connections(Duration),
}

/// How fast it was: bytes or connections a second, and for each second of the carrier's processor time.
struct Rate {
    a_second: f64,
    a_processor_second: f64,
}

/// The two carriers in front of one server.
struct Both {
    relay: Carrier,
    haproxy: Carrier,
    _running: (tempfile::TempDir, Balancer, Running),
}

impl Both {
    async fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let far = folder.path().join("far.sock");
        let server = UnixListener::bind(&far).unwrap();
        tokio::spawn(serve(server));
        let to = [format!("unix:{}", far.display())];
        let balancer = Program::HaProxy.start_without_header(folder.path(), &to).await?;
        let haproxy = Carrier { process: balancer.id(), address: balancer.address };
        let (relay, process) = relay(folder.path(), &far);
        Some(Self { relay, haproxy, _running: (folder, balancer, process) })
    }

    /// What both did of the same work, the relay first in every other pair.
    async fn pairs(&self, work: Work, count: usize) -> Vec<[Rate; 2]> {
        let mut pairs = Vec::new();
        for number in 0..count {
            pairs.push(if number % 2 == 0 {
                let ours = rate(&self.relay, work).await;
                [ours, rate(&self.haproxy, work).await]
            } else {
                let theirs = rate(&self.haproxy, work).await;
                [rate(&self.relay, work).await, theirs]
            });
        }
        pairs
    }
}

/// The work that is compared: what its unit is called, how many of its units are in one that is shown, and the least part
/// of `HAProxy`'s speed that is wanted. A relay carries few connections for a long time, so bytes count, and a connection may
/// take a tenth longer to begin.
fn works(bulk: u64, counted: Duration) -> [(&'static str, Work, f64, f64); 4] {
    let mebibyte = f64::from(1 << 20);
    let bulk = |up, down, connections| Work::Bulk { up: up * bulk, down: down * bulk, connections };
    [
        ("MiB from the enclave, 1 stream", bulk(0, 1, 1), mebibyte, 1.0),
        ("MiB from the enclave, 64 streams", bulk(0, 1, 64), mebibyte, 1.0),
        ("MiB to the enclave, 64 streams", bulk(1, 0, 64), mebibyte, 1.0),
        ("connections", Work::Connections(counted), 1.0, 0.9),
    ]
}

/// Processor time of each side for the same work. The quarter of the pairs that cost least was disturbed least.
pub(crate) async fn measure_cost(report: &mut Report, pairs: usize) {
    let Some(both) = Both::start().await else { return };
    println!("\nProcessor time of the relay and of HAProxy, microseconds, the best quarter of {pairs} pairs");
    println!("    {:<34} {:>9} {:>9} {:>7}", "", "relay", "HAProxy", "ratio");
    for (name, work, unit, least) in works(SHORT_BULK, SHORT_COUNTED) {
        let pairs = both.pairs(work, pairs).await;
        let cost = |side: usize| {
            let rates = pairs.iter().filter_map(|pair| pair.get(side));
            at(rates.map(|rate| 1e6 * unit / rate.a_processor_second), 25)
        };
        let (ours, theirs) = (cost(0), cost(1));
        println!("    {name:<34} {ours:>9.1} {theirs:>9.1} {:>7.2}", ours / theirs);
        let most = Limit::AtMost(1.0 / least);
        report.target(format!("processor time, relay to HAProxy, {name}"), ours / theirs, most);
    }
}

pub(crate) async fn measure(report: &mut Report, rounds: usize) {
    let Some(both) = Both::start().await else { return };
    println!(
        "\nThe relay and HAProxy in TCP mode, a second, in front of one server, medians of {rounds} rounds in turn"
    );
    println!(
        "    {:<34} {:>9} {:>9} {:>7}   {:>30}",
        "", "relay", "HAProxy", "ratio", "for each processor second"
    );
    for (name, work, unit, least) in works(BULK, COUNTED) {
        let pairs = both.pairs(work, rounds).await;
        let compared = |of: fn(&Rate) -> f64| {
            let side = |index: usize| median(pairs.iter().filter_map(|pair| pair.get(index)).map(of)) / unit;
            (side(0), side(1), side(0) / side(1))
        };
        let (ours, theirs, ratio) = compared(|rate| rate.a_second);
        let (our_cost, their_cost, cost_ratio) = compared(|rate| rate.a_processor_second);
        println!(
            "    {name:<34} {ours:>9.0} {theirs:>9.0} {ratio:>7.2}   {our_cost:>11.0} {their_cost:>11.0} {cost_ratio:>6.2}"
        );
        report.target(format!("relay to HAProxy, {name}"), ratio, Limit::AtLeast(least));
    }
}

fn relay(folder: &Path, far: &Path) -> (Carrier, Running) {
    let to = format!("unix:{}", far.display());
    let mut arguments = vec!["relay", "--listen", "127.0.0.1:0", "--to", &to, "--keep-enclave"];
    arguments.extend(MANY_CONNECTIONS);
    let mut running = Running::start("cleanroom-host", folder, &arguments);
    let address = running.wait_for("ready: partners connect to ").parse().unwrap();
    (Carrier { process: running.id(), address }, running)
}

async fn rate(carrier: &Carrier, work: Work) -> Rate {
    let (begun, spent) = (Instant::now(), processor_time(carrier.process));
    let done = match work {
        Work::Bulk { up, down, connections } => bulk(carrier.address, up, down, connections).await,
        Work::Connections(counted) => connections(carrier.address, counted).await,
    };
    let (elapsed, spent) = (begun.elapsed(), processor_time(carrier.process) - spent);
    Rate { a_second: done / elapsed.as_secs_f64(), a_processor_second: done / spent.as_secs_f64() }
}

async fn bulk(address: SocketAddr, up: u64, down: u64, connections: u64) -> f64 {
    let mut all = JoinSet::new();
    for _ in 0..connections {
        all.spawn(exchange(address, up / connections, down / connections));
    }
    all.join_all().await;
    (up + down) as f64
}

async fn connections(address: SocketAddr, counted: Duration) -> f64 {
    let end = Instant::now() + counted;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(async move {
            let mut count = 0;
            while Instant::now() < end {
                exchange(address, 64, 64).await;
                count += 1;
            }
            f64::from(count)
        });
    }
    clients.join_all().await.into_iter().sum()
}

/// One connection: an order, `up` bytes, and the `down` bytes that come back.
async fn exchange(address: SocketAddr, up: u64, down: u64) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut order = [0; ORDER];
    order[..8].copy_from_slice(&up.to_be_bytes());
    order[8..].copy_from_slice(&down.to_be_bytes());
    stream.write_all(&order).await.unwrap();
    write(&mut stream, up).await.unwrap();
    read(&mut stream, down).await.unwrap();
}

/// The server: carries out every order.
async fn serve(listener: UnixListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(carry_out(stream));
    }
}

async fn carry_out(mut stream: UnixStream) -> io::Result<()> {
    let (up, down) = (stream.read_u64().await?, stream.read_u64().await?);
    read(&mut stream, up).await?;
    write(&mut stream, down).await
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), mut left: u64) -> io::Result<()> {
    let record = [7; RECORD];
    while left > 0 {
        let count = record.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        stream.write_all(&record[..count]).await?;
        left -= count as u64;
    }
    Ok(())
}

async fn read(stream: &mut (impl AsyncRead + Unpin), mut left: u64) -> io::Result<()> {
    let mut record = vec![0; 4 * RECORD];
    while left > 0 {
        let wanted = record.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match stream.read(&mut record[..wanted]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => left -= count as u64,
        }
    }
    Ok(())
}
