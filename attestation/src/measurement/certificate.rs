//! The certificate in a signature section: enough X.509 to name it, to measure it and to verify with its key.
//!
//! It is commonly self-signed, and made by `openssl x509 -req`, which writes version 1. No path leads from it anywhere:
//! PCR8 pins it whole. So it is read here and not by a path validator, which refuses version 1.

use core::fmt;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Serialize;

use super::error::SignatureError;
use super::registers::extended_once;
use crate::chain::certificate::window;
use crate::chain::der::{Malformed, Reader, tag};
use crate::chain::name;
use crate::digest::{Sha256Digest, Sha384Digest};
use crate::time::Timestamp;

/// The certificate that signed an image.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SigningCertificate {
    /// SHA-384 of its DER. PCR8 is this digest, extended once.
    pub sha384: Sha384Digest,
    /// SHA-256 of its DER: the fingerprint that other tools show.
    pub sha256: Sha256Digest,
    /// Whom it names, for people. Anybody can write any name into a certificate; PCR8 pins the certificate whole.
    pub subject: String,
    /// Who signed it, by its own account.
    pub issuer: String,
    /// The curve of its key.
    pub curve: Curve,
    /// When it begins and ends to be valid; `None` if that is not written as RFC 5280 has it. Nitro refuses to start an
    /// image outside of it; no measurement depends on it.
    pub validity: Option<(Timestamp, Timestamp)>,
    /// Its DER.
    #[serde(skip)]
    der: Vec<u8>,
    /// The key as an uncompressed point.
    #[serde(skip)]
    public_key: Vec<u8>,
}

/// A curve of the keys that sign images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Curve {
    /// NIST P-256, signed with ES256.
    #[serde(rename = "P-256")]
    P256,
    /// NIST P-384, signed with ES384.
    #[serde(rename = "P-384")]
    P384,
    /// NIST P-521, signed with ES512.
    #[serde(rename = "P-521")]
    P521,
}

impl Curve {
    /// The COSE algorithm of this curve (RFC 9053, section 2.1).
    pub(super) const fn cose_algorithm(self) -> i64 {
        match self {
            Self::P256 => -7,
            Self::P384 => -35,
            Self::P521 => -36,
        }
    }

    /// Length of a number of the curve's field, bytes.
    pub(super) const fn field_length(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// `AlgorithmIdentifier` contents of a key on this curve (RFC 5480): id-ecPublicKey and the curve's OID.
    pub(super) const fn algorithm_identifier(self) -> &'static [u8] {
        match self {
            Self::P256 => b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
            Self::P384 => b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22",
            Self::P521 => b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23",
        }
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        })
    }
}

impl SigningCertificate {
    /// The first certificate in `pem`, as AWS's tools take it.
    ///
    /// # Errors
    ///
    /// [`SignatureError`] when the first block is not a certificate with a key that signs images.
    pub fn from_pem(pem: &[u8]) -> Result<Self, SignatureError> {
        // Other programs also take blocks with older labels. Whatever comes first must be what everybody takes.
        let first = pem.windows(OPENING.len()).position(|window| window == OPENING);
        let first = first.and_then(|start| pem.get(start..)).unwrap_or_default();
        if !first.starts_with(b"-----BEGIN CERTIFICATE-----") {
            return Err(SignatureError::Certificate { problem: "the first PEM block is not a certificate" });
        }
        let certificate = CertificateDer::from_pem_slice(pem)
            .map_err(|_| SignatureError::Certificate { problem: "the PEM block is not well formed" })?;
        Self::from_der(certificate.as_ref())
    }

    /// The certificate with this DER.
    ///
    /// # Errors
    ///
    /// [`SignatureError`] when it is not one, or its key signs no images.
    pub fn from_der(der: &[u8]) -> Result<Self, SignatureError> {
        let Parts { issuer, validity, subject, key_info } = Parts::read(der).map_err(|Malformed| {
            SignatureError::Certificate { problem: "its contents are not a certificate in DER" }
        })?;
        let (curve, public_key) = elliptic_key(key_info).ok_or(SignatureError::KeyType)?;
        Ok(Self {
            sha384: Sha384Digest::of(&[der]),
            sha256: Sha256Digest::of(&[der]),
            subject: name::text(subject),
            issuer: name::text(issuer),
            curve,
            validity: window(validity).ok().map(|window| (window.not_before, window.not_after)),
            der: der.to_vec(),
            public_key: public_key.to_vec(),
        })
    }

    /// PCR8 of an enclave whose image this certificate signed.
    #[must_use]
    pub fn pcr8(&self) -> Sha384Digest {
        extended_once(self.sha384.as_bytes())
    }

    /// Its DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    pub(super) const fn curve(&self) -> Curve {
        self.curve
    }

    pub(super) fn public_key(&self) -> &[u8] {
        &self.public_key
    }
}

impl fmt::Debug for SigningCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SigningCertificate")
            .field("sha256", &self.sha256)
            .field("curve", &self.curve)
            .finish_non_exhaustive()
    }
}

/// What every PEM block begins with.
const OPENING: &[u8] = b"-----BEGIN";

/// The parts of a certificate (RFC 5280, section 4.1) that this reader looks at.
///
/// Every element on the way there, and the three at the outermost level, must be in DER: of an encoding with two forms, PCR8
/// would depend on who re-encodes it.
struct Parts<'a> {
    /// The issuer's name, with tag and length.
    issuer: &'a [u8],
    validity: Reader<'a>,
    /// The subject's name, with tag and length.
    subject: &'a [u8],
    key_info: Reader<'a>,
}

impl<'a> Parts<'a> {
    fn read(certificate: &'a [u8]) -> Result<Self, Malformed> {
        let mut file = Reader::new(certificate);
        let mut outer = file.sequence()?;
        file.finish()?;
        let mut fields = outer.sequence()?;
        let _signature_algorithm = outer.sequence()?;
        let _signature = outer.expect(tag::BIT_STRING)?;
        outer.finish()?;

        let _version = fields.optional(tag::context(0))?;
        let _serial = fields.expect(tag::INTEGER)?;
        let _signature_algorithm = fields.sequence()?;
        let issuer = fields.whole(tag::SEQUENCE)?;
        let validity = fields.sequence()?;
        let subject = fields.whole(tag::SEQUENCE)?;
        Ok(Self { issuer, validity, subject, key_info: fields.sequence()? })
    }
}

/// Curve and uncompressed point of a key, if it is on a curve that signs images.
fn elliptic_key(mut key_info: Reader<'_>) -> Option<(Curve, &[u8])> {
    let algorithm = key_info.expect(tag::SEQUENCE).ok()?;
    let bits = key_info.expect(tag::BIT_STRING).ok()?;
    key_info.finish().ok()?;
    let curve = [Curve::P256, Curve::P384, Curve::P521]
        .into_iter()
        .find(|curve| curve.algorithm_identifier() == algorithm)?;
    let (unused_bits, point) = bits.split_first()?;
    (*unused_bits == 0).then_some((curve, point))
}
