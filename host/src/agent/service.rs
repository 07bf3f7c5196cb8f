//! The lease service of one authority, as its clients see it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use cleanroom_attestation::release::ControlState;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Found;

/// How long a lease service may take for one answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest answer, in bytes: all denials that are kept, or a release, with room to spare.
const ANSWER_LIMIT: usize = 32 << 20;

/// The lease service of one authority: `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority(String);

impl FromStr for Authority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        match address {
            Some(address) if address.contains(':') && !address.contains('/') => Ok(Self(address.to_owned())),
            _ => Err("expected http://HOST:PORT; what it says is signed, so it needs no TLS".to_owned()),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "http://{}", self.0)
    }
}

/// What a service says that it has. The rest of its answer is for people.
#[derive(Deserialize)]
struct Status {
    root: Document,
    release: Option<Document>,
}

#[derive(Deserialize)]
struct Document {
    version: u64,
}

impl Authority {
    /// What the service has and an enclave in `state` may lack. A service that does not answer has nothing.
    pub(super) async fn look(&self, state: &ControlState) -> Found {
        let mut found = Found { denials: self.documents("/v1/denials").await, ..Found::default() };
        let Ok(status) = self.call(Method::GET, "/v1/status", Vec::new()).await else { return found };
        let Ok(status) = serde_json::from_slice::<Status>(&status) else { return found };
        if status.root.version > state.root_version {
            found.roots = self.documents("/v1/roots").await;
        }
        if status.release.is_some_and(|release| release.version > state.release_version) {
            found.releases.extend(self.call(Method::GET, "/v1/release", Vec::new()).await);
        }
        found
    }

    /// A lease for `request`, or why there is none.
    pub(super) async fn lease(&self, request: Vec<u8>) -> Result<Vec<u8>, String> {
        self.call(Method::POST, "/v1/lease", request).await
    }

    /// A JSON array's members, byte for byte.
    async fn documents(&self, path: &str) -> Vec<Vec<u8>> {
        let Ok(answer) = self.call(Method::GET, path, Vec::new()).await else { return Vec::new() };
        let members: Vec<&RawValue> = serde_json::from_slice(&answer).unwrap_or_default();
        members.into_iter().map(|member| member.get().as_bytes().to_vec()).collect()
    }

    /// One request on a connection of its own, and the answer's body.
    async fn call(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Vec<u8>, String> {
        let Self(address) = self;
        let exchange = async {
            let stream = TcpStream::connect(address).await?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let request = Request::builder().method(method).uri(path).header(header::HOST, address);
            let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, body.to_bytes()))
        };
        match timeout(PATIENCE, exchange).await {
            Ok(Ok((StatusCode::OK, body))) => Ok(body.to_vec()),
            Ok(Ok((status, body))) => Err(format!("it answered {status}: {}", reason(&body))),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("it did not answer within {} s", PATIENCE.as_secs())),
        }
    }
}

/// The code in a service's refusal; nothing else of it reaches a log.
fn reason(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        error: Code,
    }
    #[derive(Deserialize)]
    struct Code {
        code: String,
    }
    let code = serde_json::from_slice::<Refusal>(body).map(|refusal| refusal.error.code).unwrap_or_default();
    let plain = |code: &String| code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    Some(code).filter(plain).unwrap_or_default()
}
