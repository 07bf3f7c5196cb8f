//! `lease serve`: the online service of one authority.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use clap::{Args, Subcommand};
use cleanroom_attestation::release::{Accepted, LeaseRequest, PayloadType};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::Outcome;
use crate::chain::RootArguments;
use crate::failure::Failure;
use crate::issuer::{Issuer, Kind, Refusal};
use crate::signer::SignerArguments;

/// Connections at the same time; others wait in the kernel.
const CONNECTIONS: usize = 256;
/// How long a client may take to send a request's head, and its body.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one connection may last.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run this authority's lease service.
    ///
    /// It reads roots, release and denials from files, again whenever they change, and signs leases for enclaves that hold the
    /// newest of each. It never forgets a denial or goes back to an older version while it runs. Put it behind your own TLS
    /// proxy if you like: what it says is signed and none of it is secret.
    ///
    ///   POST /v1/lease      a lease for {"nonce", "`root_version`", "`release_sha256`"}
    ///   POST /v1/denials    take a denial (`halt --to` sends one)
    ///   GET  /v1/release, /v1/roots, /v1/denials, /v1/status
    ///   GET  /metrics, /healthz
    #[command(verbatim_doc_comment)]
    Serve(Box<Serve>),
}

#[derive(Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    root: RootArguments,
    /// The release in force. Replace the file to bring a newer one.
    #[arg(long, value_name = "FILE")]
    release: PathBuf,
    /// The folder of denials. Those that arrive are kept there.
    #[arg(long, value_name = "FOLDER")]
    denials: PathBuf,
    #[command(flatten)]
    signer: SignerArguments,
    /// Where to listen; port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8700")]
    listen: SocketAddr,
}

impl Command {
    pub(crate) fn run(self) -> Result<Outcome, Failure> {
        let Self::Serve(serve) = self;
        let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false);
        log.try_init().map_err(|error| Failure::Environment(format!("cannot log: {error}")))?;
        let issuer = Arc::new(Issuer::new(serve.root, serve.release, serve.denials, &serve.signer)?);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Environment(format!("cannot start: {error}")))?;
        runtime.block_on(listen(serve.listen, issuer))?;
        Ok(Outcome { text: "stopped".to_owned(), json: serde_json::json!({ "stopped": true }) })
    }
}

async fn listen(address: SocketAddr, issuer: Arc<Issuer>) -> Result<(), Failure> {
    let failed = |error| Failure::Environment(format!("cannot listen on {address}: {error}"));
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    println!("listening on http://{local}");
    let mut terminate =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(failed)?;
    let router = router(issuer);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let router = router.clone();
                    tokio::spawn(async move {
                        let _place = place;
                        let _ = tokio::time::timeout(CONNECTION_LIFE, serve_connection(stream, router)).await;
                    });
                }
                Err(error) => {
                    // Too many open files and the like: let some connections end first.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            _ = terminate.recv() => return Ok(()),
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Router) {
    let service = TowerToHyperService::new(router);
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(16 << 10);
    // A connection that breaks is its client's matter.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

type Shared = State<Arc<Issuer>>;

fn router(issuer: Arc<Issuer>) -> Router {
    let release = |State(issuer): Shared| page(issuer, Issuer::release);
    let roots = |State(issuer): Shared| page(issuer, Issuer::roots);
    let denials = |State(issuer): Shared| page(issuer, Issuer::denials);
    let status = |State(issuer): Shared| page(issuer, |issuer| issuer.status().to_string());
    Router::new()
        .route("/v1/lease", post(lease))
        .route("/v1/release", get(release))
        .route("/v1/roots", get(roots))
        .route("/v1/denials", get(denials).post(denial))
        .route("/v1/status", get(status))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .with_state(issuer)
}

/// What one look at the issuer gives, as JSON.
async fn page<T: Into<Body> + Send + 'static>(
    issuer: Arc<Issuer>,
    look: impl FnOnce(&Issuer) -> T + Send + 'static,
) -> Response {
    match off_thread(&issuer, |issuer| Ok(look(issuer))).await {
        Ok(found) => json(StatusCode::OK, found),
        Err(refusal) => answer(&issuer, "page", Err(refusal)),
    }
}

async fn lease(State(issuer): Shared, request: Request) -> Response {
    let result = match body(request, LeaseRequest::LIMIT).await {
        Ok(body) => off_thread(&issuer, move |issuer| issuer.lease(&body)).await,
        Err(refusal) => Err(refusal),
    };
    answer(&issuer, "lease", result.map(|lease| (StatusCode::OK, lease)))
}

async fn denial(State(issuer): Shared, request: Request) -> Response {
    let result = match body(request, PayloadType::Denial.envelope_limit()).await {
        Ok(body) => off_thread(&issuer, move |issuer| issuer.take_denial(&body)).await,
        Err(refusal) => Err(refusal),
    };
    let result = result.map(|accepted| match accepted {
        Accepted::New => (StatusCode::CREATED, br#"{"halted":true,"new":true}"#.to_vec()),
        _ => (StatusCode::OK, br#"{"halted":true,"new":false}"#.to_vec()),
    });
    answer(&issuer, "denials", result)
}

async fn metrics(State(issuer): Shared) -> Response {
    let text = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    match off_thread(&issuer, |issuer| Ok(issuer.metrics.page(&issuer.status()))).await {
        Ok(page) => (text, page).into_response(),
        Err(refusal) => answer(&issuer, "metrics", Err(refusal)),
    }
}

async fn health(State(issuer): Shared) -> Response {
    match off_thread(&issuer, |issuer| Ok(issuer.status()["leases"].clone())).await {
        Ok(leases) => {
            let code = if leases == "granted" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            json(code, serde_json::json!({ "leases": leases }).to_string())
        }
        Err(refusal) => answer(&issuer, "healthz", Err(refusal)),
    }
}

/// Signing may wait for a device and reading for a disk, so neither happens on a thread that serves connections.
async fn off_thread<T: Send + 'static>(
    issuer: &Arc<Issuer>,
    work: impl FnOnce(&Issuer) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let issuer = Arc::clone(issuer);
    let done = tokio::task::spawn_blocking(move || work(&issuer)).await;
    done.unwrap_or_else(|_| {
        Err(Refusal {
            kind: Kind::Unusable,
            code: "internal",
            message: "the request could not be worked on".to_owned(),
        })
    })
}

/// At most `limit` bytes, within [`PATIENCE`].
async fn body(request: Request, limit: usize) -> Result<Vec<u8>, Refusal> {
    let malformed = |code, message: String| Refusal { kind: Kind::Malformed, code, message };
    let collected = tokio::time::timeout(PATIENCE, Limited::new(request.into_body(), limit).collect()).await;
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes().to_vec()),
        Ok(Err(_)) => {
            Err(malformed("too-large", format!("the body broke off or has more than {limit} bytes")))
        }
        Err(_) => {
            Err(malformed("too-slow", format!("the body did not arrive within {} s", PATIENCE.as_secs())))
        }
    }
}

fn answer(
    issuer: &Issuer,
    endpoint: &'static str,
    result: Result<(StatusCode, Vec<u8>), Refusal>,
) -> Response {
    match result {
        Ok((status, body)) => {
            issuer.metrics.count(endpoint, "ok");
            json(status, body)
        }
        Err(refusal) => {
            issuer.metrics.count(endpoint, refusal.code);
            let status = match refusal.kind {
                Kind::Malformed => StatusCode::BAD_REQUEST,
                Kind::Forbidden => StatusCode::FORBIDDEN,
                Kind::Outdated => StatusCode::CONFLICT,
                Kind::Unusable => StatusCode::SERVICE_UNAVAILABLE,
            };
            json(status, refusal.json().to_string())
        }
    }
}

fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
