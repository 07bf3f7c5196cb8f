//! `witness serve`: the HTTP service of a witness.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use clap::Args;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::{AddCheckpoint, MAX_ENTRY_BYTES};
use cleanroom_program::limits;
use cleanroom_program::log::{self, Format};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::logs::{Cosigner, Judge, Logs, Refused};
use crate::Outcome;
use crate::chain::{self, RootArguments};
use crate::failure::Failure;
use crate::issuer::Refusal;
use crate::metrics::{CONTENT_TYPE, Counts, Watcher};
use crate::serve::connections::{self, AtWork, CONNECTIONS};
use crate::serve::turns::Turns;
use crate::serve::{body, json, listen, read_again, refused};
use crate::signer::Signer;

/// Open files and sockets beside the connections.
const OTHER_FILES: u64 = 256;
/// Checkpoints that are worked on at the same time.
const CHECKPOINTS: usize = 16;
/// Boots that are judged at the same time.
const BOOTS: usize = 4;
/// Other requests that are worked on at the same time.
const PAGES: usize = 16;

/// Who a witness is.
#[derive(Args)]
pub(crate) struct Identity {
    /// The witness's private key, Ed25519, as `key new` writes it. Only its owner may be able to read it.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// What the witness calls itself in its cosignatures, for instance a name of the DNS. It stays the same for good. Where a
    /// release demands the witness, it is the name of its key in the root.
    #[arg(long, value_name = "NAME")]
    name: String,
}

impl Identity {
    pub(super) fn key(&self) -> Result<Cosigner, Failure> {
        Cosigner::new(Signer::from_file(&self.key)?, &self.name)
    }
}

#[derive(Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    identity: Identity,
    /// Which enclaves' logs are witnessed, as partners' trust.toml.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    #[command(flatten)]
    root: RootArguments,
    /// The release in force, with --root: its images are accepted in place of the policy's. Replace the file when there is a
    /// newer one.
    #[arg(long, value_name = "FILE", requires = "roots")]
    release: Option<PathBuf>,
    /// The folder of what was cosigned. It is made if there is none.
    #[arg(long, value_name = "FOLDER")]
    state: PathBuf,
    /// The address to listen on. Port 0 picks a free port.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8720")]
    listen: SocketAddr,
}

impl Serve {
    pub(super) fn run(self, json: bool) -> Result<Outcome, Failure> {
        let environment = |error: &dyn std::fmt::Display| Failure::Environment(error.to_string());
        let _log = log::start(Format::json_if(json), "info").map_err(|error| environment(&error))?;
        limits::require_open_files(CONNECTIONS as u64 + OTHER_FILES).map_err(|error| environment(&error))?;
        let judge = Judge::read(self.policy, self.root, self.release)?;
        // What cannot be used is said at the start.
        judge.policy()?;
        let logs = Logs::open(self.state, self.identity.key()?, judge)?;
        tracing::info!(witness = %logs.key(), boots = logs.count(), "a witness");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Environment(format!("cannot start: {error}")))?;
        let served = runtime.block_on(serve_on(self.listen, logs, json));
        runtime.shutdown_background();
        served.map(|()| Outcome::silent())
    }
}

async fn serve_on(address: SocketAddr, logs: Logs, json: bool) -> Result<(), Failure> {
    let (listener, mut signals, hangups) = listen(address, json).await?;
    let metrics = Arc::new(Metrics::new());
    let watcher: Arc<dyn Watcher> = Arc::<Counts>::clone(&metrics.counts);
    let service = Service {
        logs: Arc::new(logs),
        metrics,
        checkpoints: Turns::new(CHECKPOINTS),
        boots: Turns::new(BOOTS),
        pages: Turns::new(PAGES),
    };
    let logs = Arc::clone(&service.logs);
    let again = tokio::spawn(read_again(hangups, move || logs.read_again()));
    connections::serve(listener, &router(service), &watcher, &mut signals).await;
    again.abort();
    Ok(())
}

/// What the handlers share.
#[derive(Clone)]
struct Service {
    logs: Arc<Logs>,
    metrics: Arc<Metrics>,
    checkpoints: Turns,
    boots: Turns,
    pages: Turns,
}

type Asking = (State<Service>, Extension<AtWork>);

fn router(service: Service) -> Router {
    Router::new()
        .route("/add-checkpoint", post(add_checkpoint))
        .route("/v1/boots", post(boot))
        .route("/boots", get(boots))
        .route("/{boot}/checkpoint", get(checkpoint))
        .route("/v1/status", get(status))
        .route("/healthz", get(status))
        .route("/metrics", get(metrics))
        .with_state(service)
}

async fn add_checkpoint((State(service), Extension(at_work)): Asking, request: Request) -> Response {
    let result = match body(request, AddCheckpoint::LIMIT).await {
        Ok(body) => {
            let add = move |logs: &Logs| Ok(logs.add_checkpoint(&body, chain::now()));
            service.checkpoints.work(&at_work, &service.logs, add).await
        }
        Err(refusal) => Err(refusal),
    };
    service.answer("add-checkpoint", result, |line| text(StatusCode::OK, "text/plain", line))
}

async fn boot((State(service), Extension(at_work)): Asking, request: Request) -> Response {
    let result = match body(request, MAX_ENTRY_BYTES).await {
        Ok(body) => service.boots.work(&at_work, &service.logs, move |logs| Ok(logs.take_boot(&body))).await,
        Err(refusal) => Err(refusal),
    };
    service.answer("boots", result, |is_new| {
        let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
        json(status, serde_json::json!({ "new": is_new }).to_string())
    })
}

async fn boots((State(service), Extension(at_work)): Asking) -> Response {
    let list = service.pages.work(&at_work, &service.logs, |logs| Ok(Ok(logs.list()))).await;
    service.answer("list", list, |list| text(StatusCode::OK, "text/plain", list.into_bytes()))
}

async fn checkpoint((State(service), Extension(at_work)): Asking, Path(boot): Path<String>) -> Response {
    let find = move |logs: &Logs| {
        let note = boot.parse().ok().and_then(|boot: Sha256Digest| logs.note(&boot));
        Ok(note.ok_or(Refused::UnknownLog))
    };
    let note = service.pages.work(&at_work, &service.logs, find).await;
    service.answer("checkpoint", note, |note| text(StatusCode::OK, "text/plain", note))
}

async fn status((State(service), Extension(at_work)): Asking) -> Response {
    let look =
        |logs: &Logs| Ok(Ok(serde_json::json!({ "witness": logs.key().to_string(), "boots": logs.count() })));
    let status = service.pages.work(&at_work, &service.logs, look).await;
    service.answer("status", status, |status| json(StatusCode::OK, status.to_string()))
}

async fn metrics((State(service), Extension(at_work)): Asking) -> Response {
    let count = service.pages.work(&at_work, &service.logs, |logs| Ok(Ok(logs.count()))).await;
    let metrics = Arc::clone(&service.metrics);
    service.answer("metrics", count, |count| {
        text(StatusCode::OK, CONTENT_TYPE, metrics.page(count).into_bytes())
    })
}

impl Service {
    /// The answer, which is counted.
    fn answer<T>(
        &self,
        endpoint: &'static str,
        result: Result<Result<T, Refused>, Refusal>,
        show: impl FnOnce(T) -> Response,
    ) -> Response {
        match result {
            Ok(Ok(granted)) => {
                self.metrics.counts.count(endpoint, "ok");
                show(granted)
            }
            Ok(Err(refusal)) => {
                let (status, code, message) = refusal.told();
                self.metrics.counts.count(endpoint, code);
                match refusal {
                    // The form of the standard: the size alone.
                    Refused::Conflict(size) => {
                        text(status, "text/x.tlog.size", format!("{size}\n").into_bytes())
                    }
                    _ => {
                        let error = serde_json::json!({ "error": { "code": code, "message": message } });
                        json(status, error.to_string())
                    }
                }
            }
            Err(refusal) => {
                self.metrics.counts.count(endpoint, refusal.code);
                refused(&refusal)
            }
        }
    }
}

impl Refused {
    /// Status, code and words.
    const fn told(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Malformed(expected) => (StatusCode::BAD_REQUEST, "malformed", expected),
            Self::UnknownLog => (
                StatusCode::NOT_FOUND,
                "log-unknown",
                "this witness knows no log of that name; give it the log's first entry: POST /v1/boots",
            ),
            Self::NotSigned => (
                StatusCode::FORBIDDEN,
                "checkpoint-signature",
                "the checkpoint is not signed by the log's own key",
            ),
            Self::Conflict(_) => (StatusCode::CONFLICT, "size-conflict", "the witness cosigned another size"),
            Self::Proof => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "proof",
                "the proof does not show that the log contains what this witness cosigned before",
            ),
            Self::Evidence(code) => (
                StatusCode::FORBIDDEN,
                code,
                "the boot's evidence is not that of an enclave that this witness's policy accepts",
            ),
            Self::Full => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too-many-boots",
                "this witness has taken as many boots as it can",
            ),
            Self::Unusable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "inputs-unusable",
                "this witness's documents cannot be used; its operator finds the reason in its log",
            ),
            Self::NotKept => (
                StatusCode::SERVICE_UNAVAILABLE,
                "not-kept",
                "the witness could not keep it, so it does not count; send it again",
            ),
        }
    }
}

fn text(status: StatusCode, kind: &'static str, bytes: Vec<u8>) -> Response {
    let mut response = (status, bytes).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What a witness counts.
struct Metrics {
    registry: Registry,
    counts: Arc<Counts>,
    boots: Gauge<u64, AtomicU64>,
}

impl Metrics {
    fn new() -> Self {
        let mut registry = Registry::with_prefix("cleanroom_witness");
        let counts = Counts::on(&mut registry);
        let boots = Gauge::default();
        registry.register("boots", "Boots whose logs are witnessed", Gauge::clone(&boots));
        Self { registry, counts, boots }
    }

    fn page(&self, boots: usize) -> String {
        self.boots.set(boots as u64);
        self.counts.page(&self.registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_listed;

    #[test]
    fn the_page_lists_every_metric_of_a_witness() {
        let metrics = Metrics::new();
        metrics.counts.count("checkpoint", "given");
        assert_listed("witness", &metrics.page(0));
    }
}
