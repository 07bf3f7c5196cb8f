//! `broker serve`: the broker's HTTP service.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use clap::Args;
use cleanroom_attestation::policy::{MAX_POLICY_LENGTH, Policy};
use cleanroom_key_release::ShareRequest;
use cleanroom_program::clock::Clock;
use cleanroom_program::log::{self, Format};
use cleanroom_program::signals::Signals;
use cleanroom_program::{limits, output};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::allowed::Allowed;
use super::challenge::Challenges;
use super::judge::{Broker, Rates};
use super::log::Log;
use super::share_file::HeldShare;
use crate::Outcome;
use crate::chain::RootArguments;
use crate::failure::Failure;
use crate::files;
use crate::issuer::{Kind, Refusal};
use crate::metrics::{CONTENT_TYPE, Watcher};
use crate::serve::connections::{self, AtWork, CONNECTIONS};
use crate::serve::{PATIENCE, body, json, refused};

/// Open files and sockets beside the connections.
const OTHER_FILES: u64 = 256;
/// Requests for shares that are worked on at the same time.
const SHARES: usize = 8;
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
    /// Which security modules are believed, as partners' trust.toml.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// This broker's own list of images and models.
    #[arg(long, value_name = "FILE")]
    allow: PathBuf,
    /// A share, as `broker secret new` writes it. Give it once for each model.
    #[arg(long = "share", value_name = "FILE", required = true)]
    shares: Vec<PathBuf>,
    /// The log: one entry for each share that is given or refused. It is made if there is none.
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
        let random = || Failure::Environment("no random numbers to make challenges from".to_owned());
        Ok(Broker {
            policy: read_policy(&self.policy)?,
            allowed: Allowed::read(&self.allow)?,
            shares,
            challenges: Challenges::new().ok_or_else(random)?,
            clock: Clock::machine(),
            held: Mutex::new(Arc::new(state)),
            log: Mutex::new(Log::open(&self.log)?),
            rates: Mutex::new(Rates::default()),
            roots: self.root,
            release: self.release,
            denials: self.denials,
        })
    }
}

fn read_policy(path: &std::path::Path) -> Result<Policy, Failure> {
    let refused =
        |problem: String| Failure::Refused { what: path.display().to_string(), code: "policy", problem };
    let bytes = files::read(path, MAX_POLICY_LENGTH)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| refused("it is not UTF-8".to_owned()))?;
    Policy::from_toml(text).map_err(|error| refused(error.to_string()))
}

async fn serve_on(address: SocketAddr, broker: Broker, json: bool) -> Result<(), Failure> {
    let failed = |error| Failure::Environment(format!("cannot listen on {address}: {error}"));
    let mut signals = Signals::listen().map_err(failed)?;
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let url = format!("http://{}", listener.local_addr().map_err(failed)?);
    if json {
        output::announce(serde_json::json!({ "event": "listening", "url": url }));
    } else {
        output::announce(format_args!("listening on {url}"));
    }
    tracing::info!(url, "listening");
    let metrics = Arc::new(Metrics::new());
    let turns = |number| Arc::new(Semaphore::new(number));
    let service = Service {
        broker: Arc::new(broker),
        metrics: Arc::clone(&metrics),
        shares: turns(SHARES),
        pages: turns(PAGES),
    };
    let watcher: Arc<dyn Watcher> = metrics;
    connections::serve(listener, &router(service), &watcher, &mut signals).await;
    Ok(())
}

/// What the handlers share.
#[derive(Clone)]
struct Service {
    broker: Arc<Broker>,
    metrics: Arc<Metrics>,
    shares: Arc<Semaphore>,
    pages: Arc<Semaphore>,
}

type Asking = (State<Service>, Extension<AtWork>);

impl Service {
    /// Runs `work` on a thread that may wait for the disk. The client's connection is spared meanwhile.
    async fn work<T: Send + 'static>(
        &self,
        turns: &Arc<Semaphore>,
        at_work: &AtWork,
        work: impl FnOnce(&Broker) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let unusable =
            |code, message: &str| Refusal { kind: Kind::Unusable, code, message: message.to_owned() };
        let Ok(Ok(turn)) = timeout(PATIENCE, Arc::clone(turns).acquire_owned()).await else {
            return Err(unusable("busy", "others are being answered; ask again in a moment"));
        };
        let _spared = at_work.begin();
        let broker = Arc::clone(&self.broker);
        let done = tokio::task::spawn_blocking(move || {
            // Given back when the work is done, even if its client is gone by then.
            let _turn = turn;
            work(&broker)
        });
        done.await.unwrap_or_else(|_| Err(unusable("internal", "the request could not be worked on")))
    }

    /// The answer, which is counted.
    fn answer(&self, endpoint: &'static str, result: Result<Vec<u8>, Refusal>) -> Response {
        match result {
            Ok(bytes) => {
                self.metrics.count(endpoint, "ok");
                let mut response = bytes.into_response();
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
                response
            }
            Err(refusal) => {
                self.metrics.count(endpoint, refusal.code);
                refused(&refusal)
            }
        }
    }
}

fn router(service: Service) -> Router {
    Router::new()
        .route("/v1/challenge", post(challenge))
        .route("/v1/share", post(share))
        .route("/v1/status", get(status))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .with_state(service)
}

async fn challenge((State(service), Extension(at_work)): Asking) -> Response {
    let result = service.work(&service.pages, &at_work, Broker::challenge).await;
    service.answer("challenge", result)
}

async fn share((State(service), Extension(at_work)): Asking, request: Request) -> Response {
    let result = match body(request, ShareRequest::LIMIT).await {
        Ok(body) => service.work(&service.shares, &at_work, move |broker| broker.share(&body)).await,
        Err(refusal) => Err(refusal),
    };
    service.answer("share", result)
}

async fn status((State(service), Extension(at_work)): Asking) -> Response {
    match service.work(&service.pages, &at_work, |broker| Ok(broker.status())).await {
        Ok(status) => json(StatusCode::OK, status.to_string()),
        Err(refusal) => service.answer("status", Err(refusal)),
    }
}

async fn health((State(service), Extension(at_work)): Asking) -> Response {
    match service.work(&service.pages, &at_work, |broker| Ok(broker.status())).await {
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
    let entries = service.work(&service.pages, &at_work, |broker| Ok(broker.entries())).await;
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
    /// By endpoint and result. Results are codes of this program.
    answers: Family<[(&'static str, &'static str); 2], Counter>,
    connections: Gauge<u64, AtomicU64>,
    shed: Counter,
    entries: Gauge<u64, AtomicU64>,
    lost_lines: Counter,
}

impl Metrics {
    fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("cleanroom_broker"),
            answers: Family::default(),
            connections: Gauge::default(),
            shed: Counter::default(),
            entries: Gauge::default(),
            lost_lines: Counter::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("answers", "Answers by endpoint and result", metrics.answers.clone());
        registry.register("connections", "Connections that are open", metrics.connections.clone());
        registry.register(
            "connections_shed",
            "Connections that ended so that another client could be served",
            metrics.shed.clone(),
        );
        registry.register("log_entries", "Entries of the log", metrics.entries.clone());
        registry.register(
            "log_lines_lost",
            "Log lines that standard error did not take",
            metrics.lost_lines.clone(),
        );
        metrics
    }

    fn count(&self, endpoint: &'static str, result: &'static str) {
        self.answers.get_or_create(&[("endpoint", endpoint), ("result", result)]).inc();
    }

    fn page(&self, entries: u64) -> String {
        self.entries.set(entries);
        self.lost_lines.inner().store(log::lost_lines(), Ordering::Relaxed);
        let mut page = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut page, &self.registry);
        page
    }
}

impl Watcher for Metrics {
    fn connections(&self, open: usize) {
        self.connections.set(open as u64);
    }

    fn shed(&self) {
        self.shed.inc();
    }
}
