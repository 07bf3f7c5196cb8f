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

use backend::signature::ECDSA_P384_SHA384_FIXED;
#[cfg(feature = "aws-lc-rs")]
use backend::signature::ParsedPublicKey;
#[cfg(not(feature = "aws-lc-rs"))]
use backend::signature::UnparsedPublicKey;

/// The bytes of an uncompressed point of P-384 (SEC 1 section 2.3.3): 0x04, then x and y of 48 bytes each.
pub(crate) const P384_POINT_LENGTH: usize = 97;

/// A public key that ES384 signatures are verified with.
///
/// On the backend that can, the point is read and checked once and not at every verification.
#[derive(Clone)]
pub(crate) struct Es384Key {
    #[cfg(feature = "aws-lc-rs")]
    key: ParsedPublicKey,
    #[cfg(not(feature = "aws-lc-rs"))]
    key: UnparsedPublicKey<[u8; P384_POINT_LENGTH]>,
}

impl Es384Key {
    /// The key with this point; `None` when the point is not on the curve. (A backend that cannot tell says so at the first
    /// verification, which then fails.)
    pub(crate) fn new(point: &[u8; P384_POINT_LENGTH]) -> Option<Self> {
        #[cfg(feature = "aws-lc-rs")]
        let key = ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).ok();
        #[cfg(not(feature = "aws-lc-rs"))]
        let key = Some(UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, *point));
        key.map(|key| Self { key })
    }

    /// Whether `signature` over `message` is by this key: r and s, 48 bytes each, big-endian. A high s is as good as a low
    /// one.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; 96]) -> bool {
        #[cfg(feature = "aws-lc-rs")]
        let verified = self.key.verify_sig(message, signature);
        #[cfg(not(feature = "aws-lc-rs"))]
        let verified = self.key.verify(message, signature);
        verified.is_ok()
    }
}

impl core::fmt::Debug for Es384Key {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("Es384Key").finish_non_exhaustive()
    }
}
