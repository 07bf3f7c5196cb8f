//! The main job: a partner's client asks through the proxy, the host's relay sees ciphertext, a real model answers.

use std::sync::Arc;

use axum::Extension;
use cleanroom_attestation::channel::Nonce;
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::verdict::{Expectation, appraise};
use cleanroom_channel::identity::Identity;
use cleanroom_config::Limits;
use cleanroom_engine::{Engine, EngineConfig, Model};
use cleanroom_native::Native;
use cleanroom_partner::clock::now;
use cleanroom_tests::clean_room::{CleanRoom, Recorder, model};
use cleanroom_tests::client::{json, question, send, send_on};
use cleanroom_tests::platform::model_id;
use cleanroom_tests::stranger::Statement;
use cleanroom_worker::api::{self, Service};
use cleanroom_worker::{PartnerId, SessionIdentity};
use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::net::{UnixListener, UnixStream};

const QUESTION: &str = "What is attestation?";
const ANSWER: &str = "Attestation proves which image an enclave has started. The signature comes from the platform and \
                      can be checked by anyone. If the measurements do not match, the client must not send its prompt.";
/// A piece of the answer that no header or handshake contains.
const PIECE: &[u8] = b"measurements";

#[tokio::test(flavor = "multi_thread")]
async fn the_host_carries_neither_prompt_nor_answer_nor_key() {
    let clean_room = CleanRoom::start("").await;
    let identity = Identity::generate().unwrap();
    let proxy = clean_room.proxy(&identity).await;
    let (status, answer) =
        json(send(proxy, "POST", "/v1/chat/completions", &question(QUESTION, false)).await).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["choices"][0]["message"]["content"], ANSWER);
    assert!(!clean_room.recorder.is_empty());
    for secret in
        [QUESTION.as_bytes(), ANSWER.as_bytes(), PIECE, b"chat/completions", identity.to_pem().as_bytes()]
    {
        assert!(!clean_room.recorder.saw(secret), "{}", String::from_utf8_lossy(secret));
    }
    // What the relay does carry in the clear: the first bytes of a TLS handshake record.
    assert!(clean_room.recorder.saw(&[0x16, 0x03, 0x01]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recorder_finds_plaintext_when_tls_is_taken_away() {
    // The same API, the same model, the same recorder, no channel: everything that must be absent above is found.
    let folder = tempfile::tempdir().unwrap();
    let (host, enclave) = (folder.path().join("host"), folder.path().join("enclave"));
    let engine = EngineConfig::new(std::num::NonZeroUsize::MIN, std::num::NonZeroUsize::MIN);
    let engine = Engine::start(Arc::new(Model::from_gguf(&model()).unwrap()), engine).unwrap();
    let digest = cleanroom_attestation::model::model_digest(&model());
    let service = Arc::new(Service::new(Native::shared(engine), model_id(), digest, &Limits::default()));
    let partner = PartnerId::from(Sha256Digest::of(&[b"key"]));
    let router = api::router(service).layer(Extension(SessionIdentity {
        partner,
        transcript: Sha384Digest::of(&[b"session"]),
        ticket: [0; 32],
    }));
    let listener = UnixListener::bind(&enclave).unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let recorder = Recorder::start(host.clone(), enclave).await;

    let stream = UnixStream::connect(host).await.unwrap();
    let response = send_on(stream, "x", "POST", "/v1/chat/completions", &question(QUESTION, false)).await;
    let (status, answer) = json(response).await;
    assert_eq!((status, answer["choices"][0]["message"]["content"].as_str()), (StatusCode::OK, Some(ANSWER)));
    for secret in [QUESTION.as_bytes(), ANSWER.as_bytes(), PIECE, b"chat/completions"] {
        assert!(recorder.saw(secret), "{}", String::from_utf8_lossy(secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_done_and_a_cut_one_with_an_error() {
    let clean_room = CleanRoom::start("").await;
    let proxy = clean_room.proxy(&Identity::generate().unwrap()).await;
    let whole = send(proxy, "POST", "/v1/chat/completions", &question(QUESTION, true)).await;
    let whole = whole.into_body().collect().await.unwrap().to_bytes();
    let whole = String::from_utf8(whole.to_vec()).unwrap();
    let (answer, receipt) = whole.split_once("data: [DONE]\n\n").unwrap();
    assert!(answer.contains(r#""finish_reason":""#));
    // After the end comes the receipt, in a comment.
    assert!(receipt.contains("\n: {\"receipt\":") && receipt.ends_with("}\n\n"), "{receipt}");

    // Now the host lets a few hundred bytes of the answer through and cuts.
    let mut response =
        send(proxy, "POST", "/v1/chat/completions", &question("Tell me a short story.", true)).await;
    let first = response.body_mut().frame().await.unwrap().unwrap();
    assert!(first.data_ref().is_some_and(|data| data.starts_with(b"data: ")));
    clean_room.recorder.cut_after(500);
    let rest = response.into_body().collect().await;
    assert!(rest.is_err(), "a cut answer must not look like a finished one");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_listed_gets_evidence_and_nothing_else() {
    let listed = Identity::generate().unwrap();
    let clean_room = CleanRoom::start(&format!("partners = [\"{}\"]", listed.key_digest())).await;
    let (status, _) = json(send(clean_room.proxy(&listed).await, "GET", "/v1/models", "").await).await;
    assert_eq!(status, StatusCode::OK);

    let stranger = clean_room.proxy(&Identity::generate().unwrap()).await;
    for (method, path) in [("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/healthz")] {
        let (status, body) = json(send(stranger, method, path, &question(QUESTION, false)).await).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(body["error"]["code"], "partner_not_listed");
    }
    let nonce = [0xA5; 32];
    let path = format!("/.well-known/cleanroom/attestation?nonce={}", "a5".repeat(32));
    let (status, evidence) = json(send(stranger, "GET", &path, "").await).await;
    assert_eq!(status, StatusCode::OK);
    let statement = Statement::of(&evidence, &Nonce::from_bytes(nonce));
    let expected = Expectation {
        nonce: Some(statement.root.as_bytes()),
        user_data: Some(&statement.user_data),
        public_key: Some(&statement.receipt_key),
        ..Expectation::default()
    };
    assert_eq!((statement.release, statement.lease), (None, None));
    let verdict = appraise(&statement.document, &clean_room.policy(), &expected, now(), None);
    assert!(verdict.accepted().is_ok(), "{:?}", verdict.accepted().err());

    for nonce in ["", "?nonce=", "?nonce=00", "?nonce=zz", "?other=1"] {
        let path = format!("/.well-known/cleanroom/attestation{nonce}");
        assert_eq!(send(stranger, "GET", &path, "").await.status(), StatusCode::BAD_REQUEST, "{nonce}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_sessions_hear_that_the_enclave_is_busy() {
    let clean_room = CleanRoom::start("[limits]\nsessions = 1\n").await;
    let first = clean_room.proxy(&Identity::generate().unwrap()).await;
    assert_eq!(send(first, "GET", "/v1/models", "").await.status(), StatusCode::OK);
    let second = clean_room.proxy(&Identity::generate().unwrap()).await;
    let (status, body) = json(send(second, "GET", "/v1/models", "").await).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body["error"]["code"], "unproven/busy");
    // The first session is not touched.
    assert_eq!(send(first, "GET", "/v1/models", "").await.status(), StatusCode::OK);
}
