//! From signed bytes to a value whose signatures have been counted.

use core::ops::Deref;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::envelope::{Envelope, PayloadType, to_json};
use super::error::ReleaseError;
use super::root::{Role, Root, RootKey};
use crate::digest::Sha256Digest;

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::release::Release {}
    impl Sealed for crate::release::Denial {}
    impl Sealed for crate::release::Lease {}
}

/// A payload that a role signs. Implemented by [`super::Release`], [`super::Denial`] and [`super::Lease`] and by nothing else.
pub trait Payload: Serialize + DeserializeOwned + sealed::Sealed {
    /// What its envelope says it is.
    const TYPE: PayloadType;
    /// Whose keys count.
    const ROLE: Role;

    /// How many distinct keys must have signed one envelope: the role's threshold.
    #[must_use]
    fn needed(root: &Root) -> u64 {
        root.roles.rule(Self::ROLE).threshold
    }

    /// Checks every rule that needs no other document.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] naming the rule.
    fn check(&self) -> Result<(), ReleaseError>;

    /// Checks every rule that needs the root.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] naming the rule.
    fn check_against(&self, root: &Root) -> Result<(), ReleaseError>;

    /// Reads a payload (or a draft of one), **unverified**, and checks it as [`Self::check`] does.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] naming the rule.
    fn from_payload(payload: &[u8]) -> Result<Self, ReleaseError> {
        let value: Self =
            serde_json::from_slice(payload).map_err(|error| ReleaseError::form(Self::TYPE.name(), &error))?;
        value.check()?;
        Ok(value)
    }

    /// The payload as this project writes it: indented JSON with a final newline.
    #[must_use]
    fn to_payload(&self) -> Vec<u8> {
        to_json(self)
    }
}

impl Root {
    /// The payload as this project writes it: indented JSON with a final newline.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        to_json(self)
    }
}

/// A payload that enough distinct keys signed. Only this module makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    value: T,
    envelope: Envelope,
    digest: Sha256Digest,
    signers: Vec<RootKey>,
}

impl<T> Verified<T> {
    pub(super) fn new(value: T, envelope: Envelope, signers: Vec<RootKey>) -> Self {
        Self { value, digest: envelope.digest(), envelope, signers }
    }

    /// SHA-256 of the payload's bytes.
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// The distinct keys that signed.
    #[must_use]
    pub fn signers(&self) -> &[RootKey] {
        &self.signers
    }

    /// The envelope it came in.
    #[must_use]
    pub const fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The payload alone.
    #[must_use]
    pub fn into_value(self) -> T {
        self.value
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}
