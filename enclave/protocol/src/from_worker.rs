//! The worker's frames: facts about a connection, and requests for evidence and signatures for it.

use cleanroom_attestation::channel::{
    Binder, FRAME_HEADER_BYTES, Fields, FrameHeader, FrameKind, HelloFrame, Nonce, length_prefixed,
};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::receipt::{Commitment, Finish, ReceiptId};
use cleanroom_attestation::record::{MAX_BODY_BYTES, RecordKey};
use cleanroom_attestation::release::{BootMillis, LimitReached, Refusal};
use cleanroom_attestation::safeguard::{
    SAFEGUARD_POLICIES_LIMIT, SAFEGUARD_RULE_BYTES, SAFEGUARD_RULES_LIMIT, SafeguardAction, SafeguardVerdict,
};
use cleanroom_link::load::Load;
use zeroize::Zeroizing;

use crate::frame::{Kind, ProtocolError, frame};

/// The longest TLS leaf certificate of a partner, in bytes: as the channel's TLS profile has it.
const MAX_CERTIFICATE_BYTES: usize = 4 * 1024;
/// The longest name of a stream, in bytes. Ours have 41 at most.
const MAX_STREAM_BYTES: usize = 64;
/// The longest code of a reason to end a stream, in bytes.
const MAX_CODE_BYTES: usize = 32;
/// The longest reason of a worker that cannot serve, in bytes.
pub const MAX_REASON_BYTES: usize = 512;

/// The longest name of an action, in bytes.
const MAX_ACTION_BYTES: usize = 8;
/// The longest verdict of the safeguards, in bytes.
const MAX_VERDICT_BYTES: usize = 4
    + MAX_ACTION_BYTES
    + 4
    + SAFEGUARD_POLICIES_LIMIT * Sha256Digest::LENGTH
    + SAFEGUARD_RULES_LIMIT * (4 + SAFEGUARD_RULE_BYTES);
/// The longest code of the end of a request, in bytes.
const MAX_FINISH_CODE_BYTES: usize = 64;

/// The kinds of a worker's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerKind {
    /// [`FromWorker::Leaf`]
    Leaf,
    /// [`FromWorker::Ready`]
    Ready,
    /// [`FromWorker::Channel`]
    Channel,
    /// [`FromWorker::Public`]
    Public,
    /// [`FromWorker::End`]
    End,
    /// [`FromWorker::Done`]
    Done,
    /// [`FromWorker::Drained`]
    Drained,
    /// [`FromWorker::Failed`]
    Failed,
    /// [`FromWorker::Receipt`]
    Receipt,
    /// [`FromWorker::Alive`]
    Alive,
}

impl Kind for WorkerKind {
    const ALL: &'static [Self] = &[
        Self::Leaf,
        Self::Ready,
        Self::Channel,
        Self::Public,
        Self::End,
        Self::Done,
        Self::Drained,
        Self::Failed,
        Self::Receipt,
        Self::Alive,
    ];

    fn code(self) -> u8 {
        match self {
            Self::Leaf => 1,
            Self::Ready => 2,
            Self::Channel => 3,
            Self::Public => 4,
            Self::End => 5,
            Self::Done => 6,
            Self::Drained => 7,
            Self::Failed => 8,
            Self::Receipt => 9,
            Self::Alive => 10,
        }
    }

    fn limit(self) -> usize {
        match self {
            Self::Leaf => 4 + Sha384Digest::LENGTH,
            Self::Ready | Self::Done | Self::Drained => 0,
            Self::Channel => {
                4 + FRAME_HEADER_BYTES
                    + FrameKind::Hello.max_body_bytes()
                    + 4
                    + Binder::LENGTH
                    + 4
                    + MAX_CERTIFICATE_BYTES
                    + 4
                    + 4
            }
            Self::Alive => 4 + 1,
            Self::Public => 4 + Nonce::LENGTH,
            Self::End => 4 + Sha384Digest::LENGTH + 4 + MAX_STREAM_BYTES + 4 + MAX_CODE_BYTES,
            Self::Failed => 4 + MAX_REASON_BYTES,
            Self::Receipt => {
                4 + Sha384Digest::LENGTH
                    + 2 * (4 + Sha256Digest::LENGTH)
                    + 4
                    + ReceiptId::MAX_BYTES
                    + 2 * (4 + Sha256Digest::LENGTH + 4 + 8)
                    + 4
                    + 1
                    + 4
                    + MAX_FINISH_CODE_BYTES
                    + 4
                    + MAX_VERDICT_BYTES
                    + 4
                    + 8
                    + 4
                    + SealedExchange::KEY_BYTES
                    + 4
                    + MAX_BODY_BYTES
            }
        }
    }
}

/// What a worker says.
#[derive(Debug)]
pub enum FromWorker {
    /// Its first words: SHA-384 of the certificate that it will show in every TLS handshake. There is no second time.
    Leaf(Sha384Digest),
    /// The model is loaded; partners may come.
    Ready,
    /// Asks for a session's evidence. Answer: [`FromKeeper::Evidence`](crate::FromKeeper::Evidence) or a refusal.
    Channel(ChannelQuestion),
    /// Asks for evidence that is bound to a nonce and no connection. Answer: [`FromKeeper::Public`](crate::FromKeeper::Public) or a
    /// refusal.
    Public(Nonce),
    /// Asks for the statement that a stream was ended. Answer: [`FromKeeper::SignedEnd`](crate::FromKeeper::SignedEnd).
    End(EndQuestion),
    /// The change with this frame's id is in force, and what it revokes is erased.
    Done,
    /// Every session has ended, as the keeper wanted it.
    Drained,
    /// Why it does not serve: one line. After it comes the end.
    Failed(String),
    /// A request has ended. Answer: [`FromKeeper::Receipt`](crate::FromKeeper::Receipt) or a refusal.
    Receipt(ReceiptQuestion),
    /// The worker works, and the engine has done a step since it was asked.
    Alive(Load),
}

/// What the worker knows of a request that has ended: digests and numbers, no text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptQuestion {
    /// The session that the request came on.
    pub session: SessionTicket,
    /// The request's id.
    pub id: ReceiptId,
    /// What came.
    pub request: Commitment,
    /// What left.
    pub response: Commitment,
    /// How it ended.
    pub finish: Finish,
    /// Why: lower-case letters, digits, `-` and `_`.
    pub code: Option<String>,
    /// How it was judged, if it was.
    pub safeguard: Option<SafeguardVerdict>,
    /// When it began, by the machine's own clock.
    pub started: BootMillis,
    /// What is to be kept of it, if anything is.
    pub exchange: Option<Box<SealedExchange>>,
}

/// An exchange that the worker encrypted. It has no `Debug` of the key.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedExchange {
    /// The key, which was drawn for it.
    pub key: RecordKey,
    /// The body of a record.
    pub body: Vec<u8>,
}

impl SealedExchange {
    /// The key's length in bytes.
    const KEY_BYTES: usize = 32;
}

impl core::fmt::Debug for SealedExchange {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("SealedExchange")
    }
}

/// A session, and the keeper's proof to itself that it made the evidence for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionTicket {
    /// The session's transcript.
    pub transcript: Sha384Digest,
    /// SHA-256 of the partner's key.
    pub partner: Sha256Digest,
    /// What came with the evidence.
    pub ticket: [u8; Self::TICKET_BYTES],
}

impl SessionTicket {
    /// The ticket's length in bytes.
    pub const TICKET_BYTES: usize = 32;
}

impl core::fmt::Debug for SessionTicket {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("SessionTicket")
    }
}

/// Facts about a TLS connection that only its end knows. The keeper adds everything else in the transcript.
#[derive(Debug)]
pub struct ChannelQuestion {
    hello: HelloFrame,
    hello_frame: Vec<u8>,
    /// Keying material exported from the connection for the enclave's role.
    pub binder: Binder,
    /// The partner's leaf certificate, DER.
    pub partner_certificate: Vec<u8>,
    /// The TLS cipher suite's code point.
    pub cipher_suite: u16,
    /// The TLS named group's code point.
    pub group: u16,
}

impl ChannelQuestion {
    /// A question about the connection on which `hello_frame` came.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`] when that is not exactly one `Hello` frame of the channel.
    pub fn new(
        hello_frame: Vec<u8>,
        binder: Binder,
        partner_certificate: Vec<u8>,
        cipher_suite: u16,
        group: u16,
    ) -> Result<Self, ProtocolError> {
        let hello = hello(&hello_frame).ok_or(ProtocolError::Malformed(WorkerKind::Channel.code()))?;
        Ok(Self { hello, hello_frame, binder, partner_certificate, cipher_suite, group })
    }

    /// What the partner asked.
    #[must_use]
    pub const fn hello(&self) -> &HelloFrame {
        &self.hello
    }

    /// The same as it stood on the wire.
    #[must_use]
    pub fn hello_frame(&self) -> &[u8] {
        &self.hello_frame
    }
}

fn hello(frame: &[u8]) -> Option<HelloFrame> {
    let (header, body) = frame.split_first_chunk()?;
    let header = FrameHeader::parse(*header, &[FrameKind::Hello]).ok()?;
    (header.body_bytes() == body.len()).then(|| HelloFrame::decode(body).ok()).flatten()
}

/// Which stream was ended, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndQuestion {
    /// The transcript of the session that the stream ran on.
    pub transcript: Sha384Digest,
    /// The answer's id: letters, digits, `-` and `_`.
    pub stream: String,
    /// Why.
    pub reason: EndReason,
}

/// A reason to end a stream: a code of the closed list in `docs/release.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndReason(&'static str);

impl EndReason {
    /// A rule of the safeguards ends the answer.
    pub const SAFEGUARD: Self = Self("safeguard");

    /// The code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        self.0
    }

    fn from_code(code: &[u8]) -> Option<Self> {
        let limits = [
            LimitReached::Concurrency { limit: 0 },
            LimitReached::RequestsPerMinute { limit: 0, retry_after_ms: 0 },
            LimitReached::TokensPerDay { limit: 0, retry_after_ms: 0 },
        ];
        let codes = Refusal::ALL.into_iter().map(Refusal::code).chain(limits.map(LimitReached::code));
        let codes = codes.chain([Self::SAFEGUARD.code()]);
        codes.into_iter().find(|known| known.as_bytes() == code).map(Self)
    }
}

impl From<Refusal> for EndReason {
    fn from(refusal: Refusal) -> Self {
        Self(refusal.code())
    }
}

impl From<LimitReached> for EndReason {
    fn from(limit: LimitReached) -> Self {
        Self(limit.code())
    }
}

impl FromWorker {
    /// What it is.
    #[must_use]
    pub const fn kind(&self) -> WorkerKind {
        match self {
            Self::Leaf(_) => WorkerKind::Leaf,
            Self::Ready => WorkerKind::Ready,
            Self::Channel(_) => WorkerKind::Channel,
            Self::Public(_) => WorkerKind::Public,
            Self::End(_) => WorkerKind::End,
            Self::Done => WorkerKind::Done,
            Self::Drained => WorkerKind::Drained,
            Self::Failed(_) => WorkerKind::Failed,
            Self::Receipt(_) => WorkerKind::Receipt,
            Self::Alive(_) => WorkerKind::Alive,
        }
    }

    /// A whole frame.
    #[must_use]
    pub fn frame(&self, id: u32) -> Zeroizing<Vec<u8>> {
        let body = Zeroizing::new(match self {
            Self::Leaf(leaf) => length_prefixed(&[leaf.as_bytes()]),
            Self::Ready | Self::Done | Self::Drained => Vec::new(),
            Self::Channel(question) => {
                let ChannelQuestion {
                    hello: _,
                    hello_frame,
                    binder,
                    partner_certificate,
                    cipher_suite,
                    group,
                } = question;
                let [a, b] = cipher_suite.to_be_bytes();
                let [c, d] = group.to_be_bytes();
                length_prefixed(&[hello_frame, binder.as_bytes(), partner_certificate, &[a, b, c, d]])
            }
            Self::Public(nonce) => length_prefixed(&[nonce.as_bytes()]),
            Self::End(EndQuestion { transcript, stream, reason }) => {
                length_prefixed(&[transcript.as_bytes(), stream.as_bytes(), reason.0.as_bytes()])
            }
            Self::Alive(load) => length_prefixed(&[&[load.code()]]),
            Self::Failed(reason) => length_prefixed(&[reason.as_bytes()]),
            Self::Receipt(question) => {
                let ReceiptQuestion {
                    session,
                    id,
                    request,
                    response,
                    finish,
                    code,
                    safeguard,
                    started,
                    exchange,
                } = question;
                let (key, body): (&[u8], &[u8]) =
                    exchange.as_ref().map_or((&[], &[]), |sealed| (sealed.key.as_slice(), &sealed.body));
                let SessionTicket { transcript, partner, ticket } = session;
                length_prefixed(&[
                    transcript.as_bytes(),
                    partner.as_bytes(),
                    ticket,
                    id.as_str().as_bytes(),
                    request.sha256.as_bytes(),
                    &request.bytes.to_be_bytes(),
                    response.sha256.as_bytes(),
                    &response.bytes.to_be_bytes(),
                    &[finish_code(*finish)],
                    code.as_deref().unwrap_or_default().as_bytes(),
                    &safeguard.as_ref().map(encode_verdict).unwrap_or_default(),
                    &started.0.to_be_bytes(),
                    key,
                    body,
                ])
            }
        });
        frame(self.kind(), id, &body)
    }

    /// Reads the body of a frame of `kind`.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`] when it is not exactly what the kind requires.
    pub fn decode(kind: WorkerKind, body: &[u8]) -> Result<Self, ProtocolError> {
        let mut fields = Fields::new(body);
        let decoded = Self::fields(kind, &mut fields).filter(|_| fields.is_at_end());
        decoded.ok_or(ProtocolError::Malformed(kind.code()))
    }

    fn fields(kind: WorkerKind, fields: &mut Fields<'_>) -> Option<Self> {
        Some(match kind {
            WorkerKind::Leaf => Self::Leaf(fields.next(Sha384Digest::LENGTH)?.try_into().ok()?),
            WorkerKind::Ready => Self::Ready,
            WorkerKind::Channel => {
                let hello_frame = fields.next(FRAME_HEADER_BYTES + FrameKind::Hello.max_body_bytes())?;
                let binder: [u8; Binder::LENGTH] = fields.next(Binder::LENGTH)?.try_into().ok()?;
                let binder = Binder::from_exported(binder);
                let certificate = fields.next(MAX_CERTIFICATE_BYTES)?;
                let [a, b, c, d]: [u8; 4] = fields.next(4)?.try_into().ok()?;
                let (suite, group) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                let question =
                    ChannelQuestion::new(hello_frame.to_vec(), binder, certificate.to_vec(), suite, group);
                Self::Channel(question.ok()?)
            }
            WorkerKind::Public => {
                Self::Public(Nonce::from_bytes(fields.next(Nonce::LENGTH)?.try_into().ok()?))
            }
            WorkerKind::End => {
                let transcript = fields.next(Sha384Digest::LENGTH)?.try_into().ok()?;
                let stream = core::str::from_utf8(fields.next(MAX_STREAM_BYTES)?).ok()?;
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
                if stream.is_empty() || !stream.bytes().all(plain) {
                    return None;
                }
                let reason = EndReason::from_code(fields.next(MAX_CODE_BYTES)?)?;
                Self::End(EndQuestion { transcript, stream: stream.to_owned(), reason })
            }
            WorkerKind::Done => Self::Done,
            WorkerKind::Drained => Self::Drained,
            WorkerKind::Failed => {
                let reason = core::str::from_utf8(fields.next(MAX_REASON_BYTES)?).ok()?;
                (!reason.contains(char::is_control)).then(|| Self::Failed(reason.to_owned()))?
            }
            WorkerKind::Receipt => Self::Receipt(receipt(fields)?),
            WorkerKind::Alive => {
                let [code] = *fields.next(1)? else { return None };
                Self::Alive(Load::from_code(code)?)
            }
        })
    }
}

fn receipt(fields: &mut Fields<'_>) -> Option<ReceiptQuestion> {
    let session = SessionTicket {
        transcript: fields.next(Sha384Digest::LENGTH)?.try_into().ok()?,
        partner: fields.next(Sha256Digest::LENGTH)?.try_into().ok()?,
        ticket: fields.next(SessionTicket::TICKET_BYTES)?.try_into().ok()?,
    };
    let id = core::str::from_utf8(fields.next(ReceiptId::MAX_BYTES)?).ok()?.parse().ok()?;
    let (request, response) = (commitment(fields)?, commitment(fields)?);
    let [finish] = *fields.next(1)? else { return None };
    let finish = Finish::ALL.into_iter().find(|known| finish_code(*known) == finish)?;
    let code = core::str::from_utf8(fields.next(MAX_FINISH_CODE_BYTES)?).ok()?;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    if !code.bytes().all(plain) {
        return None;
    }
    let code = Some(code).filter(|code| !code.is_empty()).map(str::to_owned);
    let safeguard = match fields.next(MAX_VERDICT_BYTES)? {
        [] => None,
        verdict => Some(decode_verdict(verdict)?),
    };
    let started = BootMillis(number(fields)?);
    let exchange = match (fields.next(SealedExchange::KEY_BYTES)?, fields.next(MAX_BODY_BYTES)?) {
        ([], []) => None,
        (key, body) => {
            Some(Box::new(SealedExchange { key: Zeroizing::new(key.try_into().ok()?), body: body.to_vec() }))
        }
    };
    Some(ReceiptQuestion { session, id, request, response, finish, code, safeguard, started, exchange })
}

/// An action, a number of policies, their digests, and names of rules.
fn encode_verdict(verdict: &SafeguardVerdict) -> Vec<u8> {
    let SafeguardVerdict { policies_sha256, action, rules } = verdict;
    let digests: Vec<u8> = policies_sha256.iter().flat_map(|digest| *digest.as_bytes()).collect();
    let mut fields: Vec<&[u8]> = vec![action.name().as_bytes(), &digests];
    fields.extend(rules.iter().map(String::as_bytes));
    length_prefixed(&fields)
}

fn decode_verdict(bytes: &[u8]) -> Option<SafeguardVerdict> {
    let mut fields = Fields::new(bytes);
    let action = fields.next(MAX_ACTION_BYTES)?;
    let action = SafeguardAction::ALL.into_iter().find(|known| known.name().as_bytes() == action)?;
    let (digests, rest) =
        fields.next(SAFEGUARD_POLICIES_LIMIT * Sha256Digest::LENGTH)?.as_chunks::<{ Sha256Digest::LENGTH }>();
    if !rest.is_empty() {
        return None;
    }
    let policies_sha256 = digests.iter().map(|digest| Sha256Digest::from_bytes(*digest)).collect();
    let mut rules = Vec::new();
    while !fields.is_at_end() {
        let rule = core::str::from_utf8(fields.next(SAFEGUARD_RULE_BYTES)?).ok()?;
        rules.push(rule.to_owned());
    }
    let verdict = SafeguardVerdict { policies_sha256, action, rules };
    verdict.is_sound().then_some(verdict)
}

fn commitment(fields: &mut Fields<'_>) -> Option<Commitment> {
    let sha256 = fields.next(Sha256Digest::LENGTH)?.try_into().ok()?;
    Some(Commitment { sha256, bytes: number(fields)? })
}

fn number(fields: &mut Fields<'_>) -> Option<u64> {
    Some(u64::from_be_bytes(fields.next(8)?.try_into().ok()?))
}

const fn finish_code(finish: Finish) -> u8 {
    match finish {
        Finish::Finished => 1,
        Finish::Aborted => 2,
        Finish::Refused => 3,
        Finish::Halted => 4,
        Finish::Failed => 5,
    }
}
