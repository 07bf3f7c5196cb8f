//! Real balancers in front of simulated clean rooms.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cleanroom_tests::balancer::{Balancer, Program};
use cleanroom_tests::client::{json, question, send, send_on};
use cleanroom_tests::fleet::Fleet;
use cleanroom_tests::processes::Running;
use cleanroom_tests::wait;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Mutex, Notify, Semaphore};
use tokio::task::JoinSet;

/// A paced stream takes some seconds, whatever the machine's speed.
const PACED: &str = "[traffic]\nstep = 256\ncadence = \"200ms\"\n";

/// What a host has to be told about the balancers here.
const KNOWS_BALANCER: &[&str] = &["--proxy-protocol", Balancer::FROM];

/// One fleet at a time: the enclaves of several compute against each other for minutes.
static ALONE: Mutex<()> = Mutex::const_new(());

/// How an answer ended: nothing when it is whole, or else what came.
type Ended = Result<(), String>;

/// Asks through the partner's proxy, and tells `begun` when the answer begins.
async fn ask(proxy: SocketAddr, is_stream: bool, begun: impl FnOnce()) -> Ended {
    let response = send(proxy, "POST", "/v1/chat/completions", &question("Hello", is_stream)).await;
    let is_success = response.status().is_success();
    let (mut body, mut begun) = (response.into_body(), Some(begun));
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("cut: {error}"))?;
        text.extend_from_slice(&frame.into_data().unwrap_or_default());
        if let Some(begun) = begun.take() {
            begun();
        }
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    let is_whole = is_success && (!is_stream || text.contains("data: [DONE]"));
    if is_whole { Ok(()) } else { Err(text) }
}

/// Streams, each of which has begun.
async fn streams(proxy: SocketAddr, count: u32) -> JoinSet<Ended> {
    let begun = Arc::new(Semaphore::new(0));
    let mut streams = JoinSet::new();
    for _ in 0..count {
        let begun = Arc::clone(&begun);
        streams.spawn(ask(proxy, true, move || begun.add_permits(1)));
    }
    let _all = begun.acquire_many(count).await.unwrap();
    streams
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_haproxy_drains_and_deaths_fail_only_what_ran_on_the_dead_room() {
    drains_and_deaths_fail_only_what_ran_on_the_dead_room(Program::HaProxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_envoy_drains_and_deaths_fail_only_what_ran_on_the_dead_room() {
    drains_and_deaths_fail_only_what_ran_on_the_dead_room(Program::Envoy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_haproxy_no_stream_is_cut_because_another_room_answers() {
    no_stream_is_cut_because_another_room_answers(Program::HaProxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_envoy_no_stream_is_cut_because_another_room_answers() {
    no_stream_is_cut_because_another_room_answers(Program::Envoy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_of_haproxy_fails_only_what_was_on_its_way() {
    a_death_of_the_balancer_fails_only_what_was_on_its_way(Program::HaProxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_of_envoy_fails_only_what_was_on_its_way() {
    a_death_of_the_balancer_fails_only_what_was_on_its_way(Program::Envoy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_haproxy_a_host_knows_its_clients_apart() {
    a_host_knows_its_clients_apart(Program::HaProxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_envoy_a_host_knows_its_clients_apart() {
    a_host_knows_its_clients_apart(Program::Envoy).await;
}

/// A host with one connection for each client, an enclave that answers with what it hears, and two clients.
async fn a_host_knows_its_clients_apart(program: Program) {
    let folder = tempfile::tempdir().unwrap();
    let enclave = UnixListener::bind(folder.path().join("enclave.sock")).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = enclave.accept().await {
            let (mut reader, mut writer) = stream.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut reader, &mut writer).await });
        }
    });
    let arguments = "relay --listen 127.0.0.1:0 --to unix:enclave.sock --keep-enclave --metrics unix:report.sock \
                     --max-connections-per-client 1";
    let arguments: Vec<&str> = arguments.split_whitespace().chain(KNOWS_BALANCER.iter().copied()).collect();
    let mut host = Running::start("cleanroom-host", folder.path(), &arguments);
    let address = host.wait_for("ready: partners connect to ");
    let Some(balancer) = program.start(folder.path(), &[address]).await else { return };

    // Clients speak more than a TLS handshake has, so that the host takes their connections for sessions. The
    // enclave hears no byte of a header: it would be in the answer.
    let mut first = connected(&balancer, "127.0.0.2").await;
    assert_eq!(echoed(&mut first, 5000).await, 5000);
    let mut second = connected(&balancer, "127.0.0.2").await;
    assert_eq!(echoed(&mut second, 5000).await, 0, "the client has its share");
    let mut other = connected(&balancer, "127.0.0.3").await;
    assert_eq!(echoed(&mut other, 5000).await, 5000, "another client has its own");
    assert_eq!(echoed(&mut first, 5000).await, 5000);

    // The connections that were closed may take a moment to be seen so.
    let report = wait::found("two connections are left", async || {
        let report = UnixStream::connect(folder.path().join("report.sock")).await.unwrap();
        let report = json(send_on(report, "host", "GET", "/status", "").await).await.1;
        (report["relay"]["active"] == 2).then_some(report)
    })
    .await;
    // The balancer's own looks are a client's connections too, and two of them may have met.
    assert!(report["relay"]["shed_by_client"].as_u64().unwrap() >= 1);
    // A balancer's looks at the host are no clients without a header.
    assert_eq!(report["relay"]["shed_by_header"], 0);
    drop((first, other));
    assert!(host.stop().success());
}

/// A connection to the balancer from an address of this machine.
async fn connected(balancer: &Balancer, from: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    socket.connect(balancer.address).await.unwrap()
}

/// Says so many bytes, and counts those that come back before the connection is closed.
async fn echoed(stream: &mut TcpStream, bytes: usize) -> usize {
    let _ = stream.write_all(&vec![7; bytes]).await;
    let mut heard = vec![0; bytes];
    let mut count = 0;
    while count < bytes {
        match stream.read(&mut heard[count..]).await {
            Ok(0) | Err(_) => break,
            Ok(more) => count += more,
        }
    }
    assert!(heard[..count].iter().all(|byte| *byte == 7));
    count
}

async fn a_death_of_the_balancer_fails_only_what_was_on_its_way(program: Program) {
    let _alone = ALONE.lock().await;
    let fleet = Fleet::start(2, PACED, KNOWS_BALANCER);
    let Some(mut balancer) = program.start(fleet.path(), &fleet.addresses).await else { return };
    let (mut proxy, listen) =
        fleet.connect(&[&balancer.address.to_string()], &["--rooms", "2", "--outage", "60s"]);
    fleet.are_connected().await;
    let running = streams(listen, 4).await;
    balancer.kill();
    for end in running.join_all().await {
        // A stream whose connection is gone cannot be whole.
        let end = end.unwrap_err();
        assert!(!end.contains("was not sent"), "{end}");
    }
    // Nobody is there. Requests wait on this machine until somebody is.
    let mut waiting = JoinSet::new();
    for _ in 0..8 {
        waiting.spawn(ask(listen, true, || ()));
    }
    let is_early = tokio::time::timeout(Duration::from_secs(1), waiting.join_next()).await;
    assert!(is_early.is_err(), "{is_early:?}");
    balancer.start_again().await;
    for end in waiting.join_all().await {
        assert_eq!(end, Ok(()), "a request that was never sent failed");
    }
    assert!(proxy.stop().success());
}

async fn drains_and_deaths_fail_only_what_ran_on_the_dead_room(program: Program) {
    let _alone = ALONE.lock().await;
    let mut fleet = Fleet::start(3, PACED, &[KNOWS_BALANCER, &["--drain-timeout", "60s"]].concat());
    let Some(balancer) = program.start(fleet.path(), &fleet.addresses).await else { return };
    let (mut proxy, listen) = fleet.connect(&[&balancer.address.to_string()], &["--rooms", "3"]);
    fleet.are_connected().await;
    let stop = Arc::new(Notify::new());
    let asking = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut ends = Vec::new();
            let mut stop = std::pin::pin!(stop.notified());
            stop.as_mut().enable();
            loop {
                tokio::select! {
                    biased;
                    () = &mut stop => return ends,
                    ended = ask(listen, false, || ()) => ends.push(ended),
                }
            }
        }
    });

    // A room drains while streams run on it.
    let running = streams(listen, 12).await;
    let mut draining = fleet.hosts[0].take().unwrap();
    let drained = tokio::task::spawn_blocking(move || draining.stop().success());
    for end in running.join_all().await {
        assert_eq!(end, Ok(()), "a stream was cut by a drain");
    }
    assert!(drained.await.unwrap());

    // A room dies. What was sent there is lost, and nothing else.
    let running = streams(listen, 12).await;
    fleet.kill_enclave(1);
    let ends = running.join_all().await;
    assert!(ends.iter().filter(|end| end.is_ok()).count() >= 3, "{ends:?}");
    stop.notify_one();
    for end in asking.await.unwrap().into_iter().chain(ends) {
        if let Err(end) = end {
            assert!(!end.contains("was not sent"), "a request that was never sent failed: {end}");
        }
    }
    assert_eq!(ask(listen, true, || ()).await, Ok(()));
    assert!(proxy.stop().success());
}

async fn no_stream_is_cut_because_another_room_answers(program: Program) {
    let _alone = ALONE.lock().await;
    let fleet = Fleet::start(3, PACED, KNOWS_BALANCER);
    // Sessions end in the middle of streams, and their clean rooms are proven again behind the balancer.
    let policy = std::fs::read_to_string(fleet.path().join("trust.toml")).unwrap();
    let session = policy.lines().find(|line| line.starts_with("max_session = ")).unwrap();
    let policy = policy.replace(session, "max_session = \"2s\"");
    std::fs::write(fleet.path().join("trust.toml"), policy).unwrap();
    let Some(balancer) = program.start(fleet.path(), &fleet.addresses).await else { return };
    let (mut proxy, listen) = fleet.connect(&[&balancer.address.to_string()], &["--rooms", "3"]);
    fleet.are_connected().await;
    for end in streams(listen, 12).await.join_all().await {
        assert_eq!(end, Ok(()));
    }
    assert!(proxy.stop().success());
}
