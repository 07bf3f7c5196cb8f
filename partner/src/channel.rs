//! The relying party's end of the channel: types that make it impossible to send before the clean room is
//! proven.
//!
//! ```text
//! RelyingParty::challenge ─► Challenged ─► appraise ─► Appraised ─► confirm ─► Attested
//!   TLS, Hello, Evidence      nothing        verdict      only if      the only type
//!                             believed                    accepted     that carries data
//! ```
//!
//! [`Attested`] has one constructor, and that constructor takes an [`AcceptedSession`], which only an
//! appraisal that asked and passed every question of a channel can give.

use std::io;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use aws_lc_rs::signature::{ED25519, ParsedPublicKey};
use cleanroom_attestation::chain::ChainCache;
use cleanroom_attestation::channel::{
    Binder, EvidenceFrame, Exchange, FrameError, FrameKind, HelloFrame, ModelId, Nonce, Purpose, RefusalCode,
    Role, Transcript, boot_measurement,
};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::document::Document;
use cleanroom_attestation::measurement::extended_once;
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::release;
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::{AcceptedSession, Rejection, Verdict, appraise};
use cleanroom_channel::frames::{Frame, ReadError};
use cleanroom_channel::identity::{Identity, IdentityError};
use cleanroom_channel::tls::{self, Established, ProfileError};
use cleanroom_program::clock::{BootInstant, Clock};
use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::permission::{Permitted, ShownPermission};
use crate::record::{Expected, RecordFolder, Shown};
use crate::refused::ReleaseAxis;

pub use crate::refused::Refused;

/// A partner with a key and a policy, who wants one model.
pub struct RelyingParty {
    connector: TlsConnector,
    leaf: Sha384Digest,
    key: Sha256Digest,
    policy: Policy,
    model: ModelId,
    cache: Mutex<ChainCache>,
    clock: Clock,
    records: Option<RecordFolder>,
}

impl RelyingParty {
    /// A relying party.
    ///
    /// # Errors
    /// [`SetupError`] when the policy names no such model or the key is not usable.
    pub fn new(identity: &Identity, policy: Policy, model: ModelId) -> Result<Self, SetupError> {
        require_model(&policy, &model)?;
        let config = tls::client_config(identity).map_err(|_| IdentityError::Key)?;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            leaf: identity.leaf_digest(),
            key: identity.key_digest(),
            policy,
            model,
            cache: Mutex::new(ChainCache::new()),
            clock: Clock::machine(),
            records: None,
        })
    }

    /// The same partner with the same key, under another policy, and for a model of it.
    ///
    /// # Errors
    /// [`SetupError`] when the policy names no such model.
    pub fn under(&self, policy: Policy, model: ModelId) -> Result<Self, SetupError> {
        require_model(&policy, &model)?;
        Ok(Self {
            connector: self.connector.clone(),
            leaf: self.leaf,
            key: self.key,
            policy,
            model,
            cache: Mutex::new(ChainCache::new()),
            clock: self.clock.clone(),
            records: self.records.clone(),
        })
    }

    /// The same, which keeps a record of each verification in this folder. A verification whose record cannot be written does not
    /// count.
    #[must_use]
    pub fn with_records(self, folder: RecordFolder) -> Self {
        Self { records: Some(folder), ..self }
    }

    /// Where records are kept.
    pub(crate) fn records(&self) -> Option<&RecordFolder> {
        self.records.as_ref()
    }

    /// The model that it wants.
    pub(crate) fn model(&self) -> &ModelId {
        &self.model
    }

    /// The same, with another clock for how long what is proven holds. For tests.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// The clock by which it is counted how long anything holds.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// SHA-256 of the partner's key.
    #[must_use]
    pub fn key_digest(&self) -> Sha256Digest {
        self.key
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The handshake, the challenge and the answer to it. Nothing of the answer is believed yet.
    ///
    /// # Errors
    /// [`ChannelError`] when there is no answer to appraise.
    pub async fn challenge<S>(&self, stream: S) -> Result<Challenged<'_, S>, ChannelError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut nonce = [0; Nonce::LENGTH];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| ChannelError::Random)?;
        let nonce = Nonce::from_bytes(nonce);

        let mut stream = self.connector.connect(tls::server_name(), stream).await.map_err(tls_error)?;
        let established = Established::of(stream.get_ref().1, Role::Client, self.leaf)?;
        let hello = HelloFrame { nonce: nonce.clone(), model_id: self.model.clone() };
        let hello = Frame::new(FrameKind::Hello, &hello.encode());
        // All that the answer shows is at least as old as the question.
        let asked = self.clock.now();
        hello.write(&mut stream).await.map_err(tls_error)?;

        let answer =
            Frame::read(&mut stream, &[FrameKind::Evidence, FrameKind::Refusal]).await.map_err(read_error)?;
        if answer.kind() == FrameKind::Refusal {
            return Err(ChannelError::Refused(RefusalCode::decode(answer.body())?));
        }
        EvidenceFrame::decode(answer.body())?;
        Ok(Challenged { party: self, stream, established, nonce, asked, hello, evidence: answer })
    }
}

/// An enclave's answer to a challenge, of which nothing is believed.
pub struct Challenged<'a, S> {
    party: &'a RelyingParty,
    stream: TlsStream<S>,
    established: Established,
    nonce: Nonce,
    asked: BootInstant,
    hello: Frame,
    evidence: Frame,
}

impl<S> Challenged<'_, S> {
    /// The attestation document as it came.
    #[must_use]
    pub fn document(&self) -> &[u8] {
        EvidenceFrame::decode(self.evidence.body()).map_or(&[], |frame| frame.document)
    }

    /// Appraises the answer at the time `at`.
    ///
    /// # Errors
    /// [`ChannelError`] when the connection itself cannot be asked; every doubt about the evidence is in the
    /// verdict.
    pub fn appraise(self, at: Timestamp) -> Result<Appraised<S>, ChannelError> {
        let party = self.party;
        let frame = EvidenceFrame::decode(self.evidence.body())?;
        // The release first: it names what the document is to be compared with. Its signatures are counted
        // under the pinned root, so it needs no enclave to vouch for it.
        let shown = ShownPermission::open(&party.policy, frame.release, frame.lease)
            .map_err(ChannelError::Rejected)?;
        let released = shown.as_ref().map(|shown| party.policy.with_release(shown.release()));
        let policy = released.as_ref().unwrap_or(&party.policy);
        let model_digest = party.expected_model(policy, frame.model_digest)?;
        let claims = Claims::of(frame.document);
        let binder = tls::binder(self.stream.get_ref().1, &self.nonce)?;
        let transcript = self.transcript(&binder, shown.as_ref(), model_digest, claims.receipt_key());
        let expected = expected(&transcript);
        let verdict = party.judge(&expected, frame.document, policy, at);
        let release = shown.as_ref().map(|_| frame.release.to_vec());
        let exchange = Exchange::begin(self.hello.bytes());
        let signature = is_signed_by_receipt_key(&exchange, &transcript, &frame);
        let permitted = shown
            .as_ref()
            .map(|shown| shown.judge(&party.key, &party.model, &model_digest, frame.document, at));
        let unexpected = shown.is_none() && !(frame.release.is_empty() && frame.lease.is_empty());
        let (transcript, claimed) = (transcript.digest(), claims.purpose());
        let Self { stream, established, nonce, asked, evidence, .. } = self;
        Ok(Appraised {
            stream,
            established,
            model_digest,
            nonce,
            clock: party.clock.clone(),
            asked,
            exchange,
            evidence,
            verdict,
            signature,
            unexpected,
            permitted,
            transcript,
            claimed,
            expected,
            release,
        })
    }

    /// Everything that the two ends must agree on, as this end has it.
    fn transcript<'t>(
        &'t self,
        binder: &'t Binder,
        shown: Option<&ShownPermission>,
        model_digest: Sha256Digest,
        receipt_key: &'t [u8],
    ) -> Transcript<'t> {
        Transcript {
            nonce: &self.nonce,
            binder,
            enclave_leaf: self.established.enclave_leaf,
            partner_leaf: self.established.partner_leaf,
            cipher_suite: self.established.cipher_suite,
            group: self.established.group,
            model_id: &self.party.model,
            model_digest,
            release: shown.map(|shown| shown.release().digest()),
            lease: shown.map(ShownPermission::lease),
            receipt_key,
        }
    }
}

/// What a document of which nothing is verified says about itself.
///
/// The receipt key that it claims is then expected in the transcript and in PCR 17, so that only the key that
/// the enclave committed to at boot passes.
struct Claims<'d>(Option<Document<'d>>);

impl<'d> Claims<'d> {
    fn of(document: &'d [u8]) -> Self {
        Self(Document::parse(document).ok())
    }

    fn receipt_key(&self) -> &'d [u8] {
        self.0.as_ref().and_then(Document::public_key).unwrap_or_default()
    }

    fn purpose(&self) -> Option<Purpose> {
        self.0.as_ref().and_then(Document::user_data).and_then(Purpose::claimed_by)
    }
}

/// Whether the receipt key of the transcript signed this exchange.
fn is_signed_by_receipt_key(
    exchange: &Exchange,
    transcript: &Transcript<'_>,
    frame: &EvidenceFrame<'_>,
) -> bool {
    let signed = exchange.server_finished_message(&transcript.digest(), &frame.encode_unsigned());
    let key = ParsedPublicKey::new(&ED25519, transcript.receipt_key);
    key.is_ok_and(|key| key.verify_sig(&signed, frame.signature).is_ok())
}

/// The policy must have a reference value for the model. Where it pins a release root, the release has them.
fn require_model(policy: &Policy, model: &ModelId) -> Result<(), SetupError> {
    if policy.release().is_none() && policy.model_digests(model.as_str()).next().is_none() {
        return Err(SetupError::ModelNotInPolicy(model.clone()));
    }
    Ok(())
}

/// What a document must say that is of the enclave at the other end of this transcript.
fn expected(transcript: &Transcript<'_>) -> Expected {
    let request = transcript.evidence_request();
    let model = boot_measurement::model(&transcript.model_digest);
    let receipt_key = boot_measurement::receipt_key(transcript.receipt_key);
    Expected {
        nonce: request.nonce().to_vec(),
        user_data: request.user_data().to_vec(),
        public_key: request.public_key().to_vec(),
        pcr16: extended_once(model.as_bytes()),
        pcr17: extended_once(receipt_key.as_bytes()),
    }
}

impl RelyingParty {
    /// The verdict on a document of which this is expected.
    fn judge(&self, expected: &Expected, document: &[u8], policy: &Policy, at: Timestamp) -> Verdict {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        appraise(document, policy, &expected.expectation(), at, Some(&mut cache))
    }

    /// The digest that the transcript must have: the one that the enclave claims if the policy accepts it,
    /// otherwise one that the policy accepts, so that the verdict shows what was expected.
    fn expected_model(&self, policy: &Policy, claimed: Sha256Digest) -> Result<Sha256Digest, ChannelError> {
        let mut accepted = policy.model_digests(self.model.as_str()).copied();
        let first = accepted.next().ok_or(ChannelError::Rejected(Refused::Release {
            axis: ReleaseAxis::Release,
            code: release::Refusal::ModelNotGranted.code(),
            message: format!("the release names no model {}", self.model),
        }))?;
        Ok(accepted.find(|digest| *digest == claimed).unwrap_or(first))
    }
}

/// An enclave's answer, with a verdict on it.
pub struct Appraised<S> {
    stream: TlsStream<S>,
    established: Established,
    model_digest: Sha256Digest,
    nonce: Nonce,
    clock: Clock,
    asked: BootInstant,
    exchange: Exchange,
    evidence: Frame,
    verdict: Verdict,
    signature: bool,
    unexpected: bool,
    permitted: Option<Result<Permitted, Refused>>,
    transcript: Sha384Digest,
    claimed: Option<Purpose>,
    expected: Expected,
    release: Option<Vec<u8>>,
}

impl<S> Appraised<S> {
    /// The verdict, for people and machines.
    #[must_use]
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// The evidence as it came, for somebody who judges it again.
    #[must_use]
    pub fn shown(&self) -> Shown {
        let document = EvidenceFrame::decode(self.evidence.body()).map_or(&[][..], |frame| frame.document);
        Shown {
            document: document.to_vec(),
            expected: Some(self.expected.clone()),
            release: self.release.clone(),
        }
    }

    /// What the handshake established.
    #[must_use]
    pub fn established(&self) -> &Established {
        &self.established
    }

    /// The identity of the model that the evidence is to be about.
    #[must_use]
    pub fn model_digest(&self) -> Sha256Digest {
        self.model_digest
    }

    /// Whether a session may be made of it.
    ///
    /// # Errors
    /// The first reason why not.
    pub fn accepted(&self) -> Result<&AcceptedSession, Refused> {
        // First, because it is the reason for which the transcripts differ.
        if self.unexpected {
            return Err(Refused::UnexpectedRelease);
        }
        let session = self.verdict.accepted_session().map_err(|rejection| self.refine(rejection))?;
        if !self.signature {
            return Err(Refused::ReceiptKeySignature);
        }
        if let Some(Err(refused)) = &self.permitted {
            return Err(refused.clone());
        }
        Ok(session)
    }

    /// What the authorities permit this partner, when the policy pins their root and the evidence is good.
    /// The time that is left of a lease is the enclave's word, so it is worth nothing before.
    #[must_use]
    pub fn permitted(&self) -> Option<&Result<Permitted, Refused>> {
        self.permitted.as_ref().filter(|_| self.signature && self.verdict.accepted_session().is_ok())
    }

    /// A mismatch of `user_data` has two very different causes, and the claimed purpose tells them apart.
    fn refine(&self, rejection: &Rejection) -> Refused {
        match (rejection.code(), self.claimed) {
            ("user-data-mismatch", Some(Purpose::Channel)) => Refused::OtherSession,
            ("user-data-mismatch", claimed) => {
                Refused::OtherPurpose { actual: claimed.map_or("none of cleanroom's", Purpose::tag) }
            }
            _ => Refused::Evidence(rejection.clone()),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Appraised<S> {
    /// Confirms to the enclave that its evidence was accepted, after which requests may follow.
    ///
    /// # Errors
    /// [`ChannelError::Rejected`] when the evidence was not accepted; the connection is closed then.
    pub async fn confirm(self) -> Result<Attested<S>, ChannelError> {
        let session = self.accepted().map_err(ChannelError::Rejected)?.clone();
        let permitted = self.permitted.clone().and_then(Result::ok);
        let Self { mut stream, nonce, clock, asked, exchange, evidence, .. } = self;
        let Self { verdict, model_digest, transcript, .. } = self;
        let key = tls::finished_key(stream.get_ref().1, &nonce)?;
        let finished = exchange.client_finished(evidence.bytes(), &key);
        Frame::new(FrameKind::Finished, &finished).write(&mut stream).await.map_err(tls_error)?;
        Ok(Attested::assertion(
            stream,
            (session, verdict),
            model_digest,
            transcript,
            permitted,
            (clock, asked),
        ))
    }
}

/// A connection that ends in a proven clean room, and the only one that may carry data.
pub struct Attested<S> {
    stream: TlsStream<S>,
    session: AcceptedSession,
    verdict: Verdict,
    model_digest: Sha256Digest,
    transcript: Sha384Digest,
    permitted: Option<Permitted>,
    clock: Clock,
    asked: BootInstant,
}

impl<S> Attested<S> {
    /// The one place where a proof becomes a connection that may carry data.
    fn assertion(
        stream: TlsStream<S>,
        (session, verdict): (AcceptedSession, Verdict),
        model_digest: Sha256Digest,
        transcript: Sha384Digest,
        permitted: Option<Permitted>,
        (clock, asked): (Clock, BootInstant),
    ) -> Self {
        Self { stream, session, verdict, model_digest, transcript, permitted, clock, asked }
    }

    /// When the partner asked. How long anything holds that was shown counts from here.
    #[must_use]
    pub fn asked(&self) -> BootInstant {
        self.asked
    }

    /// The clock that [`Self::asked`] was read from.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The session's transcript, by which the enclave names the session in what it signs.
    #[must_use]
    pub fn transcript(&self) -> Sha384Digest {
        self.transcript
    }

    /// What the authorities permit, when the policy pins their root.
    #[must_use]
    pub fn permitted(&self) -> Option<&Permitted> {
        self.permitted.as_ref()
    }

    /// What was proven.
    #[must_use]
    pub fn session(&self) -> &AcceptedSession {
        &self.session
    }

    /// All that was asked of the evidence, and what it said.
    #[must_use]
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// The identity of the model that answers.
    #[must_use]
    pub fn model_digest(&self) -> Sha256Digest {
        self.model_digest
    }

    /// The encrypted stream, on which HTTP follows.
    #[must_use]
    pub fn into_stream(self) -> TlsStream<S> {
        self.stream
    }
}

/// Why a relying party cannot even begin.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The policy has no reference value for the model.
    #[error("the policy has no [[model]] with id = \"{0}\"; add the digest that you accept")]
    ModelNotInPolicy(ModelId),
    /// The key is not usable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Why there is no attested session. No variant is ever turned into success.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The system's generator failed.
    #[error("the system's random number generator failed")]
    Random,
    /// The peer does not speak TLS 1.3 with the channel's key exchange.
    #[error("the peer cannot do TLS 1.3 with X25519MLKEM768 and mutual certificates: {0}")]
    TlsProfile(rustls::Error),
    /// The peer does not know the application protocol.
    #[error("the peer does not know the application protocol cleanroom/1")]
    TlsAlpn,
    /// TLS failed in another way.
    #[error("TLS failed: {0}")]
    Tls(rustls::Error),
    /// The handshake did not give what the channel needs.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// Whoever answers gave a reason instead of evidence. Nothing about the answer is proven: a host without
    /// any enclave can give every one of these reasons.
    #[error("the host says, unproven: {0}")]
    Refused(RefusalCode),
    /// A frame is not the one that was due.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The connection ended too early.
    #[error("the connection ended before the exchange was complete")]
    Truncated,
    /// The evidence was not accepted.
    #[error(transparent)]
    Rejected(Refused),
    /// The network failed.
    #[error("the connection failed: {0}")]
    Io(#[source] io::Error),
}

impl ChannelError {
    /// The stable code of the reason.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::TlsProfile(_) => "tls-profile",
            Self::TlsAlpn | Self::Profile(ProfileError::Alpn) => "tls-alpn",
            Self::Tls(_) => "tls",
            Self::Profile(_) => "tls-profile",
            Self::Refused(refusal) => unproven(*refusal),
            Self::Frame(FrameError::UnexpectedKind { .. }) => "frame-unexpected",
            Self::Frame(FrameError::TooLong { .. }) => "frame-too-long",
            Self::Frame(_) => "frame-malformed",
            Self::Truncated => "truncated",
            Self::Rejected(refused) => refused.code(),
            Self::Io(_) => "unreachable",
        }
    }

    /// Whether this program's own checks *refused* what answers. It was not reached, or it gave a reason that
    /// proves nothing, otherwise.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Random | Self::Io(_) | Self::Truncated | Self::Refused(_))
    }
}

/// The code of a reason that is not proven. `unproven/` keeps it apart from the same reason when it is.
fn unproven(refusal: RefusalCode) -> &'static str {
    static NOT_SERVED: LazyLock<Vec<(release::Refusal, String)>> = LazyLock::new(|| {
        release::Refusal::ALL
            .into_iter()
            .map(|refusal| (refusal, format!("unproven/{}", refusal.code())))
            .collect()
    });
    match refusal {
        RefusalCode::UnknownModel => "unproven/unknown-model",
        RefusalCode::NoEvidence => "unproven/no-evidence",
        RefusalCode::Busy => "unproven/busy",
        RefusalCode::Draining => "unproven/draining",
        RefusalCode::NotServed(refusal) => NOT_SERVED
            .iter()
            .find(|(known, _)| *known == refusal)
            .map_or("unproven/not-served", |(_, code)| code.as_str()),
    }
}

fn tls_error(error: io::Error) -> ChannelError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return ChannelError::Truncated;
    }
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(
            rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
            | rustls::Error::NoApplicationProtocol,
        ) => ChannelError::TlsAlpn,
        Some(
            error @ (rustls::Error::PeerIncompatible(_)
            | rustls::Error::AlertReceived(
                AlertDescription::ProtocolVersion
                | AlertDescription::HandshakeFailure
                | AlertDescription::IllegalParameter
                | AlertDescription::InsufficientSecurity,
            )),
        ) => ChannelError::TlsProfile(error.clone()),
        Some(error) => ChannelError::Tls(error.clone()),
        None => ChannelError::Io(error),
    }
}

fn read_error(error: ReadError) -> ChannelError {
    match error {
        ReadError::Truncated => ChannelError::Truncated,
        ReadError::Frame(error) => ChannelError::Frame(error),
        ReadError::Io(error) => tls_error(error),
    }
}
