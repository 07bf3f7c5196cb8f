//! A plain HTTP client, as any program on the partner's machine could be.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Sends one request to a local address.
pub async fn send(to: SocketAddr, method: &str, path: &str, body: &str) -> Response<Incoming> {
    send_on(TcpStream::connect(to).await.unwrap(), &to.to_string(), method, path, body).await
}

/// Sends one request on a stream.
pub async fn send_on<S>(stream: S, host: &str, method: &str, path: &str, body: &str) -> Response<Incoming>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", host)
        .header("content-type", "application/json")
        .header("authorization", "Bearer unused")
        .body(Full::<Bytes>::from(body.to_owned()))
        .unwrap();
    sender.send_request(request).await.unwrap()
}

/// The whole body as JSON.
pub async fn json(response: Response<Incoming>) -> (StatusCode, serde_json::Value) {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

/// A question for the chat endpoint.
#[must_use]
pub fn question(text: &str, stream: bool) -> String {
    serde_json::json!({
        "model": "demo",
        "messages": [{ "role": "user", "content": text }],
        "temperature": 0,
        "max_tokens": 200,
        "stream": stream,
    })
    .to_string()
}
