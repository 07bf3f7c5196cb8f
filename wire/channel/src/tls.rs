//! The TLS profile of `cleanroom/1`: TLS 1.3 (RFC 8446), X25519MLKEM768 only, mutual certificates, no resumption, no 0-RTT.
//!
//! Certificates are not judged here. A handshake proves that each end holds the private key of the certificate it showed,
//! and the exchange that follows proves what the enclave's key is worth. Until then nothing may be sent.

use std::sync::Arc;

use cleanroom_attestation::channel::{ALPN, Binder, EXPORTER_LABEL, FinishedKey, Nonce, Role, key_digest};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, ConnectionCommon, DigitallySignedStruct, DistinguishedName, NamedGroup,
    PeerIncompatible, ProtocolVersion, ServerConfig, SignatureScheme,
};
use zeroize::Zeroizing;

use crate::identity::Identity;

/// The only group (draft-ietf-tls-ecdhe-mlkem), code point 0x11EC: classical and post-quantum together.
pub const GROUP: NamedGroup = NamedGroup::X25519MLKEM768;

/// The largest certificate that is looked at, in bytes. Ours are about 400.
pub const MAX_CERTIFICATE_BYTES: usize = 4 * 1024;

/// The signatures that prove possession of a leaf's key.
const SIGNATURE_SCHEMES: [SignatureScheme; 3] = [
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ED25519,
];

/// The enclave's side of the profile.
///
/// # Errors
/// [`rustls::Error`] when the identity's key is not usable.
pub fn server_config(identity: &Identity) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(provider());
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(ProofOfPossession { provider }))
        .with_single_cert(vec![identity.certificate().clone()], identity.private_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

/// The partner's side of the profile.
///
/// # Errors
/// [`rustls::Error`] when the identity's key is not usable.
pub fn client_config(identity: &Identity) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ProofOfPossession { provider }))
        .with_client_auth_cert(vec![identity.certificate().clone()], identity.private_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(config)
}

/// The name that the client's side of rustls asks for. It is never sent (no SNI) and never compared.
#[must_use]
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// What a finished handshake established, as both ends put it into the transcript.
#[derive(Debug, Clone)]
pub struct Established {
    /// The TLS cipher suite's code point.
    pub cipher_suite: u16,
    /// The TLS named group's code point.
    pub group: u16,
    /// SHA-384 of the enclave's leaf certificate.
    pub enclave_leaf: Sha384Digest,
    /// SHA-384 of the partner's leaf certificate.
    pub partner_leaf: Sha384Digest,
    /// SHA-256 of the peer's `SubjectPublicKeyInfo`.
    pub peer_key: Sha256Digest,
}

impl Established {
    /// Reads the facts off a connection, at the end that `own` is and that presented `identity`.
    ///
    /// # Errors
    /// [`ProfileError`] when the connection is not of this profile. rustls has enforced it already; what the transcript
    /// claims is checked where it is claimed.
    pub fn of<Data>(
        connection: &ConnectionCommon<Data>,
        own: Role,
        own_leaf: Sha384Digest,
    ) -> Result<Self, ProfileError> {
        if connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return Err(ProfileError::Version);
        }
        if connection.alpn_protocol() != Some(ALPN) {
            return Err(ProfileError::Alpn);
        }
        let group = connection.negotiated_key_exchange_group().map(SupportedKxGroup::name);
        if group != Some(GROUP) {
            return Err(ProfileError::Group);
        }
        let cipher_suite = connection.negotiated_cipher_suite().ok_or(ProfileError::Unfinished)?.suite();
        let [peer] = connection.peer_certificates().ok_or(ProfileError::Certificate)? else {
            return Err(ProfileError::Certificate);
        };
        let peer_leaf = Sha384Digest::of(&[peer]);
        let (enclave_leaf, partner_leaf) = match own {
            Role::Server => (own_leaf, peer_leaf),
            Role::Client => (peer_leaf, own_leaf),
        };
        Ok(Self {
            cipher_suite: cipher_suite.into(),
            group: GROUP.into(),
            enclave_leaf,
            partner_leaf,
            peer_key: key_digest(peer).ok_or(ProfileError::Certificate)?,
        })
    }
}

/// The binder of this connection for `nonce`.
///
/// # Errors
/// [`ProfileError::Unfinished`] before the handshake is complete.
pub fn binder<Data>(connection: &ConnectionCommon<Data>, nonce: &Nonce) -> Result<Binder, ProfileError> {
    let material: Zeroizing<[u8; Binder::LENGTH]> = export(connection, Role::Server, nonce)?;
    Ok(Binder::from_exported(*material))
}

/// The key of the partner's `Finished` on this connection for `nonce`.
///
/// # Errors
/// [`ProfileError::Unfinished`] before the handshake is complete.
pub fn finished_key<Data>(
    connection: &ConnectionCommon<Data>,
    nonce: &Nonce,
) -> Result<FinishedKey, ProfileError> {
    Ok(FinishedKey::from_exported(&export(connection, Role::Client, nonce)?))
}

fn export<const N: usize, Data>(
    connection: &ConnectionCommon<Data>,
    role: Role,
    nonce: &Nonce,
) -> Result<Zeroizing<[u8; N]>, ProfileError> {
    let mut material = Zeroizing::new([0; N]);
    connection
        .export_keying_material(material.as_mut_slice(), EXPORTER_LABEL, Some(&role.exporter_context(nonce)))
        .map_err(|_| ProfileError::Unfinished)?;
    Ok(material)
}

/// Why a connection cannot carry the exchange.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// The handshake is not complete.
    #[error("the TLS handshake is not complete")]
    Unfinished,
    /// The version is not TLS 1.3.
    #[error("expected TLS 1.3, got another version")]
    Version,
    /// The peer did not agree on the application protocol.
    #[error("expected the application protocol cleanroom/1 (ALPN), the peer did not agree to it")]
    Alpn,
    /// The key exchange is another one.
    #[error("expected the key exchange X25519MLKEM768, got another one")]
    Group,
    /// The peer showed no certificate, several, or one that cannot be read.
    #[error("expected exactly one readable certificate from the peer")]
    Certificate,
}

/// Checks that the peer holds the private key of the one certificate it shows, and nothing else.
#[derive(Debug)]
struct ProofOfPossession {
    provider: Arc<CryptoProvider>,
}

impl ProofOfPossession {
    fn shape(leaf: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if !more.is_empty() || leaf.len() > MAX_CERTIFICATE_BYTES {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        webpki::EndEntityCert::try_from(leaf).map_err(|_| CertificateError::BadEncoding)?;
        Ok(())
    }

    fn signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if !SIGNATURE_SCHEMES.contains(&signature.scheme) {
            return Err(PeerIncompatible::NoSignatureSchemesInCommon.into());
        }
        verify_tls13_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
    }
}

impl ServerCertVerifier for ProofOfPossession {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::shape(end_entity, intermediates)?;
        // The name says what has been shown so far: nothing about whom the key belongs to. The exchange shows that.
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::SupportedVersionsExtensionRequired.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURE_SCHEMES.to_vec()
    }
}

impl ClientCertVerifier for ProofOfPossession {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::shape(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::SupportedVersionsExtensionRequired.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURE_SCHEMES.to_vec()
    }
}
