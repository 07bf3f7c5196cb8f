//! The certificate that signed an image, for people.

use cleanroom_attestation::measurement::SigningCertificate;
use cleanroom_attestation::time::Timestamp;

use crate::output::{Listing, printable};

/// Everything that people ask about a signer.
pub(crate) fn fields(listing: &mut Listing, certificate: &SigningCertificate, now: Timestamp) {
    listing.field("subject", printable(&certificate.subject));
    listing.field("issuer", printable(&certificate.issuer));
    listing.field("valid", validity(certificate, now));
    listing.field("key", certificate.curve.to_string());
    listing.field("SHA-256", certificate.sha256.to_string());
    listing.field("SHA-384", certificate.sha384.to_string());
    listing.note("A name in a certificate is its maker's own account. PCR8 pins this one certificate.");
}

/// When the certificate is in force, and whether it is now.
pub(super) fn validity(certificate: &SigningCertificate, now: Timestamp) -> String {
    let Some((first, last)) = certificate.validity else {
        return "the certificate does not say when in a way that RFC 5280 has".to_owned();
    };
    let window = format!("from {first} to {last}");
    if now.as_seconds() > last.as_seconds() {
        format!("{window}\nEXPIRED: Nitro starts no image whose certificate has expired")
    } else if now.as_seconds() < first.as_seconds() {
        format!("{window}\nNOT YET VALID: Nitro starts the image from then on")
    } else {
        window
    }
}
