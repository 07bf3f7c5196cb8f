//! Real balancers in front of simulated clean rooms. They have to be installed: a test that cannot start one
//! fails.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cleanroom_tests::clean_room::repository;
use cleanroom_tests::client::{question, send};
use cleanroom_tests::fleet::Fleet;
use http_body_util::BodyExt as _;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// A paced stream takes some seconds, whatever the machine's speed.
const PACED: &str = "[traffic]\nstep = 256\ncadence = \"200ms\"\n";

/// The real balancer, with the configuration of `deploy/haproxy`.
struct HaProxy {
    child: Child,
    socket: PathBuf,
}

impl HaProxy {
    /// Balances over hosts on this machine, behind a Unix socket in `folder`.
    async fn start(folder: &Path, hosts: &[SocketAddr]) -> Self {
        let socket = folder.join("balancer.sock");
        let config = std::fs::read_to_string(repository().join("deploy/haproxy/haproxy.cfg")).unwrap();
        let (head, _) = config.split_once("    server ").unwrap();
        let mut config = head.replace("bind :8443", &format!("bind unix@{}", socket.display()));
        for (number, host) in hosts.iter().enumerate() {
            config += &format!("    server room{number} {host}\n");
        }
        std::fs::write(folder.join("haproxy.cfg"), config).unwrap();
        let mut haproxy = Command::new("haproxy");
        haproxy.args(["-db", "-f", "haproxy.cfg"]).current_dir(folder).stdout(Stdio::null());
        let Ok(child) = haproxy.spawn() else {
            panic!("HAProxy is missing; get it with: apt-get install haproxy")
        };
        while UnixStream::connect(&socket).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { child, socket }
    }

    fn address(&self) -> String {
        format!("unix:{}", self.socket.display())
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of an answer through the partner's proxy: nothing when it is whole, or else what came.
async fn ask(proxy: SocketAddr, is_stream: bool) -> Result<(), String> {
    let response = send(proxy, "POST", "/v1/chat/completions", &question("Hello", is_stream)).await;
    let is_success = response.status().is_success();
    let body = response.into_body().collect().await.map_err(|error| format!("cut: {error}"))?.to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    let is_whole = is_success && (!is_stream || body.contains("data: [DONE]"));
    if is_whole { Ok(()) } else { Err(body) }
}

async fn streams(proxy: SocketAddr, count: usize) -> JoinSet<Result<(), String>> {
    let mut streams = JoinSet::new();
    for _ in 0..count {
        streams.spawn(ask(proxy, true));
    }
    // They run on several clean rooms now.
    tokio::time::sleep(Duration::from_millis(300)).await;
    streams
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_haproxy_drains_and_deaths_fail_only_what_ran_on_the_dead_room() {
    let mut fleet = Fleet::start(3, PACED, &["--drain-timeout", "60s"]);
    let balancer = HaProxy::start(fleet.path(), &fleet.addresses).await;
    let (mut proxy, listen) = fleet.connect(&[&balancer.address()], &["--rooms", "3"]);
    fleet.are_connected().await;
    let stop = Arc::new(Notify::new());
    let asking = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut ends = Vec::new();
            let mut stop = std::pin::pin!(stop.notified());
            stop.as_mut().enable();
            loop {
                ends.push(ask(listen, false).await);
                tokio::select! {
                    biased;
                    () = &mut stop => return ends,
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
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
    assert_eq!(ask(listen, true).await, Ok(()));
    assert!(proxy.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_haproxy_no_stream_is_cut_because_another_room_answers() {
    let fleet = Fleet::start(3, PACED, &[]);
    // Sessions end in the middle of streams, and their clean rooms are proven again behind the balancer.
    let policy = std::fs::read_to_string(fleet.path().join("trust.toml")).unwrap();
    let session = policy.lines().find(|line| line.starts_with("max_session = ")).unwrap();
    let policy = policy.replace(session, "max_session = \"2s\"");
    std::fs::write(fleet.path().join("trust.toml"), policy).unwrap();
    let balancer = HaProxy::start(fleet.path(), &fleet.addresses).await;
    let (mut proxy, listen) = fleet.connect(&[&balancer.address()], &["--rooms", "3"]);
    fleet.are_connected().await;
    for end in streams(listen, 12).await.join_all().await {
        assert_eq!(end, Ok(()));
    }
    assert!(proxy.stop().success());
}
