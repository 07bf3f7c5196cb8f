//! Real HTTP proxies between a partner and a clean room: the program and the Python package go through them, and
//! say why they do not.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use cleanroom_tests::clean_room::CleanRoom;
use cleanroom_tests::client::{json, question, send};
use cleanroom_tests::http_proxy::{Program, address_of_this_machine, free_port, port_of};
use cleanroom_tests::official::{self, Package};
use cleanroom_tests::processes::{Running, program};
use tokio::task::spawn_blocking;

/// The end of `cleanroom probe`, and its line.
async fn probe(
    folder: &Path,
    room: SocketAddr,
    arguments: &str,
    variables: &[(&'static str, String)],
) -> (i32, String) {
    let mut probe = program("cleanroom", folder);
    probe.args(["probe", &room.to_string()]).args(arguments.split_whitespace());
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"] {
        probe.env_remove(name);
    }
    probe.envs(variables.iter().map(|(name, value)| (name, value)));
    let output = spawn_blocking(move || probe.output().unwrap()).await.unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

fn folder_of(room: &CleanRoom) -> PathBuf {
    room.path().parent().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn through_tinyproxy_with_a_password() {
    let Some(here) = address_of_this_machine() else { return };
    let room = CleanRoom::start("").await;
    let partner = room.partner_files();
    let folder = folder_of(&room);
    let at = SocketAddr::new(here, port_of(room.path()).await);
    let (closed, forbidden) = (SocketAddr::new(here, free_port()), SocketAddr::new(here, free_port()));
    let Some(proxy) = Program::Tinyproxy.start(&folder, &[at.port(), closed.port()]).await else { return };
    let through = |user: &str| format!("--proxy http://{user}{}", proxy.address);
    let tunnels = || proxy.log().matches(&format!("CONNECT {at} HTTP/1.1")).count();

    let (code, line) = probe(&folder, at, &through("user:secret@"), &[]).await;
    assert_eq!((code, tunnels()), (0, 1), "{line}");
    let url = format!("http://user:secret@{}", proxy.address);
    let (code, line) = probe(&folder, at, "", &[("HTTPS_PROXY", url.clone())]).await;
    assert_eq!((code, tunnels()), (0, 2), "{line}");
    let around = [("HTTPS_PROXY", url.clone()), ("NO_PROXY", here.to_string())];
    let (code, line) = probe(&folder, at, "", &around).await;
    assert_eq!((code, tunnels()), (0, 2), "{line}");

    for (user, room, status, advice) in [
        ("", at, 407, "a user and a password"),
        ("user:other@", at, 401, "a user and a password"),
        ("user:secret@", forbidden, 403, "does not permit"),
        ("user:secret@", closed, 500, "could not reach"),
    ] {
        let (code, line) = probe(&folder, room, &through(user), &[]).await;
        assert_eq!(code, 4, "{line}");
        assert!(line.contains(&format!("status {status}")) && line.contains(advice), "{line}");
        assert!(!line.contains("secret") && !line.contains("other"), "{line}");
    }

    // A whole answer, and the Python package.
    let arguments = ["connect", &at.to_string(), "--listen", "127.0.0.1:0", "--json", "--proxy", &url];
    let mut local = Running::start("cleanroom", &folder, &arguments);
    let (mut local, listen) = spawn_blocking(move || {
        let listen: SocketAddr = local.wait_for("\"listen\": \"").split('"').next().unwrap().parse().unwrap();
        (local, listen)
    })
    .await
    .unwrap();
    let before = tunnels();
    assert!(before > 2, "{before}");
    let (status, answer) =
        json(send(listen, "POST", "/v1/chat/completions", &question("Hi", false)).await).await;
    assert!(status.is_success(), "{answer}");
    spawn_blocking(move || local.stop()).await.unwrap();
    let refusals = serde_json::json!([
        [format!("http://{}", proxy.address), at.to_string(), "status 407"],
        [url, forbidden.to_string(), "status 403"],
        [url, closed.to_string(), "status 500"],
    ]);
    let (room, refusals) = (at.to_string(), refusals.to_string());
    let suite = spawn_blocking(move || {
        let variables = [("CLEANROOM_PROXY", url.as_str()), ("CLEANROOM_REFUSALS", refusals.as_str())];
        official::run_with(Package::HttpProxy, official::Partner { address: room, ..partner }, &variables)
    });
    official::expect_passed(suite.await.unwrap().unwrap());
    assert!(tunnels() > before, "{}", proxy.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn through_squid() {
    let Some(here) = address_of_this_machine() else { return };
    let room = CleanRoom::start("").await;
    let _ = room.partner_files();
    let folder = folder_of(&room);
    let at = SocketAddr::new(here, port_of(room.path()).await);
    let (closed, forbidden) = (SocketAddr::new(here, free_port()), SocketAddr::new(here, free_port()));
    let Some(proxy) = Program::Squid.start(&folder, &[at.port(), closed.port()]).await else { return };
    let through = format!("--proxy http://{}", proxy.address);
    let (code, line) = probe(&folder, at, &through, &[]).await;
    assert_eq!(code, 0, "{line}");
    for (room, status) in [(forbidden, 403), (closed, 503)] {
        let (code, line) = probe(&folder, room, &through, &[]).await;
        assert_eq!(code, 4, "{line}");
        assert!(line.contains(&format!("status {status}")), "{line}");
    }
}
