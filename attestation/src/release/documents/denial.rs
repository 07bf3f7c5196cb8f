//! Denials: one authority halts a model, a partner, or the partners with an attribute.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::attribute::Attribute;
use super::error::ReleaseError;
use super::fields::{Id, Label};
use super::payload_type::PayloadType;
use super::role::Role;
use super::root::Root;
use super::verified::{Payload, Sealed};
use crate::digest::Sha256Digest;

/// The payload of a denial envelope. It stays in force until a release lists its digest in `supersedes_denials`.
///
/// Its digest says everything about it: two denials with one digest are one denial. Nobody but a deny key says what it halts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denial {
    /// The clean room.
    pub room: Id,
    /// The target that is halted.
    pub halt: Target,
    /// Why, for people.
    pub reason: Label,
    /// 32 random bytes, so that a second halt of the same target is another denial than the one that was lifted.
    pub serial: Sha256Digest,
}

/// The target of a denial.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// A model, for every partner.
    Model(Id),
    /// A partner, for every model.
    Partner(Id),
    /// Every partner to whom the release gives this attribute, for every model.
    Attribute(Attribute),
}

impl Target {
    /// The target as a part of a sentence: "the model demo".
    #[must_use]
    pub fn in_words(&self) -> String {
        match self {
            Self::Model(id) => format!("the model {id}"),
            Self::Partner(id) => format!("the partner {id}"),
            Self::Attribute(attribute) => format!("the partners with {attribute}"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(id) => write!(formatter, "model:{id}"),
            Self::Partner(id) => write!(formatter, "partner:{id}"),
            Self::Attribute(attribute) => write!(formatter, "attribute:{attribute}"),
        }
    }
}

impl Sealed for Denial {}

impl Payload for Denial {
    const TYPE: PayloadType = PayloadType::Denial;
    const ROLE: Role = Role::Deny;

    fn check(&self) -> Result<(), ReleaseError> {
        Ok(())
    }

    fn check_against(&self, root: &Root) -> Result<(), ReleaseError> {
        root.check_clean_room("denial", &self.room)
    }
}
