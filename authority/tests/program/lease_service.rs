//! The lease service as a process: what it signs, what it refuses, and what it never forgets.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use crate::desk::{Desk, Run};
use cleanroom_attestation::release::{Accepted, BootMillis, LeaseRequest, Nonce, TrustedState, Verified};
use serde_json::Value;

const NOW: BootMillis = BootMillis(0);

/// A running service. It ends with the test.
struct Service {
    child: Child,
    url: String,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Service {
    fn start(desk: &Desk, arguments: &str) -> Self {
        let line = format!("lease serve --listen 127.0.0.1:0 --denials denials {arguments}");
        let mut child = desk.command(&line).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
        let url =
            first.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{first:?}")).to_owned();
        Self { child, url }
    }

    /// One request on a connection of its own; status and body.
    fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let host = self.url.trim_start_matches("http://");
        let mut stream = TcpStream::connect(host).unwrap();
        let length = body.len();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
            .unwrap();
        // A service that refuses early may close before it has read everything.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer[end + 4..].to_vec())
    }

    fn json(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let (status, body) = self.ask(method, path, body);
        (
            status,
            serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&body))),
        )
    }

    /// The code with which a lease is refused.
    fn refused(&self, body: &[u8]) -> (u16, String) {
        let (status, answer) = self.json("POST", "/v1/lease", body);
        (status, answer["error"]["code"].as_str().unwrap_or("granted").to_owned())
    }
}

/// What an enclave that was given these files holds, and its request for a lease.
fn enclave(desk: &Desk, release: &str, nonce: u8) -> (TrustedState, Vec<u8>) {
    let mut state = TrustedState::new(&desk.read("root.json")).unwrap();
    state.accept_release(&desk.read(release)).unwrap();
    let nonce = Nonce::from_bytes([nonce; 32]);
    state.begin_lease(nonce, NOW).unwrap();
    let release_sha256 = state.release().map(Verified::digest).unwrap();
    let request = LeaseRequest { nonce, root_version: state.root().version, release_sha256 };
    (state, request.to_json())
}

#[test]
fn an_up_to_date_enclave_gets_a_lease_that_counts() {
    let desk = Desk::new();
    desk.released();
    let service = Service::start(&desk, "--root root.json --release release.json --key a-online.pem");
    let (mut state, request) = enclave(&desk, "release.json", 7);
    let (status, lease) = service.ask("POST", "/v1/lease", &request);
    assert_eq!(status, 200);
    assert_eq!(state.accept_lease(&lease, NOW), Ok(Accepted::New));
    assert_eq!(state.lease().unwrap().end(), BootMillis(60_000));
    // Another enclave's lease is none for this one.
    let (mut other, _) = enclave(&desk, "release.json", 8);
    assert!(other.accept_lease(&lease, NOW).is_err());

    for (body, expected) in [
        (b"".to_vec(), (400, "form")),
        (b"{}".to_vec(), (400, "form")),
        (vec![b' '; 2000], (400, "too-large")),
        (
            String::from_utf8(request.clone()).unwrap().replace(&"07".repeat(32), &"00".repeat(32)).into(),
            (400, "zero-nonce"),
        ),
        (
            String::from_utf8(request.clone())
                .unwrap()
                .replace("\"root_version\": 1", "\"root_version\": 2")
                .into(),
            (409, "root-outdated"),
        ),
    ] {
        let (status, code) = service.refused(&body);
        assert_eq!((status, code.as_str()), expected);
    }
    assert_eq!(service.ask("GET", "/v1/lease", b"").0, 405);
    assert_eq!(service.ask("GET", "/v1/nothing", b"").0, 404);
    assert_eq!(service.ask("GET", "/v1/release", b"").1, desk.read("release.json"));
    assert_eq!(
        service.json("GET", "/v1/roots", b"").1[0]["payloadType"],
        "application/vnd.cleanroom.root.v1+json"
    );
    assert_eq!(service.json("GET", "/healthz", b"").0, 200);
    let page = String::from_utf8(service.ask("GET", "/metrics", b"").1).unwrap();
    for line in [
        "cleanroom_authority_answers_total{endpoint=\"lease\",result=\"ok\"} 1",
        "cleanroom_authority_answers_total{endpoint=\"lease\",result=\"zero-nonce\"} 1",
        "cleanroom_authority_leases_granted 1",
        "cleanroom_authority_release_version 1",
        "cleanroom_authority_release_expiry_seconds 3786912000",
    ] {
        assert!(page.lines().any(|present| present == line), "{line}\n{page}");
    }
    let shown = desk.ok(&format!("status --service {}", service.url));
    assert!(shown.contains("leases   granted"), "{shown}");
}

#[test]
fn it_refuses_to_start_where_it_has_no_part() {
    let desk = Desk::new();
    desk.released();
    let serve = |rest: &str| desk.run(&format!("lease serve --listen 127.0.0.1:0 --denials denials {rest}"));
    let offline = serve("--root root.json --release release.json --key a.pem");
    assert_eq!(offline.status, 1);
    assert!(offline.stderr.contains("the keys that may: a-online, b-online, c-online"), "{}", offline.stderr);
    desk.ok("key new stranger.pem");
    assert_eq!(serve("--root root.json --release release.json --key stranger.pem").status, 1);
    assert_eq!(serve("--root root.json --release release.draft.json --key a-online.pem").status, 1);
    assert_eq!(serve("--root root.draft.json --release release.json --key a-online.pem").status, 1);
    assert_eq!(serve("--root root.json --release none.json --key a-online.pem").status, 3);
    std::fs::write(desk.path("denials/x.json"), "{}").unwrap();
    assert_eq!(serve("--root root.json --release release.json --key a-online.pem").status, 1);
}

#[test]
fn a_halt_reaches_the_next_lease_and_stays() {
    let desk = Desk::new();
    desk.released();
    let start = || Service::start(&desk, "--root root.json --release release.json --key b-online.pem");
    let service = start();
    let line = format!(
        "halt m --root root.json --release release.json --key a.pem --reason leak --out denial.json --to {}",
        service.url
    );
    let told = desk.ok(&line);
    assert!(told.contains("told    http://127.0.0.1"), "{told}");

    let leased = |service: &Service, nonce| {
        let (mut state, request) = enclave(&desk, "release.json", nonce);
        let (status, lease) = service.ask("POST", "/v1/lease", &request);
        assert_eq!(status, 200);
        state.accept_lease(&lease, NOW).unwrap();
        state.model("m").unwrap().denied
    };
    assert!(leased(&service, 1), "the lease repeats the denial that the host held back");
    assert_eq!(
        service.json("POST", "/v1/denials", &desk.read("denial.json")),
        (200, serde_json::json!({ "halted": true, "new": false }))
    );
    assert_eq!(service.json("GET", "/v1/denials", b"").1.as_array().unwrap().len(), 1);
    assert_eq!(service.json("POST", "/v1/denials", &desk.read("release.json")).0, 403);
    // What the service was told is on disk before it answered: a new process knows it too.
    let kept: Vec<_> =
        std::fs::read_dir(desk.path("denials")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1);
    assert!(leased(&start(), 2));
    // And a running one does not forget it when the file goes.
    std::fs::remove_file(&kept[0]).unwrap();
    assert!(leased(&service, 3));
    assert_eq!(service.json("GET", "/v1/status", b"").1["denials_in_force"].as_array().unwrap().len(), 1);
}

#[test]
fn newer_documents_are_taken_while_it_runs_and_older_ones_stop_it() {
    let desk = Desk::new();
    desk.released();
    std::fs::copy(desk.path("release.json"), desk.path("in-force.json")).unwrap();
    let service = Service::start(&desk, "--root root.json --release in-force.json --key a-online.pem");
    let (_, first) = enclave(&desk, "release.json", 1);
    assert_eq!(service.refused(&first).0, 200);

    desk.ok("release draft --root root.json --from release.json --lease-seconds 30 --out second.draft.json");
    desk.ok("release sign second.draft.json --root root.json --key a.pem");
    desk.ok("release sign second.json --root root.json --key b.pem");
    std::fs::rename(desk.path("second.json"), desk.path("in-force.json")).unwrap();
    assert_eq!(service.refused(&first), (409, "release-outdated".to_owned()));
    let (mut state, second) = enclave(&desk, "in-force.json", 2);
    let (status, lease) = service.ask("POST", "/v1/lease", &second);
    assert_eq!(status, 200);
    state.accept_lease(&lease, NOW).unwrap();
    assert_eq!(state.lease().unwrap().end(), BootMillis(30_000));

    // The older release again, or half a file: no lease for either until that is mended.
    for bytes in [desk.read("release.json"), b"{\"payload\":".to_vec()] {
        std::fs::write(desk.path("in-force.json"), bytes).unwrap();
        for request in [&first, &second] {
            assert_eq!(service.refused(request), (503, "inputs-unusable".to_owned()));
        }
        assert_eq!(service.json("GET", "/healthz", b"").0, 503);
        assert!(service.json("GET", "/v1/status", b"").1["problem"].is_string());
        // Halting works all the same.
        let line = format!(
            "halt partner:p --root root.json --key c.pem --reason r --out denials --to {}",
            service.url
        );
        desk.ok(&line);
    }
}

#[test]
fn several_services_together_make_a_lease() {
    let desk = Desk::new();
    desk.root();
    desk.ok(&format!("{} --lease-issuers 2", Desk::first_release()));
    desk.ok("release sign release.draft.json --root root.json --key a.pem");
    desk.ok("release sign release.json --root root.json --key b.pem");
    std::fs::create_dir(desk.path("denials")).unwrap();
    let services = ["a", "c"].map(|name| {
        Service::start(&desk, &format!("--root root.json --release release.json --key {name}-online.pem"))
    });
    let (mut state, request) = enclave(&desk, "release.json", 1);
    let [first, second] = services.each_ref().map(|service| service.ask("POST", "/v1/lease", &request).1);
    assert_eq!(state.accept_lease(&first, NOW), Ok(Accepted::MoreIssuersNeeded));
    assert_eq!(state.accept_lease(&first, NOW), Ok(Accepted::MoreIssuersNeeded));
    assert_eq!(state.accept_lease(&second, NOW), Ok(Accepted::New));
}

#[test]
fn a_command_can_hold_the_online_key() {
    let desk = Desk::new();
    desk.released();
    let line = "lease serve --listen 127.0.0.1:0 --denials denials --root root.json --release release.json --as a-online --sign-with";
    let mut child = desk
        .command(line)
        .arg("f=$(mktemp) && cat > $f && openssl pkeyutl -sign -rawin -in $f -inkey a-online.pem && rm $f")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    let service = Service { child, url: first.trim().trim_start_matches("listening on ").to_owned() };
    let (mut state, request) = enclave(&desk, "release.json", 7);
    let (status, lease) = service.ask("POST", "/v1/lease", &request);
    assert_eq!((status, state.accept_lease(&lease, NOW)), (200, Ok(Accepted::New)));
    drop(service);
    assert_eq!(Run::of(desk.command("status --service http://127.0.0.1:1").output().unwrap()).status, 3);
}
