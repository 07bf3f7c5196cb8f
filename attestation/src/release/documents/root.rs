//! The root: whose keys count, for what, and how many of them.

use serde::{Deserialize, Serialize};

use super::envelope::to_json;
use super::error::{ReleaseError, in_range};
use super::fields::{Id, List, first_repeated};
use super::key::PublicKey;
use super::role::Role;
use super::time::UnixMillis;

/// The most keys in one root.
pub const KEYS_LIMIT: usize = 64;
/// The most keys in one role.
pub const ROLE_KEYS_LIMIT: usize = 16;
/// The highest version of anything: 2^53 - 1, the largest whole number that every JSON reader keeps exact.
pub const VERSION_LIMIT: u64 = (1 << 53) - 1;

/// The payload of a root envelope: the authorities' keys and what each may sign. Version 1 is part of the enclave's image and
/// so of its measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// The clean room that all of this is about. Everything signed names it, so that keys which serve two rooms never mix them.
    pub room: Id,
    /// Rises by exactly one with each rotation.
    pub version: u64,
    /// From this moment on nothing is served under this root.
    pub expires: UnixMillis,
    /// Releases below this version are refused. A root that replaces compromised release keys sets it past what they signed.
    pub minimum_release: u64,
    /// Every key that a role names.
    pub keys: List<RootKey, KEYS_LIMIT>,
    /// The documents that the keys may sign.
    pub roles: Roles,
}

/// One key of one authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootKey {
    /// What roles call it.
    pub name: Id,
    /// The organisation that holds it. In each role an authority has at most one key.
    pub authority: Id,
    /// The key: base64 of its `SubjectPublicKeyInfo`.
    pub spki: PublicKey,
}

/// The roles, each with its keys and its threshold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roles {
    /// Signs the next root.
    pub root: RoleRule,
    /// Signs releases.
    pub release: RoleRule,
    /// Signs denials. Its threshold is 1: any one authority can halt.
    pub deny: RoleRule,
    /// Signs leases, online. Its keys are in neither of the first two roles.
    pub lease: RoleRule,
    /// Cosigns the log's checkpoints (C2SP tlog-witness). Signs no envelope; may be empty.
    pub witness: RoleRule,
}

/// The keys of a role and how many of them it takes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleRule {
    /// Distinct keys that must sign; 0 only where there are no keys.
    pub threshold: u64,
    /// Names of keys.
    pub keys: List<Id, ROLE_KEYS_LIMIT>,
}

impl Roles {
    /// The rule of `role`.
    #[must_use]
    pub const fn rule(&self, role: Role) -> &RoleRule {
        match role {
            Role::Root => &self.root,
            Role::Release => &self.release,
            Role::Deny => &self.deny,
            Role::Lease => &self.lease,
            Role::Witness => &self.witness,
        }
    }
}

impl Root {
    /// The keys of `role`.
    pub fn keys_of(&self, role: Role) -> impl Iterator<Item = &RootKey> {
        self.roles.rule(role).keys.iter().filter_map(|name| self.key(name))
    }

    /// The key called `name`.
    #[must_use]
    pub fn key(&self, name: &Id) -> Option<&RootKey> {
        self.keys.iter().find(|key| key.name == *name)
    }

    /// Reads the payload of a root envelope (or a draft of one) and checks every rule that one root alone can break.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] naming the rule.
    pub fn from_payload(payload: &[u8]) -> Result<Self, ReleaseError> {
        let root: Self =
            serde_json::from_slice(payload).map_err(|error| ReleaseError::form("root", &error))?;
        root.check()?;
        Ok(root)
    }

    /// The payload as this project writes it: indented JSON with a final newline.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        to_json(self)
    }

    fn check(&self) -> Result<(), ReleaseError> {
        in_range("version", self.version, 1, VERSION_LIMIT)?;
        in_range("minimum_release", self.minimum_release, 1, VERSION_LIMIT)?;
        if let Some(name) = first_repeated(self.keys.iter().map(|key| &key.name)) {
            return Err(ReleaseError::Repeated { what: "the key name", value: name.to_string() });
        }
        if let Some(spki) = first_repeated(self.keys.iter().map(|key| &key.spki)) {
            return Err(ReleaseError::Repeated { what: "the key", value: spki.to_string() });
        }
        Role::ALL.into_iter().try_for_each(|role| self.check_role(role))?;
        in_range("roles.deny.threshold", self.roles.deny.threshold, 1, 1)?;
        for (role, rule) in [(Role::Root, &self.roles.root), (Role::Release, &self.roles.release)] {
            if let Some(key) = self.roles.lease.keys.iter().find(|key| rule.keys.contains(key)) {
                return Err(ReleaseError::OnlineKey { key: key.to_string(), role });
            }
        }
        Ok(())
    }

    fn check_role(&self, role: Role) -> Result<(), ReleaseError> {
        const FROM: &str = "a role of the root";
        let rule = self.roles.rule(role);
        if let Some(name) = rule.keys.iter().find(|name| self.key(name).is_none()) {
            return Err(ReleaseError::Dangling { from: FROM, what: "the key", value: name.to_string() });
        }
        if let Some(name) = first_repeated(rule.keys.iter()) {
            return Err(ReleaseError::Repeated { what: "in one role the key", value: name.to_string() });
        }
        if let Some(authority) = first_repeated(self.keys_of(role).map(|key| &key.authority)) {
            return Err(ReleaseError::AuthorityTwice { authority: authority.to_string(), role });
        }
        let least = u64::from(role != Role::Witness || !rule.keys.is_empty());
        in_range(role.threshold_name(), rule.threshold, least, rule.keys.len() as u64)
    }

    pub(super) fn check_clean_room(&self, what: &'static str, room: &Id) -> Result<(), ReleaseError> {
        if *room == self.room {
            return Ok(());
        }
        Err(ReleaseError::Room { what, expected: self.room.to_string(), actual: room.to_string() })
    }
}
