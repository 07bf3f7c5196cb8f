//! The reasons to refuse an attestation document.

/// Why some bytes are not an attestation document. Offsets count bytes from the start of the envelope or of the payload,
/// whichever is being read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the fields of an error are what its message says they are")]
pub enum DocumentError {
    /// More bytes than the security module can produce.
    #[error("expected at most {expected} bytes, got {actual}")]
    TooLong { expected: usize, actual: usize },
    /// The bytes end inside an item.
    #[error("expected more bytes at offset {offset}, got the end")]
    Truncated { offset: usize },
    /// A head is longer than its argument needs (RFC 8949 section 4.2.1).
    #[error("expected the shortest head at offset {offset}, got a longer one")]
    NonShortestHead { offset: usize },
    /// A head with a value that RFC 8949 reserves.
    #[error("expected a head that RFC 8949 defines at offset {offset}, got a reserved one")]
    ReservedHead { offset: usize },
    /// A string in chunks.
    #[error("expected a whole string at offset {offset}, got a chunked one")]
    ChunkedString { offset: usize },
    /// An indefinite length anywhere but on the payload's own map.
    #[error("expected a definite length at offset {offset}, got an indefinite one")]
    IndefiniteLength { offset: usize },
    /// An item of another kind than the format has there.
    #[error("expected {expected} for the {item} at offset {offset}, got {actual}")]
    UnexpectedType { item: &'static str, expected: &'static str, actual: &'static str, offset: usize },
    /// A tag that is not `COSE_Sign1`'s.
    #[error("expected no tag or tag 18 (COSE_Sign1), got tag {actual}")]
    Tag { actual: u64 },
    /// The envelope does not have the four parts of a `COSE_Sign1`.
    #[error("expected an envelope of 4 parts, got {actual}")]
    EnvelopeParts { actual: u64 },
    /// The protected header is not exactly `{1: -35}`, the algorithm ES384 (RFC 9053 section 2.1).
    #[error("expected the protected header a1013822, {{1: -35}} for ES384, got {actual}")]
    ProtectedHeader { actual: String },
    /// The unprotected header, which nothing signs, has something in it.
    #[error("expected an empty unprotected header, got {actual} entries")]
    UnprotectedHeader { actual: u64 },
    /// The signature is not two 48-byte integers.
    #[error("expected a signature of 96 bytes, got {actual}")]
    SignatureLength { actual: usize },
    /// Bytes after the envelope.
    #[error("expected the end after the envelope, got {actual} more bytes")]
    TrailingEnvelope { actual: usize },
    /// Bytes after the payload's map.
    #[error("expected the end after the payload, got {actual} more bytes")]
    TrailingPayload { actual: usize },
    /// A field that no attestation document has.
    #[error("expected a field of an attestation document, got {actual:?}")]
    UnknownField { actual: String },
    /// A field that came twice.
    #[error("expected `{field}` once, got it twice")]
    DuplicateField { field: &'static str },
    /// A field that must be there and is not.
    #[error("expected the field `{field}`, got none")]
    MissingField { field: &'static str },
    /// Registers of an enclave and of a `NitroTPM` in one document.
    #[error("expected either `pcrs` or `nitrotpm_pcrs`, got both")]
    BothPcrs,
    /// The module id is not one.
    #[error("expected a module id like i-0123456789abcdef0-enc0123456789abcdef, got {actual:?}")]
    ModuleId { actual: String },
    /// The module id belongs to another kind of platform than the registers.
    #[error("expected a module id with `{expected}` beside these registers, got {actual:?}")]
    ModuleIdKind { expected: &'static str, actual: String },
    /// The registers were computed with another hash.
    #[error("expected the digest SHA384, got {actual:?}")]
    Digest { actual: String },
    /// No registers, or more than there are.
    #[error("expected 1 to 32 registers, got {actual}")]
    PcrCount { actual: u64 },
    /// A register index out of range.
    #[error("expected a register index from 0 to 31, got {actual}")]
    PcrIndex { actual: u64 },
    /// A register that came twice.
    #[error("expected register {index} once, got it twice")]
    DuplicatePcr { index: u64 },
    /// A register that is not a SHA-384 digest.
    #[error("expected 48 bytes in register {index}, got {actual}")]
    PcrLength { index: u64, actual: usize },
    /// The leaf certificate is empty or over AWS's limit.
    #[error("expected a certificate of 1 to {expected} bytes, got {actual}")]
    CertificateLength { expected: usize, actual: usize },
    /// A bundle of no certificates or of more than any chain has.
    #[error("expected a bundle of 1 to {expected} certificates, got {actual}")]
    BundleCount { expected: usize, actual: u64 },
    /// A certificate of the bundle is empty or over AWS's limit.
    #[error("expected certificate {index} of the bundle to have 1 to {expected} bytes, got {actual}")]
    BundleCertificateLength { index: usize, expected: usize, actual: usize },
    /// The public key is longer than a request to the security module.
    #[error("expected a public key of at most {expected} bytes, got {actual}")]
    PublicKeyLength { expected: usize, actual: usize },
    /// The user data is longer than a request to the security module.
    #[error("expected user data of at most {expected} bytes, got {actual}")]
    UserDataLength { expected: usize, actual: usize },
    /// The nonce is longer than a request to the security module.
    #[error("expected a nonce of at most {expected} bytes, got {actual}")]
    NonceLength { expected: usize, actual: usize },
}

impl DocumentError {
    /// The rule that was broken, as a stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "document-too-long",
            Self::Truncated { .. } => "cbor-truncated",
            Self::NonShortestHead { .. } => "cbor-non-shortest-head",
            Self::ReservedHead { .. } => "cbor-reserved-head",
            Self::ChunkedString { .. } => "cbor-chunked-string",
            Self::IndefiniteLength { .. } => "cbor-indefinite-length",
            Self::UnexpectedType { .. } => "cbor-unexpected-type",
            Self::Tag { .. } => "envelope-tag",
            Self::EnvelopeParts { .. } => "envelope-parts",
            Self::ProtectedHeader { .. } => "protected-header",
            Self::UnprotectedHeader { .. } => "unprotected-header",
            Self::SignatureLength { .. } => "signature-length",
            Self::TrailingEnvelope { .. } => "envelope-trailing-bytes",
            Self::TrailingPayload { .. } => "payload-trailing-bytes",
            Self::UnknownField { .. } => "field-unknown",
            Self::DuplicateField { .. } => "field-duplicate",
            Self::MissingField { .. } => "field-missing",
            Self::BothPcrs => "pcrs-ambiguous",
            Self::ModuleId { .. } => "module-id",
            Self::ModuleIdKind { .. } => "module-id-kind",
            Self::Digest { .. } => "digest",
            Self::PcrCount { .. } => "pcr-count",
            Self::PcrIndex { .. } => "pcr-index",
            Self::DuplicatePcr { .. } => "pcr-duplicate",
            Self::PcrLength { .. } => "pcr-length",
            Self::CertificateLength { .. } => "certificate-length",
            Self::BundleCount { .. } => "bundle-count",
            Self::BundleCertificateLength { .. } => "bundle-certificate-length",
            Self::PublicKeyLength { .. } => "public-key-length",
            Self::UserDataLength { .. } => "user-data-length",
            Self::NonceLength { .. } => "nonce-length",
        }
    }
}
