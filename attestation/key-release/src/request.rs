//! The request of an enclave to a broker.

use cleanroom_attestation::channel::{
    Fields, KeyReleaseEvidence, MAX_DOCUMENT_BYTES, MAX_LEASE_BYTES, ModelId, Nonce, length_prefixed,
};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::release::{Id, TEXT_LIMIT, VERSION_LIMIT};

use crate::purpose::Purpose;
use crate::recipient::RecipientKey;

/// An enclave's request for one broker's share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareRequest {
    /// The broker's challenge.
    pub nonce: Nonce,
    /// The broker that is asked.
    pub broker: Id,
    /// The model whose key it is.
    pub model_id: ModelId,
    /// The digest that the weights must have.
    pub model_digest: Sha256Digest,
    /// Version of the newest root that the enclave holds.
    pub root_version: u64,
    /// SHA-256 of that root's payload.
    pub root: Sha256Digest,
    /// SHA-256 of the payload of the release that the lease names.
    pub release: Sha256Digest,
    /// The lease in force, as [`ShownLease`](cleanroom_attestation::channel::ShownLease) encodes it.
    pub lease: Vec<u8>,
    /// The key that the share is to be sealed to.
    pub recipient: RecipientKey,
    /// The attestation document that says all of this.
    pub document: Vec<u8>,
}

/// The bytes are no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a request for a share in the form of docs/protocol.md section 12")]
pub struct RequestError;

impl ShareRequest {
    /// The longest request in bytes.
    pub const LIMIT: usize = MAX_LEASE_BYTES + MAX_DOCUMENT_BYTES + RecipientKey::LENGTH + 1024;

    /// The request's bytes: `LP` of each field in the order of this type, with the version in 8 bytes, big-endian.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Destructured, so that a new field cannot be forgotten here.
        let Self {
            nonce,
            broker,
            model_id,
            model_digest,
            root_version,
            root,
            release,
            lease,
            recipient,
            document,
        } = self;
        length_prefixed(&[
            nonce.as_bytes(),
            broker.as_str().as_bytes(),
            model_id.as_str().as_bytes(),
            model_digest.as_bytes(),
            &root_version.to_be_bytes(),
            root.as_bytes(),
            release.as_bytes(),
            lease,
            recipient.as_bytes(),
            document,
        ])
    }

    /// Reads a request that a stranger sent. Each field has its limit before it is copied.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RequestError> {
        Self::read(&mut Fields::new(bytes)).ok_or(RequestError)
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let text = |bytes: &[u8]| core::str::from_utf8(bytes).ok().map(str::to_owned);
        let digest = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).ok().map(Sha256Digest::from_bytes);
        let request = Self {
            nonce: Nonce::from_bytes(fields.next(Nonce::LENGTH)?.try_into().ok()?),
            broker: text(fields.next(TEXT_LIMIT)?)?.parse().ok()?,
            model_id: text(fields.next(ModelId::MAX_BYTES)?)?.parse().ok()?,
            model_digest: digest(fields.next(32)?)?,
            root_version: u64::from_be_bytes(fields.next(8)?.try_into().ok()?),
            root: digest(fields.next(32)?)?,
            release: digest(fields.next(32)?)?,
            lease: fields.next(MAX_LEASE_BYTES)?.to_vec(),
            recipient: RecipientKey::read(fields.next(RecipientKey::LENGTH)?)?,
            document: fields.next(MAX_DOCUMENT_BYTES)?.to_vec(),
        };
        let in_range = (1..=VERSION_LIMIT).contains(&request.root_version);
        (fields.is_at_end() && in_range).then_some(request)
    }

    /// What the document must have been made for.
    #[must_use]
    pub fn evidence(&self) -> KeyReleaseEvidence<'_> {
        KeyReleaseEvidence {
            nonce: &self.nonce,
            purpose: Purpose::Weights.word(),
            broker: &self.broker,
            model_id: &self.model_id,
            model_digest: self.model_digest,
            root_version: self.root_version,
            root: self.root,
            release: self.release,
            lease: Sha256Digest::of(&[&self.lease]),
            recipient: self.recipient.as_bytes(),
        }
    }

    /// What the share is bound to on its way back: `LP(nonce) LP(SHA-384 of the document) LP(release digest) LP(root version, 8 bytes)
    /// LP(root digest) LP(model digest) LP(broker)`.
    #[must_use]
    pub(crate) fn binding(&self) -> Vec<u8> {
        length_prefixed(&[
            self.nonce.as_bytes(),
            Sha384Digest::of(&[&self.document]).as_bytes(),
            self.release.as_bytes(),
            &self.root_version.to_be_bytes(),
            self.root.as_bytes(),
            self.model_digest.as_bytes(),
            self.broker.as_str().as_bytes(),
        ])
    }
}
