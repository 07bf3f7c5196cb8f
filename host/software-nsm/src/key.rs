//! P-384 signing keys that never leave the cryptographic library, and its random bytes.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _};

use crate::NsmError;

/// A P-384 key pair. The private half lives in aws-lc's memory only, which the library overwrites when it
/// frees it; it is never serialised.
pub(crate) struct Key(EcdsaKeyPair);

impl Key {
    /// A new key whose signatures have the form that `algorithm` says: ASN.1 for certificates, fixed length
    /// for COSE.
    pub(crate) fn generate(algorithm: &'static EcdsaSigningAlgorithm) -> Result<Self, NsmError> {
        EcdsaKeyPair::generate(algorithm).map(Self).map_err(|_| NsmError::Cryptography("making a P-384 key"))
    }

    /// Signs `message`, hashing it with SHA-384.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, NsmError> {
        match self.0.sign(&SystemRandom::new(), message) {
            Ok(signature) => Ok(signature.as_ref().to_vec()),
            Err(_) => Err(NsmError::Cryptography("signing")),
        }
    }
}

impl rcgen::PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P384_SHA384
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Key::sign(self, message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// Fresh random bytes.
pub(crate) fn random<const LENGTH: usize>() -> Result<[u8; LENGTH], NsmError> {
    let mut bytes = [0; LENGTH];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NsmError::Cryptography("reading random bytes"))?;
    Ok(bytes)
}
