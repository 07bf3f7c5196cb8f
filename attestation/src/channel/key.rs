//! The name of a partner's key.

use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;

use crate::digest::Sha256Digest;

/// SHA-256 of the DER of the `SubjectPublicKeyInfo` (RFC 5280, section 4.1.2.7) in the leaf certificate `der`. Configurations
/// and releases name a key by this digest. `None` when the certificate cannot be read.
#[must_use]
pub fn key_digest(der: &[u8]) -> Option<Sha256Digest> {
    let der = CertificateDer::from(der);
    let leaf = EndEntityCert::try_from(&der).ok()?;
    Some(Sha256Digest::of(&[&leaf.subject_public_key_info()]))
}
