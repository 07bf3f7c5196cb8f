//! The attester's end of the channel: from an accepted byte stream to a session that may carry requests.

use std::io;
use std::sync::Arc;

use cleanroom_attestation::channel::{
    EvidenceFrame, Exchange, FrameError, FrameKind, HelloFrame, ModelId, Nonce, PublicAttestation,
    RefusalCode, Role, Transcript,
};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::release::Refusal;
use cleanroom_channel::frames::{Frame, ReadError};
use cleanroom_channel::identity::{Identity, IdentityError};
use cleanroom_channel::tls::{self, Established, ProfileError};
use subtle::ConstantTimeEq as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::commitment::Committed;
use crate::receipt_key::ReceiptKey;
use crate::release::{Evidence, Guard};
use crate::security_module::{SecurityModule, SecurityModuleError};

/// Accepts attested sessions for one model.
pub struct Attester {
    acceptor: TlsAcceptor,
    leaf: Sha384Digest,
    security_module: SecurityModule,
    receipt_key: ReceiptKey,
    model_id: ModelId,
    model_digest: Sha256Digest,
    guard: Option<Arc<Guard>>,
}

impl Attester {
    /// An attester with a TLS key of its own, made now.
    ///
    /// # Errors
    /// [`IdentityError`] when no key can be made.
    pub fn new(
        committed: Committed,
        model_id: ModelId,
        security_module: SecurityModule,
        receipt_key: ReceiptKey,
    ) -> Result<Self, IdentityError> {
        let identity = Identity::generate()?;
        let config = tls::server_config(&identity).map_err(|_| IdentityError::Key)?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            leaf: identity.leaf_digest(),
            security_module,
            receipt_key,
            model_id,
            model_digest: committed.model(),
            guard: None,
        })
    }

    /// The same attester, under release control: it shows release and lease, and refuses sessions that they do not permit.
    #[must_use]
    pub fn guarded(mut self, guard: Arc<Guard>) -> Self {
        self.guard = Some(guard);
        self
    }

    /// The TLS handshake and the exchange.
    ///
    /// # Errors
    /// [`ChannelError`]; the connection is then closed without a byte of application data either way.
    pub async fn accept<S>(&self, stream: S) -> Result<Session<S>, ChannelError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut stream = self.acceptor.accept(stream).await.map_err(ChannelError::Tls)?;
        let established = Established::of(stream.get_ref().1, Role::Server, self.leaf)?;
        let transcript = self.exchange(&mut stream, &established).await?;
        Ok(Session { stream, partner_key: established.peer_key, transcript })
    }

    /// Evidence for anybody who has a nonce.
    ///
    /// # Errors
    /// What the security module did instead.
    pub(crate) async fn public_attestation(
        &self,
        nonce: &Nonce,
    ) -> Result<PublicEvidence<'_>, SecurityModuleError> {
        let shown = self.guard.as_ref().and_then(|guard| guard.evidence());
        let (release, lease) = shown.map(|shown| (shown.release_digest, shown.lease_digest)).unzip();
        let attestation = PublicAttestation {
            nonce,
            model_id: &self.model_id,
            model_digest: self.model_digest,
            release,
            lease,
            receipt_key: self.receipt_key.subject_public_key_info(),
        };
        let document = self.security_module.evidence(&attestation.evidence_request()).await?;
        Ok(PublicEvidence {
            document,
            model_id: &self.model_id,
            model_digest: self.model_digest,
            release,
            lease,
            receipt_key: self.receipt_key.subject_public_key_info(),
        })
    }

    async fn exchange<S>(
        &self,
        stream: &mut TlsStream<S>,
        established: &Established,
    ) -> Result<Sha384Digest, ChannelError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let hello = Frame::read(stream, &[FrameKind::Hello]).await?;
        let HelloFrame { nonce, model_id } = HelloFrame::decode(hello.body())?;
        if model_id != self.model_id {
            return refuse(stream, RefusalCode::UnknownModel, ChannelError::UnknownModel).await;
        }

        let shown = match self.shown(&established.peer_key) {
            Ok(shown) => shown,
            Err(refusal) => {
                return refuse(stream, RefusalCode::NotServed(refusal), ChannelError::NotServed(refusal))
                    .await;
            }
        };
        let binder = tls::binder(stream.get_ref().1, &nonce)?;
        let transcript = Transcript {
            nonce: &nonce,
            binder: &binder,
            enclave_leaf: established.enclave_leaf,
            partner_leaf: established.partner_leaf,
            cipher_suite: established.cipher_suite,
            group: established.group,
            model_id: &model_id,
            model_digest: self.model_digest,
            release: shown.as_ref().map(|shown| shown.release_digest),
            lease: shown.as_ref().map(|shown| shown.lease_digest),
            receipt_key: self.receipt_key.subject_public_key_info(),
        };
        let document = match self.security_module.evidence(&transcript.evidence_request()).await {
            Ok(document) => document,
            Err(SecurityModuleError::Busy) => {
                return refuse(stream, RefusalCode::Busy, SecurityModuleError::Busy.into()).await;
            }
            Err(error) => return refuse(stream, RefusalCode::NoEvidence, error.into()).await,
        };

        let exchange = Exchange::begin(hello.bytes());
        let mut evidence = EvidenceFrame {
            document: &document,
            release: shown.as_ref().map_or(&[], |shown| &shown.release),
            lease: shown.as_ref().map_or(&[], |shown| &shown.lease),
            model_digest: self.model_digest,
            signature: &[],
        };
        let message = exchange.server_finished_message(&transcript.digest(), &evidence.encode_unsigned());
        let signature = self.receipt_key.sign(&message);
        evidence.signature = &signature;
        let evidence = Frame::new(FrameKind::Evidence, &evidence.encode());
        evidence.write(stream).await.map_err(ChannelError::Io)?;

        let finished = Frame::read(stream, &[FrameKind::Finished]).await?;
        let key = tls::finished_key(stream.get_ref().1, &nonce)?;
        let expected = exchange.client_finished(evidence.bytes(), &key);
        if bool::from(expected.as_slice().ct_eq(finished.body())) {
            Ok(transcript.digest())
        } else {
            Err(ChannelError::Finished)
        }
    }
}

impl Attester {
    /// The release and lease that a session of this partner is shown; nothing without release control.
    fn shown(&self, partner_key: &Sha256Digest) -> Result<Option<Evidence>, Refusal> {
        let Some(guard) = &self.guard else { return Ok(None) };
        guard.check_session(partner_key)?;
        guard.evidence().map(Some).ok_or(Refusal::NoLease)
    }
}

/// Evidence that is bound to a nonce and to no connection, with what its `user_data` was made of.
pub(crate) struct PublicEvidence<'a> {
    pub(crate) document: Vec<u8>,
    pub(crate) model_id: &'a ModelId,
    pub(crate) model_digest: Sha256Digest,
    pub(crate) release: Option<Sha256Digest>,
    pub(crate) lease: Option<Sha256Digest>,
    pub(crate) receipt_key: &'a [u8],
}

async fn refuse<S, T>(
    stream: &mut TlsStream<S>,
    code: RefusalCode,
    error: ChannelError,
) -> Result<T, ChannelError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    use tokio::io::AsyncWriteExt as _;
    Frame::new(FrameKind::Refusal, &code.encode()).write(stream).await.map_err(ChannelError::Io)?;
    stream.shutdown().await.map_err(ChannelError::Io)?;
    Err(error)
}

/// A connection whose partner has verified this enclave and confirmed it. Only [`Attester::accept`] makes one.
pub struct Session<S> {
    /// The encrypted stream, on which HTTP follows.
    pub stream: TlsStream<S>,
    /// SHA-256 of the partner's `SubjectPublicKeyInfo`.
    pub partner_key: Sha256Digest,
    /// `T` of the specification: what names this session and no other.
    pub transcript: Sha384Digest,
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
    /// The partner asked for a model that is not here.
    #[error("the partner asked for a model that this enclave does not serve")]
    UnknownModel,
    /// The authorities do not permit this session now.
    #[error("the authorities do not permit this session: {0}")]
    NotServed(Refusal),
    /// The security module gave no evidence.
    #[error(transparent)]
    SecurityModule(#[from] SecurityModuleError),
    /// The partner's `Finished` is not the one that belongs to this exchange.
    #[error("the partner's Finished does not belong to this exchange")]
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
            Self::Read(ReadError::Frame(_)) | Self::Frame(_) => "frame",
            Self::UnknownModel => "unknown-model",
            Self::NotServed(refusal) => refusal.code(),
            Self::SecurityModule(_) => "security-module",
            Self::Finished => "finished",
        }
    }
}
