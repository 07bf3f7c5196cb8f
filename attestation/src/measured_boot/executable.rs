//! A strict reader of UEFI executables (PE32+; Microsoft's "PE Format").

use super::BootSection;
use super::error::{BootImageError, Part};
use crate::digest::{Sha384, Sha384Digest};
use crate::measurement::Architecture;

/// Length of the headers before the optional header: signature and file header.
const FILE_HEADER_LENGTH: usize = 24;
/// Length of the optional header without its directories.
const OPTIONAL_HEADER_LENGTH: usize = 112;
/// Offsets in the optional header: length of all headers, checksum, number of directories.
const HEADERS_LENGTH: usize = 60;
const CHECKSUM: usize = 64;
const DIRECTORY_COUNT: usize = 108;
/// The directory that says where the signatures are, and the length of a directory's entry.
const SIGNATURES_DIRECTORY: usize = 4;
const DIRECTORY_LENGTH: usize = 8;
/// Length of a section's entry in the table.
const SECTION_ENTRY_LENGTH: usize = 40;
/// The most sections that an executable may have ("PE Format", file header).
const MAX_SECTIONS: u16 = 96;

/// An executable whose headers and sections cover the file without gaps.
pub(super) struct Executable<'a> {
    bytes: &'a [u8],
    pub(super) architecture: Architecture,
    checksum: usize,
    signatures_directory: usize,
    sections: Vec<Section<'a>>,
    signatures: usize,
}

/// A section's entry in the table, and its contents.
pub(super) struct Section<'a> {
    /// Without the zeros behind it.
    name: &'a [u8],
    offset: usize,
    /// As much as the file has of it, a multiple of the file's alignment.
    stored: &'a [u8],
    memory_length: usize,
}

impl Section<'_> {
    pub(super) fn describe(&self) -> BootSection {
        BootSection {
            name: self.name(),
            offset: self.offset as u64,
            length: self.memory_length.min(self.stored.len()) as u64,
        }
    }

    fn name(&self) -> String {
        String::from_utf8_lossy(self.name).into_owned()
    }
}

impl<'a> Executable<'a> {
    pub(super) fn parse(bytes: &'a [u8], part: Part) -> Result<Self, BootImageError> {
        let reader = Reader { bytes, part };
        reader.magic(0, *b"MZ", "MZ")?;
        let start = size(reader.u32(0x3c, "the DOS header")?);
        reader.magic(start, *b"PE\0\0", "PE\0\0")?;
        let header = "the file header";
        let architecture = match reader.u16(start.saturating_add(4), header)? {
            0x8664 => Architecture::X86_64,
            0xaa64 => Architecture::Aarch64,
            actual => return Err(reader.header("machine", "0x8664 (x86_64) or 0xaa64 (aarch64)", actual)),
        };
        let count = reader.u16(start.saturating_add(6), header)?;
        if !(1..=MAX_SECTIONS).contains(&count) {
            return Err(reader.header("number of sections", "1 to 96", count));
        }
        let optional_length = reader.u16(start.saturating_add(20), header)?;

        let optional = start.saturating_add(FILE_HEADER_LENGTH);
        let header = "the optional header";
        let magic = reader.u16(optional, header)?;
        if magic != 0x20b {
            return Err(reader.header("kind of the optional header", "0x20b (PE32+)", magic));
        }
        let headers_length = size(reader.u32(optional.saturating_add(HEADERS_LENGTH), header)?);
        let directories = reader.u32(optional.saturating_add(DIRECTORY_COUNT), header)?;
        // Firmware takes the fifth entry for the place of the signatures. Without it that place would be a section's entry.
        if !(5..=16).contains(&directories) {
            return Err(reader.header("number of directories", "5 to 16", directories));
        }
        let table = optional.saturating_add(OPTIONAL_HEADER_LENGTH + size(directories) * DIRECTORY_LENGTH);
        if optional.saturating_add(usize::from(optional_length)) != table {
            let expected = "that of the fields and directories in it";
            return Err(reader.header("length of the optional header", expected, optional_length));
        }
        let table_end = table.saturating_add(usize::from(count) * SECTION_ENTRY_LENGTH);
        if headers_length < table_end {
            let expected = "room for the table of sections";
            return Err(reader.header("length of all headers", expected, headers_length as u64));
        }
        let end_of_headers = reader.range(0, headers_length, "the headers")?.len();
        let (sections, sections_end) = reader.sections(table, count, end_of_headers)?;

        let signatures_directory =
            optional.saturating_add(OPTIONAL_HEADER_LENGTH + SIGNATURES_DIRECTORY * DIRECTORY_LENGTH);
        let offset = size(reader.u32(signatures_directory, header)?);
        let length = size(reader.u32(signatures_directory.saturating_add(4), header)?);
        let file_end = bytes.len();
        let signatures = if offset == 0 && length == 0 {
            file_end
        } else if length > 0
            && offset >= sections_end
            && offset.is_multiple_of(8)
            && offset.checked_add(length) == Some(file_end)
        {
            offset
        } else {
            return Err(BootImageError::Signatures { part, offset, length, sections_end, file_end });
        };
        let checksum = optional.saturating_add(CHECKSUM);
        Ok(Self { bytes, architecture, checksum, signatures_directory, sections, signatures })
    }

    pub(super) fn sections(&self) -> impl Iterator<Item = &Section<'a>> {
        self.sections.iter()
    }

    pub(super) const fn signatures_length(&self) -> u64 {
        (self.bytes.len() - self.signatures) as u64
    }

    /// The contents of the section called `name`, when there is one.
    pub(super) fn contents(&self, name: &'static str) -> Result<Option<&'a [u8]>, BootImageError> {
        let Some(section) = self.sections.iter().find(|section| section.name == name.as_bytes()) else {
            return Ok(None);
        };
        let (actual, stored) = (section.memory_length, section.stored.len());
        let contents = section.stored.get(..actual).filter(|contents| !contents.is_empty());
        contents.map(Some).ok_or(BootImageError::SectionLength { name, actual, stored })
    }

    /// The Authenticode digest. Headers and sections follow each other, so what it covers is the file without three pieces.
    pub(super) fn authenticode(&self) -> Sha384Digest {
        let mut digest = Sha384::new();
        let pieces = [
            (0, self.checksum),
            (self.checksum.saturating_add(4), self.signatures_directory),
            (self.signatures_directory.saturating_add(DIRECTORY_LENGTH), self.signatures),
        ];
        for (start, end) in pieces {
            // Each piece is inside the file: `parse` has read what is between them.
            digest.update(self.bytes.get(start..end).unwrap_or_default());
        }
        digest.finish()
    }
}

/// Reads fields out of an executable's bytes.
#[derive(Clone, Copy)]
struct Reader<'a> {
    bytes: &'a [u8],
    part: Part,
}

impl<'a> Reader<'a> {
    fn range(self, start: usize, length: usize, what: &'static str) -> Result<&'a [u8], BootImageError> {
        let end = start.saturating_add(length);
        let (part, actual) = (self.part, self.bytes.len());
        self.bytes.get(start..end).ok_or(BootImageError::Truncated { part, what, expected: end, actual })
    }

    fn field<const N: usize>(self, offset: usize, what: &'static str) -> Result<[u8; N], BootImageError> {
        let mut field = [0; N];
        field.copy_from_slice(self.range(offset, N, what)?);
        Ok(field)
    }

    fn u16(self, offset: usize, what: &'static str) -> Result<u16, BootImageError> {
        self.field(offset, what).map(u16::from_le_bytes)
    }

    fn u32(self, offset: usize, what: &'static str) -> Result<u32, BootImageError> {
        self.field(offset, what).map(u32::from_le_bytes)
    }

    fn magic<const N: usize>(
        self,
        offset: usize,
        magic: [u8; N],
        expected: &'static str,
    ) -> Result<(), BootImageError> {
        let actual = self.field::<N>(offset, "an executable's magic")?;
        if actual == magic {
            return Ok(());
        }
        Err(BootImageError::Magic { part: self.part, expected, offset, actual: actual.to_vec() })
    }

    fn header(self, field: &'static str, expected: &'static str, actual: impl Into<u64>) -> BootImageError {
        BootImageError::Header { part: self.part, field, expected, actual: actual.into() }
    }

    /// The sections of the table, which cover the file from `start` on, and where the last of them ends.
    fn sections(
        self,
        table: usize,
        count: u16,
        start: usize,
    ) -> Result<(Vec<Section<'a>>, usize), BootImageError> {
        let part = self.part;
        let mut sections: Vec<Section<'a>> = Vec::new();
        let (mut file_end, mut memory_end) = (start, 0);
        for index in 0..usize::from(count) {
            let entry = table.saturating_add(index * SECTION_ENTRY_LENGTH);
            let what = "the table of sections";
            let field = |at: usize| self.u32(entry.saturating_add(at), what).map(size);
            let name = self.range(entry, 8, what)?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            let (memory_length, address) = (field(8)?, field(12)?);
            let (stored_length, offset) = (field(16)?, field(20)?);
            if address < memory_end {
                return Err(BootImageError::SectionAddress {
                    part,
                    index,
                    expected: memory_end,
                    actual: address,
                });
            }
            memory_end = address.saturating_add(memory_length);
            if sections.iter().any(|section| section.name == name) {
                return Err(BootImageError::SectionTwice {
                    name: String::from_utf8_lossy(name).into_owned(),
                });
            }
            // A section that is not in the file (`.bss`) has no place there.
            let offset = if stored_length == 0 { file_end } else { offset };
            if offset != file_end {
                return Err(BootImageError::SectionOffset {
                    part,
                    index,
                    expected: file_end,
                    actual: offset,
                });
            }
            let stored = self.range(offset, stored_length, "a section")?;
            file_end = offset.saturating_add(stored_length);
            sections.push(Section { name, offset, stored, memory_length });
        }
        Ok((sections, file_end))
    }
}

/// A length or an offset. Where it does not fit a `usize`, no slice is that long.
fn size(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
