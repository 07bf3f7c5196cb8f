//! What a partner, or anybody who can reach the enclave, cannot do to it.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cleanroom_attestation::channel::{FrameKind, HelloFrame, ModelId, Nonce};
use cleanroom_channel::frames::Frame;
use cleanroom_channel::identity::Identity;
use cleanroom_channel::tls;
use cleanroom_tests::clean_room::CleanRoom;
use cleanroom_tests::client::{json, question, send as send_request};
use cleanroom_tests::platform::{World, model_id};
use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Sends `script` on a connection of the channel's profile and gives the enclave's code and what it answered.
async fn send(script: &[u8]) -> (Option<&'static str>, Vec<u8>) {
    meet(async |stream: &mut TlsStream<UnixStream>| stream.write_all(script).await.unwrap()).await
}

async fn meet(script: impl AsyncFn(&mut TlsStream<UnixStream>)) -> (Option<&'static str>, Vec<u8>) {
    let world = World::new();
    let enclave = world.enclave(world.accepted.clone()).await;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let client = async {
        let config = tls::client_config(&Identity::generate().unwrap()).unwrap();
        let connector = TlsConnector::from(std::sync::Arc::new(config));
        let mut stream = connector.connect(tls::server_name(), ours).await.unwrap();
        script(&mut stream).await;
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    let enclave = async { enclave.accept(theirs).await.err().map(|error| error.code()) };
    let (code, answer) = tokio::join!(enclave, client);
    (code, answer)
}

fn hello(model: &ModelId) -> Frame {
    let hello = HelloFrame { nonce: Nonce::from_bytes([1; 32]), model_id: model.clone() };
    Frame::new(FrameKind::Hello, &hello.encode())
}

#[tokio::test]
async fn frames_that_are_not_due_are_refused() {
    let oversized = [FrameKind::Hello.code(), 0, 0, 0, 169];
    let malformed = Frame::new(FrameKind::Hello, b"junk");
    let finished = Frame::new(FrameKind::Finished, &[0; 48]);
    assert_eq!(send(&oversized).await, (Some("frame"), Vec::new()));
    assert_eq!(send(malformed.bytes()).await, (Some("frame"), Vec::new()));
    assert_eq!(send(finished.bytes()).await, (Some("frame"), Vec::new()));
    assert_eq!(send(&[1, 0]).await, (Some("truncated"), Vec::new()));
    assert_eq!(send(b"GET / HTTP/1.1\r\n\r\n").await, (Some("frame"), Vec::new()));
}

#[tokio::test]
async fn another_model_is_refused_by_code() {
    let other = ModelId::new("other").unwrap();
    let (code, answer) = send(hello(&other).bytes()).await;
    assert_eq!(code, Some("unknown-model"));
    assert_eq!(answer, Frame::new(FrameKind::Refusal, &[1]).bytes());
}

#[tokio::test]
async fn a_finished_of_another_exchange_is_refused() {
    let wrong = Frame::new(FrameKind::Finished, &[0; 48]);
    let (code, answer) = send(&[hello(&model_id()).bytes(), wrong.bytes()].concat()).await;
    assert_eq!(code, Some("finished"));
    assert_eq!(answer.first(), Some(&FrameKind::Evidence.code()));
    // A duplicated Hello is not a Finished either.
    let (code, _) = send(&[hello(&model_id()).bytes(), hello(&model_id()).bytes()].concat()).await;
    assert_eq!(code, Some("frame"));
}

#[tokio::test]
async fn requests_before_finished_are_refused() {
    let (code, answer) = meet(async |stream: &mut TlsStream<UnixStream>| {
        hello(&model_id()).write(stream).await.unwrap();
        Frame::read(stream, &[FrameKind::Evidence]).await.unwrap();
        stream.write_all(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    })
    .await;
    assert_eq!(code, Some("frame"));
    assert_eq!(answer, b"");
}

#[tokio::test]
async fn no_certificate_means_no_session() {
    let world = World::new();
    let enclave = world.enclave(world.accepted.clone()).await;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let client = async {
        let mut config = tls::client_config(&Identity::generate().unwrap()).unwrap();
        config.client_auth_cert_resolver = std::sync::Arc::new(NoCertificate);
        let connector = TlsConnector::from(std::sync::Arc::new(config));
        if let Ok(mut stream) = connector.connect(tls::server_name(), ours).await {
            // TLS 1.3 tells a client late that its certificate was missed.
            let _ = hello(&model_id()).write(&mut stream).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert_eq!(answer, b"");
        }
    };
    let (code, ()) =
        tokio::join!(async { enclave.accept(theirs).await.err().map(|error| error.code()) }, client);
    assert_eq!(code, Some("tls"));
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_cancellations_leave_every_place_free_and_the_next_answer_whole() {
    const CANCELLATIONS: usize = 2000;
    // One partner's share of 4 + 4 places.
    const PLACES: usize = 6;
    let clean_room = CleanRoom::start("[limits]\nsequences = 4\nqueued = 4").await;
    let partner = clean_room.proxy(&Identity::generate().unwrap()).await;
    let ask = move || async move {
        send_request(partner, "POST", "/v1/chat/completions", &question("What is attestation?", true)).await
    };
    let expected = ask().await.into_body().collect().await.unwrap().to_bytes().len();

    let cancelled = AtomicUsize::new(0);
    let cancel = async |begun: usize| {
        while cancelled.load(Ordering::Relaxed) < CANCELLATIONS {
            let response = ask().await;
            if response.status() != StatusCode::OK {
                // The places of those before are free at their next token.
                tokio::task::yield_now().await;
                continue;
            }
            // At once, or in the middle of the answer.
            let mut body = response.into_body();
            let turn = cancelled.fetch_add(1, Ordering::Relaxed) + begun;
            for _ in 0..turn % 4 {
                assert!(body.frame().await.is_some_and(|frame| frame.is_ok()));
            }
        }
    };
    tokio::join!(cancel(0), cancel(1), cancel(2), cancel(3));

    let all = async || {
        let mut answers = tokio::task::JoinSet::new();
        (0..PLACES).for_each(|_| drop(answers.spawn(ask())));
        answers.join_all().await
    };
    let patience = tokio::time::Instant::now() + Duration::from_secs(60);
    let answers = loop {
        let answers = all().await;
        if answers.iter().all(|answer| answer.status() == StatusCode::OK) {
            break answers;
        }
        assert!(tokio::time::Instant::now() < patience, "places of cancelled requests are not free again");
    };
    for answer in answers {
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_and_bodies_at_their_limits_are_taken_and_one_more_is_refused() {
    /// The demo model's context, and the longest body.
    const CONTEXT: usize = 512;
    const BODY: usize = 1024 * 1024;
    let clean_room = CleanRoom::start("").await;
    let partner = clean_room.proxy(&Identity::generate().unwrap()).await;
    // One token for each character.
    let body = |tokens: usize| {
        let prompt = "!?".chars().cycle().take(tokens).collect::<String>();
        serde_json::json!({ "model": "demo", "prompt": prompt, "max_tokens": 9, "temperature": 0 })
            .to_string()
    };
    let ask = async |body: String| json(send_request(partner, "POST", "/v1/completions", &body).await).await;

    let (status, answer) = ask(body(CONTEXT - 1)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["usage"]["prompt_tokens"], CONTEXT - 1);
    assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() <= 1, "{answer}");
    for tokens in [CONTEXT, CONTEXT + 1] {
        let (status, answer) = ask(body(tokens)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(answer["error"]["code"], "context_length_exceeded", "{answer}");
    }

    let padded = |length: usize| {
        let body = body(9);
        let space = " ".repeat(length - body.len());
        body + &space
    };
    assert_eq!(padded(BODY).len(), BODY);
    assert_eq!(ask(padded(BODY)).await.0, StatusCode::OK);
    let (status, answer) = ask(padded(BODY + 1)).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &"body_too_large".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_partner_asked_spares_another_nothing() {
    let clean_room = CleanRoom::start("[limits]\nsequences = 4").await;
    let [one, other] = [
        clean_room.proxy(&Identity::generate().unwrap()).await,
        clean_room.proxy(&Identity::generate().unwrap()).await,
    ];
    let text = question(&"The enclave measures the image. ".repeat(40), false);
    let cached = async |partner| {
        let (status, answer) = json(send_request(partner, "POST", "/v1/chat/completions", &text).await).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0)
    };
    assert_eq!(cached(one).await, 0);
    assert!(cached(one).await >= 192, "its own second one is spared what the first one cost");
    assert_eq!(cached(other).await, 0, "and another's is not");
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<std::sync::Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
