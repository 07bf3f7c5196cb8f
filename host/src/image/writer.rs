//! Writes image files, byte for byte as AWS's tools lay them out.
//!
//! The reader is `cleanroom_attestation::measurement`. Writer and reader share names (what a section
//! contains) and no layout: each has its own numbers and its own walk, so that a mistake in one of them shows
//! as a refusal by the other. The format is AWS's specification (README of the crate
//! `aws-nitro-enclaves-image-format`, 2024-06-21). All numbers are big-endian.
//!
//! | bytes | field of the header |
//! |---|---|
//! | 0..4 | `.eif` |
//! | 4..6 | version, 4 |
//! | 6..8 | flags; bit 0 is set for Arm |
//! | 8..16 | default memory in bytes |
//! | 16..24 | default number of processors |
//! | 24..26 | reserved, 0 |
//! | 26..28 | number of sections |
//! | 28..284 | 32 offsets of sections, from the start of the file |
//! | 284..540 | 32 lengths of sections' contents |
//! | 540..544 | reserved, 0 |
//! | 544..548 | CRC-32 over the rest of the file |
//!
//! Each section is a header of 12 bytes (kind 2, flags 2, length 8) and its contents.

use cleanroom_attestation::measurement::{Architecture, SectionKind};

/// The newest version of the format.
const VERSION: u16 = 4;
/// The memory that AWS's tools write into the header and none of them reads, bytes.
const DEFAULT_MEMORY: u64 = 1 << 30;
/// The number of processors that AWS's tools write into the header and none of them reads.
const DEFAULT_PROCESSORS: u64 = 2;
/// Sections that the header has room for.
const TABLE_LENGTH: usize = 32;
/// Length of the header without its checksum, bytes.
const UNCHECKED_HEADER: u64 = 544;
/// Length of the header, bytes.
const HEADER: u64 = UNCHECKED_HEADER + 4;
/// Length of a section's own header, bytes.
const SECTION_HEADER: u64 = 12;

/// A number of sections that no image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 2 to {TABLE_LENGTH} sections, got {actual}")]
pub struct SectionCount {
    /// How many there were.
    pub actual: usize,
}

/// An image file of these sections, in this order.
///
/// This checks the number of sections and nothing else. `cleanroom_attestation::measurement::Measurer` says
/// whether the result is an image, and measures it.
///
/// # Errors
///
/// [`SectionCount`] when there are fewer than 2 sections or more than 32.
pub fn write(architecture: Architecture, sections: &[(SectionKind, &[u8])]) -> Result<Vec<u8>, SectionCount> {
    let refused = SectionCount { actual: sections.len() };
    if !(2..=TABLE_LENGTH).contains(&sections.len()) {
        return Err(refused);
    }
    let count = u16::try_from(sections.len()).map_err(|_| refused)?;
    let mut offsets = Vec::new();
    let mut lengths = Vec::new();
    let mut end = HEADER;
    for (_, contents) in sections {
        let length = contents.len() as u64;
        offsets.push(end);
        lengths.push(length);
        end += SECTION_HEADER + length;
    }
    for column in [&mut offsets, &mut lengths] {
        column.resize(TABLE_LENGTH, 0);
    }

    let mut header = Vec::new();
    header.extend_from_slice(b".eif");
    header.extend_from_slice(&VERSION.to_be_bytes());
    header.extend_from_slice(&flags(architecture).to_be_bytes());
    header.extend_from_slice(&DEFAULT_MEMORY.to_be_bytes());
    header.extend_from_slice(&DEFAULT_PROCESSORS.to_be_bytes());
    header.extend_from_slice(&[0; 2]);
    header.extend_from_slice(&count.to_be_bytes());
    for number in offsets.into_iter().chain(lengths) {
        header.extend_from_slice(&number.to_be_bytes());
    }
    header.extend_from_slice(&[0; 4]);

    let mut body = Vec::with_capacity(usize::try_from(end - HEADER).unwrap_or_default());
    for (kind, contents) in sections {
        body.extend_from_slice(&code(*kind).to_be_bytes());
        body.extend_from_slice(&[0; 2]);
        body.extend_from_slice(&(contents.len() as u64).to_be_bytes());
        body.extend_from_slice(contents);
    }

    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&header);
    checksum.update(&body);
    header.extend_from_slice(&checksum.finalize().to_be_bytes());
    header.append(&mut body);
    Ok(header)
}

const fn flags(architecture: Architecture) -> u16 {
    match architecture {
        Architecture::X86_64 => 0,
        Architecture::Aarch64 => 1,
    }
}

/// The number by which a section's header names what it contains.
const fn code(kind: SectionKind) -> u16 {
    match kind {
        SectionKind::Kernel => 1,
        SectionKind::CommandLine => 2,
        SectionKind::Ramdisk => 3,
        SectionKind::Signature => 4,
        SectionKind::Metadata => 5,
    }
}

#[cfg(test)]
mod tests;
