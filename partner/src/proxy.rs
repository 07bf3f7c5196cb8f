//! The local proxy: any OpenAI or Anthropic client on this machine, over attested sessions.
//!
//! It listens on a loopback address or a Unix socket, or wherever clients know its token. It forwards requests
//! to the clean room. Without a proven session nothing is forwarded: the client gets an error in the API's own
//! shape, and its request stays here.

mod answer;
mod listener;
mod local;
mod metrics;
mod report;
mod slots;
mod token;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::answer::{LocalBody, Reset};
use self::listener::Accepted;
use self::local::{Caller, Rules};
use self::metrics::{Metrics, PASSED_ON};
use self::slots::{Slot, Slots};
use crate::client::{Answer, Client, Dialect, MAX_BODY, Problem};
use crate::receipts::ReceiptFolder;
use crate::session::Sessions;

pub use self::listener::{Listen, ListenError, Listener};
pub use self::local::{Origin, OriginError};
pub use self::report::Report;
pub use self::token::Token;

/// Local connections at once.
const MAX_CONNECTIONS: usize = 256;

/// Connections at once that are told that the proxy is busy.
const MAX_TURNED_AWAY: usize = 32;

/// The open files and sockets that a proxy and its report need: two for each local connection, and some for all else.
pub const OPEN_FILES: u64 =
    2 * (MAX_CONNECTIONS as u64 + MAX_TURNED_AWAY as u64 + report::CONNECTIONS as u64) + 64;

/// How long the head of a local request may take to arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long its body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may take to hear that the proxy is busy.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of a refused request that are read and thrown away, so that its client comes to read the answer.
const MAX_DISCARDED: usize = 64 << 20;

/// The local proxy.
pub struct Proxy {
    client: Client,
    rules: Rules,
    slots: Arc<Slots>,
    metrics: Arc<Metrics>,
}

impl Proxy {
    /// A proxy that serves programs on this machine, and no web page.
    #[must_use]
    pub fn new(sessions: Sessions) -> Self {
        let slots = Slots::new(MAX_CONNECTIONS);
        let metrics = Arc::new(Metrics::of(&slots));
        Self { client: Client::new(sessions), rules: Rules::default(), slots, metrics }
    }

    /// The report on this proxy: metrics, health and readiness.
    #[must_use]
    pub fn report(&self) -> Report {
        Report { metrics: Arc::clone(&self.metrics), sessions: self.client.sessions().clone() }
    }

    /// Serves web pages of these origins as well.
    #[must_use]
    pub fn allow_origins(mut self, origins: Vec<Origin>) -> Self {
        self.rules.origins = origins;
        self
    }

    /// Serves only clients that send this token as their API key.
    #[must_use]
    pub fn require_token(mut self, token: Token) -> Self {
        self.rules.token = Some(token);
        self
    }

    /// Keeps the receipt of each request in this folder. An answer without a receipt of its own does not count then.
    #[must_use]
    pub fn keep_receipts(mut self, folder: ReceiptFolder) -> Self {
        self.client = self.client.keep_receipts(folder);
        self
    }

    /// Forwards what arrives at `listener` until `shutdown`. Requests that run then go on to their end, for as
    /// long as the clean room is proven; [`Sessions`] cuts them when it no longer is.
    pub async fn serve(self, listener: impl Into<Listener>, shutdown: impl Future<Output = ()>) {
        let (proxy, listener) = (Arc::new(self), listener.into());
        let (stop, stopped) = tokio::sync::watch::channel(());
        let (mut connections, mut turned_away) = (JoinSet::new(), JoinSet::new());
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => continue,
                Some(_) = turned_away.join_next() => continue,
                // Whoever cannot even be told that the proxy is busy waits in the system's queue for a moment.
                accepted = listener.accept(),
                    if connections.len() + turned_away.len() < MAX_CONNECTIONS + MAX_TURNED_AWAY => accepted,
            };
            let Ok(accepted) = accepted else {
                // No descriptor is left, or the client was gone before it was accepted.
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            if let Some(slot) = proxy.slots.take() {
                let (proxy, mut stopped) = (Arc::clone(&proxy), stopped.clone());
                connections.spawn(async move {
                    proxy.connection(accepted, slot, async move { _ = stopped.changed().await }).await;
                });
            } else {
                turned_away.spawn(timeout(TURN_AWAY_TIMEOUT, turn_away(accepted)));
            }
        }
        proxy.metrics.drains();
        drop((listener, stop, turned_away));
        while connections.join_next().await.is_some() {}
    }

    /// Serves one connection until it ends, loses its slot, or the proxy stops.
    async fn connection(&self, accepted: Accepted, slot: Slot, stop: impl Future<Output = ()>) {
        let Accepted { stream, at, reset } = accepted;
        let (slot, reset, asked) = (&slot, &reset, &Notify::new());
        let service = service_fn(|request| async move {
            asked.notify_one();
            Ok::<_, Infallible>(self.answer(request, at, slot, reset).await)
        });
        let mut connection = pin!(http1_server().serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            // A client that breaks off tells nobody anything.
            _ = &mut connection => return,
            // One that has asked nothing yet may be about to, and hears then that the proxy is busy.
            () = slot.lost() => {
                tokio::select! {
                    _ = &mut connection => return,
                    _ = timeout(TURN_AWAY_TIMEOUT, asked.notified()) => {}
                }
            }
            () = stop => {}
        }
        connection.as_mut().graceful_shutdown();
        // A request whose body still comes is told that the proxy is busy.
        let lost = async {
            slot.lost().await;
            sleep(TURN_AWAY_TIMEOUT).await;
        };
        tokio::select! {
            _ = connection => {}
            () = lost => {}
        }
    }

    /// Answers one request, and counts the answer.
    async fn answer(
        &self,
        request: Request<Incoming>,
        at: Option<SocketAddr>,
        slot: &Slot,
        reset: &Reset,
    ) -> Response<LocalBody> {
        let dialect = Dialect::of(request.uri().path());
        let of_proxy = |problem: &Problem| {
            let response = problem.to_response(dialect).map(LocalBody::own);
            self.metrics.answer(response.status(), problem.code());
            response
        };
        let caller = match self.rules.caller(request.method(), request.headers(), at) {
            Ok(caller) => caller,
            Err(problem) => {
                let _ = timeout(BODY_TIMEOUT, discard(request.into_body())).await;
                return of_proxy(&problem);
            }
        };
        let mut response = if let Caller::Preflight(_) = caller {
            let mut permission = Response::new(LocalBody::own(Bytes::new()));
            *permission.status_mut() = StatusCode::NO_CONTENT;
            permission
        } else {
            match self.forward(request, dialect, slot, reset).await {
                Ok(response) => {
                    self.metrics.answer(response.status(), PASSED_ON);
                    response
                }
                Err(problem) => of_proxy(&problem),
            }
        };
        local::allow(&caller, response.headers_mut());
        response
    }

    /// Reads a request whole, sends it to the clean room, and gives what comes back.
    async fn forward(
        &self,
        request: Request<Incoming>,
        dialect: Dialect,
        slot: &Slot,
        reset: &Reset,
    ) -> Result<Response<LocalBody>, Problem> {
        let request = tokio::select! {
            biased;
            request = whole_request(request) => request?,
            () = slot.lost() => return Err(Problem::busy()),
        };
        // A connection that just lost its slot is about to be closed.
        let kept = slot.keep().ok_or_else(Problem::busy)?;
        let answer = self.client.send(request).await;
        answer
            .map(|Answer { response, .. }| {
                let cut = Arc::clone(&self.metrics);
                response.map(|body| LocalBody::answer(body, dialect, reset.clone(), kept, cut))
            })
            .map_err(Problem::of_proxy)
            .inspect_err(|problem| tracing::error!(code = problem.code(), "{}", problem.message()))
    }
}

fn http1_server() -> http1::Builder {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    server
}

/// Answers one request with `busy`, and closes.
async fn turn_away(accepted: Accepted) {
    let service = service_fn(|request: Request<Incoming>| async move {
        let busy = Problem::busy().to_response(Dialect::of(request.uri().path()));
        discard(request.into_body()).await;
        Ok::<_, Infallible>(busy.map(LocalBody::own))
    });
    let mut server = http1_server();
    let _ = server.keep_alive(false).serve_connection(TokioIo::new(accepted.stream), service).await;
}

/// A local request, read whole before any of it goes on: the clean room may refuse ahead of the body, and a
/// connection with a rest of it unread would be closed under a client that uses it again.
async fn whole_request(request: Request<Incoming>) -> Result<Request<Bytes>, Problem> {
    let (head, body) = request.into_parts();
    let body = timeout(BODY_TIMEOUT, whole_body(body)).await;
    let body = body.map_err(|_| Problem::late_body(BODY_TIMEOUT))?.ok_or_else(Problem::bad_body)?;
    Ok(Request::from_parts(head, body))
}

/// All of a body; nothing if it is too long or breaks off.
async fn whole_body(mut body: Incoming) -> Option<Bytes> {
    // What says that it is too long is not kept in part.
    if body.size_hint().lower() <= MAX_BODY as u64
        && let Ok(whole) = Limited::new(&mut body, MAX_BODY).collect().await
    {
        return Some(whole.to_bytes());
    }
    discard(body).await;
    None
}

/// Reads what comes and throws it away. Many clients read an answer only when they have sent everything, and
/// a connection that is closed before that takes the answer with it.
async fn discard(mut body: Incoming) {
    let mut left = MAX_DISCARDED;
    while let Some(Ok(frame)) = body.frame().await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
