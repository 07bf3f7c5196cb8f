//! The purposes of evidence, with one tag for each.
//!
//! There is no way for a caller to choose `user_data`: an [`EvidenceRequest`] is only made by one of the purposes below, so
//! evidence made for one of them can never pass for another.

use super::transcript::optional;
use super::{ModelId, Nonce, Transcript, length_prefixed};
use crate::digest::{Sha256Digest, Sha384Digest};
use crate::release::Id;

/// What a piece of evidence was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// One session of the attested channel.
    Channel,
    /// An answer to anybody who asks, bound to a nonce but to no connection.
    PublicAttestation,
    /// A request for a share of a key, to a broker.
    KeyRelease,
    /// A request for a share of a key that AWS KMS holds.
    Kms,
}

impl Purpose {
    /// The tag that stands first in `user_data`.
    #[must_use]
    pub const fn tag(self) -> &'static str {
        match self {
            Self::Channel => "cleanroom/channel/1",
            Self::PublicAttestation => "cleanroom/attestation/1",
            Self::KeyRelease => "cleanroom/key-release/1",
            Self::Kms => "cleanroom/kms/1",
        }
    }

    /// The purpose that some `user_data` claims, to explain a refusal; nothing is proven by it.
    #[must_use]
    pub fn claimed_by(user_data: &[u8]) -> Option<Self> {
        [Self::Channel, Self::PublicAttestation, Self::KeyRelease, Self::Kms]
            .into_iter()
            .find(|purpose| user_data.starts_with(&length_prefixed(&[purpose.tag().as_bytes()])))
    }

    fn user_data(self, digest: &Sha384Digest) -> Vec<u8> {
        length_prefixed(&[self.tag().as_bytes(), digest.as_bytes()])
    }
}

/// The three fields of an NSM `Attestation` request. Both ends make it: the attester to ask for evidence, the verifier to
/// know what the evidence has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceRequest {
    nonce: Vec<u8>,
    user_data: Vec<u8>,
    public_key: Vec<u8>,
}

impl EvidenceRequest {
    /// The challenge, 32 bytes. Empty for [`Purpose::Kms`], because KMS gives none.
    #[must_use]
    pub fn nonce(&self) -> &[u8] {
        &self.nonce
    }

    /// `LP(tag) LP(digest)`, at most 128 bytes.
    #[must_use]
    pub fn user_data(&self) -> &[u8] {
        &self.user_data
    }

    /// The receipt key, DER of its `SubjectPublicKeyInfo`. Empty for [`Purpose::KeyRelease`], which has none; for [`Purpose::Kms`]
    /// the RSA key that KMS encrypts to, in the same form.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }
}

impl Transcript<'_> {
    /// The evidence that a session rests on.
    #[must_use]
    pub fn evidence_request(&self) -> EvidenceRequest {
        EvidenceRequest {
            nonce: self.nonce.as_bytes().to_vec(),
            user_data: Purpose::Channel.user_data(&self.digest()),
            public_key: self.receipt_key.to_vec(),
        }
    }
}

/// What `GET /.well-known/cleanroom/attestation` attests: the state of the clean room, for somebody who has a nonce and no
/// credentials.
#[derive(Debug, Clone, Copy)]
pub struct PublicAttestation<'a> {
    /// The challenge: the root of every auditor's nonce that this document answers ([`super::SharedNonces`]).
    pub nonce: &'a Nonce,
    /// The model that the enclave serves.
    pub model_id: &'a ModelId,
    /// The identity of the weights that the enclave holds.
    pub model_digest: Sha256Digest,
    /// The release in force, when the deployment has one.
    pub release: Option<Sha256Digest>,
    /// The lease in force, when the deployment has one.
    pub lease: Option<Sha256Digest>,
    /// The receipt key, DER of its `SubjectPublicKeyInfo`.
    pub receipt_key: &'a [u8],
}

impl PublicAttestation<'_> {
    /// The evidence to ask for.
    #[must_use]
    pub fn evidence_request(&self) -> EvidenceRequest {
        let Self { nonce, model_id, model_digest, release, lease, receipt_key } = self;
        let digest = Sha384Digest::of(&[&length_prefixed(&[
            Purpose::PublicAttestation.tag().as_bytes(),
            nonce.as_bytes(),
            model_id.as_str().as_bytes(),
            model_digest.as_bytes(),
            optional(release),
            optional(lease),
            receipt_key,
        ])]);
        EvidenceRequest {
            nonce: nonce.as_bytes().to_vec(),
            user_data: Purpose::PublicAttestation.user_data(&digest),
            public_key: receipt_key.to_vec(),
        }
    }
}

/// What an enclave without a model asks a broker with: who it is, under which root, release and lease it asks, for which model,
/// and to which key the answer must be sealed.
///
/// No receipt key is in it. An enclave asks before it has committed to a model and to that key. So a broker also asks that PCR 16
/// and PCR 17 are untouched.
#[derive(Debug, Clone, Copy)]
pub struct KeyReleaseEvidence<'a> {
    /// The broker's challenge.
    pub nonce: &'a Nonce,
    /// What the key is for.
    pub purpose: &'a str,
    /// The broker that is asked.
    pub broker: &'a Id,
    /// The model that the enclave is to serve.
    pub model_id: &'a ModelId,
    /// The identity that the weights must have.
    pub model_digest: Sha256Digest,
    /// Version of the newest root that the enclave holds.
    pub root_version: u64,
    /// Digest of that root's payload.
    pub root: Sha256Digest,
    /// The release in force.
    pub release: Sha256Digest,
    /// SHA-256 of the lease field that is shown.
    pub lease: Sha256Digest,
    /// The HPKE key that the share is to be sealed to. It is longer than a document's `public_key` may be.
    pub recipient: &'a [u8],
}

impl KeyReleaseEvidence<'_> {
    /// The evidence to ask for.
    #[must_use]
    pub fn evidence_request(&self) -> EvidenceRequest {
        // Destructured, so that a new field cannot be forgotten here.
        let Self {
            nonce,
            purpose,
            broker,
            model_id,
            model_digest,
            root_version,
            root,
            release,
            lease,
            recipient,
        } = self;
        let digest = Sha384Digest::of(&[&length_prefixed(&[
            Purpose::KeyRelease.tag().as_bytes(),
            nonce.as_bytes(),
            purpose.as_bytes(),
            broker.as_str().as_bytes(),
            model_id.as_str().as_bytes(),
            model_digest.as_bytes(),
            &root_version.to_be_bytes(),
            root.as_bytes(),
            release.as_bytes(),
            lease.as_bytes(),
            recipient,
        ])]);
        EvidenceRequest {
            nonce: nonce.as_bytes().to_vec(),
            user_data: Purpose::KeyRelease.user_data(&digest),
            public_key: Vec::new(),
        }
    }
}

/// What an enclave without a model shows to AWS KMS, which encrypts to the public key in the document and decides by its registers.
///
/// KMS reads nothing else of it. The tag keeps the document from passing for one of another purpose, and the rest says to whoever
/// finds the document what it was made for.
#[derive(Debug, Clone, Copy)]
pub struct KmsEvidence<'a> {
    /// What the key is for.
    pub purpose: &'a str,
    /// The name that the release gives to whoever holds the share.
    pub broker: &'a Id,
    /// The identity that the weights must have.
    pub model_digest: Sha256Digest,
    /// The release in force.
    pub release: Sha256Digest,
    /// The RSA key that KMS is to encrypt to, DER of its `SubjectPublicKeyInfo`.
    pub recipient: &'a [u8],
}

impl KmsEvidence<'_> {
    /// The evidence to ask for.
    #[must_use]
    pub fn evidence_request(&self) -> EvidenceRequest {
        // Destructured, so that a new field cannot be forgotten here.
        let Self { purpose, broker, model_digest, release, recipient } = self;
        let digest = Sha384Digest::of(&[&length_prefixed(&[
            Purpose::Kms.tag().as_bytes(),
            purpose.as_bytes(),
            broker.as_str().as_bytes(),
            model_digest.as_bytes(),
            release.as_bytes(),
            recipient,
        ])]);
        EvidenceRequest {
            nonce: Vec::new(),
            user_data: Purpose::Kms.user_data(&digest),
            public_key: recipient.to_vec(),
        }
    }
}

/// What the enclave extends its own registers with at boot.
pub mod boot_measurement {
    use super::{Sha256Digest, Sha384Digest, length_prefixed};

    /// The PCR of an enclave that commits to the model.
    pub const MODEL_PCR: u16 = Registers::Enclave.model() as u16;
    /// The PCR of an enclave that commits to the receipt key.
    pub const RECEIPT_KEY_PCR: u16 = Registers::Enclave.receipt_key() as u16;

    /// Which registers hold the commitments, and how they are closed against a second one.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Registers {
        /// PCR 16 and 17 of a Nitro enclave. Its security module locks them.
        Enclave,
        /// Registers 14 and 15 of a `NitroTPM`. A TPM locks nothing, so each is extended once more, with [`cap`].
        NitroTpm,
    }

    impl Registers {
        /// The register that commits to the model.
        #[must_use]
        pub const fn model(self) -> u8 {
            match self {
                Self::Enclave => 16,
                Self::NitroTpm => 14,
            }
        }

        /// The register that commits to the receipt key.
        #[must_use]
        pub const fn receipt_key(self) -> u8 {
            match self {
                Self::Enclave => 17,
                Self::NitroTpm => 15,
            }
        }

        /// The value that a register has when it is closed, given the value that the commitment gave it.
        #[must_use]
        pub fn closed(self, committed: &Sha384Digest) -> Sha384Digest {
            match self {
                Self::Enclave => *committed,
                Self::NitroTpm => Sha384Digest::of(&[committed.as_bytes(), cap().as_bytes()]),
            }
        }
    }

    /// The 48 bytes that close a register of a `NitroTPM`: `SHA-384(LP("cleanroom/pcr/cap/1"))`.
    #[must_use]
    pub fn cap() -> Sha384Digest {
        Sha384Digest::of(&[&length_prefixed(&[b"cleanroom/pcr/cap/1"])])
    }

    /// The 48 bytes that the register of the model is extended with:
    /// `SHA-384(LP("cleanroom/pcr/model/1") LP(model digest))`.
    #[must_use]
    pub fn model(digest: &Sha256Digest) -> Sha384Digest {
        Sha384Digest::of(&[&length_prefixed(&[b"cleanroom/pcr/model/1", digest.as_bytes()])])
    }

    /// The 48 bytes that the register of the receipt key is extended with:
    /// `SHA-384(LP("cleanroom/pcr/receipt-key/1") LP(SPKI DER))`.
    #[must_use]
    pub fn receipt_key(subject_public_key_info: &[u8]) -> Sha384Digest {
        Sha384Digest::of(&[&length_prefixed(&[b"cleanroom/pcr/receipt-key/1", subject_public_key_info])])
    }
}
