//! The roles that a root gives to keys.

use core::fmt;

use serde::Serialize;

/// The right of a key to sign a kind of document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The next root.
    Root,
    /// Releases.
    Release,
    /// Denials.
    Deny,
    /// Leases.
    Lease,
    /// Checkpoints of the log.
    Witness,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Root, Self::Release, Self::Deny, Self::Lease, Self::Witness];

    /// The role's name, as it stands in a root.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Release => "release",
            Self::Deny => "deny",
            Self::Lease => "lease",
            Self::Witness => "witness",
        }
    }

    pub(super) const fn threshold_name(self) -> &'static str {
        match self {
            Self::Root => "roles.root.threshold",
            Self::Release => "roles.release.threshold",
            Self::Deny => "roles.deny.threshold",
            Self::Lease => "roles.lease.threshold",
            Self::Witness => "roles.witness.threshold",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
