//! The API over the real engine and the project's own small model.

#![allow(dead_code, reason = "each test program uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "only tests use this; in them a panic is the report")]

use std::num::NonZeroUsize;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_engine::{Engine, EngineConfig, Model};
use cleanroom_native::Native;
use cleanroom_worker::api::{self, Limits, Service};
use cleanroom_worker::{PartnerId, SessionIdentity};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

pub(crate) const MODEL: &str = "cleanroom/demo";

pub(crate) fn partner(byte: u8) -> PartnerId {
    Sha256Digest::from_bytes([byte; 32]).into()
}

/// The session that a partner's requests come on.
pub(crate) fn session(partner: PartnerId) -> SessionIdentity {
    SessionIdentity { partner, transcript: Sha384Digest::from_bytes([0x77; 48]), ticket: [0; 32] }
}

pub(crate) fn count(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

/// The bytes of the project's own model.
fn demo() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo.gguf")).unwrap()
}

/// The project's own model.
pub(crate) fn model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    Arc::clone(MODEL.get_or_init(|| Arc::new(Model::from_gguf(&demo()).unwrap())))
}

/// The same weights, with no end to a turn: answers run to the end of the context.
pub(crate) fn endless_model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    let make = || {
        let mut bytes = demo();
        let mut replace = |from: &[u8], to: &[u8]| {
            let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
            bytes[at..at + to.len()].copy_from_slice(to);
        };
        // The engine knows the control tokens that end a turn by their texts, so these go; and the id of the last token of
        // the vocabulary, which never comes, takes the place of the one that the file names (both of type 4, u32).
        replace(b"\x0a\0\0\0\0\0\0\0<|im_end|>", b"\x0a\0\0\0\0\0\0\0<|im_xxx|>");
        replace(b"\x0d\0\0\0\0\0\0\0<|endoftext|>", b"\x0d\0\0\0\0\0\0\0<|xxxxxtext|>");
        replace(b"eos_token_id\x04\0\0\0\x02\0\0\0", b"eos_token_id\x04\0\0\0\xb1\x05\0\0");
        Arc::new(Model::from_gguf(&bytes).unwrap())
    };
    Arc::clone(MODEL.get_or_init(make))
}

#[path = "../../engine/tests/support/embedding_model.rs"]
mod embedding_model;

#[path = "../../engine/tests/support/template_model.rs"]
mod template_model;

/// The same weights in a file whose template tells of tools and of thoughts.
fn tools_model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    let make = || {
        let file = template_model::with_template(&demo(), template_model::TOOLS_AND_THOUGHTS);
        Arc::new(Model::from_gguf(&file).unwrap())
    };
    Arc::clone(MODEL.get_or_init(make))
}

/// The same weights in a file that says that they are made for embeddings.
fn embedding_model() -> Arc<Model> {
    Arc::new(Model::from_gguf(&embedding_model::for_embeddings(&demo(), 1)).unwrap())
}

/// The API with an engine of its own.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) service: Arc<Service>,
    pub(crate) router: Router,
}

impl Api {
    /// One partner may use every sequence.
    pub(crate) fn new(sequences: usize) -> Self {
        Self::with_limits(sequences, Self::one_for_all(sequences))
    }

    /// With [`endless_model`].
    pub(crate) fn endless(sequences: usize) -> Self {
        Self::start(endless_model(), sequences, Self::one_for_all(sequences))
    }

    /// With a model that gives embeddings.
    pub(crate) fn embedding(sequences: usize) -> Self {
        Self::start(embedding_model(), sequences, Self::one_for_all(sequences))
    }

    /// With a model that calls tools and tells what it thinks.
    pub(crate) fn with_tools(sequences: usize) -> Self {
        Self::start(tools_model(), sequences, Self::one_for_all(sequences))
    }

    pub(crate) fn with_limits(sequences: usize, limits: Limits) -> Self {
        Self::start(model(), sequences, limits)
    }

    fn one_for_all(sequences: usize) -> Limits {
        let mut limits = Limits::new(count(sequences));
        limits.generations.per_partner = count(sequences);
        limits.uploads.per_partner = count(sequences);
        limits
    }

    /// The engine runs `sequences` and lets none wait.
    fn start(model: Arc<Model>, sequences: usize, limits: Limits) -> Self {
        let engine = Engine::start(model, EngineConfig::new(count(1), count(sequences))).unwrap();
        let (id, digest) = (ModelId::new(MODEL).unwrap(), Sha256Digest::from_bytes([0xd1; 32]));
        let service = Arc::new(Service::new(Native::shared(engine), id, digest, limits));
        Self { router: api::router(Arc::clone(&service)), service }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        Answer(self.router.clone().oneshot(request).await.unwrap())
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(request(partner(1), "GET", path, Body::empty())).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(post(partner(1), path, body)).await
    }

    /// Waits until no request holds a place in the engine. The engine's own thread brings it about, so this only yields.
    pub(crate) async fn idle(&self) {
        self.until_active(0).await;
    }

    pub(crate) async fn until_active(&self, active: usize) {
        while self.service.active() != active {
            tokio::task::yield_now().await;
        }
    }
}

pub(crate) fn request(partner: PartnerId, method: &str, path: &str, body: Body) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).body(body).unwrap();
    request.extensions_mut().insert(session(partner));
    request
}

pub(crate) fn post(partner: PartnerId, path: &str, body: &Value) -> Request<Body> {
    let mut request = request(partner, "POST", path, Body::from(body.to_string()));
    request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    request
}

pub(crate) const CHAT: &str = "/v1/chat/completions";
pub(crate) const TEXT: &str = "/v1/completions";

/// A chat request about `question`, greedy, with `extra` members.
pub(crate) fn chat(question: &str, extra: &Value) -> Value {
    let messages = json!([{"role": "user", "content": question}]);
    merged(json!({"model": MODEL, "messages": messages, "temperature": 0}), extra)
}

pub(crate) fn text(prompt: &str, extra: &Value) -> Value {
    merged(json!({"model": MODEL, "prompt": prompt, "temperature": 0}), extra)
}

pub(crate) fn merged(mut base: Value, extra: &Value) -> Value {
    base.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    base
}

/// An answer whose body has not been read.
pub(crate) struct Answer(pub(crate) http::Response<Body>);

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        self.0.status()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.0.headers()
    }

    pub(crate) async fn text(self) -> String {
        String::from_utf8(self.0.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    pub(crate) async fn json(self) -> Value {
        assert_eq!(self.headers()["content-type"], "application/json");
        serde_json::from_str(&self.text().await).unwrap()
    }

    /// A whole answer.
    pub(crate) async fn ok(self) -> Value {
        let status = self.status();
        let value = self.json().await;
        assert_eq!(status, 200, "{value}");
        value
    }

    /// A refusal in OpenAI's shape.
    pub(crate) async fn refused(self, status: u16, code: &str, param: Option<&str>) -> HeaderMap {
        let (actual, headers) = (self.status(), self.headers().clone());
        let value = self.json().await;
        assert_eq!(actual, status, "{value}");
        let error = value["error"].as_object().unwrap();
        let mut members: Vec<_> = error.keys().map(String::as_str).collect();
        members.sort_unstable();
        assert_eq!(members, ["code", "message", "param", "type"], "{value}");
        assert_eq!(error["code"], code, "{value}");
        assert_eq!(error["param"], json!(param), "{value}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
        assert!(error["type"].is_string());
        headers
    }

    /// The chunks of a stream that ended as it should.
    pub(crate) async fn chunks(self) -> Vec<Value> {
        assert_eq!(self.status(), 200);
        assert_eq!(self.headers()["content-type"], "text/event-stream; charset=utf-8");
        chunks(&self.text().await)
    }

    /// The first frame, and the rest of the body.
    pub(crate) async fn first_frame(self) -> (Bytes, Body) {
        assert_eq!(self.status(), 200);
        let mut body = self.0.into_body();
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        (frame, body)
    }
}

pub(crate) fn chunks(stream: &str) -> Vec<Value> {
    let mut events: Vec<_> = stream.split_terminator("\n\n").collect();
    assert_eq!(events.pop(), Some("data: [DONE]"), "{stream}");
    events
        .into_iter()
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
        .collect()
}

/// The text of a whole answer or of a stream's chunks, from either endpoint.
pub(crate) fn content(answers: &[Value]) -> String {
    let places = ["/choices/0/message/content", "/choices/0/delta/content", "/choices/0/text"];
    let text =
        |answer: &Value| places.iter().find_map(|place| answer.pointer(place)?.as_str().map(str::to_owned));
    answers.iter().filter_map(text).collect()
}

/// The one finish reason among a stream's chunks.
pub(crate) fn finish_reason(chunks: &[Value]) -> &str {
    let reasons: Vec<_> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["finish_reason"].as_str()).collect();
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    reasons[0]
}

/// A request body that sends `first` and then `then`.
pub(crate) fn slow_body(first: &'static str, then: Then) -> Body {
    Body::new(SlowBody { first: Some(Bytes::from(first)), then })
}

/// What a [`slow_body`] does after its first bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Sends the same again and again.
    More,
    /// Never sends anything again.
    Silence,
    /// Breaks off.
    Failure,
}

struct SlowBody {
    first: Option<Bytes>,
    then: Then,
}

impl http_body::Body for SlowBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
        let next = if self.then == Then::More { self.first.clone() } else { self.first.take() };
        match next {
            Some(data) => Poll::Ready(Some(Ok(http_body::Frame::data(data)))),
            None if self.then == Then::Silence => Poll::Pending,
            None => Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into()))),
        }
    }
}
