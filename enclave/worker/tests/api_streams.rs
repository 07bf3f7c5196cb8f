//! Answers that do not run to their end: clients that go away, and an engine that does.

#![allow(clippy::unwrap_used, reason = "the steps that the tests share; in them a panic is the report")]

mod support;

use axum::body::Body;
use axum::{Extension, Router};
use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use support::{Api, TEXT, merged, partner, post, session, text};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower::ServiceExt as _;

/// Runs long enough for something to happen meanwhile.
fn long(extra: &Value) -> Value {
    text(
        "Once upon a time",
        &merged(json!({"temperature": 2, "seed": 1, "max_tokens": 900, "stream": true}), extra),
    )
}

/// Two equal requests run in step, one of them `left` by its client after its first frame. Shows that the engine lets go of that one
/// while the other is still being generated.
async fn stops_early(api: &Api, left: impl AsyncFnOnce(&Api)) {
    let (_, mut other) = api.post(TEXT, &long(&json!({}))).await.first_frame().await;
    left(api).await;
    api.until_active(1).await;
    let mut text = String::new();
    while let Some(Some(frame)) = other.frame().now_or_never() {
        text += std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap();
    }
    assert!(!text.contains("[DONE]"), "the engine went on to the end for a client that had left");
    drop(other);
    api.idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_stream_stops_its_generation() {
    stops_early(&Api::endless(2), async |api: &Api| {
        let (_, body) = api.post(TEXT, &long(&json!({}))).await.first_frame().await;
        drop(body);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_request_for_a_whole_answer_stops_its_generation() {
    stops_early(&Api::endless(2), async |api: &Api| {
        let api = api.clone();
        let request = tokio::spawn({
            let api = api.clone();
            async move { api.post(TEXT, &long(&json!({"stream": false}))).await.status() }
        });
        api.until_active(2).await;
        request.abort();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_an_http_1_connection_stops_its_generation() {
    stops_early(&Api::endless(2), async |api: &Api| {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        serve(api.router.clone(), server);
        let body = long(&json!({})).to_string();
        let head =
            "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ";
        client.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
        client.read_u8().await.unwrap();
        api.until_active(2).await;
        drop(client);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resetting_an_http_2_stream_stops_its_generation() {
    let api = Api::endless(2);
    let (client, server) = tokio::io::duplex(64 * 1024);
    serve(api.router.clone(), server);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection);
    stops_early(&api, async |api: &Api| {
        let mut request = post(partner(1), TEXT, &long(&json!({})));
        *request.uri_mut() = "http://x/v1/completions".parse().unwrap();
        let mut response = sender.send_request(request).await.unwrap();
        response.frame().await.unwrap().unwrap();
        api.until_active(2).await;
        drop(response);
    })
    .await;
    assert!(sender.ready().await.is_ok(), "the connection itself goes on");
}

/// The engine goes away in the middle of an answer; what a client sees on the wire.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_breaks_the_stream_off() {
    let Api { service, router } = Api::endless(1);
    drop(service);
    let (mut client, server) = tokio::io::duplex(1024 * 1024);
    // Serves one request and then drops the router, and with it the engine.
    let router = std::sync::Mutex::new(Some(router.layer(Extension(session(partner(1))))));
    let once = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let router = router.lock().unwrap().take().unwrap();
        async move { router.oneshot(request.map(Body::new)).await }
    });
    tokio::spawn(async move {
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), once).await
    });
    let body = long(&json!({})).to_string();
    let head =
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ";
    client.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    client.read_to_end(&mut seen).await.unwrap();
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.starts_with("HTTP/1.1 200 OK\r\n"), "{seen}");
    assert!(seen.contains(r#"{"error":{"#) && seen.contains(r#""code":"engine_failed""#), "{seen}");
    assert!(!seen.contains("[DONE]") && !seen.contains(r#""finish_reason":""#), "{seen}");
    assert!(!seen.ends_with("\r\n0\r\n\r\n"), "a chunked body that ends cleanly looks complete: {seen}");
}

fn serve(router: Router, stream: tokio::io::DuplexStream) {
    let service = hyper_util::service::TowerToHyperService::new(router.layer(Extension(session(partner(1)))));
    tokio::spawn(async move {
        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await
    });
}
