//! `lease serve`: the online service of one authority.

pub(crate) mod connections;
pub(crate) mod turns;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use clap::{Args, Subcommand};
use cleanroom_attestation::release::{Accepted, LeaseRequest, PayloadType};
use cleanroom_program::log::{self, Format};
use cleanroom_program::signals::{Hangups, Signals};
use cleanroom_program::{limits, output};
use http_body_util::{BodyExt as _, Limited};
use tokio::net::TcpListener;
use tokio::time::timeout;

use self::connections::{AtWork, CONNECTIONS};
use self::turns::Turns;
use crate::Outcome;
use crate::chain::RootArguments;
use crate::failure::Failure;
use crate::issuer::{Issuer, Kind, Refusal};
use crate::metrics::{CONTENT_TYPE, Counts, Watcher};
use crate::signer::SignerArguments;

/// How long a client may take to send a request's head, and its body, and how long a request waits for its
/// turn.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Open files and sockets beside the connections: documents that are read, a signing command's pipes,
/// standard streams.
const OTHER_FILES: u64 = 256;
/// Requests for leases that are worked on at the same time.
const LEASES: usize = 64;
/// Denials that are worked on at the same time. They have turns of their own, so that nobody can hold up a
/// halt by asking for something else.
const DENIALS: usize = 16;
/// Other requests that are worked on at the same time.
const PAGES: usize = 16;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run this authority's lease service.
    ///
    /// It reads roots, the release and denials from files, and reads them again
    /// whenever they change. It signs leases for enclaves that hold the newest of
    /// each. While it runs, it never forgets a denial and never goes back to an older
    /// version. What it says is signed, and none of it is secret; you may put it
    /// behind a TLS proxy of your own.
    ///
    ///   POST /v1/lease      a lease for {"nonce", "`root_version`", "`root_sha256`", "`release_sha256`"}
    ///   POST /v1/denials    take a denial (`halt --to` sends one)
    ///   GET  /v1/release, /v1/roots, /v1/denials, /v1/status
    ///   GET  /metrics, /healthz
    ///
    /// SIGTERM and SIGINT let running requests finish. SIGHUP ends nothing and changes
    /// nothing: root, release and denials are looked at all the time. The log goes to
    /// standard error; `CLEANROOM_LOG=debug` shows more.
    #[command(verbatim_doc_comment, after_help = EXAMPLES)]
    Serve(Box<Serve>),
}

const EXAMPLES: &str = "\
Examples:
  cleanroom-authority lease serve --root roots --release release.json --denials denials --key online.pem
  cleanroom-authority lease serve --listen 0.0.0.0:8700 \\
      --root roots --release release.json --denials denials \\
      --as bank-online --sign-with 'timeout 10 sign-with-the-device'";

#[derive(Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    root: RootArguments,
    /// The release in force. Replace the file when there is a newer one.
    #[arg(long, value_name = "FILE")]
    release: PathBuf,
    /// The folder of denials. The service keeps there what it is sent.
    #[arg(long, value_name = "FOLDER")]
    denials: PathBuf,
    #[command(flatten)]
    signer: SignerArguments,
    /// The address to listen on. Port 0 picks a free port.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8700")]
    listen: SocketAddr,
}

impl Command {
    pub(crate) fn run(self, json: bool) -> Result<Outcome, Failure> {
        let Self::Serve(serve) = self;
        let environment = |error: &dyn std::fmt::Display| Failure::Environment(error.to_string());
        let _log = log::start(Format::json_if(json), "info").map_err(|error| environment(&error))?;
        limits::require_open_files(CONNECTIONS as u64 + OTHER_FILES).map_err(|error| environment(&error))?;
        let issuer = Issuer::new(serve.root, serve.release, serve.denials, &serve.signer)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Environment(format!("cannot start: {error}")))?;
        let served = runtime.block_on(serve_on(serve.listen, issuer, json));
        // A signing command that never answers must not keep the program from ending.
        runtime.shutdown_background();
        served.map(|()| Outcome::silent())
    }
}

async fn serve_on(address: SocketAddr, issuer: Issuer, json: bool) -> Result<(), Failure> {
    let (listener, mut signals, hangups) = listen(address, json).await?;
    let nothing = || Ok("root, release and denials are looked at all the time".to_owned());
    let again = tokio::spawn(read_again(hangups, nothing));
    let watcher: Arc<dyn Watcher> = Arc::<Counts>::clone(&issuer.metrics.counts);
    connections::serve(listener, &router(Service::new(issuer)), &watcher, &mut signals).await;
    again.abort();
    Ok(())
}

/// Reads again at each SIGHUP what `read` reads, and says in a line of the log what came of it: what `read` says, or
/// that something cannot be used, which changes nothing. Never completes.
pub(crate) async fn read_again(
    mut hangups: Hangups,
    read: impl Fn() -> Result<String, Failure> + Send + Sync + 'static,
) {
    let read = Arc::new(read);
    loop {
        hangups.next().await;
        let read = Arc::clone(&read);
        // A file that is not read to its end, such as a pipe, keeps nobody else.
        match tokio::task::spawn_blocking(move || read()).await {
            Ok(Ok(said)) => {
                tracing::info!("read again after SIGHUP: {said}; options and keys stay until a new start");
            }
            Ok(Err(failure)) => {
                let failure = log::one_line(&failure);
                tracing::error!(
                    failure,
                    "read again after SIGHUP, and nothing of it taken: what was in force stays"
                );
            }
            Err(_) => tracing::error!("reading again after SIGHUP failed: what was in force stays"),
        }
    }
}

/// Whether what was read again is another thing than before, in words.
pub(crate) const fn whether_another(is_another: bool) -> &'static str {
    if is_another { "another one" } else { "as before" }
}

/// Listens at an address and for signals, and says where.
pub(crate) async fn listen(
    address: SocketAddr,
    json: bool,
) -> Result<(TcpListener, Signals, Hangups), Failure> {
    let failed = |error| Failure::Environment(format!("cannot listen on {address}: {error}"));
    let signals = Signals::listen().map_err(failed)?;
    let hangups = Hangups::listen().map_err(failed)?;
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let url = format!("http://{}", listener.local_addr().map_err(failed)?);
    if json {
        output::announce(serde_json::json!({ "event": "listening", "url": url }));
    } else {
        output::announce(format_args!("listening on {url}"));
    }
    tracing::info!(url, "listening");
    Ok((listener, signals, hangups))
}

/// What the handlers share.
#[derive(Clone)]
struct Service {
    issuer: Arc<Issuer>,
    leases: Turns,
    denials: Turns,
    pages: Turns,
}

type Asked = (State<Service>, Extension<AtWork>);

impl Service {
    fn new(issuer: Issuer) -> Self {
        Self {
            issuer: Arc::new(issuer),
            leases: Turns::new(LEASES),
            denials: Turns::new(DENIALS),
            pages: Turns::new(PAGES),
        }
    }

    /// A page as JSON.
    async fn page<T: Into<Body> + Send + 'static>(
        &self,
        at_work: &AtWork,
        look: impl FnOnce(&Issuer) -> T + Send + 'static,
    ) -> Response {
        match self.pages.work(at_work, &self.issuer, |issuer| Ok(look(issuer))).await {
            Ok(found) => json(StatusCode::OK, found),
            Err(refusal) => answer(&self.issuer, "page", Err(refusal)),
        }
    }
}

fn router(service: Service) -> Router {
    let release = async |(State(service), Extension(at)): Asked| service.page(&at, Issuer::release).await;
    let roots = async |(State(service), Extension(at)): Asked| service.page(&at, Issuer::roots).await;
    let denials = async |(State(service), Extension(at)): Asked| service.page(&at, Issuer::denials).await;
    let status = async |(State(service), Extension(at)): Asked| {
        service.page(&at, |issuer| issuer.status().to_string()).await
    };
    Router::new()
        .route("/v1/lease", post(lease))
        .route("/v1/release", get(release))
        .route("/v1/roots", get(roots))
        .route("/v1/denials", get(denials).post(denial))
        .route("/v1/status", get(status))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .with_state(service)
}

async fn lease((State(service), Extension(at_work)): Asked, request: Request) -> Response {
    let result = match body(request, LeaseRequest::LIMIT).await {
        Ok(body) => service.leases.work(&at_work, &service.issuer, move |issuer| issuer.lease(&body)).await,
        Err(refusal) => Err(refusal),
    };
    answer(&service.issuer, "lease", result.map(|lease| (StatusCode::OK, lease)))
}

async fn denial((State(service), Extension(at_work)): Asked, request: Request) -> Response {
    let result = match body(request, PayloadType::Denial.envelope_limit()).await {
        Ok(body) => {
            service.denials.work(&at_work, &service.issuer, move |issuer| issuer.take_denial(&body)).await
        }
        Err(refusal) => Err(refusal),
    };
    let result = result.map(|accepted| match accepted {
        Accepted::New => (StatusCode::CREATED, br#"{"halted":true,"new":true}"#.to_vec()),
        _ => (StatusCode::OK, br#"{"halted":true,"new":false}"#.to_vec()),
    });
    answer(&service.issuer, "denials", result)
}

async fn metrics((State(service), Extension(at_work)): Asked) -> Response {
    let text = [(header::CONTENT_TYPE, CONTENT_TYPE)];
    let page = |issuer: &Issuer| Ok(issuer.metrics.page(&issuer.status()));
    match service.pages.work(&at_work, &service.issuer, page).await {
        Ok(page) => (text, page).into_response(),
        Err(refusal) => answer(&service.issuer, "metrics", Err(refusal)),
    }
}

async fn health((State(service), Extension(at_work)): Asked) -> Response {
    let look = |issuer: &Issuer| Ok(issuer.status().get("leases").cloned().unwrap_or_default());
    match service.pages.work(&at_work, &service.issuer, look).await {
        Ok(leases) => {
            let code = if leases == "granted" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            json(code, serde_json::json!({ "leases": leases }).to_string())
        }
        Err(refusal) => answer(&service.issuer, "healthz", Err(refusal)),
    }
}

/// At most `limit` bytes, within [`PATIENCE`].
pub(crate) async fn body(request: Request, limit: usize) -> Result<Vec<u8>, Refusal> {
    let malformed = |code, message: String| Refusal { kind: Kind::Malformed, code, message };
    let collected = timeout(PATIENCE, Limited::new(request.into_body(), limit).collect()).await;
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
            issuer.metrics.counts.count(endpoint, "ok");
            json(status, body)
        }
        Err(refusal) => {
            issuer.metrics.counts.count(endpoint, refusal.code);
            refused(&refusal)
        }
    }
}

/// A refusal as an answer.
pub(crate) fn refused(refusal: &Refusal) -> Response {
    let status = match refusal.kind {
        Kind::Malformed => StatusCode::BAD_REQUEST,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::Outdated => StatusCode::CONFLICT,
        Kind::Unusable => StatusCode::SERVICE_UNAVAILABLE,
    };
    json(status, refusal.json().to_string())
}

pub(crate) fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
