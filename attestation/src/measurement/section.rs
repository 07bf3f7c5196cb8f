//! The sections of an image file.

use core::fmt;

use serde::Serialize;

/// The kernel reads at most 2048 bytes of command line on both architectures; twice that is plenty.
const MAX_COMMAND_LINE: u64 = 4096;
/// AWS's own limit (`SIGNATURE_MAX_SIZE` in the format's specification).
const MAX_SIGNATURE: u64 = 32_768;
/// AWS names no limit. What `docker image inspect` prints fits many times over.
const MAX_METADATA: u64 = 1 << 20;

/// What a section contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SectionKind {
    /// The Linux kernel: exactly one.
    Kernel,
    /// The kernel's command line: exactly one.
    CommandLine,
    /// A piece of the initial file system, all of them after the kernel: one or more.
    Ramdisk,
    /// The signature over PCR0: at most one, from format version 3 on.
    Signature,
    /// What the builder says about the build, in no PCR: exactly one from format version 4 on.
    Metadata,
}

impl SectionKind {
    pub(super) fn from_code(code: u16) -> Option<Self> {
        let kinds = [Self::Kernel, Self::CommandLine, Self::Ramdisk, Self::Signature, Self::Metadata];
        kinds.into_iter().find(|kind| kind.code() == code)
    }

    pub(super) const fn code(self) -> u16 {
        match self {
            Self::Kernel => 1,
            Self::CommandLine => 2,
            Self::Ramdisk => 3,
            Self::Signature => 4,
            Self::Metadata => 5,
        }
    }

    /// The most bytes that a section of this kind may have, for those that are kept in memory.
    pub(super) const fn limit(self) -> Option<u64> {
        match self {
            Self::CommandLine => Some(MAX_COMMAND_LINE),
            Self::Signature => Some(MAX_SIGNATURE),
            Self::Metadata => Some(MAX_METADATA),
            Self::Kernel | Self::Ramdisk => None,
        }
    }

    pub(super) const fn first_version(self) -> u16 {
        match self {
            Self::Kernel | Self::CommandLine | Self::Ramdisk => 2,
            Self::Signature => 3,
            Self::Metadata => 4,
        }
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kernel => "kernel",
            Self::CommandLine => "command line",
            Self::Ramdisk => "ramdisk",
            Self::Signature => "signature",
            Self::Metadata => "metadata",
        })
    }
}

/// The processor architecture that an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Architecture {
    /// 64-bit Intel and AMD.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit Arm (Graviton).
    #[serde(rename = "aarch64")]
    Aarch64,
}

impl fmt::Display for Architecture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        })
    }
}

/// One section, as the table and the section's own header agree on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Section {
    /// What it contains.
    pub kind: SectionKind,
    /// Where its contents begin, bytes from the start of the file.
    pub offset: u64,
    /// Length of its contents, bytes.
    pub length: u64,
}
