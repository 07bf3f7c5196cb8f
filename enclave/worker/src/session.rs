//! The identity of a request's sender, as the channel proved it.

use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_protocol::SessionTicket;

/// A partner: SHA-256 over the DER of the `SubjectPublicKeyInfo` (RFC 5280, section 4.1.2.7) of the key that the partner's end
/// of the channel proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PartnerId(Sha256Digest);

impl PartnerId {
    /// The digest of the partner's key.
    #[must_use]
    pub const fn digest(&self) -> &Sha256Digest {
        &self.0
    }
}

impl From<Sha256Digest> for PartnerId {
    fn from(key: Sha256Digest) -> Self {
        Self(key)
    }
}

/// The session that a request came on. The server puts it into the extensions of each request, and the API serves no
/// request without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionIdentity {
    /// The partner at the other end.
    pub partner: PartnerId,
    /// The transcript digest that names this session and no other.
    pub transcript: Sha384Digest,
    /// The keeper's proof to itself that it made the evidence of this session.
    pub ticket: [u8; SessionTicket::TICKET_BYTES],
}

impl SessionIdentity {
    /// The session as the keeper is asked about it.
    pub(crate) const fn ticket(&self) -> SessionTicket {
        let Self { partner, transcript, ticket } = *self;
        SessionTicket { transcript, partner: partner.0, ticket }
    }
}
