//! The shares that an enclave has, and those that it waits for.

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{Broker, Brokers, Id};

use crate::data_key::DataKey;
use crate::kms::{KmsAnswer, KmsRecipient};
use crate::purpose::Purpose;
use crate::recipient::RecipientKey;
use crate::request::ShareRequest;
use crate::sealed::{Recipient, SealedShare};
use crate::secret::{Secret, Share, ShareOf};

/// Collects the shares of one model's key under one release.
pub struct Collector {
    model: Sha256Digest,
    needed: usize,
    brokers: Vec<Waiting>,
    recipient: Recipient,
    /// What KMS encrypts shares to. Made when somebody asks for it, because most enclaves need none.
    kms: Option<KmsRecipient>,
}

/// A broker of the release, and how far the enclave is with it.
struct Waiting {
    broker: Broker,
    /// The request that was made last. Only its answer counts.
    asked: Option<ShareRequest>,
    share: Option<Share>,
}

/// What a share that was taken led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It counts, and more are needed.
    MoreNeeded,
    /// It counts, and it was the last one that was needed.
    Complete,
}

/// What came of the shares.
pub enum Outcome {
    /// So many more are needed.
    Needs(usize),
    /// The key.
    Key(DataKey),
}

/// Why a share was not taken. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// The release names no such broker for this model.
    #[error("the release lists no broker with this name for the model")]
    UnknownBroker,
    /// No request to this broker waits for an answer.
    #[error("no request to this broker is waiting for an answer")]
    NotAsked,
    /// It was sealed to another key, or for another request: another nonce, document, release, root, model or broker.
    #[error("the share was sealed to another enclave or for another request")]
    SealedOtherwise,
    /// It is not the share that the release commits to.
    #[error("the share differs from the commitment in the release")]
    Commitment,
    /// No key could be made that KMS can encrypt to.
    #[error("the cryptographic library made no RSA key")]
    KmsKey,
    /// What the host brought of KMS is not the share that the release commits to, encrypted to this enclave. It says no more, so that
    /// a host learns nothing from answers that it changes.
    #[error("the answer of KMS is not the share that the release commits to, encrypted to this enclave")]
    KmsAnswer,
    /// Another broker's share is at the same place.
    #[error("two brokers hold the same share; the secret has to be split again")]
    SamePlace,
    /// The cryptographic library failed.
    #[error("the shares do not combine to a secret")]
    Join,
}

impl ShareError {
    /// The stable code of the reason.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::UnknownBroker => "unknown-broker",
            Self::NotAsked => "share-not-asked",
            Self::SealedOtherwise => "share-sealed-otherwise",
            Self::Commitment => "share-commitment",
            Self::KmsKey => "share-kms-key",
            Self::KmsAnswer => "share-kms",
            Self::SamePlace => "share-same-place",
            Self::Join => "share-join",
        }
    }
}

impl Collector {
    /// Collects for `model` what `brokers` hold.
    #[must_use]
    pub fn new(model: Sha256Digest, brokers: &Brokers) -> Self {
        let Brokers { needed, of } = brokers;
        let waiting = |broker: &Broker| Waiting { broker: broker.clone(), asked: None, share: None };
        Self {
            model,
            needed: usize::try_from(*needed).unwrap_or(usize::MAX),
            brokers: of.iter().map(waiting).collect(),
            recipient: Recipient::generate(),
            kms: None,
        }
    }

    /// The key that shares are to be sealed to.
    #[must_use]
    pub const fn recipient(&self) -> &RecipientKey {
        self.recipient.public()
    }

    /// The brokers whose shares are not there yet.
    pub fn missing(&self) -> impl Iterator<Item = &Id> {
        self.brokers.iter().filter(|one| one.share.is_none()).map(|one| &one.broker.name)
    }

    /// Shares that are there.
    fn count(&self) -> usize {
        self.brokers.iter().filter(|one| one.share.is_some()).count()
    }

    /// Shares that are still needed.
    #[must_use]
    pub fn still_needed(&self) -> usize {
        self.needed.saturating_sub(self.count())
    }

    /// Notes that `request` leaves. It takes the place of an earlier one to the same broker.
    ///
    /// # Errors
    /// [`ShareError::UnknownBroker`].
    pub fn ask(&mut self, request: ShareRequest) -> Result<(), ShareError> {
        let broker = self.brokers.iter_mut().find(|one| one.broker.name == request.broker);
        broker.ok_or(ShareError::UnknownBroker)?.asked = Some(request);
        Ok(())
    }

    /// Takes the answer of `broker` to the request that was made last.
    ///
    /// # Errors
    /// [`ShareError`].
    pub fn take(&mut self, broker: &Id, sealed: &SealedShare) -> Result<Taken, ShareError> {
        let at = self.brokers.iter().find(|one| one.broker.name == *broker);
        let Waiting { broker: Broker { name, sha256 }, asked, .. } = at.ok_or(ShareError::UnknownBroker)?;
        let request = asked.as_ref().ok_or(ShareError::NotAsked)?;
        let share = self.recipient.open(sealed, request).ok_or(ShareError::SealedOtherwise)?;
        let of = ShareOf { purpose: Purpose::Weights, model: &self.model, broker: name };
        if share.commitment(&of) != *sha256 {
            return Err(ShareError::Commitment);
        }
        self.admit(broker, share)
    }

    /// The key that KMS is to encrypt the share of `broker` to: DER of its `SubjectPublicKeyInfo`. The first call makes it.
    ///
    /// # Errors
    /// [`ShareError::UnknownBroker`], [`ShareError::KmsKey`].
    pub fn kms_recipient(&mut self, broker: &Id) -> Result<&[u8], ShareError> {
        if !self.brokers.iter().any(|one| one.broker.name == *broker) {
            return Err(ShareError::UnknownBroker);
        }
        if self.kms.is_none() {
            self.kms = KmsRecipient::generate();
        }
        self.kms.as_ref().map(KmsRecipient::public).ok_or(ShareError::KmsKey)
    }

    /// Takes what KMS said when it was asked for the share of `broker`. An answer to any question that was asked with this enclave's
    /// key counts: the key is this enclave's alone, and the commitment says which share is the right one.
    ///
    /// # Errors
    /// [`ShareError`].
    pub fn take_kms(&mut self, broker: &Id, answer: &KmsAnswer) -> Result<Taken, ShareError> {
        let at = self.brokers.iter().find(|one| one.broker.name == *broker);
        let Waiting { broker: Broker { name, sha256 }, .. } = at.ok_or(ShareError::UnknownBroker)?;
        let recipient = self.kms.as_ref().ok_or(ShareError::NotAsked)?;
        let of = ShareOf { purpose: Purpose::Weights, model: &self.model, broker: name };
        let share = recipient.open(answer, |share| share.commitment(&of) == *sha256);
        self.admit(broker, share.ok_or(ShareError::KmsAnswer)?)
    }

    /// Counts a share that is the right one.
    fn admit(&mut self, broker: &Id, share: Share) -> Result<Taken, ShareError> {
        let others = self.brokers.iter().filter(|one| one.broker.name != *broker);
        if others.filter_map(|one| one.share.as_ref()).any(|other| other.is_at_place_of(&share)) {
            return Err(ShareError::SamePlace);
        }
        let at = self.brokers.iter_mut().find(|one| one.broker.name == *broker);
        let waiting = at.ok_or(ShareError::UnknownBroker)?;
        (waiting.share, waiting.asked) = (Some(share), None);
        Ok(if self.still_needed() == 0 { Taken::Complete } else { Taken::MoreNeeded })
    }

    /// The key, once enough shares are there.
    ///
    /// # Errors
    /// [`ShareError::Join`].
    pub fn finish(&self) -> Result<Outcome, ShareError> {
        match self.still_needed() {
            0 => {}
            more => return Ok(Outcome::Needs(more)),
        }
        let shares = self.brokers.iter().filter_map(|one| one.share.as_ref());
        let shares: Vec<&Share> = shares.take(self.needed).collect();
        let secret = Secret::join(&shares).ok_or(ShareError::Join)?;
        let key = DataKey::derive(&secret, Purpose::Weights, &self.model).ok_or(ShareError::Join)?;
        Ok(Outcome::Key(key))
    }
}
