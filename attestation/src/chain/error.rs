//! The reasons to refuse a certificate chain.

use core::fmt;
use core::time::Duration;

use crate::time::Timestamp;

/// Which certificate of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// In the bundle, counted from 0, which is the root.
    Bundle(usize),
    /// The leaf, whose key signs the document.
    Leaf,
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(0) => write!(formatter, "certificate 0 (root)"),
            Self::Bundle(index) => write!(formatter, "certificate {index}"),
            Self::Leaf => write!(formatter, "the leaf certificate"),
        }
    }
}

impl serde::Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bundle(index) => serializer.serialize_u64(*index as u64),
            Self::Leaf => serializer.serialize_str("leaf"),
        }
    }
}

/// Why some bytes are not a certificate of the profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not DER, or not the structure of RFC 5280.
    #[error("expected DER of an X.509 certificate, got something else at {item}")]
    Syntax {
        /// The part that could not be read.
        item: &'static str,
    },
    /// Not version 3.
    #[error("expected X.509 version 3, got another one")]
    Version,
    /// Signed with anything but ECDSA on SHA-384, or the two places that say so differ.
    #[error("expected the signature algorithm ecdsa-with-SHA384, got another one")]
    SignatureAlgorithm,
    /// A time in neither form of RFC 5280, or before 1970.
    #[error("expected a UTCTime or GeneralizedTime in UTC with seconds, got something else")]
    Time,
    /// A key that is not an uncompressed point of P-384.
    #[error("expected an uncompressed P-384 key, got another one")]
    PublicKey,
    /// An extension that came twice.
    #[error("expected the extension {item} once, got it twice")]
    DuplicateExtension {
        /// The extension.
        item: &'static str,
    },
    /// A critical extension that the profile does not know.
    #[error("expected no critical extension beyond the profile, got {actual}")]
    CriticalExtension {
        /// Its object identifier.
        actual: String,
    },
    /// An extended key usage, which restricts the key to purposes of which attestation is none.
    #[error("expected no extended key usage, got one")]
    ExtendedKeyUsage,
    /// Name constraints, which the profile does not have.
    #[error("expected no name constraints, got some")]
    NameConstraints,
}

/// Why some certificates are not a chain to a trusted root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields of an error are what its message says they are")]
pub enum ChainError {
    /// The first certificate is not a root that the policy names.
    #[error("expected a root that the policy trusts ({expected}), got one with SHA-256 {actual}")]
    RootNotTrusted { expected: String, actual: String },
    /// A certificate cannot be read.
    #[error("{position}: {error}")]
    Certificate { position: Position, error: CertificateError },
    /// A certificate above the leaf does not say that it is a CA.
    #[error("{position}: expected basic constraints with CA true, got none or false")]
    NotCa { position: Position },
    /// A certificate has more certificates below it than it allows.
    #[error("{position}: expected at most {expected} intermediate certificates below it, got {actual}")]
    PathLength { position: Position, expected: u8, actual: usize },
    /// A certificate above the leaf may not sign certificates.
    #[error("{position}: expected the key usage keyCertSign, got none or others")]
    MayNotSignCertificates { position: Position },
    /// The leaf says that it is a CA.
    #[error("the leaf certificate: expected CA false, got true")]
    LeafIsCa,
    /// The leaf's key may not sign documents.
    #[error("the leaf certificate: expected the key usage digitalSignature, got none or others")]
    LeafMayNotSign,
    /// The leaf's key may sign certificates.
    #[error("the leaf certificate: expected a key usage without keyCertSign, got keyCertSign")]
    LeafMaySignCertificates,
    /// A certificate names another issuer than the one before it: out of order, missing, or superfluous.
    #[error("{position}: expected the issuer {expected:?}, got {actual:?}")]
    IssuerName { position: Position, expected: String, actual: String },
    /// A certificate below the root, the leaf among them, is issued by itself.
    #[error("{position}: expected another issuer than itself")]
    SelfIssued { position: Position },
    /// A certificate names another issuer key than that of the one before it.
    #[error("{position}: expected the authority key identifier {expected}, got {actual}")]
    AuthorityKey { position: Position, expected: String, actual: String },
    /// A certificate begins further in the future than the policy's `max_skew` allows.
    #[error(
        "{position} begins at {not_before}, more than {} after the verifier's time {at}",
        humantime::format_duration(*.max_skew)
    )]
    NotYetValid { position: Position, not_before: Timestamp, at: Timestamp, max_skew: Duration },
    /// A certificate is not valid any more.
    #[error("{position} ended at {not_after}, before the time of the verification, {at}")]
    Expired { position: Position, not_after: Timestamp, at: Timestamp },
    /// A signature in the chain is not its issuer's.
    #[error("expected every certificate to be signed by the one before it, got another signature")]
    Signature,
    /// `rustls-webpki` does not find the path.
    #[error("expected a valid certification path, got: {reason}")]
    Path { reason: String },
    /// `rustls-webpki` finds another path than the bundle's order.
    #[error("expected the path to be the bundle in its order, got another one")]
    OtherPath,
}

impl ChainError {
    /// The rule that was broken, as a stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::RootNotTrusted { .. } => "root-not-trusted",
            Self::Certificate { error, .. } => error.code(),
            Self::NotCa { .. } => "certificate-not-ca",
            Self::PathLength { .. } => "certificate-path-length",
            Self::MayNotSignCertificates { .. } => "certificate-key-usage",
            Self::LeafIsCa => "leaf-is-ca",
            Self::LeafMayNotSign => "leaf-key-usage",
            Self::LeafMaySignCertificates => "leaf-signs-certificates",
            Self::IssuerName { .. } => "certificate-issuer",
            Self::SelfIssued { .. } => "certificate-self-issued",
            Self::AuthorityKey { .. } => "certificate-authority-key",
            Self::NotYetValid { .. } => "certificate-not-yet-valid",
            Self::Expired { .. } => "certificate-expired",
            Self::Signature => "certificate-signature",
            Self::Path { .. } => "chain-path",
            Self::OtherPath => "chain-other-path",
        }
    }
}

impl CertificateError {
    /// The rule that was broken, as a stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "certificate-syntax",
            Self::Version => "certificate-version",
            Self::SignatureAlgorithm => "certificate-algorithm",
            Self::Time => "certificate-time",
            Self::PublicKey => "certificate-public-key",
            Self::DuplicateExtension { .. } => "certificate-extension-duplicate",
            Self::CriticalExtension { .. } => "certificate-extension-critical",
            Self::ExtendedKeyUsage => "certificate-extended-key-usage",
            Self::NameConstraints => "certificate-name-constraints",
        }
    }
}
