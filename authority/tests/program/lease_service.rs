//! The lease service as a process: what it signs, what it refuses, and what it never forgets.

use std::process::Stdio;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{
    Accepted, Algorithm, BootMillis, DENIALS_PER_KEY, Denial, Envelope, LeaseRequest, Nonce, Payload as _,
    PayloadType, PublicKey, Target, TrustedState, Verified,
};

use crate::folder::{Folder, Run};
use crate::service::Service;

const NOW: BootMillis = BootMillis(0);

/// What an enclave that was given these files holds, and its request for a lease.
pub(crate) fn enclave(folder: &Folder, release: &str, nonce: u8) -> (TrustedState, Vec<u8>) {
    let mut state = TrustedState::new(&folder.read("root.json")).unwrap();
    state.accept_release(&folder.read(release)).unwrap();
    let nonce = Nonce::from_bytes([nonce; 32]);
    state.begin_lease(nonce, NOW).unwrap();
    let release_sha256 = state.release().map(Verified::digest).unwrap();
    let root = state.root();
    let request =
        LeaseRequest { nonce, root_version: root.version, root_sha256: root.digest(), release_sha256 };
    (state, request.to_json())
}

/// The Ed25519 key in a PEM file.
pub(crate) fn signing_key(pem: &[u8]) -> Ed25519KeyPair {
    let text = String::from_utf8(pem.to_vec()).unwrap();
    let base64: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    Ed25519KeyPair::from_pkcs8(&STANDARD.decode(base64).unwrap()).unwrap()
}

#[test]
fn an_up_to_date_enclave_gets_a_lease_that_counts() {
    let folder = Folder::new();
    folder.released();
    let service = Service::start(&folder, "--root root.json --release release.json --key a-online.pem");
    let (mut state, request) = enclave(&folder, "release.json", 7);
    let (status, lease) = service.ask("POST", "/v1/lease", &request);
    assert_eq!(status, 200);
    assert_eq!(state.accept_lease(&lease, NOW), Ok(Accepted::New));
    assert_eq!(state.lease().unwrap().end(), BootMillis(60_000));
    // Another enclave's lease is none for this one.
    let (mut other, _) = enclave(&folder, "release.json", 8);
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
    assert_eq!(service.ask("GET", "/v1/release", b"").1, folder.read("release.json"));
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
        "cleanroom_authority_denials_not_kept 0",
        "cleanroom_authority_log_lines_lost_total 0",
        "cleanroom_authority_release_version 1",
        "cleanroom_authority_release_expiry_seconds 3786912000",
    ] {
        assert!(page.lines().any(|present| present == line), "{line}\n{page}");
    }
    let shown = folder.ok(&format!("status --service {}", service.url));
    assert!(shown.contains("leases   granted"), "{shown}");
}

#[test]
fn it_refuses_to_start_where_it_has_no_part() {
    let folder = Folder::new();
    folder.released();
    let serve =
        |rest: &str| folder.run(&format!("lease serve --listen 127.0.0.1:0 --denials denials {rest}"));
    let offline = serve("--root root.json --release release.json --key a.pem");
    assert_eq!(offline.status, 1);
    assert!(offline.stderr.contains("the keys that may: a-online, b-online, c-online"), "{}", offline.stderr);
    folder.ok("key new stranger.pem");
    assert_eq!(serve("--root root.json --release release.json --key stranger.pem").status, 1);
    assert_eq!(serve("--root root.json --release release.draft.json --key a-online.pem").status, 1);
    assert_eq!(serve("--root root.draft.json --release release.json --key a-online.pem").status, 1);
    assert_eq!(serve("--root root.json --release none.json --key a-online.pem").status, 3);
    std::fs::write(folder.path("denials/x.json"), "{}").unwrap();
    assert_eq!(serve("--root root.json --release release.json --key a-online.pem").status, 1);
}

#[test]
fn a_halt_reaches_the_next_lease_and_stays() {
    let folder = Folder::new();
    folder.released();
    let start = || Service::start(&folder, "--root root.json --release release.json --key b-online.pem");
    let service = start();
    let line = format!(
        "halt m --root root.json --release release.json --key a.pem --reason leak --out denial.json --to {}",
        service.url
    );
    let told = folder.ok(&line);
    assert!(told.contains("told    http://127.0.0.1"), "{told}");

    let leased = |service: &Service, nonce| {
        let (mut state, request) = enclave(&folder, "release.json", nonce);
        let (status, lease) = service.ask("POST", "/v1/lease", &request);
        assert_eq!(status, 200);
        // A host that holds the denial back gets nothing for the lease.
        assert_eq!(state.accept_lease(&lease, NOW).unwrap_err().code(), "denial-missing");
        for denial in service.json("GET", "/v1/denials", b"").1.as_array().unwrap() {
            state.accept_denial(denial.to_string().as_bytes()).unwrap();
        }
        state.accept_lease(&lease, NOW).unwrap();
        state.model("m").unwrap().denied
    };
    assert!(leased(&service, 1));
    assert_eq!(
        service.json("POST", "/v1/denials", &folder.read("denial.json")),
        (200, serde_json::json!({ "halted": true, "new": false }))
    );
    assert_eq!(service.json("GET", "/v1/denials", b"").1.as_array().unwrap().len(), 1);
    assert_eq!(service.json("POST", "/v1/denials", &folder.read("release.json")).0, 403);
    // What the service was told is on disk before it answered: a new process knows it too.
    let kept: Vec<_> =
        std::fs::read_dir(folder.path("denials")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 1);
    assert!(leased(&start(), 2));
    // And a running one does not forget it when the file goes.
    std::fs::remove_file(&kept[0]).unwrap();
    assert!(leased(&service, 3));
    assert_eq!(service.json("GET", "/v1/status", b"").1["denials_in_force"].as_array().unwrap().len(), 1);
}

/// One key cannot fill a service. The denial after the last one that it may have stops the leases, and removing it mends that.
#[test]
fn one_denial_too_many_stops_the_leases_over_a_restart_until_it_is_gone() {
    let folder = Folder::new();
    folder.released();
    let start = || Service::start(&folder, "--root root.json --release release.json --key b-online.pem");
    let service = start();
    let (_, request) = enclave(&folder, "release.json", 1);
    let root = TrustedState::new(&folder.read("root.json")).unwrap().root().room.clone();
    let key = signing_key(&folder.read("a.pem"));
    let denial = |n: usize| {
        let denial = Denial {
            room: root.clone(),
            halt: Target::Partner("nobody".parse().unwrap()),
            reason: "flood".parse().unwrap(),
            serial: Sha256Digest::of(&[&n.to_be_bytes()]),
        };
        let mut envelope = Envelope::unsigned(PayloadType::Denial, &denial.to_payload()).unwrap();
        let signature = key.sign(envelope.pae());
        let public = PublicKey::from_raw(Algorithm::Ed25519, key.public_key().as_ref()).unwrap();
        envelope.attach(&public, signature.as_ref()).unwrap();
        envelope.to_json()
    };
    for n in 0..DENIALS_PER_KEY {
        assert_eq!(service.json("POST", "/v1/denials", &denial(n)).0, 201);
    }
    assert_eq!(service.refused(&request).0, 200);
    for n in [0, 1] {
        let (status, answer) = service.json("POST", "/v1/denials", &denial(DENIALS_PER_KEY + n));
        assert_eq!((status, &answer["error"]["code"]), (403, &"too-many-denials".into()));
        assert_eq!(service.refused(&request), (503, "inputs-unusable".to_owned()));
    }
    let files = || std::fs::read_dir(folder.path("denials")).unwrap().count();
    assert_eq!(files(), DENIALS_PER_KEY + 1, "one too many is kept, and no more");
    let line = "lease serve --listen 127.0.0.1:0 --denials denials --root root.json --release release.json --key b-online.pem";
    assert_eq!(folder.refused(line), "too-many-denials", "a new process knows it too");
    let halt = "halt partner:p --root root.json --release release.json --key a.pem --reason r --out denials";
    assert_eq!(folder.refused(halt), "too-many-denials", "and nobody drafts another");
    let over = Envelope::parse(&denial(DENIALS_PER_KEY), PayloadType::Denial).unwrap().digest();
    std::fs::remove_file(folder.path(&format!("denials/{over}.json"))).unwrap();
    assert_eq!(service.refused(&request).0, 200);
}

#[test]
fn newer_documents_are_taken_while_it_runs_and_older_ones_stop_it() {
    let folder = Folder::new();
    folder.released();
    std::fs::copy(folder.path("release.json"), folder.path("in-force.json")).unwrap();
    let service = Service::start(&folder, "--root root.json --release in-force.json --key a-online.pem");
    let (_, first) = enclave(&folder, "release.json", 1);
    assert_eq!(service.refused(&first).0, 200);

    folder
        .ok("release draft --root root.json --from release.json --lease-seconds 30 --out second.draft.json");
    folder.ok("release sign second.draft.json --root root.json --key a.pem");
    folder.ok("release sign second.json --root root.json --key b.pem");
    std::fs::rename(folder.path("second.json"), folder.path("in-force.json")).unwrap();
    assert_eq!(service.refused(&first), (409, "release-outdated".to_owned()));
    let (mut state, second) = enclave(&folder, "in-force.json", 2);
    let (status, lease) = service.ask("POST", "/v1/lease", &second);
    assert_eq!(status, 200);
    state.accept_lease(&lease, NOW).unwrap();
    assert_eq!(state.lease().unwrap().end(), BootMillis(30_000));

    // The older release again, or half a file: no lease for either until that is repaired.
    for bytes in [folder.read("release.json"), b"{\"payload\":".to_vec()] {
        std::fs::write(folder.path("in-force.json"), bytes).unwrap();
        for request in [&first, &second] {
            assert_eq!(service.refused(request), (503, "inputs-unusable".to_owned()));
        }
        assert_eq!(service.json("GET", "/healthz", b"").0, 503);
        let problem = service.json("GET", "/v1/status", b"").1["problem"].as_str().unwrap().to_owned();
        assert!(!problem.contains("in-force"), "a stranger learns no path: {problem}");
        // Halting works all the same.
        let line = format!(
            "halt partner:p --root root.json --key c.pem --reason r --out denials --to {}",
            service.url
        );
        folder.ok(&line);
    }
}

#[test]
fn several_services_together_make_a_lease() {
    let folder = Folder::new();
    folder.root();
    folder.ok(&format!("{} --lease-issuers 2", Folder::first_release()));
    folder.ok("release sign release.draft.json --root root.json --key a.pem");
    folder.ok("release sign release.json --root root.json --key b.pem");
    std::fs::create_dir(folder.path("denials")).unwrap();
    let services = ["a", "c"].map(|name| {
        Service::start(&folder, &format!("--root root.json --release release.json --key {name}-online.pem"))
    });
    let (mut state, request) = enclave(&folder, "release.json", 1);
    let [first, second] = services.each_ref().map(|service| service.ask("POST", "/v1/lease", &request).1);
    assert_eq!(state.accept_lease(&first, NOW), Ok(Accepted::MoreIssuersNeeded));
    assert_eq!(state.accept_lease(&first, NOW), Ok(Accepted::MoreIssuersNeeded));
    assert_eq!(state.accept_lease(&second, NOW), Ok(Accepted::New));
}

#[test]
fn a_command_can_hold_the_online_key() {
    let folder = Folder::new();
    folder.released();
    let line = "lease serve --listen 127.0.0.1:0 --denials denials --root root.json --release release.json --as a-online --sign-with";
    let command =
        "f=$(mktemp) && cat > $f && openssl pkeyutl -sign -rawin -in $f -inkey a-online.pem && rm $f";
    let service = Service::spawn(folder.command(line).arg(command).stderr(Stdio::null())).unwrap();
    let (mut state, request) = enclave(&folder, "release.json", 7);
    let (status, lease) = service.ask("POST", "/v1/lease", &request);
    assert_eq!((status, state.accept_lease(&lease, NOW)), (200, Ok(Accepted::New)));
    drop(service);
    assert_eq!(Run::of(folder.command("status --service http://127.0.0.1:1").output().unwrap()).status, 3);
}
