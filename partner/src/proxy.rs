//! The local proxy: any OpenAI client on this machine, over attested sessions.
//!
//! It listens on a loopback address and forwards requests to the clean room. Without a proven session nothing is forwarded:
//! the client gets an error in the API's own shape, and its request stays here.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN,
    RETRY_AFTER,
};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::session::{SessionError, Sessions};

/// Local connections at once.
const MAX_CONNECTIONS: usize = 256;

/// Bytes in the body of a local request: well above what a clean room takes, so that the clean room says what it takes.
const MAX_BODY: usize = 8 << 20;

/// How long the head of a local request may take to arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long running requests may go on after the proxy was asked to stop.
const DRAIN: Duration = Duration::from_secs(30);

/// What goes to the clean room of a client's headers. An API key that a client sends is not among them: the partner's key
/// has already spoken.
const FORWARDED: [HeaderName; 4] =
    [ACCEPT, CONTENT_TYPE, CONTENT_LENGTH, HeaderName::from_static("anthropic-version")];

/// What comes back.
const RETURNED: [HeaderName; 6] = [
    CONTENT_TYPE,
    CONTENT_LENGTH,
    CACHE_CONTROL,
    RETRY_AFTER,
    HeaderName::from_static("request-id"),
    HeaderName::from_static("x-request-id"),
];

type Answer = Response<Either<Incoming, Full<Bytes>>>;

/// Forwards what arrives at `listener` until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    sessions: Arc<Sessions<Full<Bytes>>>,
    shutdown: impl Future<Output = ()>,
) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (stop, stopped) = tokio::sync::watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let watched = Arc::clone(&sessions);
    let mut watch = pin!(watched.watch());
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            () = &mut watch => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let sessions = Arc::clone(&sessions);
        let mut stopped = stopped.clone();
        connections.spawn(async move {
            let _permit = permit;
            connection(stream, &sessions, async move { _ = stopped.changed().await }).await;
        });
    }
    drop((listener, stop));
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, drained).await;
}

async fn connection(stream: TcpStream, sessions: &Sessions<Full<Bytes>>, stop: impl Future<Output = ()>) {
    let _ = stream.set_nodelay(true);
    let Ok(local) = stream.local_addr() else { return };
    let service =
        service_fn(|request| async move { Ok::<Answer, Infallible>(answer(request, local, sessions).await) });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        // A client that breaks off tells nobody anything.
        _ = &mut connection => return,
        () = stop => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

async fn answer(request: Request<Incoming>, local: SocketAddr, sessions: &Sessions<Full<Bytes>>) -> Answer {
    if let Err(problem) = check_local(request.headers(), local) {
        return problem.into_answer();
    }
    let session = match sessions.get().await {
        Ok(session) => session,
        Err(error) => {
            tracing::error!(code = error.code(), "nothing was sent: {error}");
            return Problem::from_session(&error).into_answer();
        }
    };
    let (parts, body) = request.into_parts();
    // Whole, before it goes on: the clean room may refuse ahead of the body, and a connection with a rest of it unread would be
    // closed under a client that uses it again.
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return Problem::bad_body().into_answer();
    };
    let mut forward = Request::new(Full::new(body.to_bytes()));
    *forward.method_mut() = parts.method;
    *forward.headers_mut() = only(&FORWARDED, &parts.headers);
    match absolute(&parts.uri) {
        Some(uri) => *forward.uri_mut() = uri,
        None => return Problem::bad_path().into_answer(),
    }
    match session.send(forward).await {
        Ok(response) => {
            let (parts, body) = response.into_parts();
            let mut answer = Response::new(Either::Left(body));
            *answer.status_mut() = parts.status;
            *answer.headers_mut() = only(&RETURNED, &parts.headers);
            answer
        }
        Err(error) => {
            tracing::error!(code = error.code(), "{error}");
            Problem::from_session(&error).into_answer()
        }
    }
}

/// Only programs of this machine's user are served, not pages in a browser: a page sends its origin, and a name that was
/// pointed at this address sends that name.
fn check_local(headers: &HeaderMap, local: SocketAddr) -> Result<(), Problem> {
    if headers.contains_key(ORIGIN) {
        return Err(Problem::browser());
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let port = local.port();
    let names = [
        local.to_string(),
        format!("localhost:{port}"),
        format!("127.0.0.1:{port}"),
        format!("[::1]:{port}"),
    ];
    if names.iter().any(|name| name == host) { Ok(()) } else { Err(Problem::browser()) }
}

fn only(names: &[HeaderName], headers: &HeaderMap) -> HeaderMap {
    let picked = names.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone())));
    picked.collect()
}

/// HTTP/2 wants a scheme and an authority. They name the protocol, not a place.
fn absolute(uri: &Uri) -> Option<Uri> {
    let path = uri.path_and_query()?.clone();
    Uri::builder().scheme("https").authority("cleanroom").path_and_query(path).build().ok()
}

/// An answer of the proxy itself, in the API's own shape.
struct Problem {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after: bool,
}

impl Problem {
    fn from_session(error: &SessionError) -> Self {
        let message = format!("{error}. Your request was not sent.");
        if error.is_refusal() {
            return Self { status: StatusCode::BAD_GATEWAY, code: error.code(), message, retry_after: false };
        }
        let sent = matches!(error, SessionError::Lost(_));
        let message =
            if sent { format!("{error}. The clean room may have received your request.") } else { message };
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code: error.code(), message, retry_after: true }
    }

    fn browser() -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            code: "not-local",
            message: "expected a request from a program on this machine to the proxy's own address, not from a web page"
                .to_owned(),
            retry_after: false,
        }
    }

    fn bad_body() -> Self {
        Self {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            code: "bad-body",
            message: format!("expected a complete body of at most {MAX_BODY} bytes; nothing was sent"),
            retry_after: false,
        }
    }

    fn bad_path() -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code: "bad-path",
            message: "expected a path such as /v1/models".to_owned(),
            retry_after: false,
        }
    }

    fn into_answer(self) -> Answer {
        let body = json!({
            "error": { "message": self.message, "type": "cleanroom_error", "param": null, "code": self.code },
        });
        let mut answer = Response::new(Either::Right(Full::from(body.to_string())));
        *answer.status_mut() = self.status;
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.retry_after {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn web_pages_are_not_served() {
        let local = "127.0.0.1:8080".parse().unwrap();
        assert!(check_local(&headers(&[(HOST, "127.0.0.1:8080")]), local).is_ok());
        assert!(check_local(&headers(&[(HOST, "localhost:8080")]), local).is_ok());
        for bad in [
            headers(&[]),
            headers(&[(HOST, "127.0.0.1")]),
            headers(&[(HOST, "evil.example:8080")]),
            headers(&[(HOST, "127.0.0.1:8080"), (ORIGIN, "https://evil.example")]),
        ] {
            assert!(check_local(&bad, local).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_api_key_stays_here() {
        let from_client =
            headers(&[(http::header::AUTHORIZATION, "Bearer k"), (CONTENT_TYPE, "application/json")]);
        let forwarded = only(&FORWARDED, &from_client);
        assert_eq!(forwarded.len(), 1);
        assert!(forwarded.contains_key(CONTENT_TYPE));
    }
}
