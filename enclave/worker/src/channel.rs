//! The enclave's end of the channel: from an accepted byte stream to a session that may carry requests.

use std::io;
use std::sync::Arc;

use cleanroom_attestation::channel::{Exchange, FrameError, FrameKind, HelloFrame, RefusalCode, Role};
use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_channel::frames::{Frame, ReadError};
use cleanroom_channel::identity::{Identity, IdentityError};
use cleanroom_channel::tls::{self, Established, ProfileError};
use cleanroom_protocol::{ChannelQuestion, Evidence, ProtocolError, SessionTicket};
use subtle::ConstantTimeEq as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::keeper::Keeper;
use crate::session::{PartnerId, SessionIdentity};

/// Accepts attested sessions for the model that its keeper committed to.
pub struct Acceptor {
    acceptor: TlsAcceptor,
    leaf: Sha384Digest,
    keeper: Keeper,
}

impl Acceptor {
    /// An acceptor with the TLS key that `keeper` was told of.
    ///
    /// # Errors
    /// [`IdentityError`] when the key is not usable.
    pub(crate) fn new(identity: &Identity, keeper: Keeper) -> Result<Self, IdentityError> {
        let config = tls::server_config(identity).map_err(|_| IdentityError::Key)?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), leaf: identity.leaf_digest(), keeper })
    }

    /// The TLS handshake and the exchange, for everybody.
    ///
    /// # Errors
    /// [`ChannelError`]; the connection is then closed without a byte of application data either way.
    pub async fn accept<S>(&self, stream: S) -> Result<Session<S>, ChannelError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.accept_if(stream, |_| Ok(())).await.map(|(session, ())| session)
    }

    /// The TLS handshake and the exchange. `place` is asked once the partner's key is proven and before the security
    /// module has to do anything. A partner without a place hears why.
    ///
    /// # Errors
    /// [`ChannelError`]; the connection is then closed without a byte of application data either way.
    pub(crate) async fn accept_if<S, P>(
        &self,
        stream: S,
        place: impl FnOnce(PartnerId) -> Result<P, RefusalCode>,
    ) -> Result<(Session<S>, P), ChannelError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut stream = self.acceptor.accept(stream).await.map_err(ChannelError::Tls)?;
        let established = Established::of(stream.get_ref().1, Role::Server, self.leaf)?;
        let partner = PartnerId::from(established.peer_key);
        let hello = Frame::read(&mut stream, &[FrameKind::Hello]).await?;
        let place = match place(partner) {
            Ok(place) => place,
            Err(code) => return refuse(&mut stream, code).await,
        };
        let (transcript, ticket) = self.exchange(&mut stream, &established, &hello).await?;
        Ok((Session { stream, identity: SessionIdentity { partner, transcript, ticket } }, place))
    }

    /// The keeper, which is asked for evidence.
    pub const fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    async fn exchange<S>(
        &self,
        stream: &mut TlsStream<S>,
        established: &Established,
        hello: &Frame,
    ) -> Result<(Sha384Digest, [u8; SessionTicket::TICKET_BYTES]), ChannelError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let HelloFrame { nonce, model_id: _ } = HelloFrame::decode(hello.body())?;
        let binder = tls::binder(stream.get_ref().1, &nonce)?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let question = ChannelQuestion::new(
            hello.bytes().to_vec(),
            binder,
            certificate.ok_or(ProfileError::Certificate)?.to_vec(),
            established.cipher_suite,
            established.group,
        )?;
        let Evidence { transcript, ticket, body } = match self.keeper.channel(question).await {
            Ok(evidence) => evidence,
            Err(code) => return refuse(stream, code).await,
        };
        let exchange = Exchange::begin(hello.bytes());
        let evidence = Frame::new(FrameKind::Evidence, &body);
        evidence.write(stream).await.map_err(ChannelError::Io)?;

        let finished = Frame::read(stream, &[FrameKind::Finished]).await?;
        let key = tls::finished_key(stream.get_ref().1, &nonce)?;
        let expected = exchange.client_finished(evidence.bytes(), &key);
        if bool::from(expected.as_slice().ct_eq(finished.body())) {
            Ok((transcript, ticket))
        } else {
            Err(ChannelError::Finished)
        }
    }
}

async fn refuse<S, T>(stream: &mut TlsStream<S>, code: RefusalCode) -> Result<T, ChannelError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    use tokio::io::AsyncWriteExt as _;
    Frame::new(FrameKind::Refusal, &code.encode()).write(stream).await.map_err(ChannelError::Io)?;
    stream.shutdown().await.map_err(ChannelError::Io)?;
    Err(ChannelError::Refused(code))
}

/// A connection whose partner has verified this enclave and confirmed it. Only [`Acceptor::accept`] makes one.
pub struct Session<S> {
    /// The encrypted stream, on which HTTP follows.
    pub stream: TlsStream<S>,
    /// The partner, and `T` of the specification.
    pub identity: SessionIdentity,
}

/// Why a connection did not become a session. None of these carries anything that a partner sent.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The TLS handshake failed.
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    /// The handshake did not give what the channel needs.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A frame did not come whole.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A frame's fields are wrong.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// What came cannot be asked about.
    #[error(transparent)]
    Question(#[from] ProtocolError),
    /// The keeper gives no evidence for this session.
    #[error("no evidence: {0}")]
    Refused(RefusalCode),
    /// The partner's `Finished` is not the one that belongs to this exchange.
    #[error("the partner's Finished message does not belong to this exchange")]
    Finished,
    /// The stream failed while writing.
    #[error("the connection failed")]
    Io(#[source] io::Error),
}

impl ChannelError {
    /// A word of a closed list, for logs and counters.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Tls(_) => "tls",
            Self::Profile(_) => "profile",
            Self::Read(ReadError::Truncated) => "truncated",
            Self::Read(ReadError::Io(_)) | Self::Io(_) => "io",
            Self::Read(ReadError::Frame(_)) | Self::Frame(_) | Self::Question(_) => "frame",
            Self::Refused(RefusalCode::UnknownModel) => "unknown-model",
            Self::Refused(RefusalCode::NotServed(refusal)) => refusal.code(),
            Self::Refused(RefusalCode::Draining) => "draining",
            Self::Refused(RefusalCode::NoEvidence | RefusalCode::Busy) => "security-module",
            Self::Finished => "finished",
        }
    }
}
