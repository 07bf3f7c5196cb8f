//! Nothing of a prompt or an answer reaches a log, at any level.
//!
//! A program of its own, because it listens to everything that every library in the process says.

#![allow(clippy::unwrap_used, reason = "the steps that the tests share; in them a panic is the report")]

mod support;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Extension;
use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use support::{Api, CHAT, TEXT, chat, content, merged, partner, post, session, text};
use tracing_subscriber::filter::LevelFilter;

/// Occurs in every request.
const SECRET: &str = "Rumpelstilzchen";

/// Everything that was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    /// Which of `secrets` occurs in the log.
    fn leaks<'a>(&self, secrets: &[&'a str]) -> Vec<&'a str> {
        let log = self.text();
        secrets.iter().copied().filter(|secret| log.contains(secret)).collect()
    }
}

/// Every way a request can go, over one connection.
async fn converse(api: &Api, http2: bool) -> String {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let service = hyper_util::service::TowerToHyperService::new(
        api.router.clone().layer(Extension(session(partner(1)))),
    );
    tokio::spawn(async move {
        let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        let connection = builder.serve_connection(TokioIo::new(server), service);
        connection.await.map_err(|error| error.to_string())
    });
    let question = format!("What is attestation, {SECRET}?");
    let requests = [
        (CHAT, chat(&question, &json!({})).to_string()),
        (CHAT, chat(&question, &json!({"stream": true, "stop": [SECRET], "user": SECRET})).to_string()),
        (TEXT, text(&question, &json!({"stream": true})).to_string()),
        (TEXT, text(&question.repeat(400), &json!({})).to_string()),
        (TEXT, text(&question, &json!({"model": SECRET})).to_string()),
        (TEXT, text(&question, &json!({"temperature": SECRET})).to_string()),
        (CHAT, chat(&question, &json!({"tools": [SECRET]})).to_string()),
        (
            CHAT,
            chat(
                &question,
                &json!({"tools": [{"type": "function", "function": {"name": "f", "description": SECRET}}]}),
            )
            .to_string(),
        ),
        (CHAT, chat(&question, &json!({"chat_template_kwargs": {SECRET: SECRET}})).to_string()),
        (
            CHAT,
            merged(chat("", &json!({})), &json!({"messages": [{"role": SECRET, "content": SECRET}]}))
                .to_string(),
        ),
        (CHAT, format!("{{\"messages\": {SECRET}")),
    ];
    let mut answers = String::new();
    let mut sender = Sender::over(client, http2).await;
    for (path, body) in requests {
        let mut request = post(partner(1), &format!("http://x{path}"), &Value::Null);
        *request.body_mut() = Body::from(body);
        let body = sender.send(request).await;
        match serde_json::from_slice::<Value>(&body) {
            Ok(whole) => answers += &content(&[whole]),
            Err(_) => answers += &content(&support::chunks(std::str::from_utf8(&body).unwrap())),
        }
    }
    answers
}

enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<Body>),
    Http2(hyper::client::conn::http2::SendRequest<Body>),
}

impl Sender {
    async fn over(stream: tokio::io::DuplexStream, http2: bool) -> Self {
        if http2 {
            let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
            let (sender, connection) = handshake.await.unwrap();
            tokio::spawn(connection);
            Self::Http2(sender)
        } else {
            let (sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            Self::Http1(sender)
        }
    }

    async fn send(&mut self, request: http::Request<Body>) -> Bytes {
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(request).await.unwrap()
            }
            Self::Http2(sender) => sender.send_request(request).await.unwrap(),
        };
        response.into_body().collect().await.unwrap().to_bytes()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_prompt_nor_answer_is_ever_logged() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();

    let api = Api::new(1);
    let answers = converse(&api, false).await + &converse(&api, true).await;
    api.idle().await;

    // Words that only the answers can have brought in, besides the one in every prompt.
    let from_answers = ["minutes", "trained", "stories"];
    for word in from_answers {
        assert!(answers.contains(word), "the model said something else than this test expects: {answers}");
    }
    let secrets = [&[SECRET], from_answers.as_slice()].concat();
    assert_eq!(log.leaks(&secrets), [""; 0], "{}", log.text());

    // The detector hears the libraries below our own crate, which traces nothing, and knows what to listen for.
    let heard = log.text();
    assert!(heard.contains("TRACE") && heard.contains("h2::"), "{heard}");
    tracing::trace!(prompt = SECRET, "{answers}");
    assert_eq!(log.leaks(&secrets), secrets);
}
