//! The frame of an image file: its header, its section table, and the walk from section to section.

use super::error::ImageError;
use super::section::{Architecture, Section, SectionKind};

/// Length of the file's header, bytes.
pub(super) const HEADER_LENGTH: usize = 548;
/// Where the CRC-32 stands in the header: its last four bytes.
pub(super) const CRC_OFFSET: usize = HEADER_LENGTH - 4;
/// Length of each section's own header, bytes.
pub(super) const SECTION_HEADER_LENGTH: usize = 12;
/// Bits of the header's flags that give the enclave `PCIe` devices: `PCIe` at all, and virtio over it (as Bottlerocket's
/// `eif-builder` names them).
const PCIE_FLAGS: u16 = 1 << 6 | 1 << 9;
/// Entries in the header's section table.
pub(super) const MAX_SECTIONS: usize = 32;

/// The file's header, checked as far as it can be without the sections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u16,
    pub(super) architecture: Architecture,
    pub(super) default_memory: u64,
    pub(super) default_cpus: u64,
    pub(super) crc32: u32,
    /// Length of each section's contents, in file order.
    lengths: Vec<u64>,
    /// Length of the whole file, bytes.
    pub(super) file_length: u64,
}

impl Header {
    /// Layout, all big-endian: magic 4, version 2, flags 2, memory 8, processors 8, reserved 2, section count 2,
    /// 32 offsets of 8, 32 lengths of 8, reserved 4, CRC-32 4.
    fn parse(bytes: &[u8; HEADER_LENGTH]) -> Result<Self, ImageError> {
        let mut fields = Fields(bytes);
        let magic = fields.take();
        if magic != *b".eif" {
            return Err(ImageError::Magic { actual: magic });
        }
        let version = fields.u16();
        if !(2..=4).contains(&version) {
            return Err(ImageError::Version { actual: version });
        }
        let flags = fields.u16();
        let architecture = if flags & 1 == 0 { Architecture::X86_64 } else { Architecture::Aarch64 };
        require_zero("the header's flags", u64::from(flags & !(1 | PCIE_FLAGS)))?;
        if flags & PCIE_FLAGS != 0 {
            return Err(ImageError::PcieFlags { actual: flags });
        }
        let default_memory = fields.u64();
        let default_cpus = fields.u64();
        require_zero("the header's first reserved field", u64::from(fields.u16()))?;
        let count = fields.u16();
        if !(2..=MAX_SECTIONS as u16).contains(&count) {
            return Err(ImageError::SectionCount { actual: count });
        }
        let count = usize::from(count);
        let offsets: [u64; MAX_SECTIONS] = core::array::from_fn(|_| fields.u64());
        let lengths: [u64; MAX_SECTIONS] = core::array::from_fn(|_| fields.u64());
        require_zero("the header's second reserved field", u64::from(fields.u32()))?;
        let crc32 = fields.u32();

        let mut end = HEADER_LENGTH as u64;
        for (index, (&offset, &length)) in offsets.iter().zip(&lengths).enumerate() {
            if index >= count {
                if offset != 0 || length != 0 {
                    return Err(ImageError::UnusedEntry { index, count });
                }
                continue;
            }
            if offset != end {
                return Err(ImageError::SectionOffset { index, expected: end, actual: offset });
            }
            end = end
                .checked_add(SECTION_HEADER_LENGTH as u64)
                .and_then(|start| start.checked_add(length))
                .ok_or(ImageError::SectionOverflow { index, length })?;
        }
        let lengths = lengths.into_iter().take(count).collect();
        Ok(Self { version, architecture, default_memory, default_cpus, crc32, lengths, file_length: end })
    }
}

fn require_zero(field: &'static str, actual: u64) -> Result<(), ImageError> {
    if actual == 0 { Ok(()) } else { Err(ImageError::Reserved { field, actual }) }
}

/// Takes big-endian fields off the front of a slice. Beyond its end come zeros: every caller reads a fixed layout out of
/// an array of that layout's length.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk::<N>() else {
            self.0 = &[];
            return [0; N];
        };
        self.0 = rest;
        *field
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }
}

/// Walks through an image as its bytes arrive, in pieces of any size, and checks the frame on the way.
pub(super) struct Walk {
    header: Option<Header>,
    sections: Vec<Section>,
    /// Bytes of a header (the file's or a section's) that is not whole yet.
    partial: [u8; HEADER_LENGTH],
    partial_length: usize,
    /// Bytes of the current section's contents still to come.
    remaining: u64,
    position: u64,
}

/// What [`Walk::step`] found at the front of its input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// A section begins. Its contents, when there are any, follow.
    Begin(Section),
    /// Contents of the section that began last.
    Contents(&'a [u8]),
    /// The input is used up.
    NeedMore,
}

impl Walk {
    pub(super) const fn new() -> Self {
        Self {
            header: None,
            sections: Vec::new(),
            partial: [0; HEADER_LENGTH],
            partial_length: 0,
            remaining: 0,
            position: 0,
        }
    }

    /// Takes one step and moves `input` past what it used.
    pub(super) fn step<'a>(&mut self, input: &mut &'a [u8]) -> Result<Step<'a>, ImageError> {
        if self.header.is_none() {
            let Some(bytes) = self.gather::<HEADER_LENGTH>(input) else { return Ok(Step::NeedMore) };
            self.header = Some(Header::parse(&bytes)?);
        }
        if input.is_empty() {
            return Ok(Step::NeedMore);
        }
        if self.remaining > 0 {
            let length = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(input.len());
            let (contents, rest) = input.split_at(length);
            *input = rest;
            self.remaining -= length as u64;
            self.position += length as u64;
            return Ok(Step::Contents(contents));
        }
        if let Some(header) = &self.header
            && self.sections.len() == header.lengths.len()
        {
            return Err(ImageError::TrailingBytes { expected: header.file_length });
        }
        match self.gather::<SECTION_HEADER_LENGTH>(input) {
            Some(bytes) => self.begin_section(&bytes).map(Step::Begin),
            None => Ok(Step::NeedMore),
        }
    }

    /// The header and the sections, once the whole file has come.
    pub(super) fn finish(self) -> Result<(Header, Vec<Section>), ImageError> {
        let Some(header) = self.header else {
            return Err(ImageError::Truncated { expected: HEADER_LENGTH as u64, actual: self.position });
        };
        if self.position != header.file_length {
            return Err(ImageError::Truncated { expected: header.file_length, actual: self.position });
        }
        let mut required = vec![SectionKind::Kernel, SectionKind::CommandLine, SectionKind::Ramdisk];
        if header.version >= SectionKind::Metadata.first_version() {
            required.push(SectionKind::Metadata);
        }
        for kind in required {
            if !self.sections.iter().any(|section| section.kind == kind) {
                return Err(ImageError::MissingSection { kind });
            }
        }
        Ok((header, self.sections))
    }

    /// Collects a header of `N` bytes that may arrive in pieces.
    fn gather<const N: usize>(&mut self, input: &mut &[u8]) -> Option<[u8; N]> {
        let wanted = self.partial.get_mut(self.partial_length..N)?;
        let length = wanted.len().min(input.len());
        let (taken, rest) = input.split_at(length);
        for (target, source) in wanted.iter_mut().zip(taken) {
            *target = *source;
        }
        *input = rest;
        self.position += length as u64;
        self.partial_length += length;
        if self.partial_length < N {
            return None;
        }
        self.partial_length = 0;
        self.partial.first_chunk::<N>().copied()
    }

    fn begin_section(&mut self, bytes: &[u8; SECTION_HEADER_LENGTH]) -> Result<Section, ImageError> {
        let mut fields = Fields(bytes);
        let (code, flags, length) = (fields.u16(), fields.u16(), fields.u64());
        let index = self.sections.len();
        let (version, expected) = match &self.header {
            Some(header) => (header.version, header.lengths.get(index).copied().unwrap_or(0)),
            None => (0, 0),
        };
        let kind = SectionKind::from_code(code).ok_or(ImageError::UnknownSection { index, actual: code })?;
        require_zero("a section's flags", u64::from(flags))?;
        if length != expected {
            return Err(ImageError::SectionLength { index, expected, actual: length });
        }
        if version < kind.first_version() {
            return Err(ImageError::SectionNotInVersion { kind, version });
        }
        if kind != SectionKind::Ramdisk && self.sections.iter().any(|section| section.kind == kind) {
            return Err(ImageError::DuplicateSection { index, kind });
        }
        if kind == SectionKind::Ramdisk
            && !self.sections.iter().any(|section| section.kind == SectionKind::Kernel)
        {
            return Err(ImageError::RamdiskBeforeKernel { index });
        }
        if let Some(limit) = kind.limit()
            && length > limit
        {
            return Err(ImageError::SectionTooLong { kind, limit, actual: length });
        }
        let section = Section { kind, offset: self.position, length };
        self.sections.push(section);
        self.remaining = length;
        Ok(section)
    }
}
