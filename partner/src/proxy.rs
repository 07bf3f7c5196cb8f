//! The local proxy: any OpenAI or Anthropic client on this machine, over attested sessions.
//!
//! It listens on a loopback address and forwards requests to the clean room. Without a proven session nothing
//! is forwarded: the client gets an error in the API's own shape, and its request stays here.

mod answer;
mod local;
mod slots;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::answer::{LocalBody, Reset};
use self::local::{Caller, Rules};
use self::slots::{Slot, Slots};
use crate::client::{Answer, Client, Dialect, MAX_BODY, Problem};
use crate::receipts::ReceiptFolder;
use crate::session::Sessions;

pub use self::local::{Origin, OriginError};

/// Local connections at once.
const MAX_CONNECTIONS: usize = 256;

/// Connections at once that are told that the proxy is busy.
const MAX_TURNED_AWAY: usize = 32;

/// The open files and sockets that a proxy needs: two for each local connection, and some for all else.
pub const OPEN_FILES: u64 = 2 * (MAX_CONNECTIONS as u64 + MAX_TURNED_AWAY as u64) + 64;

/// How long the head of a local request may take to arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long its body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may take to hear that the proxy is busy.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(2);

/// The local proxy.
pub struct Proxy {
    client: Client,
    rules: Rules,
}

impl Proxy {
    /// A proxy that serves programs on this machine, and no web page.
    #[must_use]
    pub fn new(sessions: Sessions) -> Self {
        Self { client: Client::new(sessions), rules: Rules::default() }
    }

    /// Serves web pages of these origins as well.
    #[must_use]
    pub fn allow_origins(mut self, origins: Vec<Origin>) -> Self {
        self.rules.origins = origins;
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
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let proxy = Arc::new(self);
        let slots = Slots::new(MAX_CONNECTIONS);
        let (stop, stopped) = tokio::sync::watch::channel(());
        let (mut connections, mut turned_away) = (JoinSet::new(), JoinSet::new());
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => continue,
                Some(_) = turned_away.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                // No descriptor is left, or the client was gone before it was accepted.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            if let Some(slot) = slots.take() {
                let (proxy, mut stopped) = (Arc::clone(&proxy), stopped.clone());
                connections.spawn(async move {
                    proxy.connection(stream, slot, async move { _ = stopped.changed().await }).await;
                });
            } else if turned_away.len() < MAX_TURNED_AWAY {
                turned_away.spawn(timeout(TURN_AWAY_TIMEOUT, turn_away(stream)));
            }
        }
        drop((listener, stop, turned_away));
        while connections.join_next().await.is_some() {}
    }

    /// Serves one connection until it ends, loses its slot, or the proxy stops.
    async fn connection(&self, stream: TcpStream, slot: Slot, stop: impl Future<Output = ()>) {
        let _ = stream.set_nodelay(true);
        let Ok(local) = stream.local_addr() else { return };
        let reset = Reset::of(&stream);
        let (slot, reset) = (&slot, &reset);
        let service = service_fn(|request| async move {
            Ok::<_, Infallible>(self.answer(request, local, slot, reset).await)
        });
        let mut connection = pin!(http1_server().serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            // A client that breaks off tells nobody anything.
            _ = &mut connection => return,
            () = slot.lost() => return,
            () = stop => {}
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            _ = connection => {}
            () = slot.lost() => {}
        }
    }

    /// Answers one request.
    async fn answer(
        &self,
        request: Request<Incoming>,
        local: SocketAddr,
        slot: &Slot,
        reset: &Reset,
    ) -> Response<LocalBody> {
        let dialect = Dialect::of(request.uri().path());
        let of_proxy = |problem: &Problem| problem.to_response(dialect).map(LocalBody::own);
        let caller = match self.rules.caller(request.method(), request.headers(), local) {
            Ok(caller) => caller,
            Err(problem) => return of_proxy(&problem),
        };
        let mut response = if let Caller::Preflight(_) = caller {
            let mut permission = Response::new(LocalBody::own(Bytes::new()));
            *permission.status_mut() = StatusCode::NO_CONTENT;
            permission
        } else {
            let forwarded = self.forward(request, dialect, slot, reset).await;
            forwarded.unwrap_or_else(|problem| of_proxy(&problem))
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
        let request = whole_request(request).await?;
        // A connection that just lost its slot is about to be closed.
        let kept = slot.keep().ok_or_else(Problem::busy)?;
        let answer = self.client.send(request).await;
        answer
            .map(|Answer { response, .. }| {
                response.map(|body| LocalBody::answer(body, dialect, reset.clone(), kept))
            })
            .inspect_err(|problem| tracing::error!(code = problem.code(), "{}", problem.message()))
    }
}

fn http1_server() -> http1::Builder {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    server
}

/// Answers one request with `busy`, and closes.
async fn turn_away(stream: TcpStream) {
    let service = service_fn(|request: Request<Incoming>| async move {
        let busy = Problem::busy().to_response(Dialect::of(request.uri().path()));
        Ok::<_, Infallible>(busy.map(LocalBody::own))
    });
    let mut server = http1_server();
    let _ = server.keep_alive(false).serve_connection(TokioIo::new(stream), service).await;
}

/// A local request, read whole before any of it goes on: the clean room may refuse ahead of the body, and a
/// connection with a rest of it unread would be closed under a client that uses it again.
async fn whole_request(request: Request<Incoming>) -> Result<Request<Bytes>, Problem> {
    let (head, body) = request.into_parts();
    let body = timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect());
    let body = body.await.map_err(|_| Problem::late_body(BODY_TIMEOUT))?.map_err(|_| Problem::bad_body())?;
    Ok(Request::from_parts(head, body.to_bytes()))
}
