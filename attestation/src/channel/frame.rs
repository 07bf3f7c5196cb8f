//! The frames of the exchange: a kind, a length, a body, each bounded before a byte of it is read.

use super::encoding::{Fields, length_prefix};
use super::{FINISHED_BYTES, ModelId, ModelIdError, Nonce, length_prefixed};
use crate::digest::Sha256Digest;
use crate::release::Refusal;

/// The length of a frame's header in bytes: a kind (`u8`) and the body's length (`u32`, big-endian).
pub const FRAME_HEADER_BYTES: usize = 5;

/// The longest attestation document that is accepted, in bytes. The NSM answers with at most 12 KiB.
pub const MAX_DOCUMENT_BYTES: usize = 16 * 1024;
/// The longest release envelope that is accepted, in bytes.
pub const MAX_RELEASE_BYTES: usize = 4 * 1024 * 1024;
/// The longest lease field that is accepted, in bytes: the time left, and the statements of all 16 issuers that a root can have,
/// each listing as many denials as it may.
pub const MAX_LEASE_BYTES: usize = 16 * 32 * 1024;

/// The longest signature of a receipt key, in bytes.
const MAX_SIGNATURE_BYTES: usize = 256;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// The partner's challenge.
    Hello,
    /// The enclave's answer.
    Evidence,
    /// The partner's confirmation.
    Finished,
    /// The enclave's refusal, instead of evidence.
    Refusal,
}

impl FrameKind {
    /// The kind's code on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Evidence => 2,
            Self::Finished => 3,
            Self::Refusal => 4,
        }
    }

    /// The longest body of this kind, in bytes.
    #[must_use]
    pub const fn max_body_bytes(self) -> usize {
        match self {
            Self::Hello => 4 + Nonce::LENGTH + 4 + ModelId::MAX_BYTES,
            Self::Evidence => {
                4 + MAX_DOCUMENT_BYTES
                    + 4
                    + MAX_RELEASE_BYTES
                    + 4
                    + MAX_LEASE_BYTES
                    + 4
                    + Sha256Digest::LENGTH
                    + 4
                    + MAX_SIGNATURE_BYTES
            }
            Self::Finished => FINISHED_BYTES,
            Self::Refusal => 1,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Hello, Self::Evidence, Self::Finished, Self::Refusal]
            .into_iter()
            .find(|kind| kind.code() == code)
    }
}

/// A frame's header, checked: the body's length is within the kind's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    kind: FrameKind,
    body_bytes: usize,
}

impl FrameHeader {
    /// Reads a header when one of `expected` may come next.
    ///
    /// # Errors
    /// [`FrameError`] when the frame is of another kind or too long.
    pub fn parse(
        header: [u8; FRAME_HEADER_BYTES],
        expected: &'static [FrameKind],
    ) -> Result<Self, FrameError> {
        let [code, length @ ..] = header;
        let kind = FrameKind::from_code(code)
            .filter(|kind| expected.contains(kind))
            .ok_or(FrameError::UnexpectedKind { expected, actual: code })?;
        let limit = kind.max_body_bytes();
        match usize::try_from(u32::from_be_bytes(length)) {
            Ok(body_bytes) if body_bytes <= limit => Ok(Self { kind, body_bytes }),
            _ => Err(FrameError::TooLong { kind, limit, actual: u32::from_be_bytes(length) }),
        }
    }

    /// What the frame is.
    #[must_use]
    pub const fn kind(&self) -> FrameKind {
        self.kind
    }

    /// The body's length in bytes.
    #[must_use]
    pub const fn body_bytes(&self) -> usize {
        self.body_bytes
    }
}

/// A whole frame: header and body.
#[must_use]
pub fn encode_frame(kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME_HEADER_BYTES.saturating_add(body.len()));
    frame.push(kind.code());
    frame.extend_from_slice(&length_prefix(body));
    frame.extend_from_slice(body);
    frame
}

/// The body of a `Hello`: `LP(nonce) LP(model id)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloFrame {
    /// The partner's challenge.
    pub nonce: Nonce,
    /// The model that the partner means to use.
    pub model_id: ModelId,
}

impl HelloFrame {
    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        length_prefixed(&[self.nonce.as_bytes(), self.model_id.as_str().as_bytes()])
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] or [`FrameError::ModelId`].
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let malformed = || FrameError::Malformed { kind: FrameKind::Hello };
        let mut fields = Fields::new(body);
        let nonce =
            fields.next(Nonce::LENGTH).and_then(|nonce| nonce.try_into().ok()).ok_or_else(malformed)?;
        let model_id = fields.next(ModelId::MAX_BYTES).ok_or_else(malformed)?;
        if !fields.is_at_end() {
            return Err(malformed());
        }
        let model_id = core::str::from_utf8(model_id).map_err(|_| malformed())?;
        Ok(Self { nonce: Nonce::from_bytes(nonce), model_id: ModelId::new(model_id)? })
    }
}

/// The body of an `Evidence` frame: `LP(document) LP(release) LP(lease) LP(model digest) LP(signature)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceFrame<'a> {
    /// The attestation document as the NSM gave it.
    pub document: &'a [u8],
    /// The release envelope, empty when the deployment has none.
    pub release: &'a [u8],
    /// The lease as [`ShownLease`](super::ShownLease) encodes it, empty when the deployment has none.
    pub lease: &'a [u8],
    /// The identity of the weights that the enclave says it holds; proven by the transcript and PCR 16.
    pub model_digest: Sha256Digest,
    /// The receipt key's signature over the session.
    pub signature: &'a [u8],
}

impl<'a> EvidenceFrame<'a> {
    /// The body up to the signature, which the signature covers.
    #[must_use]
    pub fn encode_unsigned(&self) -> Vec<u8> {
        length_prefixed(&[self.document, self.release, self.lease, self.model_digest.as_bytes()])
    }

    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = self.encode_unsigned();
        body.extend_from_slice(&length_prefixed(&[self.signature]));
        body
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] when a field is missing, too long or of another length than it must be.
    pub fn decode(body: &'a [u8]) -> Result<Self, FrameError> {
        Self::fields(body).ok_or(FrameError::Malformed { kind: FrameKind::Evidence })
    }

    fn fields(body: &'a [u8]) -> Option<Self> {
        let mut fields = Fields::new(body);
        let frame = Self {
            document: fields.next(MAX_DOCUMENT_BYTES)?,
            release: fields.next(MAX_RELEASE_BYTES)?,
            lease: fields.next(MAX_LEASE_BYTES)?,
            model_digest: fields.next(Sha256Digest::LENGTH)?.try_into().ok()?,
            signature: fields.next(MAX_SIGNATURE_BYTES)?,
        };
        fields.is_at_end().then_some(frame)
    }
}

/// Why the enclave gives no evidence. A closed list: a refusal never carries text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusalCode {
    /// The enclave does not serve the model that the partner asked for.
    #[error("the enclave does not serve this model")]
    UnknownModel,
    /// The enclave's security module did not answer.
    #[error("the enclave could not obtain evidence from its security module")]
    NoEvidence,
    /// Too many sessions are being set up.
    #[error("the enclave is setting up as many sessions as it can; try again shortly")]
    Busy,
    /// The enclave is about to end.
    #[error("busy: the enclave is draining; it finishes what runs and takes nothing new")]
    Draining,
    /// What the authorities have released and leased does not permit this session.
    #[error("{0}")]
    NotServed(Refusal),
}

impl RefusalCode {
    /// The body of the `Refusal` frame.
    #[must_use]
    pub const fn encode(self) -> [u8; 1] {
        [match self {
            Self::UnknownModel => 1,
            Self::NoEvidence => 2,
            Self::Busy => 3,
            Self::Draining => 4,
            Self::NotServed(refusal) => refusal.wire_code(),
        }]
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] for a code that is not on the list.
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        [Self::UnknownModel, Self::NoEvidence, Self::Busy, Self::Draining]
            .into_iter()
            .chain(Refusal::ALL.map(Self::NotServed))
            .find(|code| code.encode() == body)
            .ok_or(FrameError::Malformed { kind: FrameKind::Refusal })
    }
}

/// Why bytes are not the frame that was due.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame of another kind came.
    #[error("expected a frame of kind {expected:?}, got kind {actual}")]
    UnexpectedKind {
        /// The kinds that were due.
        expected: &'static [FrameKind],
        /// The code that came.
        actual: u8,
    },
    /// The header announces more than the kind allows.
    #[error("expected a {kind:?} frame of at most {limit} bytes, got one of {actual}")]
    TooLong {
        /// The frame's kind.
        kind: FrameKind,
        /// The longest body.
        limit: usize,
        /// The length that came.
        actual: u32,
    },
    /// The body is not what its kind requires.
    #[error("the fields of the {kind:?} frame do not have the form of the protocol")]
    Malformed {
        /// The frame's kind.
        kind: FrameKind,
    },
    /// The model id in a `Hello` breaks a rule.
    #[error(transparent)]
    ModelId(#[from] ModelIdError),
}
