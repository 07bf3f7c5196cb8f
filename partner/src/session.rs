//! Attested sessions that carry HTTP.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::verdict::AcceptedSession;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::address::{Address, Transport};
use crate::channel::{Appraised, Attested, ChannelError, RelyingParty};
use crate::clock::now;

/// From the first packet to the proven session.
const SETUP_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a session lives on one attestation when the policy does not say.
const DEFAULT_MAX_SESSION: Duration = Duration::from_secs(15 * 60);

/// How often a silent connection is asked whether it is alive, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(15);

/// One attested connection with HTTP/2 on it. It can only be made from an [`Attested`] connection.
pub struct Session<B> {
    sender: SendRequest<B>,
    evidence: AcceptedSession,
    model_digest: Sha256Digest,
    fresh_until: Instant,
}

impl<B> Session<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Starts HTTP/2 on an attested connection; `lifetime` counts from the evidence.
    ///
    /// # Errors
    /// When the peer does not speak HTTP/2.
    pub async fn start<S>(attested: Attested<S>, lifetime: Duration) -> Result<Self, SessionError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let fresh_until = Instant::now() + lifetime;
        let evidence = attested.session().clone();
        let model_digest = attested.model_digest();
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_EVERY)
            .handshake(TokioIo::new(attested.into_stream()))
            .await?;
        tokio::spawn(async move {
            // Errors of the connection reach whoever waits for a response on it.
            let _ = connection.await;
        });
        Ok(Self { sender, evidence, model_digest, fresh_until })
    }

    /// Sends a request. The body of the response fails when the connection is cut, it never just ends.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send(&self, request: Request<B>) -> Result<Response<Incoming>, SessionError> {
        Ok(self.sender.clone().send_request(request).await?)
    }

    /// What was proven about the other end.
    #[must_use]
    pub fn evidence(&self) -> &AcceptedSession {
        &self.evidence
    }

    /// The identity of the model that answers.
    #[must_use]
    pub fn model_digest(&self) -> Sha256Digest {
        self.model_digest
    }

    /// Whether new requests may still go over it.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        !self.sender.is_closed() && Instant::now() < self.fresh_until
    }
}

/// Keeps one usable session and makes a new one when it is due.
pub struct Sessions<B> {
    party: RelyingParty,
    address: Address,
    current: Mutex<Option<Arc<Session<B>>>>,
}

impl<B> Sessions<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Sessions to the clean room behind `address`. Nothing is connected yet.
    #[must_use]
    pub fn new(party: RelyingParty, address: Address) -> Self {
        Self { party, address, current: Mutex::new(None) }
    }

    /// A session whose evidence is fresh. Requests that run on an older one go on there.
    ///
    /// # Errors
    /// [`SessionError`]; nothing was sent then.
    pub async fn get(&self) -> Result<Arc<Session<B>>, SessionError> {
        let mut current = self.current.lock().await;
        if let Some(session) = current.as_ref().filter(|session| session.is_usable()) {
            return Ok(Arc::clone(session));
        }
        *current = None;
        let session =
            Arc::new(timeout(SETUP_TIMEOUT, self.attest()).await.map_err(|_| SessionError::Timeout)??);
        *current = Some(Arc::clone(&session));
        Ok(session)
    }

    async fn attest(&self) -> Result<Session<B>, SessionError> {
        let attested = appraise_now(&self.party, &self.address).await?.confirm().await?;
        let lifetime = self.party.policy().freshness().max_session.unwrap_or(DEFAULT_MAX_SESSION);
        Session::start(attested, lifetime).await
    }
}

/// Connects and appraises what answers, without confirming it.
///
/// # Errors
/// [`SessionError`] when there is nothing to appraise.
pub async fn appraise(party: &RelyingParty, address: &Address) -> Result<Appraised<Transport>, SessionError> {
    timeout(SETUP_TIMEOUT, appraise_now(party, address)).await.map_err(|_| SessionError::Timeout)?
}

async fn appraise_now(party: &RelyingParty, address: &Address) -> Result<Appraised<Transport>, SessionError> {
    let stream = address.connect().await.map_err(SessionError::Unreachable)?;
    Ok(party.challenge(stream).await?.appraise(now())?)
}

/// Why there is no session, or no response on it.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Nobody answers at the address.
    #[error("cannot reach the host: {0}")]
    Unreachable(#[source] io::Error),
    /// The exchange took too long.
    #[error("the host did not complete the exchange within {} seconds", SETUP_TIMEOUT.as_secs())]
    Timeout,
    /// The clean room was not proven.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The connection was lost.
    #[error("the connection to the clean room was lost: {0}")]
    Lost(#[from] hyper::Error),
}

impl SessionError {
    /// The stable code of the reason.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Timeout => "timeout",
            Self::Channel(error) => error.code(),
            Self::Lost(_) => "connection-lost",
        }
    }

    /// Whether the clean room was *refused*, in contrast to not reached.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Channel(error) if error.is_refusal())
    }
}
