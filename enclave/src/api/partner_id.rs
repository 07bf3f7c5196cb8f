//! Who is asking, as the channel proved it.

use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};

/// A partner: SHA-256 over the DER of the `SubjectPublicKeyInfo` (RFC 5280, section 4.1.2.7) of the key that its end of the
/// channel proved. The channel inserts it into the extensions of each request; a request without it is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PartnerId(Sha256Digest);

/// The transcript of the session that a request came on. The channel inserts it as well; release control needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionTranscript(pub Sha384Digest);

impl PartnerId {
    /// The digest of the partner's key.
    pub const fn digest(&self) -> &Sha256Digest {
        &self.0
    }
}

impl From<Sha256Digest> for PartnerId {
    fn from(key: Sha256Digest) -> Self {
        Self(key)
    }
}
