//! From signed bytes to a value whose signatures have been counted.

use core::ops::Deref;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::envelope::{Envelope, to_json};
use super::error::ReleaseError;
use super::payload_type::PayloadType;
use super::role::Role;
use super::root::{Root, RootKey};
use crate::digest::Sha256Digest;

/// Keeps [`Payload`] to the four documents of this module.
pub trait Sealed {}

/// A payload that a role signs: [`Release`](crate::release::Release), [`Denial`](crate::release::Denial),
/// [`Lease`](crate::release::Lease) or [`Opening`](crate::release::Opening), and nothing else.
pub trait Payload: Serialize + DeserializeOwned + Sealed {
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

/// A payload that enough distinct keys signed. Only this module makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    value: T,
    envelope: Envelope,
    digest: Sha256Digest,
    signers: Vec<RootKey>,
    /// Where each signer's signature stands in the envelope.
    signatures: Vec<usize>,
}

impl<T> Verified<T> {
    fn new(value: T, envelope: Envelope, counted: Vec<(usize, RootKey)>) -> Self {
        let (signatures, signers) = counted.into_iter().unzip();
        Self { value, digest: envelope.digest(), envelope, signers, signatures }
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

    /// The envelope it came in, with signatures that nobody counted too.
    #[must_use]
    pub const fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The envelope with the signatures of [`Self::signers`] alone: a host cannot make it longer.
    #[must_use]
    pub fn counted_envelope(&self) -> Envelope {
        let ids = self.signers.iter().map(|key| key.spki.id().to_string());
        self.envelope.with_signatures(self.signatures.iter().copied().zip(ids))
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

impl Root {
    /// Reads the first root that somebody trusts: out of the measured image, or pinned by a partner.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] when it is not a root or its own root role did not sign it.
    pub fn open_first(bytes: &[u8]) -> Result<Verified<Self>, ReleaseError> {
        let envelope = Envelope::parse(bytes, PayloadType::Root)?;
        let root = Self::from_payload(envelope.payload())?;
        let counted = root.at_least(root.roles.root.threshold, Role::Root, &envelope)?;
        Ok(Verified::new(root, envelope, counted))
    }

    /// Reads the root that follows on this one: version N+1 of the same room, signed by the root role of both.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] when it is anything else.
    pub fn open_next(&self, bytes: &[u8]) -> Result<Verified<Self>, ReleaseError> {
        let envelope = Envelope::parse(bytes, PayloadType::Root)?;
        // The old quorum first: nothing that it did not sign is read any further.
        self.verify(Role::Root, &envelope)?;
        let next = Self::from_payload(envelope.payload())?;
        self.check_clean_room("root", &next.room)?;
        if next.version < self.version {
            return Err(ReleaseError::Rollback { what: "root", current: self.version, actual: next.version });
        }
        if next.version == self.version {
            return Err(ReleaseError::SameVersionOtherBytes { what: "root", version: next.version });
        }
        if next.version != self.version.saturating_add(1) {
            return Err(ReleaseError::RootSkipped { current: self.version, actual: next.version });
        }
        let counted = next.at_least(next.roles.root.threshold, Role::Root, &envelope)?;
        Ok(Verified::new(next, envelope, counted))
    }

    /// Reads an envelope that a role of this root signs: a [`Release`](crate::release::Release),
    /// [`Denial`](crate::release::Denial), [`Lease`](crate::release::Lease) or [`Opening`](crate::release::Opening).
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] when too few distinct keys signed it, or its payload breaks a rule. Neither time nor version is
    /// judged here.
    pub fn open<P: Payload>(&self, bytes: &[u8]) -> Result<Verified<P>, ReleaseError> {
        self.open_envelope(Envelope::parse(bytes, P::TYPE)?)
    }

    pub(in crate::release) fn open_envelope<P: Payload>(
        &self,
        envelope: Envelope,
    ) -> Result<Verified<P>, ReleaseError> {
        let counted = self.at_least(P::needed(self), P::ROLE, &envelope)?;
        let payload: P = P::from_payload(envelope.payload())?;
        payload.check_against(self)?;
        Ok(Verified::new(payload, envelope, counted))
    }

    /// The distinct keys of `role` that signed `envelope`, when they reach the role's threshold.
    ///
    /// Keys are told apart by value. The `keyid` of a signature is not looked at.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::Threshold`] when they do not.
    pub fn verify(&self, role: Role, envelope: &Envelope) -> Result<Vec<RootKey>, ReleaseError> {
        let counted = self.at_least(self.roles.rule(role).threshold, role, envelope)?;
        Ok(counted.into_iter().map(|(_, key)| key).collect())
    }

    /// The distinct keys of `role` that signed `envelope`, however few: what a ceremony shows between two signers.
    #[must_use]
    pub fn signers_of(&self, role: Role, envelope: &Envelope) -> Vec<&RootKey> {
        self.count(role, envelope).into_iter().map(|(_, key)| key).collect()
    }

    fn at_least(
        &self,
        needed: u64,
        role: Role,
        envelope: &Envelope,
    ) -> Result<Vec<(usize, RootKey)>, ReleaseError> {
        let counted = self.count(role, envelope);
        let needed = usize::try_from(needed).unwrap_or(usize::MAX).max(1);
        if counted.len() < needed {
            let what = envelope.payload_type().name();
            return Err(ReleaseError::Threshold { what, role, needed, valid: counted.len() });
        }
        Ok(counted.into_iter().map(|(place, key)| (place, key.clone())).collect())
    }

    /// Each distinct key of `role` that signed, with the place of its signature in the envelope.
    fn count(&self, role: Role, envelope: &Envelope) -> Vec<(usize, &RootKey)> {
        let mut candidates: Vec<&RootKey> = self.keys_of(role).collect();
        let mut counted: Vec<(usize, &RootKey)> = Vec::new();
        for (place, signature) in envelope.signatures().iter().enumerate() {
            let signed_by =
                candidates.iter().position(|key| key.spki.verifies(envelope.pae(), signature.bytes()));
            if let Some(signer) = signed_by.map(|index| candidates.swap_remove(index)) {
                candidates.retain(|key| key.spki != signer.spki);
                counted.push((place, signer));
            }
        }
        counted
    }
}
