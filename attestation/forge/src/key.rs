//! Keys of P-384.

use std::sync::Arc;

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    KeyPair as _,
};

/// The order of P-384's group, big-endian.
const ORDER: [u8; 48] =
    *b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\
\xc7\x63\x4d\x81\xf4\x37\x2d\xdf\x58\x1a\x0d\xb2\x48\xb0\xa7\x7a\xec\xec\x19\x6a\xcc\xc5\x29\x73";

/// A key of P-384 that signs with SHA-384.
#[derive(Clone)]
pub struct Key {
    pkcs8: Arc<[u8]>,
    point: Arc<[u8]>,
}

impl Key {
    /// A new key.
    #[must_use]
    pub fn generate() -> Self {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, &SystemRandom::new())
            .expect("the system's random number generator works");
        let pair = pair(&ECDSA_P384_SHA384_ASN1_SIGNING, pkcs8.as_ref());
        Self { point: pair.public_key().as_ref().into(), pkcs8: pkcs8.as_ref().into() }
    }

    /// The uncompressed point, 97 bytes.
    #[must_use]
    pub fn point(&self) -> &[u8] {
        &self.point
    }

    /// The first 20 bytes of the point's SHA-256, as a key identifier.
    #[must_use]
    pub fn identifier(&self) -> Vec<u8> {
        digest::digest(&digest::SHA256, &self.point).as_ref()[..20].to_vec()
    }

    /// A signature as X.509 has it: DER of r and s.
    #[must_use]
    pub fn sign_der(&self, message: &[u8]) -> Vec<u8> {
        self.sign(&ECDSA_P384_SHA384_ASN1_SIGNING, message)
    }

    /// A signature as COSE has it: r and s, 48 bytes each. `high_s` chooses between the two that are equally valid.
    #[must_use]
    pub fn sign_fixed(&self, message: &[u8], high_s: bool) -> Vec<u8> {
        let mut signature = self.sign(&ECDSA_P384_SHA384_FIXED_SIGNING, message);
        let (_, s) = signature.split_at_mut(48);
        let negated = subtract(&ORDER, s);
        if (negated.as_slice() < &*s) != high_s {
            s.copy_from_slice(&negated);
        }
        signature
    }

    fn sign(&self, algorithm: &'static EcdsaSigningAlgorithm, message: &[u8]) -> Vec<u8> {
        let signature = pair(algorithm, &self.pkcs8).sign(&SystemRandom::new(), message);
        signature.expect("a key that was just made signs").as_ref().to_vec()
    }
}

fn pair(algorithm: &'static EcdsaSigningAlgorithm, pkcs8: &[u8]) -> EcdsaKeyPair {
    EcdsaKeyPair::from_pkcs8(algorithm, pkcs8).expect("a key that was just made is read")
}

/// `a - b` of big-endian numbers of the same length, `a` being the greater.
fn subtract(a: &[u8; 48], b: &[u8]) -> Vec<u8> {
    let mut difference = a.to_vec();
    let mut borrow = false;
    for (digit, b) in difference.iter_mut().zip(b).rev() {
        let (first, under) = digit.overflowing_sub(*b);
        let (second, under_again) = first.overflowing_sub(u8::from(borrow));
        *digit = second;
        borrow = under || under_again;
    }
    difference
}
