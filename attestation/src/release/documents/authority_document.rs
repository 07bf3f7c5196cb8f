//! The documents that authorities sign and that an enclave takes.

use super::payload_type::PayloadType;
use crate::channel::MAX_RELEASE_BYTES;

/// A kind of document that authorities sign and that an enclave takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthorityDocument {
    /// The next [`Root`](crate::release::Root).
    Root,
    /// A [`Release`](crate::release::Release).
    Release,
    /// A [`Denial`](crate::release::Denial).
    Denial,
    /// A [`Lease`](crate::release::Lease): the statement of one issuer.
    Lease,
}

impl AuthorityDocument {
    /// The type of its payload.
    #[must_use]
    pub const fn payload_type(self) -> PayloadType {
        match self {
            Self::Root => PayloadType::Root,
            Self::Release => PayloadType::Release,
            Self::Denial => PayloadType::Denial,
            Self::Lease => PayloadType::Lease,
        }
    }

    /// The longest envelope that an enclave takes, in bytes. A release must also fit into a session's evidence.
    #[must_use]
    pub const fn envelope_limit(self) -> usize {
        match self {
            Self::Release => MAX_RELEASE_BYTES,
            Self::Root | Self::Denial | Self::Lease => self.payload_type().envelope_limit(),
        }
    }
}
