//! The local proxy: any OpenAI or Anthropic client on this machine, over attested sessions.
//!
//! It listens on a loopback address and forwards requests to the clean room. Without a proven session nothing
//! is forwarded: the client gets an error in the API's own shape, and its request stays here.

mod answer;
mod local;
mod problem;
mod receipts;
mod slots;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::answer::{AnswerBody, Events, Reset, answer_cut};
use self::local::{Client, Rules};
use self::problem::{Dialect, Problem};
use self::receipts::{Keeper, Keeping, NoReceipt};
use self::slots::{Kept, Slot, Slots};
use crate::receipts::ReceiptFolder;
use crate::session::{Answer, Sessions};

pub use self::local::{Origin, OriginError};

/// Local connections at once.
const MAX_CONNECTIONS: usize = 256;

/// Connections at once that are told that the proxy is busy.
const MAX_TURNED_AWAY: usize = 32;

/// The open files and sockets that a proxy needs: two for each local connection, and some for all else.
pub const OPEN_FILES: u64 = 2 * (MAX_CONNECTIONS as u64 + MAX_TURNED_AWAY as u64) + 64;

/// Bytes in the body of a local request: well above what a clean room takes, so that the clean room says what
/// it takes.
const MAX_BODY: usize = 8 << 20;

/// Bytes in the body of a whole answer.
const MAX_ANSWER: usize = 64 << 20;

/// How long the head of a local request may take to arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long its body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may take to hear that the proxy is busy.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(2);

/// What goes to the clean room of a client's headers. An API key that a client sends is not among them: the
/// partner's key has already spoken.
const FORWARDED: [HeaderName; 4] =
    [ACCEPT, CONTENT_TYPE, CONTENT_LENGTH, HeaderName::from_static("anthropic-version")];

/// What comes back. The length is counted here.
const RETURNED: [HeaderName; 7] = [
    HeaderName::from_static("cleanroom-receipt"),
    CONTENT_TYPE,
    CACHE_CONTROL,
    RETRY_AFTER,
    HeaderName::from_static("request-id"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-should-retry"),
];

/// The local proxy.
pub struct Proxy {
    sessions: Sessions,
    rules: Rules,
    /// Where receipts are kept. Without it they pass through.
    receipts: Option<Arc<Keeper>>,
}

impl Proxy {
    /// A proxy that serves programs on this machine, and no web page.
    #[must_use]
    pub fn new(sessions: Sessions) -> Self {
        Self { sessions, rules: Rules::default(), receipts: None }
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
        self.receipts = Some(Arc::new(Keeper { folder, sessions: self.sessions.clone() }));
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
    ) -> Response<AnswerBody> {
        let dialect = Dialect::of(request.uri().path());
        let of_proxy =
            |problem: &Problem| problem.to_response(dialect).map(|body| AnswerBody::whole(body, None));
        let client = match self.rules.client(request.method(), request.headers(), local) {
            Ok(client) => client,
            Err(problem) => return of_proxy(&problem),
        };
        let mut response = if let Client::Preflight(_) = client {
            let mut permission = Response::new(AnswerBody::whole(Bytes::new(), None));
            *permission.status_mut() = StatusCode::NO_CONTENT;
            permission
        } else {
            let forwarded = self.forward(request, dialect, slot, reset).await;
            forwarded.unwrap_or_else(|problem| of_proxy(&problem))
        };
        local::allow(&client, response.headers_mut());
        response
    }

    /// Reads a request whole, sends it to the clean room, and gives what comes back.
    async fn forward(
        &self,
        request: Request<Incoming>,
        dialect: Dialect,
        slot: &Slot,
        reset: &Reset,
    ) -> Result<Response<AnswerBody>, Problem> {
        let request = whole_request(request).await?;
        // A connection that just lost its slot is about to be closed.
        let kept = slot.keep().ok_or_else(Problem::busy)?;
        match self.sessions.send(&request).await {
            Ok(answer) => {
                let keeper = self.receipts.as_ref().filter(|_| receipts::has_receipt(request.uri().path()));
                let keeper = keeper.filter(|_| request.method() == Method::POST);
                returned(answer, dialect, kept, reset, keeper.map(|keeper| (keeper, &request))).await
            }
            Err(error) => Err(Problem::from_send(&error)),
        }
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
        Ok::<_, Infallible>(busy.map(|body| AnswerBody::whole(body, None)))
    });
    let mut server = http1_server();
    let _ = server.keep_alive(false).serve_connection(TokioIo::new(stream), service).await;
}

/// The request as it goes to the clean room.
///
/// It is read whole before it goes on: the clean room may refuse ahead of the body, and a connection with a
/// rest of it unread would be closed under a client that uses it again.
async fn whole_request(request: Request<Incoming>) -> Result<Request<Bytes>, Problem> {
    let (head, body) = request.into_parts();
    let uri = absolute(&head.uri).ok_or_else(Problem::bad_path)?;
    let body = timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect());
    let body = body.await.map_err(|_| Problem::late_body())?.map_err(|_| Problem::bad_body())?;
    let mut request = Request::new(body.to_bytes());
    *request.method_mut() = head.method;
    *request.uri_mut() = uri;
    *request.headers_mut() = only(&FORWARDED, &head.headers);
    Ok(request)
}

/// What the clean room answers, as the client gets it.
async fn returned(
    answer: Answer,
    dialect: Dialect,
    kept: Kept,
    reset: &Reset,
    receipt: Option<(&Arc<Keeper>, &Request<Bytes>)>,
) -> Result<Response<AnswerBody>, Problem> {
    let Answer { response, session } = answer;
    let (head, body) = response.into_parts();
    let body = if is_event_stream(&head.headers) {
        let receipt = receipt.map(|(keeper, request)| {
            let keeping = Keeping::begin(keeper, &session, &head.headers, request.body().clone());
            keeping.ok_or_else(|| Problem::no_receipt(&NoReceipt::Missing))
        });
        AnswerBody::events(Events::new(body, session, dialect, reset.clone(), receipt.transpose()?), kept)
    } else {
        // Whole before a byte of it goes on, so that a part of it never looks like all of it.
        let whole = Limited::new(body, MAX_ANSWER).collect().await;
        let whole = whole.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => Problem::from_send(&answer_cut(*error, &session)),
            Err(_) => Problem::long_answer(),
        })?;
        let whole = whole.to_bytes();
        if let Some((keeper, request)) = receipt {
            match keeper.whole(&session, &head.headers, request.body().clone(), whole.clone()).await {
                Ok(()) => {}
                // Strangers are refused without a receipt.
                Err(NoReceipt::Missing) if head.status.is_client_error() => {
                    tracing::warn!("the clean room refused a request and gave no receipt");
                }
                Err(error) => return Err(Problem::no_receipt(&error)),
            }
        }
        AnswerBody::whole(whole, Some(kept))
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = head.status;
    *answer.headers_mut() = only(&RETURNED, &head.headers);
    Ok(answer)
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.starts_with(b"text/event-stream")
}

fn only(names: &[HeaderName], headers: &HeaderMap) -> HeaderMap {
    let picked = names.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone())));
    picked.collect()
}

/// HTTP/2 wants a scheme and an authority. They name the protocol, not a slot.
fn absolute(uri: &Uri) -> Option<Uri> {
    let path = uri.path_and_query()?.clone();
    Uri::builder().scheme("https").authority("cleanroom").path_and_query(path).build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_key_stays_here() {
        let from_client = [
            (http::header::AUTHORIZATION, HeaderValue::from_static("Bearer k")),
            (HeaderName::from_static("x-api-key"), HeaderValue::from_static("k")),
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        ];
        let forwarded = only(&FORWARDED, &from_client.into_iter().collect());
        assert_eq!(forwarded.len(), 1);
        assert!(forwarded.contains_key(CONTENT_TYPE));
    }
}
