//! The report to the operator: counters and the enclave's state, over HTTP. Nothing in it is about
//! content.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | counters in Prometheus's text format |
//! | `/status` | the same as JSON |
//! | `/healthz` | 200 as long as this program works |
//! | `/readyz` | 200 when partners can be served, else 503 and a line that says why not |
//!
//! The address is for the operator's network only. It takes no input, a bounded number of connections, and
//! none for long, so that it answers while partners' connections are at their limit.

use std::fmt::Write as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

use crate::agent::Observed;
use crate::endpoint::BoundListener;
use crate::launcher::{State, Status};
use crate::probe::{LastProbe, Vitals};
use crate::relay::{Accept as _, Accepted, Counters, Snapshot, Stream};

/// Connections to the report at the same time; further ones wait.
const CONNECTIONS: usize = 16;
/// How long a connection to the report may last. A client that wants more opens another.
const LIFETIME: Duration = Duration::from_secs(30);
/// The pause after the system could not give a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// The sources of the report.
#[derive(Clone)]
pub struct Sources {
    /// The relay's counters.
    pub relay: Arc<Counters>,
    /// The enclave's state, if this host runs one.
    pub enclave: Option<watch::Receiver<Status>>,
    /// How the enclave answers probes, if this host runs one.
    pub probes: Option<watch::Receiver<Vitals>>,
    /// What the enclave says about its release and its lease, if the host keeps it in touch with authorities.
    pub release: Option<watch::Receiver<Observed>>,
    /// Cancelled when the host was asked to stop.
    pub stop: CancellationToken,
}

/// One report.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether partners can be served, and if not, why.
    pub ready: Readiness,
    /// The relay's counters.
    pub relay: Snapshot,
    /// The enclave's state, if this host runs one.
    pub enclave: Option<Status>,
    /// The enclave's last answer to a probe, if there is one.
    pub probe: Option<LastProbe>,
    /// Milliseconds that the enclave's lease still runs, where there is release control. 0: none, or not
    /// known.
    pub lease_left_ms: Option<u64>,
    /// Milliseconds that the enclave's log still counts as witnessed, where a release demands witnesses. 0: too few have
    /// cosigned in time.
    pub witnessed_left_ms: Option<u64>,
    /// Lines of this program's log that nobody could take.
    pub log_lines_lost: u64,
}

/// Whether partners can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readiness {
    /// They can.
    Ready,
    /// The host was asked to stop.
    Draining,
    /// The enclave does not accept connections.
    EnclaveNotServing,
    /// The enclave has not answered of late that it works.
    EnclaveSilent,
    /// The enclave has no lease in force, so it refuses everybody.
    NoLease,
    /// Too few of the witnesses that a release demands have cosigned the enclave's log in time, so it begins nothing new.
    Unwitnessed,
}

impl Readiness {
    /// For people.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Draining => "not ready: draining",
            Self::EnclaveNotServing => "not ready: the enclave does not accept connections",
            Self::EnclaveSilent => {
                "not ready: the enclave does not say that its worker, its engine and its security module work"
            }
            Self::NoLease => "not ready: the enclave has no lease in force and refuses everybody",
            Self::Unwitnessed => {
                "not ready: unwitnessed: too few of the witnesses that the release demands have cosigned the enclave's log in time, so it begins nothing new"
            }
        }
    }
}

impl Sources {
    /// The report now.
    #[must_use]
    pub fn report(&self) -> Report {
        let enclave = self.enclave.as_ref().map(|status| status.borrow().clone());
        let vitals = self.probes.as_ref().map(|probes| *probes.borrow());
        let observed = self.release.as_ref().map(|observed| *observed.borrow());
        let lease_left_ms = observed.as_ref().map(Observed::lease_left_ms);
        let witnessed_left_ms = observed.as_ref().and_then(Observed::witnessed_left_ms);
        let ready = if self.stop.is_cancelled() {
            Readiness::Draining
        } else if enclave.as_ref().is_some_and(|enclave| enclave.state != State::Serving) {
            Readiness::EnclaveNotServing
        } else if vitals.is_some_and(|vitals| !vitals.is_well()) {
            Readiness::EnclaveSilent
        } else if lease_left_ms == Some(0) {
            Readiness::NoLease
        } else if witnessed_left_ms == Some(0) {
            Readiness::Unwitnessed
        } else {
            Readiness::Ready
        };
        Report {
            ready,
            relay: self.relay.snapshot(),
            enclave,
            probe: vitals.and_then(|vitals| vitals.last()),
            lease_left_ms,
            witnessed_left_ms,
            log_lines_lost: cleanroom_program::log::lost_lines(),
        }
    }
}

impl Report {
    /// The report in Prometheus's text format, version 0.0.4.
    #[must_use]
    pub fn to_prometheus(&self) -> String {
        let mut text = self.relay.to_prometheus();
        let mut sample = |name: &str, kind: &str, help: &str, value: f64| {
            // Writing to a string does not fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        };
        if let Some(enclave) = &self.enclave {
            let up = match self.ready {
                Readiness::Ready | Readiness::Unwitnessed => true,
                Readiness::Draining => enclave.state == State::Serving,
                Readiness::EnclaveNotServing | Readiness::EnclaveSilent | Readiness::NoLease => false,
            };
            sample(
                "cleanroom_enclave_up",
                "gauge",
                "Whether the enclave accepts connections, answers probes and, under release control, has a lease.",
                f64::from(u8::from(up)),
            );
            sample(
                "cleanroom_enclave_restarts_total",
                "counter",
                "How often the enclave was started again.",
                f64::from(enclave.restarts),
            );
        }
        if let Some(LastProbe { age_ms, load }) = self.probe {
            sample(
                "cleanroom_enclave_probe_age_seconds",
                "gauge",
                "Time since the enclave said that its worker, its engine and its security module work.",
                Duration::from_millis(age_ms).as_secs_f64(),
            );
            sample(
                "cleanroom_enclave_load",
                "gauge",
                "Requests in the enclave: 0 none, 1 some, 2 as many as it takes, so that further ones are refused.",
                f64::from(load.code()),
            );
        }
        if let Some(left) = self.lease_left_ms {
            sample(
                "cleanroom_lease_left_seconds",
                "gauge",
                "How long the enclave's lease still runs; 0 when there is none.",
                Duration::from_millis(left).as_secs_f64(),
            );
        }
        if let Some(left) = self.witnessed_left_ms {
            sample(
                "cleanroom_witnessed_left_seconds",
                "gauge",
                "How long the enclave's log still counts as witnessed; 0 when too few witnesses have cosigned in time.",
                Duration::from_millis(left).as_secs_f64(),
            );
        }
        let ready = f64::from(u8::from(self.ready == Readiness::Ready));
        sample("cleanroom_ready", "gauge", "Whether partners can be served.", ready);
        #[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
        let lost = self.log_lines_lost as f64;
        sample("cleanroom_log_lines_lost_total", "counter", "Log lines that nobody could take.", lost);
        text
    }
}

/// Answers requests for the report until the process ends.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: BoundListener, sources: Sources) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/healthz", get(async || "well\n"))
        .route("/readyz", get(ready))
        .with_state(sources);
    let listener = Bounded { listener, places: Arc::new(Semaphore::new(CONNECTIONS)) };
    axum::serve(listener, router).await
}

async fn metrics(Extract(sources): Extract<Sources>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], sources.report().to_prometheus())
}

async fn status(Extract(sources): Extract<Sources>) -> Json<Report> {
    Json(sources.report())
}

async fn ready(Extract(sources): Extract<Sources>) -> impl IntoResponse {
    let ready = sources.report().ready;
    let status = if ready == Readiness::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{}\n", ready.as_str()))
}

/// A listener that gives a bounded number of connections, each for a bounded time.
struct Bounded {
    listener: BoundListener,
    places: Arc<Semaphore>,
}

/// A connection with an end.
struct Timed {
    stream: Box<dyn StreamObject>,
    end: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

trait StreamObject: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: Stream> StreamObject for T {}

impl axum::serve::Listener for Bounded {
    type Io = Timed;
    type Addr = ();

    async fn accept(&mut self) -> (Timed, ()) {
        // The semaphore is never closed.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok(Accepted { stream, .. }) => {
                    let end = Box::pin(sleep(LIFETIME));
                    return (Timed { stream: Box::new(stream), end, _place: place }, ());
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Timed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use cleanroom_link::load::Load;

    use super::*;
    use crate::relay::Counters;

    #[test]
    fn the_page_lists_every_metric_and_no_other() {
        let page = include_str!("../../docs/observability.md");
        let (_, section) = page.split_once("## Metrics of a host").unwrap();
        let (section, _) = section.split_once("## ").unwrap();
        let listed: Vec<_> =
            section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let report = Report {
            ready: Readiness::Ready,
            relay: Counters::default().snapshot(),
            enclave: Some(Status::new()),
            probe: Some(LastProbe { age_ms: 1, load: Load::Idle }),
            lease_left_ms: Some(1),
            witnessed_left_ms: Some(1),
            log_lines_lost: 0,
        };
        let text = report.to_prometheus();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let mut metrics: Vec<_> = types.collect();
        let mut listed = listed;
        metrics.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, metrics);
    }
}
