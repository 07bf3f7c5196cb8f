//! The requests that wait for brokers' answers: the last one to each broker.

use cleanroom_attestation::release::{DayBroker, DayBrokers, Id, PublicKey};
use zeroize::Zeroizing;

use super::request::{RetentionAnswer, RetentionRequest};
use crate::recipient::RecipientKey;
use crate::sealed::Recipient;

/// Why a broker's answer was not taken. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DayError {
    /// The release names no such broker for retention.
    #[error("the release lists no broker with this name for the retention of the model")]
    UnknownBroker,
    /// No request to this broker waits for an answer.
    #[error("no request to this broker is waiting for an answer")]
    NotAsked,
    /// The broker did not sign it, or it was sealed to another key or for another request.
    #[error(
        "the answer is not signed by the broker, or was sealed to another enclave or for another request"
    )]
    NotTheBrokers,
    /// The part of the record does not open with it.
    #[error("the broker's key does not open its part of the record")]
    Part,
}

impl DayError {
    /// The stable code of the reason.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::UnknownBroker => "unknown-broker",
            Self::NotAsked => "retention-not-asked",
            Self::NotTheBrokers => "retention-answer",
            Self::Part => "retention-part",
        }
    }
}

/// What one recipient has asked of the brokers of a release.
pub(super) struct Asked {
    brokers: DayBrokers,
    recipient: Recipient,
    requests: Vec<RetentionRequest>,
}

impl Asked {
    /// Of these brokers, for a recipient of its own.
    pub(super) fn of(brokers: DayBrokers) -> Self {
        Self { brokers, recipient: Recipient::generate(), requests: Vec::new() }
    }

    pub(super) const fn brokers(&self) -> &DayBrokers {
        &self.brokers
    }

    /// The key that answers are to be sealed to.
    pub(super) const fn recipient(&self) -> &RecipientKey {
        self.recipient.public()
    }

    /// Notes that `request` leaves. It takes the place of an earlier one to the same broker.
    pub(super) fn note(&mut self, request: RetentionRequest) -> Result<(), DayError> {
        self.key_of(&request.asked.broker)?;
        self.answered(&request.asked.broker);
        self.requests.push(request);
        Ok(())
    }

    /// The request that `broker` answers, and what its answer contains. The request waits on until it is [`answered`].
    ///
    /// [`answered`]: Self::answered
    pub(super) fn open(
        &self,
        broker: &Id,
        answer: &RetentionAnswer,
    ) -> Result<(&RetentionRequest, Zeroizing<Vec<u8>>), DayError> {
        let key = self.key_of(broker)?;
        let request = self.requests.iter().find(|request| request.asked.broker == *broker);
        let request = request.ok_or(DayError::NotAsked)?;
        let opened = answer.open(request, key, &self.recipient).ok_or(DayError::NotTheBrokers)?;
        Ok((request, opened))
    }

    /// No request to `broker` waits any more.
    pub(super) fn answered(&mut self, broker: &Id) {
        self.requests.retain(|request| request.asked.broker != *broker);
    }

    fn key_of(&self, name: &Id) -> Result<&PublicKey, DayError> {
        let broker = self.brokers.of.iter().find(|broker: &&DayBroker| broker.name == *name);
        broker.map(|broker| &broker.key).ok_or(DayError::UnknownBroker)
    }
}
