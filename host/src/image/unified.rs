//! Writes unified kernel images: systemd's stub, and the image's parts as sections behind its own.
//!
//! `ukify` and `objcopy` do the same; Debian 12 has no `ukify`, and `objcopy` moves what is there already. Here
//! the stub's bytes stay where they are, and a few fields of its header change, so that anybody can see what was
//! added. The reader is `cleanroom_attestation::measured_boot`, which shares no layout with this writer. The
//! format is Microsoft's "PE Format"; all numbers are little-endian.

/// Offset of the field that says where the signature `PE\0\0` is.
const START: usize = 0x3c;
/// Offsets from the signature: number of sections, place and number of symbols, length of the optional header,
/// and that header.
const SECTION_COUNT: usize = 6;
const SYMBOLS: usize = 12;
const OPTIONAL_LENGTH: usize = 20;
const OPTIONAL: usize = 24;
/// Offsets in the optional header: kind, alignments in memory and in the file, length in memory, length of all
/// headers, checksum, and the entry for signatures.
const MAGIC: usize = 0;
const MEMORY_ALIGNMENT: usize = 32;
const FILE_ALIGNMENT: usize = 36;
const MEMORY_LENGTH: usize = 56;
const HEADERS_LENGTH: usize = 60;
const CHECKSUM: usize = 64;
const SIGNATURES: usize = 144;
/// `PE32+`.
const PE32_PLUS: u16 = 0x20b;
/// Length of a section's entry in the table, and offsets in it.
const ENTRY: usize = 40;
const ENTRY_MEMORY_LENGTH: usize = 8;
const ENTRY_ADDRESS: usize = 12;
const ENTRY_LENGTH: usize = 16;
const ENTRY_OFFSET: usize = 20;
/// Initialised data that can be read and nothing else.
const CHARACTERISTICS: u32 = 0x4000_0040;
/// Parts begin at a page of memory.
const PAGE: u32 = 4096;

/// Why a stub is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StubError {
    /// It is no UEFI executable, or one of a form that no stub has.
    #[error("expected systemd's stub (linuxx64.efi.stub), a UEFI executable in PE32+: {0}")]
    Form(&'static str),
    /// The table of sections has no room.
    #[error("the stub's header has room for {room} further sections, expected {needed}")]
    Room {
        /// Sections that fit.
        room: usize,
        /// Sections that are to be added.
        needed: usize,
    },
    /// The image is longer than the format can say.
    #[error("the image has more than 4 GiB")]
    TooLong,
}

/// The image of these parts, in this order, behind `stub`. A name has at most 8 bytes.
///
/// # Errors
///
/// [`StubError`].
pub fn write(stub: &[u8], parts: &[(&str, &[u8])]) -> Result<Vec<u8>, StubError> {
    let headers = Headers::read(stub)?;
    let room = headers.room(stub)?;
    if room < parts.len() {
        return Err(StubError::Room { room, needed: parts.len() });
    }
    let mut image = stub.get(..headers.end_in_file).ok_or(StubError::Form("it is cut off"))?.to_vec();
    let mut memory_end = headers.end_in_memory;
    let mut table = Vec::new();
    for (name, contents) in parts {
        let address = aligned(memory_end, headers.memory_alignment.max(PAGE))?;
        let (offset, memory_length) = (length(image.len())?, length(contents.len())?);
        image.extend_from_slice(contents);
        image.resize(size(aligned(length(image.len())?, headers.file_alignment)?), 0);
        let stored = length(image.len())?.saturating_sub(offset);
        memory_end = address.checked_add(memory_length).ok_or(StubError::TooLong)?;
        let name: [u8; 8] = std::array::from_fn(|at| name.as_bytes().get(at).copied().unwrap_or(0));
        table.extend_from_slice(&name);
        let none = [0; 3];
        for field in [memory_length, address, stored, offset].into_iter().chain(none).chain([CHARACTERISTICS])
        {
            table.extend_from_slice(&field.to_le_bytes());
        }
    }
    put(&mut image, headers.table_end, &table)?;
    let count = headers.count.checked_add(u16::try_from(parts.len()).map_err(|_| StubError::TooLong)?);
    let count = count.ok_or(StubError::TooLong)?;
    put(&mut image, headers.start.saturating_add(SECTION_COUNT), &count.to_le_bytes())?;
    // The symbols stood behind the last section, and are gone.
    put(&mut image, headers.start.saturating_add(SYMBOLS), &[0; 8])?;
    let memory_length = aligned(memory_end, headers.memory_alignment)?;
    put(&mut image, headers.optional.saturating_add(MEMORY_LENGTH), &memory_length.to_le_bytes())?;
    // UEFI looks at no checksum.
    put(&mut image, headers.optional.saturating_add(CHECKSUM), &[0; 4])?;
    Ok(image)
}

/// What the stub's headers say.
struct Headers {
    /// Where the signature `PE\0\0` is.
    start: usize,
    /// Where the optional header is.
    optional: usize,
    count: u16,
    table_end: usize,
    headers_length: usize,
    memory_alignment: u32,
    file_alignment: u32,
    end_in_file: usize,
    end_in_memory: u32,
}

impl Headers {
    fn read(stub: &[u8]) -> Result<Self, StubError> {
        let start = size(u32_at(stub, START)?);
        if !stub.starts_with(b"MZ") || stub.get(start..start.saturating_add(4)) != Some(b"PE\0\0") {
            return Err(StubError::Form("it begins with something else"));
        }
        let optional = start.saturating_add(OPTIONAL);
        if u16_at(stub, optional.saturating_add(MAGIC))? != PE32_PLUS {
            return Err(StubError::Form("its optional header is of another kind"));
        }
        if u32_at(stub, optional.saturating_add(SIGNATURES))? != 0 {
            return Err(StubError::Form("it is signed, and what is signed cannot be added to"));
        }
        let table =
            optional.saturating_add(usize::from(u16_at(stub, start.saturating_add(OPTIONAL_LENGTH))?));
        let count = u16_at(stub, start.saturating_add(SECTION_COUNT))?;
        let (mut end_in_file, mut end_in_memory) = (0, 0);
        for number in 0..usize::from(count) {
            let entry = table.saturating_add(number.saturating_mul(ENTRY));
            let field = |at: usize| u32_at(stub, entry.saturating_add(at));
            let (address, memory_length) = (field(ENTRY_ADDRESS)?, field(ENTRY_MEMORY_LENGTH)?);
            end_in_memory = address.checked_add(memory_length).ok_or(StubError::TooLong)?.max(end_in_memory);
            end_in_file =
                size(field(ENTRY_OFFSET)?).saturating_add(size(field(ENTRY_LENGTH)?)).max(end_in_file);
        }
        let symbols = size(u32_at(stub, start.saturating_add(SYMBOLS))?);
        if stub.len() != end_in_file && symbols != end_in_file {
            return Err(StubError::Form("something that is no symbol stands behind its sections"));
        }
        let alignment = |at: usize| {
            let alignment = u32_at(stub, optional.saturating_add(at))?;
            let sound = alignment.is_power_of_two();
            sound.then_some(alignment).ok_or(StubError::Form("an alignment is no power of two"))
        };
        Ok(Self {
            start,
            optional,
            count,
            table_end: table.saturating_add(usize::from(count).saturating_mul(ENTRY)),
            headers_length: size(u32_at(stub, optional.saturating_add(HEADERS_LENGTH))?),
            memory_alignment: alignment(MEMORY_ALIGNMENT)?,
            file_alignment: alignment(FILE_ALIGNMENT)?,
            end_in_file,
            end_in_memory,
        })
    }

    /// How many entries the table has room for. What is there now has to be nothing.
    fn room(&self, stub: &[u8]) -> Result<usize, StubError> {
        let rest = stub.get(self.table_end..self.headers_length);
        let rest = rest.ok_or(StubError::Form("its table of sections is longer than its headers"))?;
        if rest.iter().any(|byte| *byte != 0) {
            return Err(StubError::Form("something stands behind its table of sections"));
        }
        Ok(rest.len() / ENTRY)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, StubError> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field.map(|field| u16::from_le_bytes(*field)).ok_or(StubError::Form("it is cut off"))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, StubError> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field.map(|field| u32::from_le_bytes(*field)).ok_or(StubError::Form("it is cut off"))
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) -> Result<(), StubError> {
    let place = image.get_mut(at..at.saturating_add(bytes.len()));
    place.ok_or(StubError::Form("it is cut off"))?.copy_from_slice(bytes);
    Ok(())
}

fn aligned(value: u32, alignment: u32) -> Result<u32, StubError> {
    value.checked_next_multiple_of(alignment).ok_or(StubError::TooLong)
}

fn length(value: usize) -> Result<u32, StubError> {
    u32::try_from(value).map_err(|_| StubError::TooLong)
}

fn size(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use cleanroom_attestation::measured_boot::BootMeasurement;
    use cleanroom_forge::boot_image::{Executable, unified_kernel};

    use super::super::testing::stub;
    use super::*;

    fn kernel() -> Vec<u8> {
        Executable::new(&[(".text", b"kernel")]).bytes()
    }

    #[test]
    fn the_reader_finds_what_was_written_and_nothing_else() {
        let (kernel, stub) = (kernel(), stub("252.39"));
        let parts = [(".cmdline", &b"console=ttyS0"[..]), (".linux", &kernel), (".initrd", b"ramdisk")];
        let image = write(&stub, &parts).unwrap();
        let measured = BootMeasurement::of(&image).unwrap();
        assert_eq!(measured.command_line.as_deref(), Some("console=ttyS0"));
        assert_eq!((measured.stub.as_str(), measured.signatures_length), ("252.39", 0));
        let names: Vec<_> = measured.sections.iter().map(|section| section.name.as_str()).collect();
        assert_eq!(names[4..], [".sdmagic", ".cmdline", ".linux", ".initrd"]);
        for (section, (_, contents)) in measured.sections.iter().skip(5).zip(parts) {
            let start = usize::try_from(section.offset).unwrap();
            assert_eq!(&image[start..start + contents.len()], contents);
            assert_eq!(section.length, contents.len() as u64);
        }
        assert!(!image.windows(7).any(|bytes| bytes == b"symbols"));
        assert_eq!(write(&stub, &parts).unwrap(), image);
    }

    #[test]
    fn what_is_no_stub_is_refused_wherever_it_is_cut_off() {
        let whole = stub("252.39");
        let parts = [(".linux", &b"kernel"[..])];
        let sections_end = whole.len() - b"symbols".len();
        for end in 0..sections_end {
            assert!(write(&whole[..end], &parts).is_err(), "{end}");
        }
        assert!(write(&whole[..sections_end], &parts).is_ok(), "symbols may be gone");
        assert!(write(b"#!/bin/sh", &parts).is_err());
        // Something behind the sections that no field speaks of.
        let other = [&Executable::new(&[(".text", b"stub")]).bytes()[..], b"more"].concat();
        assert!(matches!(write(&other, &parts), Err(StubError::Form(_))));
        let mut signed = unified_kernel("252.39");
        signed.signatures = vec![7; 16];
        assert!(matches!(write(&signed.bytes(), &parts), Err(StubError::Form(_))));
    }

    #[test]
    fn a_header_without_room_is_refused() {
        let stub = stub("252.39");
        let room = Headers::read(&stub).unwrap().room(&stub).unwrap();
        let parts = vec![(".part", &b"x"[..]); room + 1];
        assert_eq!(write(&stub, &parts), Err(StubError::Room { room, needed: room + 1 }));
        assert!(write(&stub, &parts[..room]).is_ok());
    }
}
