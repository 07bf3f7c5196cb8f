//! Attested sessions that carry HTTP.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::verdict::AcceptedSession;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::address::{Address, Transport};
use crate::channel::{Appraised, Attested, ChannelError, RelyingParty};
use crate::clock::now;

/// From the first packet to the proven session.
const SETUP_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a session lives on one attestation when the policy does not say.
const DEFAULT_MAX_SESSION: Duration = Duration::from_secs(15 * 60);

/// How often a silent connection is asked whether it is alive, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(15);

/// How long an enclave may take to say why it ends what runs, after its lease has ended.
const FAREWELL: Duration = Duration::from_secs(1);

/// One attested connection with HTTP/2 on it. It can only be made from an [`Attested`] connection.
pub struct Session<B> {
    sender: SendRequest<B>,
    evidence: AcceptedSession,
    model_digest: Sha256Digest,
    transcript: Sha384Digest,
    fresh_until: Instant,
    rests_on: RestsOn,
    connection: Connection,
}

/// What carries a session, and whom it is connected to.
#[derive(Clone)]
struct Connection {
    /// HTTP/2's own tasks. The connection is closed when none is left.
    tasks: TaskTracker,
    cut: CancellationToken,
    /// Of one boot of one enclave.
    receipt_key: Arc<[u8]>,
}

impl Connection {
    fn new(receipt_key: Arc<[u8]>) -> Self {
        let tasks = TaskTracker::new();
        // Only closed trackers can be waited for. Tasks still join it.
        tasks.close();
        Self { tasks, cut: CancellationToken::new(), receipt_key }
    }

    fn has_ended(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Ends what runs on it; `false`, because it is not to be kept.
    fn end(&self, code: &'static str, reason: &str) -> bool {
        tracing::error!(code, "requests that ran on a session that has ended were cut: {reason}");
        self.cut.cancel();
        false
    }
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Connection {
    fn execute(&self, task: F) {
        let cut = self.cut.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                _ = task => {}
            }
        });
    }
}

/// What ends first of all that a session rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RestsOn {
    /// The evidence, which grows old.
    Evidence,
    /// What the authorities permit: the lease, most of the time.
    Lease,
}

impl RestsOn {
    const fn ended(self) -> &'static str {
        match self {
            Self::Evidence => "its evidence is as old as the policy allows",
            Self::Lease => "its lease has ended",
        }
    }
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
        // A session rests on its lease as much as on its evidence: what comes later is proven again.
        let leased = attested.permitted().map(|permitted| permitted.holds_for);
        let (lifetime, rests_on) = match leased.filter(|leased| *leased < lifetime) {
            Some(leased) => (leased, RestsOn::Lease),
            None => (lifetime, RestsOn::Evidence),
        };
        let fresh_until = Instant::now() + lifetime;
        let transcript = attested.transcript();
        let evidence = attested.session().clone();
        let model_digest = attested.model_digest();
        let connection = Connection::new(evidence.evidence().public_key().unwrap_or_default().into());
        let (sender, http) = http2::Builder::new(connection.clone())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_EVERY)
            .handshake(TokioIo::new(attested.into_stream()))
            .await?;
        // Errors of the connection reach whoever waits for a response on it.
        connection.execute(http);
        Ok(Self { sender, evidence, model_digest, transcript, fresh_until, rests_on, connection })
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

    /// The session's transcript, by which the enclave names it in what it signs.
    #[must_use]
    pub fn transcript(&self) -> Sha384Digest {
        self.transcript
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
    /// Connections of sessions that take no more requests, for [`Sessions::watch`] to look at.
    retired: std::sync::Mutex<Vec<Connection>>,
    made: Notify,
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
        Self {
            party,
            address,
            current: Mutex::new(None),
            retired: std::sync::Mutex::default(),
            made: Notify::new(),
        }
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
        if let Some(ended) = current.take() {
            self.retire(&ended);
        }
        let session =
            Arc::new(timeout(SETUP_TIMEOUT, self.attest()).await.map_err(|_| SessionError::Timeout)??);
        *current = Some(Arc::clone(&session));
        self.made.notify_one();
        Ok(session)
    }

    /// Ends every session when what it rests on ends, for as long as this is polled.
    ///
    /// Requests that run on it go on only if the same clean room is proven again, with a lease that has not ended. Otherwise
    /// they are cut, and why is logged.
    pub async fn watch(&self) {
        let mut running: Vec<Connection> = Vec::new();
        loop {
            let due = self.current.lock().await.as_ref().map(|session| session.fresh_until);
            let ended = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = ended => {}
                () = self.made.notified() => {}
            }
            let mut current = self.current.lock().await;
            if let Some(ended) = current.take_if(|session| !session.is_usable()) {
                self.retire(&ended);
            }
            drop(current);
            running.append(&mut self.retired.lock().unwrap_or_else(PoisonError::into_inner));
            if running.is_empty() {
                continue;
            }
            let farewell = async {
                for connection in &running {
                    connection.tasks.wait().await;
                }
            };
            let _ = timeout(FAREWELL, farewell).await;
            running.retain(|connection| !connection.has_ended());
            if running.is_empty() {
                continue;
            }
            let proven = self.get().await;
            running.retain(|connection| match &proven {
                Ok(proven) if proven.connection.receipt_key == connection.receipt_key => true,
                Ok(_) => connection.end("enclave-restarted", "another enclave answers now"),
                Err(error) => connection.end(error.code(), &error.to_string()),
            });
        }
    }

    /// Says why a session ended, and leaves what runs on it to [`Self::watch`].
    fn retire(&self, session: &Session<B>) {
        let lost = session.sender.is_closed() && Instant::now() < session.fresh_until;
        let reason = if lost { "its connection was lost" } else { session.rests_on.ended() };
        tracing::info!("a session has ended: {reason}");
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|connection| !connection.has_ended());
        retired.push(session.connection.clone());
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
