use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::{get, post};
use cleanroom_attestation::release::{LeaseRequest, Nonce};
use tokio::io::DuplexStream;
use tokio::net::TcpListener;

use super::*;

/// An enclave whose answers a test writes.
fn enclave(
    mut answer: impl FnMut(ControlKind, Vec<u8>) -> ControlAnswer + Send + 'static,
) -> (DuplexStream, Arc<Mutex<Vec<ControlKind>>>) {
    let (host, mut enclave) = tokio::io::duplex(1 << 16);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut header = [0; CONTROL_HEADER_BYTES];
        while enclave.read_exact(&mut header).await.is_ok() {
            let (kind, length) = ControlKind::parse(header).unwrap();
            let mut body = vec![0; length];
            enclave.read_exact(&mut body).await.unwrap();
            seen.lock().unwrap().push(kind);
            enclave.write_all(&answer(kind, body).frame()).await.unwrap();
        }
    });
    (host, asked)
}

/// A lease service that has this and nothing else.
async fn service(lease: &'static str, denials: &'static str) -> Authority {
    let router = Router::new()
        .route("/v1/lease", post(move || async move { lease }))
        .route("/v1/denials", get(move || async move { denials }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    authority
}

fn state(lease_left_ms: u64) -> ControlAnswer {
    ControlAnswer::State(ControlState {
        root_version: 1,
        release_version: 1,
        release_sha256: Some(release()),
        lease_left_ms,
        denials: 0,
    })
}

fn release() -> Sha256Digest {
    Sha256Digest::of(&[b"release"])
}

fn nonce() -> ControlAnswer {
    let nonce = Nonce::from_bytes([7; 32]);
    ControlAnswer::Ask(LeaseRequest { nonce, root_version: 1, release_sha256: release() })
}

fn settings(authorities: Vec<Authority>) -> Settings {
    Settings { authorities, release: None, denials: None }
}

#[tokio::test]
async fn every_authority_is_asked_until_there_are_enough_and_again_at_half_time() {
    let settings = settings(vec![service("one", "[]").await, service("two", "[]").await]);
    let left = Arc::new(Mutex::new(0));
    let (shown, leases) = (Arc::clone(&left), Arc::new(Mutex::new(Vec::new())));
    let handed = Arc::clone(&leases);
    let (stream, asked) = enclave(move |kind, body| match kind {
        ControlKind::State => state(*shown.lock().unwrap()),
        ControlKind::Ask => nonce(),
        _ => {
            let mut leases = leases.lock().unwrap();
            leases.push(String::from_utf8(body).unwrap());
            let enough = leases.len().is_multiple_of(2);
            ControlAnswer::Accepted(if enough { Accepted::New } else { Accepted::MoreIssuersNeeded })
        }
    });
    let mut agent = Agent::new(stream, &settings);
    agent.tick().await.unwrap();
    handed.lock().unwrap().sort();
    assert_eq!(*handed.lock().unwrap(), ["one", "two"]);
    for (left_ms, leases) in [(60_000, 2), (30_001, 2), (30_000, 4)] {
        *left.lock().unwrap() = left_ms;
        agent.tick().await.unwrap();
        assert_eq!(handed.lock().unwrap().len(), leases, "{left_ms} ms left");
    }
    assert_eq!(asked.lock().unwrap().iter().filter(|kind| **kind == ControlKind::Ask).count(), 2);
}

#[tokio::test]
async fn a_refused_lease_is_asked_for_again() {
    let settings = settings(vec![service("lease", "[]").await]);
    let (stream, asked) = enclave(|kind, _| match kind {
        // The lease of the release before still runs.
        ControlKind::State => state(60_000),
        ControlKind::Ask => nonce(),
        _ => ControlAnswer::Refused("lease-release".to_owned()),
    });
    let mut agent = Agent::new(stream, &settings);
    for _ in 0..3 {
        agent.tick().await.unwrap();
    }
    assert_eq!(asked.lock().unwrap().iter().filter(|kind| **kind == ControlKind::Ask).count(), 3);
}

#[tokio::test]
async fn a_denial_is_handed_in_once_and_from_every_source() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.json"), "{\"a\":1}").unwrap();
    let authorities =
        vec![service("lease", "[{\"b\": 2},{\"c\":3}]").await, service("lease", "[{\"b\": 2}]").await];
    let settings = Settings { denials: Some(folder.path().to_owned()), ..settings(authorities) };
    let denials = Arc::new(Mutex::new(Vec::new()));
    let handed = Arc::clone(&denials);
    let (stream, _) = enclave(move |kind, body| match kind {
        ControlKind::State => state(60_000),
        ControlKind::Ask => nonce(),
        ControlKind::Denial => {
            denials.lock().unwrap().push(String::from_utf8(body).unwrap());
            ControlAnswer::Refused("threshold".to_owned())
        }
        _ => ControlAnswer::Accepted(Accepted::New),
    });
    let mut agent = Agent::new(stream, &settings);
    for _ in 0..2 {
        agent.tick().await.unwrap();
    }
    let mut handed = handed.lock().unwrap().clone();
    handed.sort();
    assert_eq!(handed, ["{\"a\":1}", "{\"b\": 2}", "{\"c\":3}"]);
}

#[tokio::test]
async fn an_enclave_that_goes_away_ends_the_round_and_no_service_can() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone: Authority = format!("http://{}", nobody.local_addr().unwrap()).parse().unwrap();
    drop(nobody);
    let settings = Settings { release: Some("/nonexistent".into()), ..settings(vec![gone]) };
    let (stream, _) = enclave(|kind, _| if kind == ControlKind::Ask { nonce() } else { state(0) });
    Agent::new(stream, &settings).tick().await.unwrap();

    let (stream, enclave) = tokio::io::duplex(64);
    drop(enclave);
    assert!(Agent::new(stream, &settings).tick().await.is_err());
}

#[test]
fn authorities_are_plain_http_addresses() {
    assert_eq!("http://127.0.0.1:8700/".parse::<Authority>().unwrap().to_string(), "http://127.0.0.1:8700");
    for bad in ["https://a:1", "a:1", "http://a", "http://a:1/v1"] {
        assert!(bad.parse::<Authority>().is_err(), "{bad}");
    }
}

#[test]
fn only_small_json_files_are_denials() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.json"), "{}").unwrap();
    std::fs::write(folder.path().join("b.txt"), "{}").unwrap();
    std::fs::write(folder.path().join("c.json"), vec![b' '; 1 << 20]).unwrap();
    assert_eq!(read_folder(folder.path()), [b"{}".to_vec()]);
    assert!(read_folder(&folder.path().join("none")).is_empty());
}

#[test]
fn what_is_no_document_is_not_handed_in_as_a_newer_one() {
    let junk = vec![b"{}".to_vec(), Vec::new()];
    assert!(newer(junk, PayloadType::Root, |_| Some(1), 0).is_empty());
}
