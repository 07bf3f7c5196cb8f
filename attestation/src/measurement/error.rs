//! Why an image is refused. Each rule has a stable code, so that a test, a script or another implementation can name it.

use super::section::SectionKind;
use crate::digest::Sha384Digest;

/// Why a file is not an enclave image that can be measured. Nothing is reported about a refused image: no PCR, no field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file does not begin with `.eif`.
    #[error(
        "this is not an enclave image: expected the bytes 2e656966 (\".eif\") at its start, got {}",
        hex::encode(actual)
    )]
    Magic {
        /// The file's first four bytes.
        actual: [u8; 4],
    },
    /// A format version that AWS has not published.
    #[error(
        "expected an image of format version 2, 3 or 4, got {actual}; rebuild it with a current nitro-cli"
    )]
    Version {
        /// The header's version field.
        actual: u16,
    },
    /// Bits that the format reserves are set. They are in no PCR, so a strict reader lets nothing hide there.
    #[error("expected zero in the reserved bits of {field}, got {actual:#x}")]
    Reserved {
        /// Which field.
        field: &'static str,
        /// Its value.
        actual: u64,
    },
    /// The header gives the enclave `PCIe` devices. The hypervisor then includes these flags in PCR 0, in a way that AWS has not
    /// published.
    #[error(
        "the header has the flags {actual:#06x}, which give the enclave PCIe devices: the hypervisor includes them in PCR 0, AWS has \
         not published how, and so no PCR 0 can be computed here; take it from the tool that built the image, or build the \
         image without these flags"
    )]
    PcieFlags {
        /// The header's flags.
        actual: u16,
    },
    /// The count of sections is outside the format's limits.
    #[error("expected 2 to 32 sections, got {actual}")]
    SectionCount {
        /// The header's count.
        actual: u16,
    },
    /// A section does not begin where the one before it ends.
    #[error(
        "expected section {index} to begin at byte {expected}, the header says {actual}: sections follow each other without gaps"
    )]
    SectionOffset {
        /// Index of the section, from 0.
        index: usize,
        /// Where the section before it ends.
        expected: u64,
        /// The header's offset.
        actual: u64,
    },
    /// The sections together are longer than 2^64 − 1 bytes.
    #[error("section {index} ends beyond 2^64 bytes: its length in the header is {length}")]
    SectionOverflow {
        /// Index of the section, from 0.
        index: usize,
        /// The header's length.
        length: u64,
    },
    /// An entry of the section table beyond the count of sections is in use.
    #[error("expected zeros in entry {index} of the section table, which has {count} sections")]
    UnusedEntry {
        /// Index of the entry, from 0.
        index: usize,
        /// The header's count of sections.
        count: usize,
    },
    /// The length in the section's own header differs from the table in the file's header.
    #[error(
        "section {index} says it is {actual} bytes long, the file's header says {expected}; a known cause is an image that was \
         signed twice, because nitro-cli does not correct the table: build it anew and sign it once"
    )]
    SectionLength {
        /// Index of the section, from 0.
        index: usize,
        /// Length in the file's header, bytes.
        expected: u64,
        /// Length in the section's header, bytes.
        actual: u64,
    },
    /// A section type that the format does not define.
    #[error("expected a section type from 1 to 5 in section {index}, got {actual}")]
    UnknownSection {
        /// Index of the section, from 0.
        index: usize,
        /// Its type.
        actual: u16,
    },
    /// A section type that the image's format version does not have.
    #[error("a {kind} section needs a later format than version {version}")]
    SectionNotInVersion {
        /// The type of section.
        kind: SectionKind,
        /// The image's format version.
        version: u16,
    },
    /// A second section of a type that may occur once.
    #[error("expected one {kind} section, section {index} is another")]
    DuplicateSection {
        /// Index of the second, from 0.
        index: usize,
        /// The type of section.
        kind: SectionKind,
    },
    /// A section that must be there is not.
    #[error("expected a {kind} section, the image has none")]
    MissingSection {
        /// The type of section.
        kind: SectionKind,
    },
    /// A ramdisk stands before the kernel.
    #[error(
        "expected the kernel before every ramdisk, section {index} is a ramdisk and no kernel came before it"
    )]
    RamdiskBeforeKernel {
        /// Index of the ramdisk's section, from 0.
        index: usize,
    },
    /// A section that is read into memory is longer than the reader allows.
    #[error("expected at most {limit} bytes in the {kind} section, its header says {actual}")]
    SectionTooLong {
        /// The type of section.
        kind: SectionKind,
        /// The limit, bytes.
        limit: u64,
        /// The claimed length, bytes.
        actual: u64,
    },
    /// The file ends early.
    #[error("expected a file of {expected} bytes, it ends after {actual}: it is cut off")]
    Truncated {
        /// Length by the header, bytes; 548 when not even the header is whole.
        expected: u64,
        /// Length that came, bytes.
        actual: u64,
    },
    /// Bytes follow the last section.
    #[error("expected the file to end after {expected} bytes, more follow")]
    TrailingBytes {
        /// Length by the header, bytes.
        expected: u64,
    },
    /// The file's CRC-32 is not the one in its header.
    #[error(
        "expected the CRC-32 {expected:08x} that the header names, computed {actual:08x}: the file was damaged or edited"
    )]
    Crc {
        /// The header's value.
        expected: u32,
        /// The file's value.
        actual: u32,
    },
    /// The command line contains a zero byte, where the kernel would stop reading.
    #[error(
        "expected a command line without zero bytes, byte {offset} is zero: the kernel would not read what follows"
    )]
    CommandLine {
        /// Where in the section, bytes.
        offset: usize,
    },
    /// The metadata is not the JSON object that the format describes.
    #[error(
        "expected the metadata section to be the format's JSON object, it is not: {problem} at line {line}, column {column}"
    )]
    Metadata {
        /// What kind of problem.
        problem: &'static str,
        /// Line in the section, from 1.
        line: usize,
        /// Column in that line, from 1.
        column: usize,
    },
    /// The signature section does not prove that its certificate signed this image.
    #[error("the signature section is refused: {0}")]
    Signature(#[from] SignatureError),
    /// The two halves of a split measurement were not fed the same bytes.
    #[error(
        "the application hash covers {actual} bytes, the image has {expected}: both halves must be fed the same file"
    )]
    SplitInput {
        /// Bytes of application ramdisks in the image.
        expected: u64,
        /// Bytes that the application hash covers.
        actual: u64,
    },
}

impl ImageError {
    /// The stable name of the rule that the image breaks.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Magic { .. } => "image-magic",
            Self::Version { .. } => "image-version",
            Self::Reserved { .. } => "image-reserved-bits",
            Self::PcieFlags { .. } => "image-pcie-flags",
            Self::SectionCount { .. } => "image-section-count",
            Self::SectionOffset { .. } => "image-section-offset",
            Self::SectionOverflow { .. } => "image-section-overflow",
            Self::UnusedEntry { .. } => "image-unused-entry",
            Self::SectionLength { .. } => "image-section-length",
            Self::UnknownSection { .. } => "image-section-type",
            Self::SectionNotInVersion { .. } => "image-section-version",
            Self::DuplicateSection { .. } => "image-section-duplicate",
            Self::MissingSection { .. } => "image-section-missing",
            Self::RamdiskBeforeKernel { .. } => "image-section-order",
            Self::SectionTooLong { .. } => "image-section-too-long",
            Self::Truncated { .. } => "image-truncated",
            Self::TrailingBytes { .. } => "image-trailing-bytes",
            Self::Crc { .. } => "image-crc",
            Self::CommandLine { .. } => "image-command-line",
            Self::Metadata { .. } => "image-metadata",
            Self::Signature(error) => error.code(),
            Self::SplitInput { .. } => "image-split-input",
        }
    }
}

/// Why a signature section is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The CBOR differs from the one form that the format describes.
    #[error("expected {expected} at byte {offset} of {part}")]
    Encoding {
        /// Which of the nested encodings.
        part: &'static str,
        /// Where in it, bytes.
        offset: usize,
        /// What should have come.
        expected: &'static str,
    },
    /// The certificate is not PEM, or not X.509 in DER.
    #[error("expected an X.509 certificate in PEM form, {problem}")]
    Certificate {
        /// What is wrong.
        problem: &'static str,
    },
    /// The certificate's key is not on a curve that the format signs with.
    #[error("expected a certificate with a key on P-256, P-384 or P-521, it has another kind of key")]
    KeyType,
    /// The signature's algorithm does not belong to the certificate's key.
    #[error("expected the COSE algorithm {expected}, which belongs to the certificate's key, got {actual}")]
    Algorithm {
        /// The algorithm of the certificate's key (RFC 9053).
        expected: i64,
        /// The algorithm in the protected header.
        actual: i64,
    },
    /// The signed register is not PCR0.
    #[error("expected a signature over register 0, it is over register {actual}")]
    Register {
        /// The signed register's index.
        actual: u64,
    },
    /// The signature is for another image.
    #[error(
        "expected a signature over PCR0 = {expected}, it is over {actual}: this is another image's signature"
    )]
    Pcr0 {
        /// This image's PCR0.
        expected: Sha384Digest,
        /// The signed value.
        actual: Sha384Digest,
    },
    /// The signature does not verify under the certificate's key.
    #[error("the signature does not verify under the key in the certificate beside it")]
    Forged,
    /// This build's cryptographic backend lacks the algorithm.
    #[error("this build cannot verify {algorithm}; use one with the aws-lc-rs backend")]
    Backend {
        /// The algorithm's name.
        algorithm: &'static str,
    },
}

impl SignatureError {
    /// The stable name of the rule that the section breaks.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Encoding { .. } => "image-signature-encoding",
            Self::Certificate { .. } => "image-signature-certificate",
            Self::KeyType => "image-signature-key-type",
            Self::Algorithm { .. } => "image-signature-algorithm",
            Self::Register { .. } => "image-signature-register",
            Self::Pcr0 { .. } => "image-signature-pcr0",
            Self::Forged => "image-signature-forged",
            Self::Backend { .. } => "image-signature-backend",
        }
    }
}
