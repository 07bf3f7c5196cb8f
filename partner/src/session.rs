//! Attested sessions that carry HTTP/2.
//!
//! ```text
//! Sessions::send ─► Sessions::get ─► Session::permit ─► Permit::send ─► Answer
//!  again, if the      a proven one     at the last        the first
//!  request was        with the least   moment             byte leaves
//!  never sent         under way
//! ```
//!
//! A session ends when its evidence is too old or its lease has ended, whichever comes first. Both count from
//! the moment at which the partner asked, by a clock that goes on while the machine sleeps. A watch inside
//! each session then cuts what still runs on it, unless the same clean room is proven again.

mod connection;
mod content;
mod error;
mod pool;

use std::error::Error as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::verdict::{AcceptedSession, Verdict};
use cleanroom_channel::first_byte::FirstByte;
use cleanroom_program::clock::BootInstant;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::timeout;

use self::connection::Connection;
use self::content::{Begun, BoxError, Content, Validity};
use crate::channel::Attested;
use crate::dial::Endpoint;
use crate::permission::Permitted;

pub use self::error::{Cut, Reach, RestsOn, SendError, SessionError};
pub use self::pool::{
    Answer, DEFAULT_MAX_SESSION, InUse, ProofResult, Sessions, Spread, appraise, appraise_within,
};

/// From the connection to the proven session, for each address.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a silent connection with running requests is asked whether it is alive, and how long it may take
/// to say so.
const PING_EVERY: Duration = Duration::from_secs(10);

/// How long an enclave may take to say why it ends what runs, after its lease has ended.
const FAREWELL: Duration = Duration::from_secs(1);

/// One attested connection with HTTP/2 on it. It can only be made from an [`Attested`] connection.
pub struct Session {
    sender: SendRequest<Content>,
    evidence: AcceptedSession,
    verdict: Verdict,
    permitted: Option<Permitted>,
    model_digest: Sha256Digest,
    transcript: Sha384Digest,
    rests_on: RestsOn,
    validity: Validity,
    /// Where it leads, if this program opened the connection.
    way: Option<Endpoint>,
    /// Requests that are under way on it.
    running: AtomicUsize,
}

impl Session {
    /// Starts HTTP/2 on an attested connection, for at most `lifetime` from the moment at which the evidence
    /// was asked for.
    ///
    /// What still runs on the session one second after its end is cut. [`Sessions`] proves the clean room
    /// again first.
    ///
    /// # Errors
    /// [`SessionError::Http2`] when the peer does not begin HTTP/2. Nothing was sent then.
    pub async fn start<S>(attested: Attested<S>, lifetime: Duration) -> Result<Self, SessionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let session = Self::open(attested, lifetime, None).await?;
        let (validity, rests_on) = (session.validity.clone(), session.rests_on);
        tokio::spawn(async move {
            tokio::select! {
                () = validity.connection.ended() => return,
                () = validity.over() => {}
            }
            if timeout(FAREWELL, validity.connection.ended()).await.is_err() {
                validity.connection.cut("session-ended", &rests_on.to_string());
            }
        });
        Ok(session)
    }

    /// As [`Self::start`], and leaves the end of the session to the caller.
    async fn open<S>(
        attested: Attested<S>,
        lifetime: Duration,
        way: Option<Endpoint>,
    ) -> Result<Self, SessionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // A session rests on its lease as much as on its evidence. Later requests go on a session that is
        // proven anew.
        let leased = attested.permitted().map(|permitted| permitted.holds_for);
        let (lifetime, rests_on) = match leased.filter(|leased| *leased < lifetime) {
            Some(leased) => (leased, RestsOn::Lease),
            None => (lifetime, RestsOn::Evidence),
        };
        let (clock, until) = (attested.clock().clone(), attested.asked() + lifetime);
        let validity = Validity { clock, until, connection: Connection::new() };
        let transcript = attested.transcript();
        let (evidence, verdict) = (attested.session().clone(), attested.verdict().clone());
        let permitted = attested.permitted().cloned();
        let model_digest = attested.model_digest();
        let sender = begin_http2(attested.into_stream(), &validity.connection).await?;
        let running = AtomicUsize::new(0);
        Ok(Self {
            sender,
            evidence,
            verdict,
            permitted,
            model_digest,
            transcript,
            rests_on,
            validity,
            way,
            running,
        })
    }

    /// The right to send one request now.
    ///
    /// # Errors
    /// [`SendError`] with [`Reach::NeverSent`] when the session has ended.
    pub fn permit(&self) -> Result<Permit<'_>, SendError> {
        if self.validity.is_over() {
            return Err(SendError::never(SessionError::Ended(self.ends_with())));
        }
        Ok(Permit { session: self })
    }

    /// Sends a request. The body of the response fails when the connection is cut, it never just ends.
    ///
    /// # Errors
    /// [`SendError`], which says how far the request got.
    pub async fn send<B>(&self, request: Request<B>) -> Result<Response<Incoming>, SendError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.permit()?.send(request).await
    }

    /// What was proven about the other end.
    #[must_use]
    pub fn evidence(&self) -> &AcceptedSession {
        &self.evidence
    }

    /// All that was asked of the evidence, and what it said.
    #[must_use]
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// What the authorities permit, when the policy pins their root.
    #[must_use]
    pub fn permitted(&self) -> Option<&Permitted> {
        self.permitted.as_ref()
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

    /// Until when requests may be sent, on the clock of the relying party.
    #[must_use]
    pub fn until(&self) -> BootInstant {
        self.validity.until
    }

    /// Whether new requests may still go over it.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        !self.sender.is_closed() && !self.validity.is_over()
    }

    /// Why this program cut what ran on the session, if it did.
    #[must_use]
    pub fn why_cut(&self) -> Option<&Cut> {
        self.validity.connection.why_cut()
    }

    /// The receipt key of one boot of one enclave, as DER.
    #[must_use]
    pub fn receipt_key(&self) -> &[u8] {
        self.evidence.evidence().public_key().unwrap_or_default()
    }

    /// Why the session takes no more requests.
    fn why_ended(&self) -> String {
        if self.validity.is_over() {
            self.ends_with().to_string()
        } else {
            "its connection was lost".to_owned()
        }
    }

    /// What the session ends with.
    fn ends_with(&self) -> RestsOn {
        if self.validity.connection.is_superseded() { RestsOn::Policy } else { self.rests_on }
    }

    /// How far a request got that has no answer.
    fn failed(&self, error: TrySendError<Request<Content>>, begun: &Begun) -> SendError {
        // HTTP/2 gives back what it has not begun to write.
        let returned = error.message().is_some();
        let error = error.into_error();
        let never = returned || !begun.get() || was_not_processed(&error);
        let reason = match self.why_cut() {
            Some(cut) => SessionError::Cut(cut.clone()),
            None if never && self.validity.is_over() => SessionError::Ended(self.ends_with()),
            None => SessionError::Lost(error),
        };
        let reach = if never { Reach::NeverSent } else { Reach::MayHaveBeenSent };
        SendError { reach, reason: Arc::new(reason) }
    }
}

/// The right to send one request on a session, taken at the last moment.
///
/// It does not outlast the session. HTTP/2 may hold a request back for as long as the peer likes, so each
/// piece of the content is checked again when HTTP/2 takes it.
#[must_use]
pub struct Permit<'a> {
    session: &'a Session,
}

impl Permit<'_> {
    /// Sends the request.
    ///
    /// # Errors
    /// [`SendError`], which says how far the request got.
    pub async fn send<B>(self, request: Request<B>) -> Result<Response<Incoming>, SendError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let session = self.session;
        let (head, content) = request.into_parts();
        let (content, begun) = Content::new(content, session.validity.clone());
        let mut response = pin!(session.sender.clone().try_send_request(Request::from_parts(head, content)));
        let over_before_it_began = async {
            session.validity.over().await;
            if begun.get() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            result = &mut response => result.map_err(|error| session.failed(error, &begun)),
            // Dropping the response takes the request back out of HTTP/2's queue.
            () = over_before_it_began => Err(SendError::never(SessionError::Ended(session.ends_with()))),
        }
    }
}

/// Starts HTTP/2 and waits for the first byte of the peer, which confirms that the enclave took the partner's
/// `Finished`.
async fn begin_http2<S>(stream: S, connection: &Connection) -> Result<SendRequest<Content>, SessionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (came, first_byte) = oneshot::channel();
    let stream = FirstByte::watch(stream, move || {
        let _ = came.send(());
    });
    let (sender, http) = http2::Builder::new(connection.clone())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| SessionError::Http2)?;
    let (end, ended) = oneshot::channel();
    connection.execute(async move {
        // An error of the connection reaches everybody who waits for a response on it.
        let _ = http.await;
        let _ = end.send(());
    });
    tokio::select! {
        biased;
        Ok(()) = first_byte => Ok(sender),
        _ = ended => Err(SessionError::Http2),
    }
}

/// Whether the clean room says that it did not look at the request (RFC 9113 sections 6.8 and 8.7).
fn was_not_processed(error: &hyper::Error) -> bool {
    let error = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    // A stream learns of a GOAWAY only if its number is above the last one that the peer took.
    error.is_some_and(|error| {
        error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}
