//! Hands the enclave what the authorities sign: roots, releases and denials as they come, and leases before the last one ends.
//!
//! Nothing here is trusted. What the agent withholds, delays or mixes up, the enclave refuses or ends its service for; the most
//! that a broken agent can do is to stop the room.

mod service;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{
    Accepted, CONTROL_HEADER_BYTES, ControlAnswer, ControlKind, ControlState, Envelope, Payload as _,
    PayloadType, Release, Root,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::endpoint::EnclaveAddress;
use crate::relay::Dial as _;
pub use service::Authority;

/// How often everything is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long the enclave may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where everything comes from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The lease services. All are asked at once.
    pub authorities: Vec<Authority>,
    /// A release, beside those that the lease services have. A newer one takes its place in the file.
    pub release: Option<PathBuf>,
    /// A folder of denials, beside those that the lease services know.
    pub denials: Option<PathBuf>,
}

/// Serves the enclave behind the address `control` for ever, over its restarts.
pub async fn serve(control: EnclaveAddress, settings: Settings) {
    loop {
        if let Ok(stream) = control.dial().await {
            let mut agent = Agent::new(stream, &settings);
            loop {
                if let Err(error) = agent.tick().await {
                    tracing::info!(%error, "the control connection to the enclave ended");
                    break;
                }
                sleep(TICK).await;
            }
        }
        sleep(TICK).await;
    }
}

/// One enclave's agent, from its boot to its end.
struct Agent<'a, S> {
    stream: S,
    settings: &'a Settings,
    /// What this enclave was handed already, accepted or not, under the root that it has.
    handed: HashSet<Sha256Digest>,
    /// The release for which it was given a lease last.
    leased: Option<Sha256Digest>,
    /// The most time that was ever left on a lease of this enclave, in milliseconds.
    longest_ms: u64,
}

/// Documents that the enclave may not have yet.
#[derive(Default)]
struct Found {
    roots: Vec<Vec<u8>>,
    denials: Vec<Vec<u8>>,
    releases: Vec<Vec<u8>>,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Agent<'a, S> {
    fn new(stream: S, settings: &'a Settings) -> Self {
        Self { stream, settings, handed: HashSet::new(), leased: None, longest_ms: 0 }
    }

    /// Looks once. An error is one of the control connection; everything else is logged and tried again.
    async fn tick(&mut self) -> io::Result<()> {
        let Some(state) = self.state().await? else { return Ok(()) };
        let found = self.look(&state).await;
        for root in found.roots {
            // Under another root other keys count: what was refused may be accepted now, and the other way round.
            if self.hand(ControlKind::Root, root).await? == Some(Accepted::New) {
                self.handed.clear();
            }
        }
        for denial in found.denials {
            self.hand(ControlKind::Denial, denial).await?;
        }
        for release in found.releases {
            self.hand(ControlKind::Release, release).await?;
        }
        let Some(state) = self.state().await? else { return Ok(()) };
        self.longest_ms = self.longest_ms.max(state.lease_left_ms);
        if state.lease_left_ms <= self.longest_ms / 2 || self.leased != state.release_sha256 {
            self.renew().await?;
        }
        Ok(())
    }

    /// Everything that files and lease services have and `state` lacks, the oldest first.
    async fn look(&self, state: &ControlState) -> Found {
        let mut found = Found::default();
        if let Some(folder) = &self.settings.denials {
            found.denials = read_folder(folder);
        }
        if let Some(file) = &self.settings.release {
            match tokio::fs::read(file).await {
                Ok(release) => found.releases.push(release),
                Err(error) => tracing::warn!(%error, file = %file.display(), "the release cannot be read"),
            }
        }
        let mut services = JoinSet::new();
        for authority in &self.settings.authorities {
            let (authority, state) = (authority.clone(), *state);
            services.spawn(async move { authority.look(&state).await });
        }
        while let Some(looked) = services.join_next().await {
            let Ok(looked) = looked else { continue };
            found.roots.extend(looked.roots);
            found.denials.extend(looked.denials);
            found.releases.extend(looked.releases);
        }
        let version = |payload: &[u8]| Some(Root::from_payload(payload).ok()?.version);
        found.roots = newer(found.roots, PayloadType::Root, version, state.root_version);
        let version = |payload: &[u8]| Some(Release::from_payload(payload).ok()?.version);
        found.releases = newer(found.releases, PayloadType::Release, version, state.release_version);
        found
    }

    /// Has every authority sign a lease, and hands them in until they are enough.
    async fn renew(&mut self) -> io::Result<()> {
        let request = match self.ask(ControlKind::Ask, b"").await? {
            ControlAnswer::Ask(request) => request,
            ControlAnswer::Refused(code) => {
                tracing::warn!(code, "the enclave asks for no lease");
                return Ok(());
            }
            _ => return Ok(()),
        };
        let mut services = JoinSet::new();
        for authority in &self.settings.authorities {
            let (authority, request) = (authority.clone(), request.to_json());
            services.spawn(async move {
                let lease = authority.lease(request).await;
                (authority, lease)
            });
        }
        while let Some(answered) = services.join_next().await {
            let Ok((authority, answer)) = answered else { continue };
            let lease = match answer {
                Ok(lease) => lease,
                Err(reason) => {
                    tracing::warn!(%authority, reason, "no lease");
                    continue;
                }
            };
            match self.ask(ControlKind::Lease, &lease).await? {
                ControlAnswer::Accepted(Accepted::MoreIssuersNeeded) => {}
                ControlAnswer::Accepted(_) => {
                    self.leased = Some(request.release_sha256);
                    return Ok(());
                }
                ControlAnswer::Refused(code) => {
                    tracing::warn!(%authority, code, "the enclave refused the lease");
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn state(&mut self) -> io::Result<Option<ControlState>> {
        match self.ask(ControlKind::State, b"").await? {
            ControlAnswer::State(state) => Ok(Some(state)),
            _ => Ok(None),
        }
    }

    /// Hands a document in, once. `None` if it was handed in before, or is refused.
    async fn hand(&mut self, kind: ControlKind, document: Vec<u8>) -> io::Result<Option<Accepted>> {
        if document.len() > kind.limit() || !self.handed.insert(Sha256Digest::of(&[&document])) {
            return Ok(None);
        }
        match self.ask(kind, &document).await? {
            ControlAnswer::Accepted(accepted) => {
                if accepted == Accepted::New {
                    tracing::info!(what = ?kind, "handed in");
                }
                Ok(Some(accepted))
            }
            ControlAnswer::Refused(code) => {
                tracing::warn!(what = ?kind, code, "the enclave refused");
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    async fn ask(&mut self, kind: ControlKind, body: &[u8]) -> io::Result<ControlAnswer> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        if body.len() > kind.limit() {
            return Ok(ControlAnswer::Refused("too-large".to_owned()));
        }
        let exchange = async {
            self.stream.write_all(&kind.frame(body)).await?;
            self.stream.flush().await?;
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

/// The documents of a version above `current`, the oldest first. What is no document is left out.
fn newer(
    documents: Vec<Vec<u8>>,
    payload_type: PayloadType,
    version: impl Fn(&[u8]) -> Option<u64>,
    current: u64,
) -> Vec<Vec<u8>> {
    let mut newer: Vec<(u64, Vec<u8>)> = documents
        .into_iter()
        .filter_map(|document| {
            let envelope = Envelope::parse(&document, payload_type).ok()?;
            let version = version(envelope.payload())?;
            (version > current).then_some((version, document))
        })
        .collect();
    newer.sort();
    newer.into_iter().map(|(_, document)| document).collect()
}

fn read_folder(folder: &Path) -> Vec<Vec<u8>> {
    let limit = PayloadType::Denial.envelope_limit() as u64;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "json"));
    let small = files
        .filter(|file| file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() <= limit));
    small.filter_map(|file| std::fs::read(file.path()).ok()).collect()
}
