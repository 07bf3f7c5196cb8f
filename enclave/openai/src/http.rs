//! One question to the engine on one connection, which is closed when its answer is dropped.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use cleanroom_backend::Pending;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

use crate::Failure;

/// Most bytes of an answer's head, and of what is read ahead.
const MAX_HEAD: usize = 64 * 1024;
/// Most header fields of an answer.
const MAX_HEADERS: usize = 64;

/// The way to the engine.
pub trait Door: Send + Sync + 'static {
    /// A new connection to the engine's socket.
    fn connect(&self) -> Pending<'_, io::Result<UnixStream>>;
}

/// A socket at a path.
#[derive(Debug, Clone)]
pub struct SocketAt(pub PathBuf);

impl Door for SocketAt {
    fn connect(&self) -> Pending<'_, io::Result<UnixStream>> {
        Box::pin(UnixStream::connect(&self.0))
    }
}

/// An answer whose body has not been read.
pub(crate) struct Exchange {
    body: Incoming,
    silence: Duration,
    is_events: bool,
    /// Ends the connection, and with it what the engine does for it.
    _connection: AbortOnDropHandle<()>,
}

impl Exchange {
    /// Asks, and reads the head of the answer.
    pub(crate) async fn begin(
        door: &dyn Door,
        path: &'static str,
        body: Option<Zeroizing<Vec<u8>>>,
        silence: Duration,
    ) -> Result<Self, Failure> {
        timeout(silence, Self::ask(door, path, body, silence)).await.map_err(|_| Failure::Silent)?
    }

    async fn ask(
        door: &dyn Door,
        path: &'static str,
        body: Option<Zeroizing<Vec<u8>>>,
        silence: Duration,
    ) -> Result<Self, Failure> {
        let stream = door.connect().await.map_err(|_| Failure::Unreachable)?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Failure::Broken)?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            // Whoever reads the answer is told.
            let _ = connection.await;
        }));
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let body = Full::new(body.map_or_else(Bytes::new, Bytes::from_owner));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "engine")
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "*/*")
            .body(body)
            .map_err(|_| Failure::Broken)?;
        let response = sender.send_request(request).await.map_err(|_| Failure::Broken)?;
        if response.status() != StatusCode::OK {
            return Err(Failure::Status(response.status().as_u16()));
        }
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_events = media_type.is_some_and(|value| {
            value
                .split(';')
                .next()
                .is_some_and(|value| value.trim().eq_ignore_ascii_case("text/event-stream"))
        });
        Ok(Self { body: response.into_body(), silence, is_events, _connection: connection })
    }

    /// That the body is a stream of events.
    pub(crate) fn events(self) -> Result<Self, Failure> {
        if self.is_events { Ok(self) } else { Err(Failure::NotEvents) }
    }

    /// The next bytes of the body; `None` at its end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = timeout(self.silence, self.body.frame()).await.map_err(|_| Failure::Silent)?;
            match frame {
                None => return Ok(None),
                Some(Err(_)) => return Err(Failure::Broken),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole body, if it has at most `limit` bytes.
    pub(crate) async fn whole(mut self, limit: usize) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let mut whole = Zeroizing::new(Vec::new());
        while let Some(data) = self.next().await? {
            if data.len() > limit.saturating_sub(whole.len()) {
                return Err(Failure::BodyTooLong { limit });
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole)
    }
}
