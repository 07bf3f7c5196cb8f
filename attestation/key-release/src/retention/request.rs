//! What an enclave shows to a broker for a secret of a day or for a part of a record, and the broker's signed answer.

use cleanroom_attestation::channel::{EvidenceRequest, Fields, KeyReleaseEvidence, length_prefixed};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::record::MAX_HEAD_BYTES;
use cleanroom_attestation::release::{Day, PayloadType, PublicKey};
use zeroize::Zeroizing;

use crate::recipient::RecipientKey;
use crate::request::{RequestError, ShareRequest};
use crate::sealed::{ENCAPPED_LENGTH, Recipient, seal_to};

/// What every answer is sealed for.
const INFO: &[u8] = b"cleanroom/retention-answer/1";
/// What a broker signs begins with this.
const SIGNATURE_TAG: &[u8] = b"cleanroom/retention-answer/1";
/// The longest signature in bytes: ECDSA on P-384 in DER has at most 104.
const MAX_SIGNATURE_BYTES: usize = 128;

/// What an enclave wants of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The secret of a day, to seal records of that day.
    Secret(Day),
    /// The key of the broker's part of one record.
    Part {
        /// The head of the record.
        head: Vec<u8>,
        /// The opening that the authorities have signed.
        opening: Vec<u8>,
    },
}

/// An enclave's request to one broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionRequest {
    /// Who asks whom, under which root, release and lease.
    pub asked: ShareRequest,
    /// For what.
    pub wanted: Wanted,
}

impl Wanted {
    /// The purpose that the evidence is made for. No purpose of another kind, day, record or opening is the same.
    fn purpose(&self) -> String {
        match self {
            Self::Secret(day) => format!("retention/{day}"),
            Self::Part { head, opening } => {
                format!("opening/{}", Sha256Digest::of(&[&length_prefixed(&[head, opening])]))
            }
        }
    }
}

impl RetentionRequest {
    /// The longest request in bytes.
    pub const LIMIT: usize =
        ShareRequest::LIMIT + MAX_HEAD_BYTES + PayloadType::Opening.envelope_limit() + 64;

    /// The request's bytes: `LP(request of section 12.3) LP("secret") LP(day, 4 bytes)`, or
    /// `LP(request of section 12.3) LP("part") LP(head) LP(opening)`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Self { asked, wanted } = self;
        let asked = asked.encode();
        match wanted {
            Wanted::Secret(day) => length_prefixed(&[&asked, b"secret", &day.0.to_be_bytes()]),
            Wanted::Part { head, opening } => length_prefixed(&[&asked, b"part", head, opening]),
        }
    }

    /// Reads a request that a stranger sent. Each field has its limit before it is copied.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RequestError> {
        let mut fields = Fields::new(bytes);
        let request = Self::read(&mut fields).filter(|_| fields.is_at_end());
        request.ok_or(RequestError)
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let asked = ShareRequest::decode(fields.next(ShareRequest::LIMIT)?).ok()?;
        let wanted = match fields.next(6)? {
            b"secret" => Wanted::Secret(Day(u32::from_be_bytes(fields.next(4)?.try_into().ok()?))),
            b"part" => Wanted::Part {
                head: fields.next(MAX_HEAD_BYTES)?.to_vec(),
                opening: fields.next(PayloadType::Opening.envelope_limit())?.to_vec(),
            },
            _ => return None,
        };
        Some(Self { asked, wanted })
    }

    /// The evidence that the document must have been made for.
    #[must_use]
    pub fn evidence_request(&self) -> EvidenceRequest {
        let purpose = self.wanted.purpose();
        KeyReleaseEvidence { purpose: &purpose, ..self.asked.evidence() }.evidence_request()
    }

    /// What the answer is bound to on its way back.
    fn binding(&self) -> Vec<u8> {
        length_prefixed(&[self.wanted.purpose().as_bytes(), &self.asked.binding()])
    }
}

/// A broker's answer: 32 bytes sealed to the enclave, and the broker's signature over them and over all that the request says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionAnswer {
    sealed: Vec<u8>,
    signature: Vec<u8>,
}

impl RetentionAnswer {
    /// The longest answer in bytes.
    pub const LIMIT: usize = 4 + Self::SEALED_LENGTH + 4 + MAX_SIGNATURE_BYTES;
    const SEALED_LENGTH: usize = ENCAPPED_LENGTH + 32 + 16;

    /// Seals `secret` to the recipient of `request`, for this request alone, and has `sign` sign it. `None` when either fails.
    #[must_use]
    pub fn seal(
        secret: &[u8; 32],
        request: &RetentionRequest,
        sign: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> Option<Self> {
        let sealed = seal_to(&request.asked.recipient, INFO, secret, &request.binding())?;
        let signature = sign(&message(request, &sealed))?;
        Some(Self { sealed, signature })
    }

    /// The bytes: `LP(sealed) LP(signature)`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        length_prefixed(&[&self.sealed, &self.signature])
    }

    /// Reads an answer. `None` when it is none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let sealed = fields.next(Self::SEALED_LENGTH)?.to_vec();
        let signature = fields.next(MAX_SIGNATURE_BYTES)?.to_vec();
        (fields.is_at_end() && sealed.len() == Self::SEALED_LENGTH).then_some(Self { sealed, signature })
    }

    /// The 32 bytes, if the holder of `broker` signed them for `request` and sealed them to `recipient`.
    pub(super) fn open(
        &self,
        request: &RetentionRequest,
        broker: &PublicKey,
        recipient: &Recipient,
    ) -> Option<Zeroizing<Vec<u8>>> {
        let is_signed = broker.verifies(&message(request, &self.sealed), &self.signature);
        is_signed.then(|| recipient.open_bytes(INFO, &self.sealed, &request.binding()))?
    }
}

/// What a broker signs: `LP(tag) LP(binding) LP(recipient key) LP(sealed)`.
fn message(request: &RetentionRequest, sealed: &[u8]) -> Vec<u8> {
    let recipient: &RecipientKey = &request.asked.recipient;
    length_prefixed(&[SIGNATURE_TAG, &request.binding(), recipient.as_bytes(), sealed])
}
