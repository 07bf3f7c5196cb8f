//! What the host tells whoever operates it: counters and the enclave's state, over HTTP. Nothing in it is about content.
//!
//! `GET /metrics` gives Prometheus's text format, `GET /status` the same as JSON. The address is for the operator's network
//! only; it takes no input.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State as Extract;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::sync::watch;

use crate::endpoint::BoundListener;
use crate::launcher::{State, Status};
use crate::relay::{Counters, Snapshot};

/// What is reported.
#[derive(Clone)]
pub struct Sources {
    /// The relay's counters.
    pub relay: Arc<Counters>,
    /// The enclave's state, if this host runs one.
    pub enclave: Option<watch::Receiver<Status>>,
}

/// One report.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The relay's counters.
    pub relay: Snapshot,
    /// The enclave's state, if this host runs one.
    pub enclave: Option<Status>,
}

impl Sources {
    /// The report now.
    #[must_use]
    pub fn report(&self) -> Report {
        Report {
            relay: self.relay.snapshot(),
            enclave: self.enclave.as_ref().map(|status| status.borrow().clone()),
        }
    }
}

impl Report {
    /// The report in Prometheus's text format, version 0.0.4.
    #[must_use]
    pub fn to_prometheus(&self) -> String {
        let mut text = self.relay.to_prometheus();
        if let Some(enclave) = &self.enclave {
            let up = u8::from(enclave.state == State::Serving);
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "# HELP cleanroom_enclave_up Whether the enclave accepts connections.\n\
                 # TYPE cleanroom_enclave_up gauge\n\
                 cleanroom_enclave_up {up}\n\
                 # HELP cleanroom_enclave_restarts_total How often the enclave was started again.\n\
                 # TYPE cleanroom_enclave_restarts_total counter\n\
                 cleanroom_enclave_restarts_total {}\n",
                enclave.restarts
            );
        }
        text
    }
}

/// Answers requests for the report until the process ends.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: BoundListener, sources: Sources) -> std::io::Result<()> {
    let router =
        Router::new().route("/metrics", get(metrics)).route("/status", get(status)).with_state(sources);
    match listener {
        BoundListener::Tcp(listener) => axum::serve(listener, router).await,
        BoundListener::Unix(listener) => axum::serve(listener, router).await,
    }
}

async fn metrics(Extract(sources): Extract<Sources>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], sources.report().to_prometheus())
}

async fn status(Extract(sources): Extract<Sources>) -> Json<Report> {
    Json(sources.report())
}
