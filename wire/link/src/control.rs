//! The control connection between a host and its enclave: how releases, denials and leases are handed in, and how the enclave
//! hears that it is to end.
//!
//! Frames are a kind (`u8`), a length (`u32`, big-endian) and that many bytes. The host asks, the enclave answers, one at a
//! time. Nothing on this connection is trusted or secret: every document counts for its signatures alone, and the worst that a
//! host can do with it is to leave it silent.

mod batch;

use cleanroom_attestation::channel::{Fields, MAX_DOCUMENT_BYTES, MAX_LEASE_BYTES, Nonce, length_prefixed};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::MAX_CHECKPOINT_BYTES;
use cleanroom_attestation::record::{MAX_HEAD_BYTES, MAX_RECORD_BYTES};
use cleanroom_attestation::release::{
    Accepted, AuthorityDocument, Id, LeaseRequest, PayloadType, TEXT_LIMIT,
};
use cleanroom_attestation::safeguard::{SAFEGUARD_CLASSIFIER_LIMIT, SAFEGUARD_POLICY_LIMIT};
use serde::{Deserialize, Serialize};

use crate::load::Load;

pub use batch::{Batch, MAX_BATCH_BYTES, batch_size};

/// The length of a frame's header in bytes.
pub const CONTROL_HEADER_BYTES: usize = 5;

/// The code of an answer with a part of the log.
const LOG: u8 = 0x86;
/// The code of an answer with a sealed record.
const RECORD: u8 = 0x88;
/// The code of an answer with the key of an opened record.
const OPENED: u8 = 0x89;

/// The longest answer, in bytes, but for a request for a share and a part of the log.
pub const CONTROL_ANSWER_LIMIT: usize = 4 << 10;

/// The longest request for a share, in bytes: a lease, a document, a key, and names; for a part of a record also its head and the
/// opening.
const SHARE_REQUEST_LIMIT: usize =
    MAX_LEASE_BYTES + MAX_DOCUMENT_BYTES + MAX_HEAD_BYTES + PayloadType::Opening.envelope_limit() + (4 << 10);

/// The longest share, in bytes, sealed as it is.
const SHARE_LIMIT: usize = 2 << 10;

/// The requests of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlKind {
    /// Asks what is in force. Answer: [`ControlState`].
    State,
    /// Asks for a fresh nonce, with which a lease begins. Answer: a [`LeaseRequest`].
    Ask,
    /// Hands in a signed document: the next root, a release, a denial, or one issuer's lease.
    Document(AuthorityDocument),
    /// Asks which shares the enclave waits for. Answer: [`ShareState`].
    Shares,
    /// Brings a broker's challenge, a [`ShareMessage`]. Answer: the request that the broker is to get.
    ShareAsk,
    /// Hands in a broker's share, sealed, a [`ShareMessage`]. Answer: [`ShareState`].
    Share,
    /// Asks for the log, with the number of entries that the host has stored (8 bytes, big-endian), or with nothing for the newest
    /// checkpoint alone. Answer: a [`Batch`].
    Log,
    /// Hands in a safeguard policy, byte for byte as its file. Answer: [`ControlAnswer::Accepted`] if a release names its digest.
    SafeguardPolicy,
    /// Hands in the file of a text classifier, after the policy that names its digest. Answer: [`ControlAnswer::Accepted`] if a
    /// release names any policy. Only the worker reads policies, so this does not say whether one names the classifier.
    SafeguardClassifier,
    /// Asks whether the enclave works: its security module, its worker and the engine. Answer: [`ControlAnswer::Alive`], or a
    /// refusal that says what does not. At most one a second is looked into; others get the same answer.
    Probe,
    /// Asks the enclave to take nothing new, to finish what runs, and to end. Answer: [`ControlAnswer::Accepted`],
    /// with [`Accepted::Known`] when it drains already.
    Drain,
    /// Asks whose secrets of the present day the enclave waits for, to seal records. Answer: [`ShareState`].
    Days,
    /// Brings a broker's challenge for the secret of the day, a [`ShareMessage`]. Answer: the request that the broker is to get.
    DayAsk,
    /// Hands in a broker's answer with the secret of the day, a [`ShareMessage`]. Answer: [`ShareState`].
    Day,
    /// Asks for the next sealed record, with the digest of the one that the host has stored, or with nothing. Answer: the record, or
    /// [`ControlAnswer::Accepted`] when there is none for a second.
    Record,
    /// Hands in an opening with the head of its record, an [`OpeningMessage`]. Answer: [`ShareState`], with the brokers that have
    /// parts of the record.
    Open,
    /// Brings a broker's challenge for its part: the digest of the opening, then a [`ShareMessage`]. Answer: the request that the
    /// broker is to get.
    PartAsk,
    /// Hands in a broker's answer with the key of its part, in the same form. Answer: [`ShareState`].
    Part,
    /// Asks, with the digest of the opening, for the key of the record, sealed to the receiver.
    Opened,
    /// Hands in a checkpoint of the enclave's own log with cosignatures of witnesses. Answer: [`ControlAnswer::Accepted`], with
    /// [`Accepted::Known`] when nothing depends on it: no release demands witnesses, or the enclave knows as much.
    Witnessed,
    /// Asks for the document that AWS KMS is to get for the share of a broker, with the broker's name. Answer: the document, as
    /// [`ControlAnswer::ShareRequest`].
    KmsAsk,
    /// Hands in what KMS gave for a document, a [`ShareMessage`] with the fields of its answer. Answer: [`ShareState`].
    KmsShare,
}

impl ControlKind {
    /// Hands in the next root.
    pub const ROOT: Self = Self::Document(AuthorityDocument::Root);
    /// Hands in a release.
    pub const RELEASE: Self = Self::Document(AuthorityDocument::Release);
    /// Hands in a denial.
    pub const DENIAL: Self = Self::Document(AuthorityDocument::Denial);
    /// Hands in one issuer's lease.
    pub const LEASE: Self = Self::Document(AuthorityDocument::Lease);

    /// Every kind there is.
    pub const ALL: [Self; 25] = [
        Self::State,
        Self::Ask,
        Self::ROOT,
        Self::RELEASE,
        Self::DENIAL,
        Self::LEASE,
        Self::Shares,
        Self::ShareAsk,
        Self::Share,
        Self::Log,
        Self::Drain,
        Self::SafeguardPolicy,
        Self::SafeguardClassifier,
        Self::Probe,
        Self::Days,
        Self::DayAsk,
        Self::Day,
        Self::Record,
        Self::Open,
        Self::PartAsk,
        Self::Part,
        Self::Opened,
        Self::Witnessed,
        Self::KmsAsk,
        Self::KmsShare,
    ];

    /// The kind's code on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::State => 1,
            Self::Ask => 2,
            Self::Document(AuthorityDocument::Root) => 3,
            Self::Document(AuthorityDocument::Release) => 4,
            Self::Document(AuthorityDocument::Denial) => 5,
            Self::Document(AuthorityDocument::Lease) => 6,
            Self::Shares => 7,
            Self::ShareAsk => 8,
            Self::Share => 9,
            Self::Log => 10,
            Self::Drain => 11,
            Self::SafeguardPolicy => 12,
            Self::Probe => 13,
            Self::Days => 14,
            Self::DayAsk => 15,
            Self::Day => 16,
            Self::Record => 17,
            Self::Open => 18,
            Self::PartAsk => 19,
            Self::Part => 20,
            Self::Opened => 21,
            Self::Witnessed => 22,
            Self::KmsAsk => 23,
            Self::KmsShare => 24,
            Self::SafeguardClassifier => 25,
        }
    }

    /// The longest body, in bytes.
    #[must_use]
    pub const fn limit(self) -> usize {
        match self {
            Self::State | Self::Ask | Self::Shares | Self::Drain | Self::Days | Self::Probe => 0,
            Self::Record | Self::Opened => Sha256Digest::LENGTH,
            Self::Open => 4 + MAX_HEAD_BYTES + 4 + PayloadType::Opening.envelope_limit(),
            Self::PartAsk => Sha256Digest::LENGTH + 4 + TEXT_LIMIT + 4 + Nonce::LENGTH,
            Self::Part => Sha256Digest::LENGTH + 4 + TEXT_LIMIT + 4 + SHARE_LIMIT,
            Self::ShareAsk | Self::DayAsk => 4 + TEXT_LIMIT + 4 + Nonce::LENGTH,
            Self::Share | Self::Day | Self::KmsShare => 4 + TEXT_LIMIT + 4 + SHARE_LIMIT,
            Self::KmsAsk => TEXT_LIMIT,
            Self::Document(document) => document.envelope_limit(),
            Self::Log => 8,
            Self::SafeguardPolicy => SAFEGUARD_POLICY_LIMIT,
            Self::SafeguardClassifier => SAFEGUARD_CLASSIFIER_LIMIT,
            Self::Witnessed => MAX_CHECKPOINT_BYTES,
        }
    }

    /// Reads a request's header: the kind and the length of the body.
    ///
    /// # Errors
    ///
    /// [`ControlError`] for an unknown kind or a body over its limit.
    pub fn parse(header: [u8; CONTROL_HEADER_BYTES]) -> Result<(Self, usize), ControlError> {
        let [code, length @ ..] = header;
        let kind = Self::ALL.into_iter().find(|kind| kind.code() == code).ok_or(ControlError::Kind(code))?;
        let length = body_length(length, kind.limit())?;
        Ok((kind, length))
    }

    /// A whole request.
    #[must_use]
    pub fn frame(self, body: &[u8]) -> Vec<u8> {
        frame(self.code(), body)
    }
}

/// The answers of an enclave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlAnswer {
    /// The document counts.
    Accepted(Accepted),
    /// It does not, and nothing has changed. The code of the reason, as `docs/release.md` lists them.
    Refused(String),
    /// The nonce to ask the issuers with.
    Ask(LeaseRequest),
    /// What is in force.
    State(ControlState),
    /// Which shares are waited for.
    Shares(ShareState),
    /// What a broker is to get, byte for byte.
    ShareRequest(Vec<u8>),
    /// What the host lacks of the log.
    Log(Batch),
    /// The enclave works.
    Alive(Load),
    /// A sealed record.
    Record(Vec<u8>),
    /// The key of an opened record, sealed to its receiver.
    Opened(Vec<u8>),
}

/// The shares that an enclave waits for before it opens sealed weights. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareState {
    /// So many shares are still needed.
    pub needed: u64,
    /// The brokers whose shares are not there yet.
    pub missing: Vec<Id>,
}

/// Something of one broker: `LP(broker) LP(bytes)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareMessage {
    /// The broker, as the release names it.
    pub broker: Id,
    /// Its challenge, or its share, sealed; of KMS, the fields of its answer.
    pub bytes: Vec<u8>,
}

impl ShareMessage {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        length_prefixed(&[self.broker.as_str().as_bytes(), &self.bytes])
    }

    /// Reads a message; `None` when it is none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let broker = core::str::from_utf8(fields.next(TEXT_LIMIT)?).ok()?.parse().ok()?;
        let bytes = fields.next(SHARE_LIMIT)?.to_vec();
        fields.is_at_end().then_some(Self { broker, bytes })
    }
}

/// An opening and the head of its record: `LP(head) LP(opening)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpeningMessage {
    /// The head of the record.
    pub head: Vec<u8>,
    /// The signed opening.
    pub opening: Vec<u8>,
}

impl OpeningMessage {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        length_prefixed(&[&self.head, &self.opening])
    }

    /// Reads a message; `None` when it is none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let head = fields.next(MAX_HEAD_BYTES)?.to_vec();
        let opening = fields.next(PayloadType::Opening.envelope_limit())?.to_vec();
        fields.is_at_end().then_some(Self { head, opening })
    }
}

/// What is in force, for the host's agent and its operator. Nothing in it is secret, and nobody has to believe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlState {
    /// Version of the root.
    pub root_version: u64,
    /// Version of the newest release; 0 when there is none.
    pub release_version: u64,
    /// SHA-256 of the newest release's payload.
    pub release_sha256: Option<Sha256Digest>,
    /// Milliseconds that the lease still runs; 0 when there is none.
    pub lease_left_ms: u64,
    /// Denials known since boot.
    pub denials: u64,
    /// Milliseconds that the log still counts as witnessed; 0 when too few witnesses have cosigned in time. Absent when no release
    /// demands witnesses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witnessed_left_ms: Option<u64>,
}

impl ControlAnswer {
    /// A whole answer.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        match self {
            Self::Accepted(Accepted::New) => frame(0x80, &[1]),
            Self::Accepted(Accepted::Known) => frame(0x80, &[2]),
            Self::Accepted(Accepted::MoreIssuersNeeded) => frame(0x80, &[3]),
            Self::Refused(code) => frame(0x81, code.as_bytes()),
            Self::Ask(request) => frame(0x82, &request.to_json()),
            // A type of numbers and digests serialises always.
            Self::State(state) => frame(0x83, &serde_json::to_vec(state).unwrap_or_default()),
            Self::Shares(state) => frame(0x84, &serde_json::to_vec(state).unwrap_or_default()),
            Self::ShareRequest(request) => frame(0x85, request),
            Self::Log(batch) => frame(LOG, &batch.encode()),
            Self::Alive(load) => frame(0x87, &[load.code()]),
            Self::Record(record) => frame(RECORD, record),
            Self::Opened(sealed) => frame(OPENED, sealed),
        }
    }

    /// Reads an answer's header: the kind and the length of the body.
    ///
    /// # Errors
    ///
    /// [`ControlError::TooLong`].
    pub fn parse_header(header: [u8; CONTROL_HEADER_BYTES]) -> Result<(u8, usize), ControlError> {
        let [code, length @ ..] = header;
        let limit = match code {
            0x85 => SHARE_REQUEST_LIMIT,
            LOG => MAX_BATCH_BYTES,
            RECORD => MAX_RECORD_BYTES,
            _ => CONTROL_ANSWER_LIMIT,
        };
        Ok((code, body_length(length, limit)?))
    }

    /// Reads an answer.
    ///
    /// # Errors
    ///
    /// [`ControlError`] when it is none.
    pub fn parse(code: u8, body: &[u8]) -> Result<Self, ControlError> {
        let accepted = |accepted| Ok(Self::Accepted(accepted));
        match (code, body) {
            (0x80, [1]) => accepted(Accepted::New),
            (0x80, [2]) => accepted(Accepted::Known),
            (0x80, [3]) => accepted(Accepted::MoreIssuersNeeded),
            (0x81, code) => match core::str::from_utf8(code) {
                Ok(code) => Ok(Self::Refused(code.to_owned())),
                Err(_) => Err(ControlError::Malformed),
            },
            (0x82, json) => LeaseRequest::from_json(json).map(Self::Ask).map_err(|_| ControlError::Malformed),
            (0x83, json) => {
                serde_json::from_slice(json).map(Self::State).map_err(|_| ControlError::Malformed)
            }
            (0x84, json) => {
                serde_json::from_slice(json).map(Self::Shares).map_err(|_| ControlError::Malformed)
            }
            (0x85, request) => Ok(Self::ShareRequest(request.to_vec())),
            (LOG, bytes) => Batch::decode(bytes).map(Self::Log),
            (0x87, [load]) => Load::from_code(*load).map(Self::Alive).ok_or(ControlError::Malformed),
            (RECORD, record) => Ok(Self::Record(record.to_vec())),
            (OPENED, sealed) => Ok(Self::Opened(sealed.to_vec())),
            (code, _) => Err(ControlError::Kind(code)),
        }
    }
}

/// Why bytes are not a frame of the control connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// A kind that does not exist.
    #[error("unknown kind of control frame: {0}")]
    Kind(u8),
    /// A body over the limit of its kind; nothing of it was read.
    #[error("expected a control frame of at most {limit} bytes, got one of {actual}")]
    TooLong {
        /// The longest body.
        limit: usize,
        /// The length that came.
        actual: u32,
    },
    /// A body that is not what its kind requires.
    #[error("the body of the control frame does not have the form of its kind")]
    Malformed,
}

fn frame(code: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [&[code][..], &length.to_be_bytes(), body].concat()
}

fn body_length(length: [u8; 4], limit: usize) -> Result<usize, ControlError> {
    let actual = u32::from_be_bytes(length);
    match usize::try_from(actual) {
        Ok(length) if length <= limit => Ok(length),
        _ => Err(ControlError::TooLong { limit, actual }),
    }
}

#[cfg(test)]
mod tests {
    use cleanroom_attestation::release::Nonce;

    use super::*;

    #[test]
    fn limits_hold_before_a_body_is_read() {
        for kind in ControlKind::ALL {
            let limit = u32::try_from(kind.limit()).unwrap();
            let header = |length: u32| {
                let [a, b, c, d] = length.to_be_bytes();
                [kind.code(), a, b, c, d]
            };
            assert_eq!(ControlKind::parse(header(limit)), Ok((kind, kind.limit())));
            let error = ControlError::TooLong { limit: kind.limit(), actual: limit + 1 };
            assert_eq!(ControlKind::parse(header(limit + 1)), Err(error));
        }
        assert_eq!(ControlKind::parse([0, 0, 0, 0, 0]), Err(ControlError::Kind(0)));
        // Codes are numbered from 1 without a gap.
        let next = u8::try_from(ControlKind::ALL.len() + 1).unwrap();
        assert_eq!(ControlKind::parse([next, 0, 0, 0, 0]), Err(ControlError::Kind(next)));
        assert!(ControlAnswer::parse_header([0x81, 0, 1, 0, 0]).is_err());
    }

    #[test]
    fn answers_are_read_back() {
        let digest = Sha256Digest::of(&[b"release"]);
        let request = LeaseRequest {
            nonce: Nonce::from_bytes([7; 32]),
            root_version: 1,
            root_sha256: digest,
            release_sha256: digest,
        };
        let state = ControlState {
            root_version: 1,
            release_version: 2,
            release_sha256: Some(digest),
            lease_left_ms: 3,
            denials: 4,
            witnessed_left_ms: Some(5),
        };
        for answer in [
            ControlAnswer::Accepted(Accepted::New),
            ControlAnswer::Accepted(Accepted::Known),
            ControlAnswer::Accepted(Accepted::MoreIssuersNeeded),
            ControlAnswer::Refused("rollback".to_owned()),
            ControlAnswer::Ask(request),
            ControlAnswer::State(state),
            ControlAnswer::State(ControlState { witnessed_left_ms: None, ..state }),
            ControlAnswer::Shares(ShareState { needed: 2, missing: vec!["bank".parse().unwrap()] }),
            ControlAnswer::ShareRequest(vec![0xff; CONTROL_ANSWER_LIMIT + 1]),
            ControlAnswer::Alive(Load::Idle),
            ControlAnswer::Alive(Load::Full),
            ControlAnswer::Record(vec![7; CONTROL_ANSWER_LIMIT + 1]),
            ControlAnswer::Opened(vec![7; 40]),
        ] {
            let frame = answer.frame();
            let (header, body) = frame.split_first_chunk().unwrap();
            let (code, length) = ControlAnswer::parse_header(*header).unwrap();
            assert_eq!((length, ControlAnswer::parse(code, body)), (body.len(), Ok(answer)));
        }
        assert_eq!(ControlAnswer::parse(0x80, &[4]), Err(ControlError::Kind(0x80)));
        assert_eq!(ControlAnswer::parse(0x87, &[3]), Err(ControlError::Malformed));
    }

    #[test]
    fn what_a_broker_says_is_read_back_and_everything_else_is_refused() {
        let message = ShareMessage { broker: "bank".parse().unwrap(), bytes: vec![7; SHARE_LIMIT] };
        let bytes = message.encode();
        assert!(bytes.len() <= ControlKind::Share.limit());
        assert_eq!(ShareMessage::decode(&bytes), Some(message));
        for cut in 0..bytes.len() {
            assert_eq!(ShareMessage::decode(&bytes[..cut]), None, "cut at {cut}");
        }
        assert_eq!(ShareMessage::decode(&[bytes.as_slice(), &[0]].concat()), None);
        for (broker, bytes) in [(&b""[..], &b"x"[..]), (b"a b", b"x"), (b"a", &[7; SHARE_LIMIT + 1])] {
            assert_eq!(ShareMessage::decode(&length_prefixed(&[broker, bytes])), None);
        }
    }
}
