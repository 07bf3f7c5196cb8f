//! The agent between a scripted enclave and scripted lease services.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::{get, post};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{Accepted, Envelope, LeaseRequest, Nonce, PayloadType};
use cleanroom_link::control::{CONTROL_HEADER_BYTES, ControlAnswer, ControlKind, ShareState};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use super::delivery::Fault;
use super::shares::{Carried, Looked};
use super::*;

/// What an enclave was asked, in order.
type Asked = Arc<Mutex<Vec<(ControlKind, Vec<u8>)>>>;

/// An enclave whose answers a test writes.
fn enclave(
    mut answer: impl FnMut(ControlKind, &[u8]) -> ControlAnswer + Send + 'static,
) -> (DuplexStream, Asked) {
    let (host, mut enclave) = tokio::io::duplex(1 << 16);
    let asked = Asked::default();
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut header = [0; CONTROL_HEADER_BYTES];
        while enclave.read_exact(&mut header).await.is_ok() {
            let (kind, length) = ControlKind::parse(header).unwrap();
            let mut body = vec![0; length];
            enclave.read_exact(&mut body).await.unwrap();
            let answer = answer(kind, &body);
            seen.lock().unwrap().push((kind, body));
            enclave.write_all(&answer.frame()).await.unwrap();
        }
    });
    (host, asked)
}

fn of_kind(asked: &Asked, wanted: ControlKind) -> Vec<Vec<u8>> {
    let asked = asked.lock().unwrap();
    asked.iter().filter(|(kind, _)| *kind == wanted).map(|(_, body)| body.clone()).collect()
}

/// A lease service that has these and nothing else.
async fn service(lease: Vec<u8>, denials: Vec<u8>) -> Authority {
    let router = Router::new()
        .route("/v1/lease", post(move || async move { lease }))
        .route("/v1/denials", get(move || async move { denials }))
        .route("/v1/status", get(|| async { r#"{"root":{"version":1},"release":null}"# }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    authority
}

/// A lease service that accepts connections and never answers.
async fn stuck() -> Authority {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    authority
}

fn document(payload_type: PayloadType, payload: &str) -> Vec<u8> {
    let json = Envelope::unsigned(payload_type, payload.as_bytes()).unwrap().to_json();
    json.trim_ascii().to_vec()
}

/// A denial that nobody signed.
pub(super) fn denial(number: u32) -> Vec<u8> {
    let serial = Sha256Digest::of(&[&number.to_be_bytes()]);
    let payload = format!(
        r#"{{"room": "room", "halt": {{"model": "demo"}}, "reason": "a reason", "serial": "{serial}"}}"#
    );
    document(PayloadType::Denial, &payload)
}

/// A lease that nobody signed.
fn lease(seconds: u64) -> Vec<u8> {
    let nonce = Sha256Digest::of(&[b"nonce"]);
    let payload = format!(
        r#"{{"nonce": "{nonce}", "root": {{"version": 1, "sha256": "{0}"}},
            "release": {{"version": 1, "sha256": "{0}"}}, "seconds": {seconds}, "denials": []}}"#,
        release()
    );
    document(PayloadType::Lease, &payload)
}

fn list(members: &[Vec<u8>]) -> Vec<u8> {
    [b"[", members.join(&b","[..]).as_slice(), b"]"].concat()
}

fn state(lease_left_ms: u64) -> ControlAnswer {
    witnessed_state(lease_left_ms, None)
}

fn witnessed_state(lease_left_ms: u64, witnessed_left_ms: Option<u64>) -> ControlAnswer {
    ControlAnswer::State(ControlState {
        root_version: 1,
        release_version: 1,
        release_sha256: Some(release()),
        lease_left_ms,
        denials: 0,
        witnessed_left_ms,
    })
}

fn release() -> Sha256Digest {
    Sha256Digest::of(&[b"release"])
}

fn nonce() -> ControlAnswer {
    let nonce = Nonce::from_bytes([7; 32]);
    ControlAnswer::Ask(LeaseRequest {
        nonce,
        root_version: 1,
        root_sha256: release(),
        release_sha256: release(),
    })
}

fn renewal(stream: DuplexStream, authorities: Vec<Authority>) -> Renewal<DuplexStream> {
    let (observed, _) = watch::channel(Observed::default());
    Renewal::new(Arc::new(Control::new(stream)), authorities, observed)
}

fn settings(authorities: Vec<Authority>) -> Settings {
    Settings {
        authorities,
        release: None,
        safeguards: Vec::new(),
        classifiers: Vec::new(),
        denials: None,
        brokers: Vec::new(),
        kms: Vec::new(),
        log: None,
        records: None,
        openings: None,
        witnesses: Vec::new(),
    }
}

#[tokio::test]
async fn every_authority_is_asked_until_there_are_enough_and_again_at_half_time() {
    let authorities = vec![service(lease(60), list(&[])).await, service(lease(50), list(&[])).await];
    let left = Arc::new(Mutex::new(0));
    let shown = Arc::clone(&left);
    let mut count = 0;
    let (stream, asked) = enclave(move |kind, _| match kind {
        ControlKind::State => state(*shown.lock().unwrap()),
        ControlKind::Ask => nonce(),
        _ => {
            count += 1;
            let enough = count % 2 == 0;
            ControlAnswer::Accepted(if enough { Accepted::New } else { Accepted::MoreIssuersNeeded })
        }
    });
    let mut renewal = renewal(stream, authorities);
    renewal.look().await.unwrap();
    assert_eq!(of_kind(&asked, ControlKind::LEASE), [lease(60), lease(50)]);
    for (left_ms, leases) in [(60_000, 2), (30_001, 2), (30_000, 4)] {
        *left.lock().unwrap() = left_ms;
        renewal.look().await.unwrap();
        assert_eq!(of_kind(&asked, ControlKind::LEASE).len(), leases, "{left_ms} ms left");
    }
    assert_eq!(of_kind(&asked, ControlKind::Ask).len(), 2);
}

#[tokio::test]
async fn a_longer_lease_is_handed_in_before_one_of_a_second() {
    let authorities = vec![service(lease(1), list(&[])).await, service(lease(60), list(&[])).await];
    let (stream, asked) = enclave(|kind, _| match kind {
        ControlKind::State => state(0),
        ControlKind::Ask => nonce(),
        _ => ControlAnswer::Accepted(Accepted::New),
    });
    renewal(stream, authorities).look().await.unwrap();
    assert_eq!(of_kind(&asked, ControlKind::LEASE), [lease(60)]);
}

#[tokio::test]
async fn a_refused_lease_is_asked_for_again_and_what_is_no_lease_is_not_handed_in() {
    let authorities =
        vec![service(lease(60), list(&[])).await, service(b"\"rubbish\"".to_vec(), list(&[])).await];
    let (stream, asked) = enclave(|kind, _| match kind {
        // The lease of the release before still runs.
        ControlKind::State => state(60_000),
        ControlKind::Ask => nonce(),
        _ => ControlAnswer::Refused("lease-release".to_owned()),
    });
    let mut renewal = renewal(stream, authorities);
    for _ in 0..3 {
        renewal.look().await.unwrap();
    }
    assert_eq!(of_kind(&asked, ControlKind::Ask).len(), 3);
    assert_eq!(of_kind(&asked, ControlKind::LEASE), vec![lease(60); 3]);
}

#[tokio::test]
async fn a_service_that_never_answers_is_waited_for_once() {
    let authorities = vec![stuck().await, service(lease(10), list(&[])).await];
    let (stream, asked) = enclave(|kind, _| match kind {
        ControlKind::State => state(0),
        ControlKind::Ask => nonce(),
        _ => ControlAnswer::Accepted(Accepted::New),
    });
    let mut renewal = renewal(stream, authorities);
    let mut times = Vec::new();
    for _ in 0..3 {
        let begun = Instant::now();
        renewal.look().await.unwrap();
        times.push(begun.elapsed());
    }
    assert_eq!(of_kind(&asked, ControlKind::LEASE).len(), 3);
    // Only the first round waits for it, and shorter than it may take.
    assert!(times[0] >= Duration::from_secs(1) && times[0] < Duration::from_millis(2900), "{times:?}");
    assert!(times[1..].iter().any(|time| *time < Duration::from_secs(1)), "{times:?}");
}

#[tokio::test]
async fn a_denial_is_handed_in_once_and_from_every_source() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.json"), denial(1)).unwrap();
    let (stream, asked) = enclave(|kind, _| match kind {
        ControlKind::State => state(60_000),
        _ => ControlAnswer::Accepted(Accepted::New),
    });
    let delivery = Delivery::new(Arc::new(Control::new(stream)), None);
    let services =
        [service(lease(1), list(&[denial(2), denial(3)])).await, service(lease(1), list(&[denial(2)])).await];
    for _ in 0..2 {
        for authority in &services {
            let source = Source::Service(authority.clone());
            assert_eq!(delivery.look(&source).await.unwrap(), None);
        }
        let files = Source::Files(Files {
            release: None,
            denials: Some(folder.path().to_owned()),
            safeguards: Vec::new(),
            classifiers: Vec::new(),
        });
        assert_eq!(delivery.look(&files).await.unwrap(), None);
    }
    assert_eq!(of_kind(&asked, ControlKind::DENIAL), [denial(2), denial(3), denial(1)]);
}

#[tokio::test]
async fn a_classifier_is_handed_in_after_its_policy_and_again_with_another() {
    let folder = tempfile::tempdir().unwrap();
    let [policy, classifier] = ["policy.toml", "classifier.gguf"].map(|name| folder.path().join(name));
    std::fs::write(&policy, "a policy").unwrap();
    let (stream, asked) = enclave(|kind, _| match kind {
        ControlKind::State => state(60_000),
        _ => ControlAnswer::Accepted(Accepted::New),
    });
    let delivery = Delivery::new(Arc::new(Control::new(stream)), None);
    let files = Source::Files(Files {
        release: None,
        denials: None,
        safeguards: vec![policy.clone()],
        classifiers: vec![classifier.clone()],
    });
    let fault = delivery.look(&files).await.unwrap();
    assert!(matches!(fault, Some(Fault::Silence(reason)) if reason.contains("classifier.gguf")));
    std::fs::write(&classifier, "a classifier").unwrap();
    for _ in 0..2 {
        assert_eq!(delivery.look(&files).await.unwrap(), None);
    }
    // Which classifier another policy names is not the host's to know.
    std::fs::write(&policy, "another policy").unwrap();
    for _ in 0..2 {
        assert_eq!(delivery.look(&files).await.unwrap(), None);
    }
    let kinds: Vec<_> = asked.lock().unwrap().iter().map(|(kind, _)| *kind).collect();
    let brought: Vec<_> = kinds.into_iter().filter(|kind| *kind != ControlKind::State).collect();
    const POLICY: ControlKind = ControlKind::SafeguardPolicy;
    const CLASSIFIER: ControlKind = ControlKind::SafeguardClassifier;
    assert_eq!(brought, [POLICY, CLASSIFIER, POLICY, CLASSIFIER]);
    assert_eq!(of_kind(&asked, CLASSIFIER), [b"a classifier", b"a classifier"]);
}

/// A lease service that answers with 200,000 short strings once kept the agent busy past the end of the
/// lease.
#[tokio::test]
async fn rubbish_is_not_handed_in_and_its_source_is_left_out() {
    let strings: Vec<Vec<u8>> =
        (0..200_000).map(|number| format!("\"{number:014x}\"").into_bytes()).collect();
    let evil = service(lease(1), list(&strings)).await;
    let (stream, asked) = enclave(|_, _| state(60_000));
    let delivery = Delivery::new(Arc::new(Control::new(stream)), None);
    let fault = delivery.look(&Source::Service(evil)).await.unwrap();
    assert!(matches!(fault, Some(Fault::Rubbish(_))), "{fault:?}");
    assert!(of_kind(&asked, ControlKind::DENIAL).is_empty());
}

#[tokio::test]
async fn denials_that_the_enclave_refuses_are_handed_in_up_to_a_bound() {
    let denials: Vec<Vec<u8>> = (0..200).map(denial).collect();
    let evil = service(lease(1), list(&denials)).await;
    let (stream, asked) = enclave(|kind, _| match kind {
        ControlKind::State => state(60_000),
        _ => ControlAnswer::Refused("threshold".to_owned()),
    });
    let delivery = Delivery::new(Arc::new(Control::new(stream)), None);
    let fault = delivery.look(&Source::Service(evil)).await.unwrap();
    assert!(matches!(fault, Some(Fault::Rubbish(_))), "{fault:?}");
    assert!(of_kind(&asked, ControlKind::DENIAL).len() < 100);
}

/// Ten services have hundreds of denials each. A renewal does not queue behind all of them.
#[tokio::test]
async fn renewal_waits_for_one_question_of_the_others_at_most() {
    let good = service(lease(60), list(&[])).await;
    let (stream, asked) = enclave(|kind, _| match kind {
        ControlKind::State => state(0),
        ControlKind::Ask => nonce(),
        _ => ControlAnswer::Accepted(Accepted::New),
    });
    let control = Arc::new(Control::new(stream));
    let delivery = Delivery::new(Arc::clone(&control), None);
    let mut tasks = JoinSet::new();
    for number in 0..10 {
        let denials: Vec<Vec<u8>> = (0..1000).map(|count| denial(1000 * number + count)).collect();
        let authority = service(lease(1), list(&denials)).await;
        tasks.spawn(delivery.clone().run(Source::Service(authority)));
    }
    // All of them are at it.
    let first_of_each = |number: u32| denial(1000 * number);
    while !(0..10).all(|number| of_kind(&asked, ControlKind::DENIAL).contains(&first_of_each(number))) {
        sleep(Duration::from_millis(1)).await;
    }
    let (observed, _) = watch::channel(Observed::default());
    let before = asked.lock().unwrap().len();
    // A lease service has three seconds for its answer, which a busy machine may use up.
    let mut renewal = Renewal::new(control, vec![good], observed);
    while of_kind(&asked, ControlKind::LEASE).is_empty() {
        renewal.look().await.unwrap();
    }
    let between: Vec<_> = asked.lock().unwrap()[before..].iter().map(|(kind, _)| *kind).collect();
    // Its first two questions are what is in force, and a nonce. One of the others' may stand before each, and one was
    // under way.
    let nonce = between.iter().position(|kind| *kind == ControlKind::Ask).unwrap();
    assert!(nonce <= 4, "{between:?}");
}

/// It has evidence to verify and a log to write, on a machine that may be busy.
#[tokio::test(start_paused = true)]
async fn a_broker_may_take_longer_than_a_lease_service() {
    let broker = format!("bank={}", stuck().await).parse().unwrap();
    let waiting = ShareState { needed: 1, missing: vec!["bank".parse().unwrap()] };
    let (stream, _) = enclave(move |_, _| ControlAnswer::Shares(waiting.clone()));
    let looked = Shares::new(Arc::new(Control::new(stream)), broker, Carried::SHARE).look().await.unwrap();
    assert_eq!(looked, Looked::Nothing("it did not answer within 30 s".to_owned()));
}

#[tokio::test]
async fn what_the_enclave_says_is_observed() {
    let (stream, _) = enclave(|_, _| state(60_000));
    let (observed, seen) = watch::channel(Observed::default());
    assert_eq!(seen.borrow().lease_left_ms(), 0);
    Renewal::new(Arc::new(Control::new(stream)), Vec::new(), observed).look().await.unwrap();
    let left = seen.borrow().lease_left_ms();
    assert!((50_000..=60_000).contains(&left), "{left}");
    assert_eq!(seen.borrow().witnessed_left_ms(), None, "no release demands witnesses");
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_lease_and_of_a_witnessed_log_passes_while_the_enclave_says_nothing() {
    let (stream, _) = enclave(|_, _| witnessed_state(60_000, Some(10_000)));
    let (observed, seen) = watch::channel(Observed::default());
    Renewal::new(Arc::new(Control::new(stream)), Vec::new(), observed.clone()).look().await.unwrap();
    let left = || (seen.borrow().lease_left_ms(), seen.borrow().witnessed_left_ms());
    assert_eq!(left(), (60_000, Some(10_000)));
    sleep(Duration::from_secs(4)).await;
    assert_eq!(left(), (56_000, Some(6_000)));
    sleep(Duration::from_secs(7)).await;
    assert_eq!(left(), (49_000, Some(0)));
}

#[tokio::test]
async fn an_enclave_that_goes_away_ends_the_session_and_no_service_can() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone: Authority = format!("http://{}", nobody.local_addr().unwrap()).parse().unwrap();
    drop(nobody);
    let settings = Settings { release: Some("/nonexistent".into()), ..settings(vec![gone, stuck().await]) };
    let (observed, _) = watch::channel(Observed::default());
    let (stream, _) = enclave(|kind, _| if kind == ControlKind::Ask { nonce() } else { state(0) });
    assert!(timeout(Duration::from_millis(300), session(stream, &settings, &observed, None)).await.is_err());

    let (stream, enclave) = tokio::io::duplex(64);
    drop(enclave);
    session(stream, &settings, &observed, None).await;
}

#[tokio::test(start_paused = true)]
async fn what_witnesses_cosign_is_handed_in_again_and_again_and_what_is_refused_is_not() {
    let (cosigned, notes) = watch::channel(None);
    let (stream, asked) = enclave(|_, note| match note {
        b"few" => ControlAnswer::Refused("witness-quorum".to_owned()),
        _ => ControlAnswer::Accepted(Accepted::Known),
    });
    let handing = tokio::spawn(witnessed::hand_in(Arc::new(Control::new(stream)), notes));
    let told = async |note: &[u8]| {
        sleep(10 * TICK).await;
        of_kind(&asked, ControlKind::Witnessed).iter().filter(|body| *body == note).count()
    };
    assert_eq!(told(b"").await, 0);
    cosigned.send_replace(Some(b"few".to_vec()));
    assert_eq!(told(b"few").await, 1);
    cosigned.send_replace(Some(b"all".to_vec()));
    let first = told(b"all").await;
    assert!((9..=11).contains(&first), "{first}");
    assert!(told(b"all").await > first);
    drop(cosigned);
    handing.await.unwrap();
}
