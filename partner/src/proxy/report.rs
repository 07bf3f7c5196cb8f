//! The report to whoever runs the proxy, over HTTP at an address of its own. Nothing in it is about content.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | counters in the text format that Prometheus reads (`OpenMetrics`) |
//! | `/healthz` | 200 as long as this program works |
//! | `/readyz` | 200 when a clean room is proven and takes requests, else 503 and a line that says why not |
//!
//! It takes no input, a bounded number of connections, and none for long, so that it answers while clients'
//! connections are at their limit.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::http1_server;
use super::listener::{Accepted, Listener};
use super::metrics::Metrics;
use crate::session::Sessions;

/// Connections to the report at the same time. Further ones wait.
pub(super) const CONNECTIONS: usize = 16;

/// How long a connection may last. Each carries one request.
const LIFETIME: Duration = Duration::from_secs(10);

/// How long `/readyz` waits for a proof.
const PROOF: Duration = Duration::from_secs(5);

/// The pause after the system could not give a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// As Prometheus's client libraries say it.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// What a proxy tells whoever runs it.
pub struct Report {
    pub(super) metrics: Arc<Metrics>,
    pub(super) sessions: Sessions,
}

impl Report {
    /// Answers what arrives at `listener`. Never completes.
    pub async fn serve(self, listener: Listener) {
        let report = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                Some(_) = connections.join_next() => {}
                accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                    Ok(accepted) => {
                        connections.spawn(timeout(LIFETIME, Arc::clone(&report).connection(accepted)));
                    }
                    Err(_) => sleep(PAUSE).await,
                },
            }
        }
    }

    async fn connection(self: Arc<Self>, accepted: Accepted) {
        let service = service_fn(|request| {
            let report = Arc::clone(&self);
            async move { Ok::<_, Infallible>(report.answer(&request).await) }
        });
        let mut server = http1_server();
        // A client that breaks off tells nobody anything.
        let _ = server.keep_alive(false).serve_connection(TokioIo::new(accepted.stream), service).await;
    }

    async fn answer<B>(&self, request: &http::Request<B>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "expected GET\n");
        }
        match request.uri().path() {
            "/metrics" => {
                let page = self.metrics.page(self.sessions.usable(), self.sessions.proofs());
                answer(StatusCode::OK, OPENMETRICS, page)
            }
            "/healthz" => answer(StatusCode::OK, TEXT, "well\n"),
            "/readyz" => match self.why_not_ready().await {
                None => answer(StatusCode::OK, TEXT, "ready\n"),
                Some(why) => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready: {why}\n")),
            },
            _ => answer(StatusCode::NOT_FOUND, TEXT, "expected /metrics, /healthz or /readyz\n"),
        }
    }

    /// A clean room is proven if none is, as for a request.
    async fn why_not_ready(&self) -> Option<String> {
        if self.metrics.is_draining() {
            return Some("the proxy was asked to stop".to_owned());
        }
        match timeout(PROOF, self.sessions.get()).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(format!("no clean room is proven: {}", error.code())),
            Err(_) => Some("no clean room is proven yet".to_owned()),
        }
    }
}

fn answer(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
