//! Hands the enclave what the authorities sign: the release, denials, and leases before the last one ends.
//!
//! Nothing here is trusted. What the agent withholds, delays or mixes up, the enclave refuses or ends its service for; the most
//! that a broken agent can do is to stop the room.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use cleanroom_attestation::release::{
    Accepted, CONTROL_HEADER_BYTES, ControlAnswer, ControlKind, ControlState, PayloadType,
};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// How often everything is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long a lease service or the enclave may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer of a lease service, in bytes.
const ANSWER_LIMIT: usize = 4 << 20;

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

/// Where everything comes from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The lease services, in the order in which they are asked.
    pub authorities: Vec<Authority>,
    /// The release in force. A newer one takes its place in the file.
    pub release: PathBuf,
    /// A folder of denials, beside those that the lease services know.
    pub denials: Option<PathBuf>,
}

/// Serves the enclave behind the socket `control` for ever, over its restarts.
pub async fn serve(control: PathBuf, settings: Settings) {
    loop {
        if let Ok(stream) = UnixStream::connect(&control).await {
            let mut agent = Agent { stream, settings: &settings, handed: HashSet::new(), longest_ms: 0 };
            loop {
                if let Err(error) = agent.tick().await {
                    tracing::info!(%error, "the control connection to the enclave ended");
                    break;
                }
                tokio::time::sleep(TICK).await;
            }
        }
        tokio::time::sleep(TICK).await;
    }
}

struct Agent<'a> {
    stream: UnixStream,
    settings: &'a Settings,
    /// What this enclave was handed already, accepted or not.
    handed: HashSet<Vec<u8>>,
    /// The most time that was ever left on a lease of this enclave.
    longest_ms: u64,
}

impl Agent<'_> {
    /// Looks once. An error is one of the control connection; everything else is logged and tried again.
    async fn tick(&mut self) -> io::Result<()> {
        match tokio::fs::read(&self.settings.release).await {
            Ok(release) => self.hand(ControlKind::Release, release).await?,
            Err(error) => tracing::warn!(%error, "the release file cannot be read"),
        }
        for denial in self.denials().await {
            self.hand(ControlKind::Denial, denial).await?;
        }
        let ControlAnswer::State(state) = self.ask(ControlKind::State, b"").await? else { return Ok(()) };
        self.longest_ms = self.longest_ms.max(state.lease_left_ms);
        if state.lease_left_ms <= self.longest_ms / 2 || !self.leased(&state) {
            self.renew().await?;
        }
        Ok(())
    }

    /// Whether a lease was already asked for under the newest release.
    fn leased(&mut self, state: &ControlState) -> bool {
        let release = format!("leased {:?}", state.release_sha256).into_bytes();
        !self.handed.insert(release)
    }

    async fn renew(&mut self) -> io::Result<()> {
        let request = match self.ask(ControlKind::Ask, b"").await? {
            ControlAnswer::Ask(request) => request.to_json(),
            ControlAnswer::Refused(code) => {
                tracing::warn!(code, "the enclave asks for no lease");
                return Ok(());
            }
            _ => return Ok(()),
        };
        let authorities = &self.settings.authorities;
        for authority in authorities {
            let lease = match call(authority, Method::POST, "/v1/lease", request.clone()).await {
                Ok(lease) => lease,
                Err(reason) => {
                    tracing::warn!(%authority, reason, "no lease");
                    continue;
                }
            };
            match self.ask(ControlKind::Lease, &lease).await? {
                ControlAnswer::Accepted(Accepted::MoreIssuersNeeded) => {}
                ControlAnswer::Accepted(_) => return Ok(()),
                ControlAnswer::Refused(code) => {
                    tracing::warn!(%authority, code, "the enclave refused the lease")
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Every denial that the folder and the lease services have.
    async fn denials(&self) -> Vec<Vec<u8>> {
        let mut denials = self.settings.denials.as_deref().map(read_folder).unwrap_or_default();
        for authority in &self.settings.authorities {
            let Ok(answer) = call(authority, Method::GET, "/v1/denials", Vec::new()).await else { continue };
            let known: Vec<&RawValue> = serde_json::from_slice(&answer).unwrap_or_default();
            denials.extend(known.into_iter().map(|denial| denial.get().as_bytes().to_vec()));
        }
        denials
    }

    /// Hands a document in, once.
    async fn hand(&mut self, kind: ControlKind, document: Vec<u8>) -> io::Result<()> {
        if document.len() > kind.limit() || self.handed.contains(&document) {
            return Ok(());
        }
        match self.ask(kind, &document).await? {
            ControlAnswer::Accepted(Accepted::New) => tracing::info!(what = ?kind, "handed in"),
            ControlAnswer::Refused(code) => tracing::warn!(what = ?kind, code, "the enclave refused"),
            _ => {}
        }
        self.handed.insert(document);
        Ok(())
    }

    async fn ask(&mut self, kind: ControlKind, body: &[u8]) -> io::Result<ControlAnswer> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        if body.len() > kind.limit() {
            return Ok(ControlAnswer::Refused("too-large".to_owned()));
        }
        let exchange = async {
            self.stream.write_all(&kind.frame(body)).await?;
            let mut header = [0; CONTROL_HEADER_BYTES];
            self.stream.read_exact(&mut header).await?;
            let (code, length) = ControlAnswer::parse_header(header).map_err(invalid)?;
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await?;
            ControlAnswer::parse(code, &body).map_err(invalid)
        };
        timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

fn read_folder(folder: &Path) -> Vec<Vec<u8>> {
    let limit = PayloadType::Denial.envelope_limit() as u64;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "json"));
    let small = files
        .filter(|file| file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() <= limit));
    small.filter_map(|file| std::fs::read(file.path()).ok()).collect()
}

/// One request to a lease service, and its answer's body.
async fn call(authority: &Authority, method: Method, path: &str, body: Vec<u8>) -> Result<Vec<u8>, String> {
    let exchange = async {
        let stream = TcpStream::connect(&authority.0).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header(header::HOST, &authority.0);
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes().to_vec();
        if status == StatusCode::OK { Ok(body) } else { Err(format!("it answered {status}")) }
    };
    timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err("it did not answer in time".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_plain_http_addresses() {
        assert_eq!(
            "http://127.0.0.1:8700/".parse::<Authority>().unwrap().to_string(),
            "http://127.0.0.1:8700"
        );
        for bad in ["https://a:1", "a:1", "http://a", "http://a:1/v1"] {
            assert!(bad.parse::<Authority>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_small_json_files_are_denials() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.json"), "{}").unwrap();
        std::fs::write(folder.path().join("b.txt"), "{}").unwrap();
        std::fs::write(folder.path().join("c.json"), vec![b' '; 1 << 20]).unwrap();
        assert_eq!(read_folder(folder.path()), [b"{}".to_vec()]);
        assert!(read_folder(&folder.path().join("none")).is_empty());
    }
}
