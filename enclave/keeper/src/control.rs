//! The enclave's end of the control connection, on which the host hands in what the authorities sign.

use std::io;
use std::sync::Arc;

use cleanroom_attestation::log::Entry;
use cleanroom_attestation::release::{
    Accepted, AuthorityDocument, Envelope, LeaseRequest, Nonce, ReleaseError, Verified,
};
use cleanroom_guard::Guard;
use cleanroom_link::body;
use cleanroom_link::control::{CONTROL_HEADER_BYTES, ControlAnswer, ControlKind, ControlState};
use cleanroom_link::listener::Listener;
use cleanroom_protocol::Change;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::attester::Attester;
use crate::log::NoSuchSize;
use crate::security_module::{SecurityModule, SecurityModuleError};
use crate::worker_link::{Link, WorkerEnd};

/// The answer to a host that offers shares to an enclave that needs none.
pub(super) const NO_KEY_NEEDED: &str = "no-key-needed";

/// Who decides about what the host hands in, and who is told.
pub(super) struct Control {
    /// None without release control.
    pub(super) guard: Option<Arc<Guard>>,
    pub(super) security_module: SecurityModule,
    pub(super) attester: Arc<Attester>,
    pub(super) link: Arc<Link>,
}

impl Control {
    /// Serves one control connection after the other, until the worker does not follow.
    pub(super) async fn serve(&self, listener: &mut impl Listener) -> WorkerEnd {
        loop {
            let stream = listener.connection().await;
            match self.connection(stream).await {
                // The next connection begins anew.
                ConnectionEnd::Host => {}
                ConnectionEnd::Worker(end) => return end,
            }
        }
    }

    async fn connection<S>(&self, mut stream: S) -> ConnectionEnd
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            if let Err(end) = self.request(&mut stream).await {
                return end;
            }
        }
    }

    async fn request<S>(&self, stream: &mut S) -> Result<(), ConnectionEnd>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (kind, body) = read_request(stream).await?;
        let answer = self.answer(kind, body).await?;
        Ok(write_answer(stream, kind, &answer).await?)
    }

    /// What is answered is in force in both processes.
    async fn answer(&self, kind: ControlKind, body: Vec<u8>) -> Result<ControlAnswer, WorkerEnd> {
        if kind == ControlKind::Log {
            return Ok(self.log(&body));
        }
        let Some(guard) = &self.guard else {
            return Ok(ControlAnswer::Refused("no-release-control".to_owned()));
        };
        Ok(match kind {
            ControlKind::Log => self.log(&body),
            ControlKind::State => ControlAnswer::State(state(guard)),
            ControlKind::Ask => match ask(guard, &self.security_module).await {
                Ok((request, change)) => {
                    self.link.change(change).await?;
                    ControlAnswer::Ask(request)
                }
                Err(error) => ControlAnswer::Refused(error.code().to_owned()),
            },
            ControlKind::Document(kind) => {
                let change = Change::Document { kind, at: guard.now(), envelope: body };
                let accepted = guard.apply(&change);
                // What is refused changes nothing, so neither the worker nor the log need know of it.
                if let Ok(accepted) = accepted {
                    self.note(guard, accepted, &change);
                    self.link.change(change).await?;
                }
                match accepted {
                    Ok(accepted) => ControlAnswer::Accepted(accepted),
                    Err(error) => ControlAnswer::Refused(error.code().to_owned()),
                }
            }
            // The weights are in memory by now, or were never sealed.
            ControlKind::Shares | ControlKind::ShareAsk | ControlKind::Share => {
                ControlAnswer::Refused(NO_KEY_NEEDED.to_owned())
            }
        })
    }

    /// What the host lacks of the log. It says how many entries it has stored, or nothing for the checkpoint alone.
    fn log(&self, body: &[u8]) -> ControlAnswer {
        let size = match body {
            [] => None,
            size => match size.try_into() {
                Ok(size) => Some(u64::from_be_bytes(size)),
                Err(_) => return ControlAnswer::Refused("log-size".to_owned()),
            },
        };
        match self.attester.log_from(size) {
            Ok(batch) => ControlAnswer::Log(batch),
            Err(NoSuchSize) => ControlAnswer::Refused("log-size".to_owned()),
        }
    }

    /// Appends a change of release control to the log.
    fn note(&self, guard: &Guard, accepted: Accepted, change: &Change) {
        let (Accepted::New, Change::Document { kind, envelope, .. }) = (accepted, change) else { return };
        let digest = || Envelope::parse(envelope, kind.payload_type()).map(|envelope| envelope.digest());
        match kind {
            AuthorityDocument::Root => {
                let Ok(sha256) = digest() else { return };
                self.attester.note(|at_ms| Entry::Root { sha256, at_ms });
            }
            AuthorityDocument::Release => {
                let Ok(sha256) = digest() else { return };
                self.attester.note(|at_ms| Entry::Release { sha256, at_ms });
            }
            AuthorityDocument::Denial => {
                let Ok(sha256) = digest() else { return };
                self.attester.note(|at_ms| Entry::Denial { sha256, at_ms });
            }
            AuthorityDocument::Lease => {
                let Some(shown) = guard.shown() else { return };
                let (sha256, release_sha256) = (shown.lease_digest, shown.release_digest);
                self.attester.note(|at_ms| Entry::Lease { sha256, release_sha256, at_ms });
            }
        }
    }
}

/// Reads what the host asks. A length is compared with its limit before a byte of the body is read.
pub(super) async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<(ControlKind, Vec<u8>)> {
    let mut header = [0; CONTROL_HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let (kind, length) =
        ControlKind::parse(header).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok((kind, body::read(stream, length).await?.to_vec()))
}

/// Answers, and says on the console what was refused.
pub(super) async fn write_answer(
    stream: &mut (impl AsyncWrite + Unpin),
    kind: ControlKind,
    answer: &ControlAnswer,
) -> io::Result<()> {
    if let ControlAnswer::Refused(code) = answer {
        tracing::warn!(what = ?kind, code, "not accepted");
    }
    stream.write_all(&answer.frame()).await?;
    stream.flush().await
}

/// What is in force.
pub(super) fn state(guard: &Guard) -> ControlState {
    let (state, now) = (guard.snapshot(), guard.now());
    ControlState {
        root_version: state.root().version,
        release_version: state.release().map_or(0, |release| release.version),
        release_sha256: state.release().map(Verified::digest),
        lease_left_ms: state.lease().map_or(0, |lease| lease.end().0.saturating_sub(now.0)),
        denials: state.denials_known() as u64,
    }
}

/// Begins a lease: draws its nonce and notes the time before the nonce can leave.
pub(super) async fn ask(
    guard: &Guard,
    security_module: &SecurityModule,
) -> Result<(LeaseRequest, Change), AskError> {
    // Noted before it is asked, so that the error makes things expire early and never late.
    let read_at = guard.now();
    let unix = security_module.time().await?;
    let mut nonce = [0; 32];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| AskError::Random)?;
    let (nonce, sent) = (Nonce::from_bytes(nonce), guard.now());
    let request = guard.begin_lease(nonce, sent, (read_at, unix)).map_err(AskError::Release)?;
    Ok((request, Change::Begin { nonce, sent, unix, read_at }))
}

/// Why a control connection ends.
enum ConnectionEnd {
    /// It broke, or the host talked nonsense.
    Host,
    /// The worker does not follow.
    Worker(WorkerEnd),
}

impl From<io::Error> for ConnectionEnd {
    fn from(_: io::Error) -> Self {
        Self::Host
    }
}

impl From<WorkerEnd> for ConnectionEnd {
    fn from(end: WorkerEnd) -> Self {
        Self::Worker(end)
    }
}

/// Why no lease could be begun.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// There is no release to ask for.
    #[error(transparent)]
    Release(ReleaseError),
    /// The security module does not say what time it is.
    #[error(transparent)]
    Time(#[from] SecurityModuleError),
    /// No nonce could be drawn.
    #[error("the system's random number generator failed")]
    Random,
}

impl AskError {
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::Release(error) => error.code(),
            Self::Time(_) => "security-module",
            Self::Random => "random",
        }
    }
}
