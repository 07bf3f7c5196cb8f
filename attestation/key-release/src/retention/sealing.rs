//! The key of a record: split among brokers, joined again, given to a receiver.

use aws_lc_rs::rand;
use cleanroom_attestation::channel::length_prefixed;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::record::{RecordHead, RecordKey, RecordSubject, SealedPart};
use cleanroom_attestation::release::{DayBrokers, Id, ReceiverKey};
use zeroize::Zeroizing;

use super::asked::{Asked, DayError};
use super::collector::DaySecrets;
use super::day::{DaySecret, PartKey};
use super::request::{RetentionAnswer, RetentionRequest};
use crate::recipient::RecipientKey;
use crate::sealed::{Recipient, seal_to};
use crate::secret::{Secret, Share};

/// What the key of an opened record is sealed for.
const INFO: &[u8] = b"cleanroom/opened-record/1";

/// The head of a record: splits `key` among the holders of `secrets`, as many of whom as are needed can open it. The serial and
/// the day of `subject` are set here. `None` when the numbers do not fit together or the library fails.
#[must_use]
pub fn seal_record(
    mut subject: RecordSubject,
    key: &RecordKey,
    secrets: &DaySecrets<'_>,
) -> Option<RecordHead> {
    let DaySecrets { day, needed, secrets } = *secrets;
    subject.day = day;
    rand::fill(&mut subject.serial).ok()?;
    let shares = Secret::from_bytes(key).split(needed.into(), secrets.len()).ok()?;
    let part = |((broker, secret), share): (&(Id, DaySecret), Share)| {
        let bytes = secret.part(broker, &subject)?.seal(&share)?;
        Some(SealedPart { broker: broker.clone(), bytes })
    };
    let parts = secrets.iter().zip(shares).map(part).collect::<Option<Vec<_>>>()?;
    Some(RecordHead { subject, needed, parts })
}

/// Collects the parts of one record's key under one opening.
pub struct OpeningCollector {
    head: RecordHead,
    asked: Asked,
    shares: Vec<(Id, Share)>,
}

impl OpeningCollector {
    /// Collects for `head` what `brokers` hold.
    #[must_use]
    pub fn new(head: RecordHead, brokers: DayBrokers) -> Self {
        Self { head, asked: Asked::of(brokers), shares: Vec::new() }
    }

    /// The key that answers are to be sealed to.
    #[must_use]
    pub const fn recipient(&self) -> &RecipientKey {
        self.asked.recipient()
    }

    /// The brokers that have a part and have not given its key.
    #[must_use]
    pub fn missing(&self) -> Vec<Id> {
        let is_there = |name: &Id| self.shares.iter().any(|(broker, _)| broker == name);
        self.head.parts.iter().map(|part| &part.broker).filter(|name| !is_there(name)).cloned().collect()
    }

    /// How many more are needed.
    #[must_use]
    pub fn still_needed(&self) -> usize {
        usize::from(self.head.needed).saturating_sub(self.shares.len())
    }

    /// Notes that `request` leaves. It takes the place of an earlier one to the same broker.
    ///
    /// # Errors
    /// [`DayError::UnknownBroker`].
    pub fn ask(&mut self, request: RetentionRequest) -> Result<(), DayError> {
        self.asked.note(request)
    }

    /// Takes the answer of `broker` to the request that was made last.
    ///
    /// # Errors
    /// [`DayError`].
    pub fn take(&mut self, broker: &Id, answer: &RetentionAnswer) -> Result<(), DayError> {
        let (_, opened) = self.asked.open(broker, answer)?;
        let part = self.head.parts.iter().find(|part| part.broker == *broker);
        let part = part.ok_or(DayError::UnknownBroker)?;
        let share = PartKey::read(&opened).and_then(|key| key.open(&part.bytes)).ok_or(DayError::Part)?;
        self.asked.answered(broker);
        self.shares.retain(|(name, _)| name != broker);
        self.shares.push((broker.clone(), share));
        Ok(())
    }

    /// The key of the record, sealed to the receiver of the opening with this digest. `None` while parts are missing, or when
    /// the receiver's key is none.
    #[must_use]
    pub fn finish(&self, receiver: &ReceiverKey, opening: &Sha256Digest) -> Option<Vec<u8>> {
        let shares: Vec<&Share> = self.shares.iter().map(|(_, share)| share).collect();
        let shares = shares.get(..usize::from(self.head.needed))?;
        let key = Secret::join(shares)?;
        let receiver = RecipientKey::read(receiver.as_bytes())?;
        seal_to(&receiver, INFO, key.bytes(), &bound(&self.head.digest(), opening))
    }
}

/// The key of the record `record`, that was sealed to `receiver` under the opening `opening`. `None` for every other.
#[must_use]
pub fn open_for_receiver(
    sealed: &[u8],
    receiver: &Recipient,
    record: &Sha256Digest,
    opening: &Sha256Digest,
) -> Option<RecordKey> {
    let key = receiver.open_bytes(INFO, sealed, &bound(record, opening))?;
    Some(Zeroizing::new(key.as_slice().try_into().ok()?))
}

fn bound(record: &Sha256Digest, opening: &Sha256Digest) -> Vec<u8> {
    length_prefixed(&[record.as_bytes(), opening.as_bytes()])
}
