//! The key that an end of the channel holds, and the certificate that carries it.

use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P384_SHA384, PublicKeyData as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

/// A P-384 key and a self-signed certificate around it.
///
/// The certificate is only a carrier, as TLS needs one: nobody reads its names or dates. The enclave's identity is what the
/// evidence says about the certificate, the partner's is the digest of its public key.
pub struct Identity {
    key: KeyPair,
    certificate: CertificateDer<'static>,
}

impl Identity {
    /// A new key from the system's generator.
    ///
    /// # Errors
    /// [`IdentityError::Generate`] when the generator or the certificate encoder fails.
    pub fn generate() -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).map_err(|_| IdentityError::Generate)?;
        Self::with_key(key)
    }

    /// The identity around a key that was stored as PKCS#8 PEM (RFC 5958, RFC 7468).
    ///
    /// # Errors
    /// [`IdentityError::Key`] when the text is not a P-384 private key.
    pub fn from_pem(pem: &str) -> Result<Self, IdentityError> {
        let key =
            KeyPair::from_pem_and_sign_algo(pem, &PKCS_ECDSA_P384_SHA384).map_err(|_| IdentityError::Key)?;
        Self::with_key(key)
    }

    fn with_key(key: KeyPair) -> Result<Self, IdentityError> {
        let mut params = CertificateParams::new(Vec::new()).map_err(|_| IdentityError::Generate)?;
        params.distinguished_name = DistinguishedName::new();
        let certificate = params.self_signed(&key).map_err(|_| IdentityError::Generate)?.der().clone();
        Ok(Self { key, certificate })
    }

    /// The private key as PKCS#8 PEM, for storing it.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.key.serialize_pem())
    }

    /// The certificate that TLS presents.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// SHA-384 of the certificate's DER, as the transcript has it.
    #[must_use]
    pub fn leaf_digest(&self) -> Sha384Digest {
        Sha384Digest::of(&[&self.certificate])
    }

    /// SHA-256 of the DER of the key's `SubjectPublicKeyInfo`: how a key is named in configurations and releases.
    #[must_use]
    pub fn key_digest(&self) -> Sha256Digest {
        Sha256Digest::of(&[&self.key.subject_public_key_info()])
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}

/// Why there is no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// A key or its certificate could not be made.
    #[error("could not make a P-384 key and its certificate")]
    Generate,
    /// The stored key is not usable.
    #[error("expected a P-384 private key as PKCS#8 PEM; make one with `cleanroom key new`")]
    Key,
}
