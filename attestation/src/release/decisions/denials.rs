//! The denials that were handed in with a good signature: the only ones that have any effect.

use std::collections::{BTreeMap, HashSet};

use super::accepted::Accepted;
use crate::digest::Sha256Digest;
use crate::release::documents::{
    Denial, PublicKey, ROLE_KEYS_LIMIT, ReleaseError, SUPERSEDED_LIMIT, Target, Verified,
};

/// The most denials of one deny key that are in force, which means: not lifted by the newest release.
///
/// A root has at most 16 deny keys. So at most 4,096 denials are in force, and one release can lift all of them.
pub const DENIALS_PER_KEY: usize = 256;

/// The most denials that an enclave holds: those in force, and those that its release lifts.
pub const DENIALS_LIMIT: usize = DENIALS_PER_KEY * ROLE_KEYS_LIMIT + SUPERSEDED_LIMIT;

/// Denials by the SHA-256 of their payload. What a denial halts is read from the bytes that a deny key signed, and from nothing
/// else.
///
/// A denial that the newest release lifts is kept, and does not count towards [`DENIALS_PER_KEY`]. A release lists at most 4,096
/// digests. So this map never takes one more than [`DENIALS_LIMIT`].
#[derive(Debug, Clone)]
pub(super) struct Denials(BTreeMap<Sha256Digest, Held>);

/// What is kept of a denial.
#[derive(Debug, Clone)]
struct Held {
    halt: Target,
    /// The deny keys of the current root that signed it. Empty once the last of them has left the root.
    signers: Vec<PublicKey>,
}

impl Denials {
    pub(super) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Keeps a denial. Signatures of one payload that come one after the other add up.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::TooManyDenials`] when each of its signers has [`DENIALS_PER_KEY`] in force.
    pub(super) fn accept(
        &mut self,
        denial: &Verified<Denial>,
        lifted: &HashSet<Sha256Digest>,
    ) -> Result<Accepted, ReleaseError> {
        let signers = denial.signers().iter().map(|key| key.spki.clone());
        if let Some(held) = self.0.get_mut(&denial.digest()) {
            for signer in signers {
                if !held.signers.contains(&signer) {
                    held.signers.push(signer);
                }
            }
            return Ok(Accepted::Known);
        }
        let signers: Vec<PublicKey> = signers.collect();
        let has_room = |key: &PublicKey| {
            self.in_force(lifted).filter(|(_, held)| held.signers.contains(key)).count() < DENIALS_PER_KEY
        };
        if !lifted.contains(&denial.digest()) && !signers.iter().any(has_room) {
            return Err(ReleaseError::TooManyDenials { limit: DENIALS_PER_KEY });
        }
        self.0.insert(denial.digest(), Held { halt: denial.halt.clone(), signers });
        Ok(Accepted::New)
    }

    /// Whether the denial with this digest was handed in.
    pub(super) fn contains(&self, digest: &Sha256Digest) -> bool {
        self.0.contains_key(digest)
    }

    /// Whether a deny key of the current root signed the denial with this digest.
    pub(super) fn is_signed(&self, digest: &Sha256Digest) -> bool {
        self.0.get(digest).is_some_and(|held| !held.signers.is_empty())
    }

    /// How many there are, lifted ones too.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What is halted by the denials that a release with these `lifted` ones leaves in force.
    pub(super) fn halted(
        &self,
        lifted: &HashSet<Sha256Digest>,
    ) -> impl Iterator<Item = (&Sha256Digest, &Target)> {
        self.in_force(lifted).map(|(digest, held)| (digest, &held.halt))
    }

    /// For each target that is halted, one denial that a deny key of the current root signed; `None` where no such key did.
    pub(super) fn by_target(
        &self,
        lifted: &HashSet<Sha256Digest>,
    ) -> BTreeMap<&Target, Option<Sha256Digest>> {
        let mut targets = BTreeMap::new();
        for (digest, held) in self.in_force(lifted) {
            let chosen: &mut Option<Sha256Digest> = targets.entry(&held.halt).or_default();
            if chosen.is_none() && !held.signers.is_empty() {
                *chosen = Some(*digest);
            }
        }
        targets
    }

    /// Forgets the signatures of keys that are no deny keys any more. What such a denial halts stays halted until
    /// [`Self::drop_unsigned`].
    pub(super) fn keep_signers(&mut self, deny: &[&PublicKey]) {
        for held in self.0.values_mut() {
            held.signers.retain(|signer| deny.contains(&signer));
        }
    }

    /// Drops the denials that no deny key of the current root signed. Whether there were any.
    pub(super) fn drop_unsigned(&mut self) -> bool {
        let before = self.0.len();
        self.0.retain(|_, held| !held.signers.is_empty());
        self.0.len() < before
    }

    fn in_force(&self, lifted: &HashSet<Sha256Digest>) -> impl Iterator<Item = (&Sha256Digest, &Held)> {
        self.0.iter().filter(|(digest, _)| !lifted.contains(*digest))
    }
}
