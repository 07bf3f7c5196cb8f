//! `broker serve`: the broker's HTTP service.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use clap::Args;
use cleanroom_key_release::{RetentionRequest, ShareRequest};
use cleanroom_program::clock::Clock;
use cleanroom_program::limits;
use cleanroom_program::log::{self, Format};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::challenge::Challenges;
use super::days::Days;
use super::judge::{Broker, Documents, Own, Rates};
use super::log::Log;
use super::share_file::HeldShare;
use crate::Outcome;
use crate::chain::RootArguments;
use crate::failure::Failure;
use crate::issuer::Refusal;
use crate::metrics::{CONTENT_TYPE, Counts, Watcher};
use crate::serve::connections::{self, AtWork, CONNECTIONS};
use crate::serve::turns::Turns;
use crate::serve::{body, json, listen, read_again, refused};

/// Open files and sockets beside the connections.
const OTHER_FILES: u64 = 256;
/// Requests for shares that are worked on at the same time.
const SHARES: usize = 8;
/// How often secrets of days are looked through for those whose retention is over.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Other requests that are worked on at the same time.
const PAGES: usize = 16;

#[derive(Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    root: RootArguments,
    /// The release in force. Replace the file when there is a newer one.
    #[arg(long, value_name = "FILE")]
    release: PathBuf,
    /// The folder of denials: that of this authority's lease service.
    #[arg(long, value_name = "FOLDER")]
    denials: PathBuf,
    /// The policy that says which security modules to trust, in the form of a partner's trust.toml.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// This broker's own list of images and models.
    #[arg(long, value_name = "FILE")]
    allow: PathBuf,
    /// A share, as `broker secret new` writes it. Give it once for each model.
    #[arg(long = "share", value_name = "FILE", required_unless_present = "days")]
    shares: Vec<PathBuf>,
    /// The folder for the secrets of days, under which enclaves seal records. The broker makes one for each
    /// day and model, and deletes it when the days that the release states are over.
    #[arg(long, value_name = "FOLDER", requires = "key")]
    days: Option<PathBuf>,
    /// The key that signs the answers for retention. The release lists its public half.
    #[arg(long, value_name = "FILE", requires = "days")]
    key: Option<PathBuf>,
    /// The log file, with one entry for each share given or refused. The broker creates a missing file.
    #[arg(long, value_name = "FILE")]
    log: PathBuf,
    /// The address to listen on. Port 0 picks a free port.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8710")]
    listen: SocketAddr,
}

impl Serve {
    pub(crate) fn run(self, json: bool) -> Result<Outcome, Failure> {
        let environment = |error: &dyn std::fmt::Display| Failure::Environment(error.to_string());
        let _log = log::start(Format::json_if(json), "info").map_err(|error| environment(&error))?;
        limits::require_open_files(CONNECTIONS as u64 + OTHER_FILES).map_err(|error| environment(&error))?;
        let listen = self.listen;
        let broker = self.broker()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Environment(format!("cannot start: {error}")))?;
        let served = runtime.block_on(serve_on(listen, broker, json));
        runtime.shutdown_background();
        served.map(|()| Outcome::silent())
    }

    /// Reads everything, and refuses to begin with what cannot be used.
    fn broker(self) -> Result<Broker, Failure> {
        let state = self.root.state_with(Some(&self.release), Some(&self.denials))?;
        let shares = self.shares.iter().map(|path| HeldShare::read(path));
        let shares = shares.collect::<Result<Vec<_>, _>>()?;
        let days = match (&self.days, &self.key) {
            (Some(folder), Some(key)) => Some(Days::open(folder, key)?),
            _ => None,
        };
        let random = || Failure::Environment("no random numbers to make challenges from".to_owned());
        Ok(Broker {
            own: Own::read(self.policy, self.allow)?,
            shares,
            days,
            challenges: Challenges::new().ok_or_else(random)?,
            clock: Clock::machine(),
            held: Documents::new(state),
            log: Mutex::new(Log::open(&self.log)?),
            rates: Mutex::new(Rates::default()),
            roots: self.root,
            release: self.release,
            denials: self.denials,
        })
    }
}

async fn serve_on(address: SocketAddr, broker: Broker, json: bool) -> Result<(), Failure> {
    let (listener, mut signals, hangups) = listen(address, json).await?;
    let metrics = Arc::new(Metrics::new());
    let watcher: Arc<dyn Watcher> = Arc::<Counts>::clone(&metrics.counts);
    let service =
        Service { broker: Arc::new(broker), metrics, shares: Turns::new(SHARES), pages: Turns::new(PAGES) };
    let sweeping = tokio::spawn(sweep(Arc::clone(&service.broker)));
    let broker = Arc::clone(&service.broker);
    let again = tokio::spawn(read_again(hangups, move || broker.own.read_again()));
    connections::serve(listener, &router(service), &watcher, &mut signals).await;
    sweeping.abort();
    again.abort();
    Ok(())
}

/// Deletes secrets of days whose retention is over, now and every minute.
async fn sweep(broker: Arc<Broker>) {
    loop {
        let broker = Arc::clone(&broker);
        let _ = tokio::task::spawn_blocking(move || broker.sweep()).await;
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

/// What the handlers share.
#[derive(Clone)]
struct Service {
    broker: Arc<Broker>,
    metrics: Arc<Metrics>,
    shares: Turns,
    pages: Turns,
}

type Asking = (State<Service>, Extension<AtWork>);

impl Service {
    /// The answer, which is counted.
    fn answer(&self, endpoint: &'static str, result: Result<Vec<u8>, Refusal>) -> Response {
        match result {
            Ok(bytes) => {
                self.metrics.counts.count(endpoint, "ok");
                let mut response = bytes.into_response();
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
                response
            }
            Err(refusal) => {
                self.metrics.counts.count(endpoint, refusal.code);
                refused(&refusal)
            }
        }
    }
}

fn router(service: Service) -> Router {
    Router::new()
        .route("/v1/challenge", post(challenge))
        .route("/v1/share", post(share))
        .route("/v1/retention", post(retention))
        .route("/v1/status", get(status))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .with_state(service)
}

async fn challenge((State(service), Extension(at_work)): Asking) -> Response {
    let result = service.pages.work(&at_work, &service.broker, Broker::challenge).await;
    service.answer("challenge", result)
}

async fn share((State(service), Extension(at_work)): Asking, request: Request) -> Response {
    let result = match body(request, ShareRequest::LIMIT).await {
        Ok(body) => service.shares.work(&at_work, &service.broker, move |broker| broker.share(&body)).await,
        Err(refusal) => Err(refusal),
    };
    service.answer("share", result)
}

async fn retention((State(service), Extension(at_work)): Asking, request: Request) -> Response {
    let result = match body(request, RetentionRequest::LIMIT).await {
        Ok(body) => {
            service.shares.work(&at_work, &service.broker, move |broker| broker.retention(&body)).await
        }
        Err(refusal) => Err(refusal),
    };
    service.answer("retention", result)
}

async fn status((State(service), Extension(at_work)): Asking) -> Response {
    match service.pages.work(&at_work, &service.broker, |broker| Ok(broker.status())).await {
        Ok(status) => json(StatusCode::OK, status.to_string()),
        Err(refusal) => service.answer("status", Err(refusal)),
    }
}

async fn health((State(service), Extension(at_work)): Asking) -> Response {
    match service.pages.work(&at_work, &service.broker, |broker| Ok(broker.status())).await {
        Ok(status) => {
            let usable = status.get("problem").is_none_or(serde_json::Value::is_null)
                && status.pointer("/log/full").is_some_and(|full| *full == false);
            let code = if usable { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            json(code, serde_json::json!({ "usable": usable }).to_string())
        }
        Err(refusal) => service.answer("healthz", Err(refusal)),
    }
}

async fn metrics((State(service), Extension(at_work)): Asking) -> Response {
    let entries = service.pages.work(&at_work, &service.broker, |broker| Ok(broker.entries())).await;
    match entries {
        Ok(entries) => {
            ([(header::CONTENT_TYPE, CONTENT_TYPE)], service.metrics.page(entries)).into_response()
        }
        Err(refusal) => service.answer("metrics", Err(refusal)),
    }
}

/// What a broker counts. Nothing of what requests contain.
struct Metrics {
    registry: Registry,
    counts: Arc<Counts>,
    entries: Gauge<u64, AtomicU64>,
}

impl Metrics {
    fn new() -> Self {
        let mut registry = Registry::with_prefix("cleanroom_broker");
        let counts = Counts::on(&mut registry);
        let entries = Gauge::default();
        registry.register("log_entries", "Entries of the log", Gauge::clone(&entries));
        Self { registry, counts, entries }
    }

    fn page(&self, entries: u64) -> String {
        self.entries.set(entries);
        self.counts.page(&self.registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_listed;

    #[test]
    fn the_page_lists_every_metric_of_a_broker() {
        let metrics = Metrics::new();
        metrics.counts.count("share", "given");
        assert_listed("broker", &metrics.page(0));
    }
}
