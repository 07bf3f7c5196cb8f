//! A small server of models that speaks as vLLM does, over a Unix socket: the project's own engine and API, as a program that
//! knows nothing of attestation. `engine-server MODEL SOCKET`
//!
//! The tests put it where vLLM would stand, because vLLM is too large for them.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router};
use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_config::Limits;
use cleanroom_engine::{Engine, EngineConfig, Model};
use cleanroom_native::Native;
use cleanroom_worker::api::{self, Service};
use cleanroom_worker::{PartnerId, SessionIdentity};
use http::{Request, StatusCode};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tower::ServiceExt as _;

const MAX_BODY: usize = 64 * 1024 * 1024;
/// More tokens than any context has.
const TOO_MANY: u64 = 1 << 30;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, model, socket] = arguments.as_slice() else {
        eprintln!("usage: engine-server MODEL SOCKET");
        return ExitCode::FAILURE;
    };
    match serve(model, socket).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(model: &str, socket: &str) -> Result<(), Box<dyn std::error::Error>> {
    let bytes = std::fs::read(model)?;
    let (sequences, queued) = (NonZeroUsize::new(16).unwrap_or(NonZeroUsize::MIN), 64);
    let config = EngineConfig {
        max_queued: queued,
        max_per_owner: sequences,
        ..EngineConfig::new(NonZeroUsize::MIN, sequences)
    };
    let engine = Engine::start(Arc::new(Model::from_gguf(&bytes)?), config)?;
    let limits = Limits { sequences, queued, ..Limits::default() };
    let service =
        Service::new(Native::shared(engine), ModelId::new("served")?, Sha256Digest::of(&[b""]), &limits);
    let identity = SessionIdentity {
        partner: PartnerId::from(Sha256Digest::of(&[b"whoever connects"])),
        transcript: Sha384Digest::of(&[b""]),
        ticket: [0; 32],
    };
    let api = api::router(Arc::new(service)).layer(Extension(identity));
    let asked = api.clone();
    let router =
        Router::new().route("/health", get(|| async { "" })).fallback(move |request: Request<Body>| {
            let api = asked.clone();
            async move { answer(api, request).await }
        });
    axum::serve(UnixListener::bind(socket)?, router).await?;
    Ok(())
}

/// Answers a request in vLLM's words with the project's API.
async fn answer(api: Router, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(bytes) = to_bytes(body, MAX_BODY).await else { return StatusCode::BAD_REQUEST.into_response() };
    let path = parts.uri.path().to_owned();
    // Members keep their texts, in which the order of a schema's own members counts.
    let Ok(mut body) = serde_json::from_slice::<BTreeMap<String, Box<RawValue>>>(&bytes) else {
        return ask(api, &path, bytes.to_vec()).await;
    };
    // What vLLM knows and this API does not.
    for member in ["cache_salt", "repetition_penalty", "add_generation_prompt"] {
        body.remove(member);
    }
    if let Some(options) = body.get_mut("stream_options") {
        *options = raw(&json!({ "include_usage": true }));
    }
    if path != "/tokenize" {
        return ask(api, &path, text(&body)).await;
    }
    body.insert("max_tokens".to_owned(), raw(&json!(1)));
    let endpoint = if body.contains_key("messages") { "/v1/chat/completions" } else { "/v1/completions" };
    let answer = ask(api, endpoint, text(&body)).await;
    let status = answer.status();
    let bytes = to_bytes(answer.into_body(), MAX_BODY).await.unwrap_or_default();
    let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    match (&answer["usage"]["prompt_tokens"], &answer["error"]["code"]) {
        (Value::Number(count), _) => axum_json(&json!({ "count": count })),
        (_, Value::String(code)) if code == "context_length_exceeded" => {
            axum_json(&json!({ "count": TOO_MANY }))
        }
        _ => status.into_response(),
    }
}

async fn ask(api: Router, path: &str, body: Vec<u8>) -> Response {
    let method = if body.is_empty() { "GET" } else { "POST" };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(Body::from(body));
    let Ok(request) = request else { return StatusCode::BAD_REQUEST.into_response() };
    match api.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn text(body: &BTreeMap<String, Box<RawValue>>) -> Vec<u8> {
    serde_json::to_vec(body).unwrap_or_default()
}

fn axum_json(value: &Value) -> Response {
    ([("content-type", "application/json")], value.to_string()).into_response()
}
