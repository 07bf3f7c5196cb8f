//! Trust anchors: root certificates, pinned by the SHA-256 of their DER.

use core::fmt;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::certificate::Certificate;
use super::error::CertificateError;
use crate::digest::Sha256Digest;

/// The root of the partition `aws` ("AWS Nitro Enclaves Root-G1", published by AWS at
/// <https://aws-nitro-enclaves.amazonaws.com/AWS_NitroEnclaves_Root-G1.zip>).
const AWS: [u8; 32] = [
    0x64, 0x1a, 0x03, 0x21, 0xa3, 0xe2, 0x44, 0xef, 0xe4, 0x56, 0x46, 0x31, 0x95, 0xd6, 0x06, 0x31, 0x7e,
    0xd7, 0xcd, 0xcc, 0x3c, 0x17, 0x56, 0xe0, 0x98, 0x93, 0xf3, 0xc6, 0x8f, 0x79, 0xbb, 0x5b,
];

/// The root of the partition `aws-us-gov`, whose own root differs from the commercial one.
const AWS_US_GOV: [u8; 32] = [
    0x20, 0xbc, 0xd3, 0x0a, 0x3e, 0x16, 0x8e, 0xa0, 0x37, 0x89, 0xe1, 0xc4, 0x59, 0x12, 0xbc, 0x12, 0x3c,
    0x4d, 0xe3, 0xc9, 0x77, 0xb8, 0xa6, 0xe1, 0xc1, 0x25, 0xc7, 0x92, 0x9d, 0x66, 0x8b, 0x3b,
];

/// What a root vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Hardware of AWS, under a root that AWS published.
    Production,
    /// Whatever the holder of a development root signed: a simulation, a virtual machine, a test.
    Development,
}

impl Tier {
    /// The word for it in a policy file and in machine-readable verdicts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Development => "development",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A root certificate that a policy trusts. A document never chooses its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustAnchor {
    name: String,
    tier: Tier,
    sha256: Sha256Digest,
}

impl TrustAnchor {
    /// The root that this library knows under `name`: `aws` or `aws-us-gov`.
    #[must_use]
    pub fn built_in(name: &str) -> Option<Self> {
        let sha256 = match name {
            "aws" => AWS,
            "aws-us-gov" => AWS_US_GOV,
            _ => return None,
        };
        let sha256 = Sha256Digest::from_bytes(sha256);
        Some(Self { name: name.to_owned(), tier: Tier::Production, sha256 })
    }

    /// A root that somebody made for development. Whatever it vouches for is marked [`Tier::Development`].
    #[must_use]
    pub fn development(name: impl Into<String>, sha256: Sha256Digest) -> Self {
        Self { name: name.into(), tier: Tier::Development, sha256 }
    }

    /// As [`Self::development`], from the root certificate itself.
    ///
    /// # Errors
    ///
    /// [`AnchorError`] when `pem` is not exactly one certificate of the profile, which could vouch for nothing.
    pub fn development_from_pem(name: impl Into<String>, pem: &[u8]) -> Result<Self, AnchorError> {
        let mut certificates = CertificateDer::pem_slice_iter(pem);
        let Some(Ok(root)) = certificates.next() else { return Err(AnchorError::Pem) };
        if certificates.next().is_some() {
            return Err(AnchorError::Several);
        }
        Certificate::parse(&root)?;
        Ok(Self::development(name, Sha256Digest::of(&[&root])))
    }

    /// What the policy calls the root.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the root vouches for.
    #[must_use]
    pub const fn tier(&self) -> Tier {
        self.tier
    }

    /// The SHA-256 of the root certificate's DER.
    #[must_use]
    pub const fn sha256(&self) -> &Sha256Digest {
        &self.sha256
    }
}

/// Why some PEM is not a root certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    /// There is no certificate in it.
    #[error("expected one well-formed block that begins with -----BEGIN CERTIFICATE-----")]
    Pem,
    /// There is more than one certificate in it.
    #[error("expected one certificate, got several")]
    Several,
    /// The certificate cannot be the root of a document's chain.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}
