//! Why an image is refused. Each rule has a stable code, so that a test, a script or another implementation can name it.

use core::fmt;

use super::MAX_BOOT_IMAGE;
use crate::measurement::Architecture;

/// Which executable an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The image itself.
    Image,
    /// The kernel in its section `.linux`.
    Kernel,
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Image => "the image",
            Self::Kernel => "the kernel in `.linux`",
        })
    }
}

/// Why a file is not a unified kernel image that can be measured. Nothing is reported about a refused image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BootImageError {
    /// The file is longer than [`MAX_BOOT_IMAGE`].
    #[error("expected at most {MAX_BOOT_IMAGE} bytes, got {actual} or more")]
    TooLong {
        /// Bytes that came.
        actual: u64,
    },
    /// The bytes `MZ`, or `PE` and two zeros where the header points, are missing.
    #[error(
        "{part} is not a UEFI executable: expected {expected:?} at byte {offset}, got {}; a kernel is one when it is built with \
         CONFIG_EFI_STUB",
        hex::encode(actual)
    )]
    Magic {
        /// Which executable.
        part: Part,
        /// The bytes that belong there, as text.
        expected: &'static str,
        /// Where.
        offset: usize,
        /// The bytes that came.
        actual: Vec<u8>,
    },
    /// The file ends inside something that its headers announce.
    #[error("{part} is cut off: expected at least {expected} bytes for {what}, got {actual}")]
    Truncated {
        /// Which executable.
        part: Part,
        /// What does not fit.
        what: &'static str,
        /// Bytes that it needs.
        expected: usize,
        /// Bytes that came.
        actual: usize,
    },
    /// A field of a header has a value that no image for such a machine has.
    #[error("{part} has {actual:#x} as {field}, expected {expected}")]
    Header {
        /// Which executable.
        part: Part,
        /// Which field.
        field: &'static str,
        /// What may stand there.
        expected: &'static str,
        /// What came.
        actual: u64,
    },
    /// A section does not begin in the file where the one before it ends.
    #[error(
        "section {index} of {part} begins at byte {actual}, expected {expected}: sections follow each other without gaps"
    )]
    SectionOffset {
        /// Which executable.
        part: Part,
        /// Index of the section, from 0.
        index: usize,
        /// Where the headers or the section before it end.
        expected: usize,
        /// Where it begins.
        actual: usize,
    },
    /// A section would be loaded over the one before it.
    #[error(
        "section {index} of {part} is loaded at {actual:#x}, expected {expected:#x} or more: sections do not overlap"
    )]
    SectionAddress {
        /// Which executable.
        part: Part,
        /// Index of the section, from 0.
        index: usize,
        /// Where the section before it ends in memory.
        expected: usize,
        /// Where it begins in memory.
        actual: usize,
    },
    /// A section that the stub reads is longer in memory than in the file, or has no length in memory.
    #[error(
        "section `{name}` has {actual} bytes in memory and {stored} in the file, expected 1 to {stored}: its contents are unclear"
    )]
    SectionLength {
        /// The section's name.
        name: &'static str,
        /// Its length in memory.
        actual: usize,
        /// Its length in the file.
        stored: usize,
    },
    /// A section that a unified kernel image has is missing.
    #[error("the image has no section `{name}`: expected a unified kernel image with the stub of systemd")]
    SectionMissing {
        /// The section's name.
        name: &'static str,
    },
    /// A section comes twice. An image with several profiles is such an image.
    #[error(
        "section `{name}` comes twice: which one counts is chosen at boot, so no register can be computed; build an image with one \
         profile"
    )]
    SectionTwice {
        /// The section's name; what is not UTF-8 is replaced.
        name: String,
    },
    /// The signatures are not the last bytes of the file, or begin inside a section.
    #[error(
        "the signatures of {part} are {length} bytes at byte {offset}, expected them after the sections (byte {sections_end}), at a \
         multiple of 8, up to the end (byte {file_end})"
    )]
    Signatures {
        /// Which executable.
        part: Part,
        /// Where they begin.
        offset: usize,
        /// Their length in bytes.
        length: usize,
        /// Where the last section ends.
        sections_end: usize,
        /// Where the file ends.
        file_end: usize,
    },
    /// The section `.sdmagic` is not that of systemd's stub, so what the firmware measures is unknown.
    #[error(
        "expected the version of systemd's stub in `.sdmagic` (`#### LoaderInfo: systemd-stub 258 ####`), got {actual:?}"
    )]
    Stub {
        /// What came.
        actual: String,
    },
    /// The kernel is for another processor than the image.
    #[error("the image is for {expected}, its kernel for {actual}")]
    KernelArchitecture {
        /// The image's architecture.
        expected: Architecture,
        /// The kernel's architecture.
        actual: Architecture,
    },
}

impl BootImageError {
    /// The rule's name, stable.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "boot-image-too-long",
            Self::Magic { .. } => "boot-image-magic",
            Self::Truncated { .. } => "boot-image-truncated",
            Self::Header { .. } => "boot-image-header",
            Self::SectionOffset { .. } => "boot-image-section-offset",
            Self::SectionAddress { .. } => "boot-image-section-address",
            Self::SectionLength { .. } => "boot-image-section-length",
            Self::SectionMissing { .. } => "boot-image-section-missing",
            Self::SectionTwice { .. } => "boot-image-section-twice",
            Self::Signatures { .. } => "boot-image-signatures",
            Self::Stub { .. } => "boot-image-stub",
            Self::KernelArchitecture { .. } => "boot-image-kernel-architecture",
        }
    }
}
