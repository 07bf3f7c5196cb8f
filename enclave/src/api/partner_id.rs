//! Who is asking, as the channel proved it.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};

/// A partner: SHA-256 over the DER of the `SubjectPublicKeyInfo` (RFC 5280, section 4.1.2.7) of the key that its end of the
/// channel proved. The channel inserts it into the extensions of each request; a request without it is not served.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PartnerId([u8; 32]);

impl PartnerId {
    /// From the DER of a `SubjectPublicKeyInfo`.
    pub fn from_spki_der(spki: &[u8]) -> Self {
        let mut id = [0; 32];
        // SHA-256 has 32 bytes; zip keeps that fact out of the ways a panic could be reached.
        for (to, from) in id.iter_mut().zip(digest(&SHA256, spki).as_ref()) {
            *to = *from;
        }
        Self(id)
    }

    /// From a digest computed elsewhere.
    pub const fn from_digest(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The digest, 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PartnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PartnerId({self})")
    }
}

/// Lower-case hexadecimal, 64 digits.
impl fmt::Display for PartnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_sha256_of_the_key() {
        // FIPS 180-4 example: SHA-256 of "abc".
        let id = PartnerId::from_spki_der(b"abc");
        assert_eq!(id.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(PartnerId::from_digest(*id.as_bytes()), id);
    }
}
