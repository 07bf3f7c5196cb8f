//! How long a running answer goes on after one authority halts its model: 20 runs each, against three kinds of host.
//!
//! `halt MODEL [RUNS]`, where an answer of MODEL takes longer than a lease. Everything is a process of its own: three lease
//! services, the authority that halts, the host and its enclave. The time begins when the authority's program is started and ends
//! with the last token that reaches the partner. The partner verifies that the clean room signed the end.
//! Exit code 1 when one run takes longer than a lease and a second.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement that cannot be set up has failed"
)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cleanroom_attestation::release::Accepted;
use cleanroom_link::control::{CONTROL_HEADER_BYTES, ControlAnswer, ControlKind, ControlState};
use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::session::{Session, Sessions};
use cleanroom_partner::stream_end::{Ended, SignedEnd};
use cleanroom_tests::ceremony::{Ceremony, NAMES, Terms};
use cleanroom_tests::client::send;
use cleanroom_tests::platform::model_id;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::watch;

const LEASE: Duration = Duration::from_secs(4);
const RUNS: usize = 20;

/// What the host does with what the authorities say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Conduct {
    /// As `cleanroom-host` does: it passes everything on.
    Honest,
    /// It passes no denial on, and renews leases.
    HidesDenials,
    /// From the halt on it passes nothing on at all.
    FallsSilent,
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let model =
        PathBuf::from(arguments.next().expect("halt MODEL [RUNS]")).canonicalize().expect("MODEL is a file");
    let runs = arguments.next().map_or(RUNS, |runs| runs.parse().expect("RUNS is a number"));
    let limit = LEASE + Duration::from_secs(1);
    println!("a lease has {} s; {runs} runs each; seconds from `halt` to the last token", LEASE.as_secs());
    println!("{:<46} {:>8} {:>8} {:>8}", "the host", "least", "median", "worst");
    let mut good = true;
    for (conduct, name) in [
        (Conduct::Honest, "passes everything on"),
        (Conduct::HidesDenials, "hides denials, renews leases"),
        (Conduct::FallsSilent, "passes nothing on from the halt on"),
    ] {
        let mut times = measure(conduct, model.clone(), runs).await;
        times.sort_unstable();
        let (least, median, worst) = (times[0], times[times.len() / 2], times[times.len() - 1]);
        let seconds = [least, median, worst].map(|time| format!("{:.2}", time.as_secs_f64()));
        println!("{name:<46} {:>8} {:>8} {:>8}", seconds[0], seconds[1], seconds[2]);
        good &= worst <= limit;
    }
    println!("every run within a lease and a second: {}", if good { "yes" } else { "NO" });
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn measure(conduct: Conduct, model: PathBuf, runs: usize) -> Vec<Duration> {
    let lease_seconds = u32::try_from(LEASE.as_secs()).unwrap();
    let mut ceremony = Ceremony::new(Terms { lease_seconds, model, ..Terms::default() });
    (0..NAMES.len()).for_each(|index| ceremony.serve(index));
    let (_host, address) = ceremony.host(conduct == Conduct::Honest);
    let ceremony = Arc::new(ceremony);
    let silent = Arc::new(AtomicBool::new(false));
    let leading =
        (conduct != Conduct::Honest).then(|| tokio::spawn(lead(Arc::clone(&ceremony), Arc::clone(&silent))));
    let mut times = Vec::new();
    let mut tries = 0;
    while times.len() < runs {
        tries += 1;
        let (session, response) = begin(&ceremony, &address).await;
        // Halts fall into every phase of a lease.
        let (events, mut reached) = watch::channel(0);
        let reader = tokio::spawn(read(session, response, events));
        let enough = 4 + 3 * tries % 16;
        if reached.wait_for(|events| *events >= enough).await.is_err() {
            // The model had nothing more to say.
            continue;
        }

        silent.store(conduct == Conduct::FallsSilent, Ordering::SeqCst);
        let begun = Instant::now();
        let halting = Arc::clone(&ceremony);
        tokio::task::spawn_blocking(move || halting.halt("regulator", &halting.urls())).await.unwrap();
        // An answer that the model ended itself is no run.
        if let Some((last, ended)) = reader.await.unwrap() {
            // The services list the denial in their leases. An enclave that was not given it takes none of them.
            let expected = if conduct == Conduct::Honest { "model-denied" } else { "lease-lapsed" };
            assert_eq!(ended.reason, expected);
            times.push(last.saturating_duration_since(begun));
        }

        let resuming = Arc::clone(&ceremony);
        tokio::task::spawn_blocking(move || resuming.resume("regulator")).await.unwrap();
        silent.store(false, Ordering::SeqCst);
    }
    if let Some(leading) = leading {
        // It must not outlive the enclave that it speaks to.
        leading.abort();
        assert!(
            leading.await.expect_err("it never ends by itself").is_cancelled(),
            "it failed during the runs"
        );
    }
    times
}

/// The answer of a request, once one is admitted.
async fn begin(ceremony: &Ceremony, address: &str) -> (Arc<Session>, Response<Incoming>) {
    let question = serde_json::json!({
        "model": "demo", "stream": true, "max_tokens": 4000, "temperature": 1.0,
        "messages": [{ "role": "user", "content": "Tell me a story." }],
    });
    loop {
        let policy = ceremony.policy("roots/1.json");
        let party = RelyingParty::new(ceremony.identity(), policy, model_id()).unwrap();
        let Ok(session) = Sessions::new(party, address.parse().unwrap()).get().await else { continue };
        let request = Request::post("https://cleanroom/v1/chat/completions")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(question.to_string())))
            .unwrap();
        let response = session.send(request).await.unwrap();
        if response.status() == StatusCode::OK {
            return (session, response);
        }
    }
}

/// Reads an answer to its signed end; gives the time of its last token. `None` for one that the model ended.
async fn read(
    session: Arc<Session>,
    mut response: Response<Incoming>,
    events: watch::Sender<usize>,
) -> Option<(Instant, Ended)> {
    let (mut pending, mut stream, mut last) = (Vec::new(), String::new(), Instant::now());
    loop {
        let frame = response.body_mut().frame().await.expect("a signed end").expect("a signed end");
        pending.extend_from_slice(frame.data_ref().expect("data"));
        while let Some(end) = pending.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = pending.drain(..end + 2).collect();
            let event = event.strip_prefix(b"data: ").unwrap();
            if event == b"[DONE]\n\n" {
                return None;
            }
            let mut event: serde_json::Value = serde_json::from_slice(event).unwrap();
            if let Some(end) = event.get_mut("cleanroom_stream_end") {
                let end: SignedEnd = serde_json::from_value(end.take()).unwrap();
                let key = session.evidence().evidence().public_key().unwrap();
                return Some((last, end.verify(key, &session.transcript(), &stream).expect("a signature")));
            }
            stream = event["id"].as_str().unwrap().to_owned();
            last = Instant::now();
            events.send_modify(|events| *events += 1);
        }
    }
}

/// The host's part, by one that hides denials and, when told, says nothing more.
async fn lead(ceremony: Arc<Ceremony>, silent: Arc<AtomicBool>) {
    let mut control = UnixStream::connect(ceremony.path("host/control.sock")).await.unwrap();
    let service = ceremony.urls()[0].strip_prefix("http://").unwrap().parse().unwrap();
    let mut handed = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        tick.tick().await;
        if silent.load(Ordering::SeqCst) {
            continue;
        }
        let release = std::fs::read(ceremony.path("release.json")).unwrap_or_default();
        let new = release != handed;
        if new {
            let answer = ask(&mut control, ControlKind::RELEASE, &release).await;
            if matches!(answer, ControlAnswer::Accepted(Accepted::New | Accepted::Known)) {
                handed = release;
            }
        }
        let ControlAnswer::State(ControlState { lease_left_ms, .. }) =
            ask(&mut control, ControlKind::State, b"").await
        else {
            continue;
        };
        if !new && u128::from(lease_left_ms) > LEASE.as_millis() / 2 {
            continue;
        }
        let ControlAnswer::Ask(request) = ask(&mut control, ControlKind::Ask, b"").await else { continue };
        let lease = send(service, "POST", "/v1/lease", &String::from_utf8(request.to_json()).unwrap()).await;
        let lease = lease.into_body().collect().await.unwrap().to_bytes();
        let _ = ask(&mut control, ControlKind::LEASE, &lease).await;
    }
}

async fn ask(control: &mut UnixStream, kind: ControlKind, body: &[u8]) -> ControlAnswer {
    control.write_all(&kind.frame(body)).await.unwrap();
    let mut header = [0; CONTROL_HEADER_BYTES];
    control.read_exact(&mut header).await.unwrap();
    let (code, length) = ControlAnswer::parse_header(header).unwrap();
    let mut body = vec![0; length];
    control.read_exact(&mut body).await.unwrap();
    ControlAnswer::parse(code, &body).unwrap()
}
