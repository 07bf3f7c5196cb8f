//! The cryptographic backend, chosen by feature. Both crates offer the same interface, so one alias serves both and the rest
//! of the crate does not know which one it runs on.

#[cfg(feature = "aws-lc-rs")]
pub(crate) use aws_lc_rs as backend;
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
pub(crate) use ring as backend;

#[cfg(feature = "aws-lc-rs")]
pub(crate) use webpki::aws_lc_rs::ECDSA_P384_SHA384 as CERTIFICATE_ALGORITHM;
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
pub(crate) use webpki::ring::ECDSA_P384_SHA384 as CERTIFICATE_ALGORITHM;

use backend::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};

/// Whether `signature` (r and s, 48 bytes each, big-endian; a high s is as good as a low one) over `message` is by the
/// P-384 key `public_key` (an uncompressed point).
pub(crate) fn es384_is_valid(public_key: &[u8], message: &[u8], signature: &[u8; 96]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, public_key).verify(message, signature).is_ok()
}
