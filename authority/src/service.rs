//! A client for lease services: one request on one connection.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use cleanroom_program::network;
use http_body_util::{BodyExt as _, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::failure::Failure;

/// The largest answer that is read, in bytes.
const ANSWER_LIMIT: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends a denial.
pub(crate) fn tell(url: &str, denial: Vec<u8>) -> Result<(), Failure> {
    match ask(url, Method::POST, "/v1/denials", denial)? {
        (StatusCode::OK | StatusCode::CREATED, _) => Ok(()),
        (status, answer) => Err(Failure::Environment(format!("it answered {status}: {answer}"))),
    }
}

/// What the service says is in force.
pub(crate) fn status(url: &str) -> Result<Value, Failure> {
    match ask(url, Method::GET, "/v1/status", Vec::new())? {
        (StatusCode::OK, answer) => Ok(answer),
        (status, answer) => Err(Failure::Environment(format!("{url} answered {status}: {answer}"))),
    }
}

fn ask(url: &str, method: Method, path: &str, body: Vec<u8>) -> Result<(StatusCode, Value), Failure> {
    let authority = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/')).ok_or_else(|| {
        Failure::usage(format!(
            "{url}: expected http://HOST:PORT; through TLS use for example: curl --data-binary @DENIAL \
             https://HOST{path}"
        ))
    })?;
    let address = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Environment(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let exchange = exchange(&address, authority, method, path, body);
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(result) => {
                result.map_err(|error| Failure::Environment(format!("cannot reach {url}: {error}")))
            }
            Err(_) => {
                Err(Failure::Environment(format!("{url} did not answer within {} s", PATIENCE.as_secs())))
            }
        }
    })
}

async fn exchange(
    address: &str,
    authority: &str,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, Value), Box<dyn std::error::Error + Send + Sync>> {
    let stream = network::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request =
        Request::builder().method(method).uri(path).header(header::HOST, authority).body(Body::from(body))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await?.to_bytes();
    connection.abort();
    Ok((status, serde_json::from_slice(&body)?))
}
