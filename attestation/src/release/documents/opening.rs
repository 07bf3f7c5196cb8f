//! Openings: a quorum of authorities gives one record to one receiver, for one reason.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::ReleaseError;
use super::fields::{Id, Label, from_text};
use super::payload_type::PayloadType;
use super::retention::{Day, Retention};
use super::role::Role;
use super::root::Root;
use super::time::UnixMillis;
use super::verified::{Payload, Sealed};
use crate::digest::Sha256Digest;

/// The longest time in milliseconds that an opening may still be valid when it is used: seven days.
pub const OPENING_VALID_MS: u64 = 7 * 86_400_000;

/// The payload of an opening's envelope. As many authorities sign it as sign a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// The clean room.
    pub room: Id,
    /// The record: SHA-256 over its head.
    pub record: Sha256Digest,
    /// The day of the record.
    pub day: Day,
    /// SHA-256 over the key of the partner whose exchange it is.
    pub partner: Sha256Digest,
    /// The code of the reason. The release lists those that count.
    pub reason: Id,
    /// The reason in words. The partner sees both.
    pub text: Label,
    /// The public HPKE key of the receiver, whose digest the release lists.
    pub receiver: ReceiverKey,
    /// From this moment on it opens nothing.
    pub expires: UnixMillis,
    /// 32 random bytes, so that a second opening of the same record is another document.
    pub serial: Sha256Digest,
}

/// What an enclave or a broker knows of the record that is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordFacts {
    /// SHA-256 over its head.
    pub record: Sha256Digest,
    /// Its day.
    pub day: Day,
    /// SHA-256 over the key of its partner.
    pub partner: Sha256Digest,
}

/// Why an opening opens nothing. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpeningRefusal {
    /// Its time is over.
    #[error("the opening has expired; the authorities have to sign another")]
    Expired,
    /// It would be valid for longer than an opening may.
    #[error("the opening is valid for more than 7 days; the authorities have to sign a shorter one")]
    TooLong,
    /// It names another record, or says something else about it than is so.
    #[error("the opening is for another record, day or partner than the record that came with it")]
    Record,
    /// The release does not list the reason.
    #[error("the release does not list this reason")]
    Reason,
    /// The release does not list the receiver.
    #[error("the release does not list this receiver")]
    Receiver,
}

impl OpeningRefusal {
    /// The stable code of the reason.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Expired => "opening-expired",
            Self::TooLong => "opening-too-long",
            Self::Record => "opening-record",
            Self::Reason => "opening-reason",
            Self::Receiver => "opening-receiver",
        }
    }
}

impl Opening {
    /// Whether this opening opens the record of these facts now, under the rule of the release.
    ///
    /// # Errors
    /// [`OpeningRefusal`].
    pub fn check_use(
        &self,
        rule: &Retention,
        facts: &RecordFacts,
        now: UnixMillis,
    ) -> Result<(), OpeningRefusal> {
        let Self { room: _, record, day, partner, reason, text: _, receiver, expires, serial: _ } = self;
        if now >= *expires {
            return Err(OpeningRefusal::Expired);
        }
        if expires.0.saturating_sub(now.0) > OPENING_VALID_MS {
            return Err(OpeningRefusal::TooLong);
        }
        if *facts != (RecordFacts { record: *record, day: *day, partner: *partner }) {
            return Err(OpeningRefusal::Record);
        }
        if !rule.opening.reasons.contains(reason) {
            return Err(OpeningRefusal::Reason);
        }
        let receiver = receiver.digest();
        if !rule.opening.receivers.iter().any(|listed| listed.sha256 == receiver) {
            return Err(OpeningRefusal::Receiver);
        }
        Ok(())
    }
}

impl Sealed for Opening {}

impl Payload for Opening {
    const TYPE: PayloadType = PayloadType::Opening;
    const ROLE: Role = Role::Release;

    fn check(&self) -> Result<(), ReleaseError> {
        Ok(())
    }

    fn check_against(&self, root: &Root) -> Result<(), ReleaseError> {
        root.check_clean_room("opening", &self.room)
    }
}

/// The public HPKE key of a receiver: 1216 bytes, in base64. Whether it is a key shows when something is sealed to it.
#[derive(Clone, PartialEq, Eq)]
pub struct ReceiverKey(Box<[u8]>);

/// Some bytes are not a [`ReceiverKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the public key of a receiver: {} bytes in base64", ReceiverKey::LENGTH)]
pub struct ReceiverKeyError;

impl ReceiverKey {
    /// The length in bytes.
    pub const LENGTH: usize = 1216;

    /// A key of these bytes.
    ///
    /// # Errors
    /// [`ReceiverKeyError`] when there are more or fewer.
    pub fn new(bytes: &[u8]) -> Result<Self, ReceiverKeyError> {
        if bytes.len() == Self::LENGTH { Ok(Self(bytes.into())) } else { Err(ReceiverKeyError) }
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// SHA-256 over the bytes, as a release lists it.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&[&self.0])
    }
}

impl FromStr for ReceiverKey {
    type Err = ReceiverKeyError;

    fn from_str(text: &str) -> Result<Self, ReceiverKeyError> {
        if text.len() > Self::LENGTH.div_ceil(3) * 4 {
            return Err(ReceiverKeyError);
        }
        Self::new(&STANDARD.decode(text).map_err(|_| ReceiverKeyError)?)
    }
}

impl fmt::Display for ReceiverKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&STANDARD.encode(&self.0))
    }
}

impl fmt::Debug for ReceiverKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ReceiverKey({})", self.digest())
    }
}

impl Serialize for ReceiverKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ReceiverKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "the base64 of a receiver's public key")
    }
}
