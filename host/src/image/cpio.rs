//! Ramdisks: cpio archives in the format that the kernel unpacks (its "Buffer format" document; `newc`, magic
//! 070701).
//!
//! The writer gives one archive for one list of entries: numbered from 1, owned by user and group 0, dated
//! 1970, sorted by their writer. The reader takes archives that others made, within limits.

use std::ops::Range;

const MAGIC: &[u8; 6] = b"070701";
const HEADER_LENGTH: usize = 110;
const TRAILER: &str = "TRAILER!!!";

/// What an entry is. The numbers are those of the mode's upper bits (`S_IFMT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link; its contents are its target.
    Link,
    /// A character device with these numbers.
    Device {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Anything else, with its mode's upper bits.
    Other(u32),
}

impl Kind {
    const fn bits(self) -> u32 {
        match self {
            Self::File => 0o100_000,
            Self::Folder => 0o040_000,
            Self::Link => 0o120_000,
            Self::Device { .. } => 0o020_000,
            Self::Other(bits) => bits,
        }
    }

    const fn numbers(self) -> (u32, u32) {
        match self {
            Self::Device { major, minor } => (major, minor),
            _ => (0, 0),
        }
    }
}

/// Writes one archive.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds an entry. `path` has no leading slash; `permissions` are the mode's lower twelve bits.
    ///
    /// # Errors
    ///
    /// [`CpioError::TooLong`] for contents that the format's 32-bit length cannot hold.
    pub fn add(
        &mut self,
        path: &str,
        kind: Kind,
        permissions: u16,
        contents: &[u8],
    ) -> Result<(), CpioError> {
        let length =
            u32::try_from(contents.len()).map_err(|_| CpioError::TooLong { path: path.to_owned() })?;
        self.entries += 1;
        let links = if kind == Kind::Folder { 2 } else { 1 };
        let mode = kind.bits() | u32::from(permissions);
        self.write(path, [self.entries, mode, links, length], kind.numbers(), contents);
        Ok(())
    }

    /// The archive's bytes. Their number is a multiple of four, so that archives can follow each other.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.write(TRAILER, [0, 0, 1, 0], (0, 0), &[]);
        self.bytes
    }

    fn write(
        &mut self,
        name: &str,
        [number, mode, links, length]: [u32; 4],
        device: (u32, u32),
        contents: &[u8],
    ) {
        let name_length = name.len() as u32 + 1;
        // Number, mode, owner, group, links, time, length, device of the file system (2), device (2), name,
        // check sum.
        let fields = [number, mode, 0, 0, links, 0, length, 0, 0, device.0, device.1, name_length, 0];
        self.bytes.extend_from_slice(MAGIC);
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(contents);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// One entry of an archive that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path as the archive has it. What is not UTF-8 is replaced.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// The mode's lower twelve bits.
    pub permissions: u16,
    /// Owner and group.
    pub owner: (u32, u32),
    /// When it was changed, seconds since 1970.
    pub modified: u32,
    /// Where its contents are in the ramdisk.
    pub contents: Range<usize>,
}

/// The most entries that are read.
const MAX_ENTRIES: usize = 100_000;
/// The longest path, bytes: the kernel's limit.
const MAX_PATH: usize = 4096;

/// The entries of a ramdisk: one archive or several, with zero bytes between and after them.
///
/// # Errors
///
/// [`CpioError`] when the bytes are something else, a compressed archive for instance.
pub fn read(ramdisk: &[u8]) -> Result<Vec<Entry>, CpioError> {
    let mut entries = Vec::new();
    let mut position = 0;
    while let Some(rest) = ramdisk.get(position..).filter(|rest| !rest.is_empty()) {
        if rest.first() == Some(&0) {
            position += rest.iter().take_while(|byte| **byte == 0).count();
            continue;
        }
        position = read_archive(ramdisk, position, &mut entries)?;
    }
    Ok(entries)
}

/// Reads the archive that begins at `position` and returns where it ends.
fn read_archive(ramdisk: &[u8], mut position: usize, entries: &mut Vec<Entry>) -> Result<usize, CpioError> {
    loop {
        let offset = position;
        let damaged = |expected| CpioError::Damaged { offset, expected };
        let header = ramdisk.get(position..).and_then(<[u8]>::first_chunk::<HEADER_LENGTH>);
        let header = header.ok_or(damaged("a header of 110 bytes"))?;
        let digits = header.strip_prefix(MAGIC).ok_or(damaged("the magic number 070701"))?;
        let mut fields = digits.as_chunks::<8>().0.iter().map(hexadecimal);
        let mut field = || fields.next().flatten().ok_or(damaged("eight hexadecimal digits"));
        let (_number, mode, owner, group) = (field()?, field()?, field()?, field()?);
        let (_links, modified, length) = (field()?, field()?, field()?);
        let (_device, major, minor) = ((field()?, field()?), field()?, field()?);
        let (name_length, _check) = (field()?, field()?);

        let (start, length) = (position + HEADER_LENGTH, length as usize);
        let name = (name_length as usize).checked_sub(1).filter(|length| *length <= MAX_PATH);
        let name_length = name.ok_or(damaged("a path of at most 4096 bytes"))?;
        let name = ramdisk.get(start..start + name_length + 1).ok_or(damaged("the whole path"))?;
        let Some((0, name)) = name.split_last() else { return Err(damaged("a zero byte after the path")) };
        let begin = (start + name_length + 1).next_multiple_of(4).min(ramdisk.len());
        let end = begin.checked_add(length).filter(|end| *end <= ramdisk.len());
        let contents = begin..end.ok_or(damaged("the whole contents"))?;
        position = contents.end.next_multiple_of(4).min(ramdisk.len());
        if name == TRAILER.as_bytes() {
            return Ok(position);
        }
        if entries.len() == MAX_ENTRIES {
            return Err(damaged("at most 100000 entries"));
        }
        let kind = match mode & 0o170_000 {
            0o100_000 => Kind::File,
            0o040_000 => Kind::Folder,
            0o120_000 => Kind::Link,
            0o020_000 => Kind::Device { major, minor },
            other => Kind::Other(other),
        };
        entries.push(Entry {
            path: String::from_utf8_lossy(name).into_owned(),
            kind,
            permissions: (mode & 0o7777) as u16,
            owner: (owner, group),
            modified,
            contents,
        });
    }
}

fn hexadecimal(digits: &[u8; 8]) -> Option<u32> {
    let text = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
    u32::from_str_radix(text, 16).ok()
}

/// Why bytes are not a ramdisk, or contents do not go into one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CpioError {
    /// The bytes differ from the format.
    #[error(
        "expected {expected} at byte {offset} of the ramdisk: it is no uncompressed cpio archive, or is damaged"
    )]
    Damaged {
        /// Where the entry begins, bytes.
        offset: usize,
        /// What should have come.
        expected: &'static str,
    },
    /// A file is too long for the format.
    #[error("`{path}` is longer than 4 GiB, the most that a ramdisk's entry can be")]
    TooLong {
        /// The file.
        path: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.add("app", Kind::Folder, 0o755, b"").unwrap();
        archive.add("app/enclave", Kind::File, 0o755, b"program").unwrap();
        archive.add("dev/console", Kind::Device { major: 5, minor: 1 }, 0o600, b"").unwrap();
        archive.finish()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = small();
        let entries = read(&bytes).unwrap();
        let summary: Vec<_> = entries
            .iter()
            .map(|entry| (entry.path.as_str(), entry.kind, entry.permissions, &bytes[entry.contents.clone()]))
            .collect();
        assert_eq!(
            summary,
            [
                ("app", Kind::Folder, 0o755, &b""[..]),
                ("app/enclave", Kind::File, 0o755, b"program"),
                ("dev/console", Kind::Device { major: 5, minor: 1 }, 0o600, b""),
            ]
        );
        assert!(entries.iter().all(|entry| entry.owner == (0, 0) && entry.modified == 0));
    }

    #[test]
    fn the_bits_are_fixed() {
        let mut archive = Archive::default();
        archive.add("a", Kind::File, 0o644, b"xyz").unwrap();
        let expected = "07070100000001000081A40000000000000000000000010000000000000003\
                        0000000000000000000000000000000000000002\
                        00000000a\0xyz\0\
                        0707010000000000000000000000000000000000000001000000000000000000000000000000000000000000000000\
                        0000000B00000000TRAILER!!!\0\0\0\0";
        assert_eq!(String::from_utf8(archive.finish()).unwrap(), expected);
    }

    #[test]
    fn archives_follow_each_other() {
        let two = [small(), vec![0; 512], small(), vec![0; 3]].concat();
        assert_eq!(read(&two).unwrap().len(), 6);
        assert_eq!(read(&[]), Ok(vec![]));
        assert_eq!(read(&[0; 7]), Ok(vec![]));
    }

    #[test]
    fn every_cut_is_noticed() {
        let bytes = small();
        // The zero bytes that fill up the last word are no loss.
        let end = bytes.iter().rposition(|byte| *byte == b'!').unwrap() + 2;
        for length in 1..end {
            assert!(matches!(read(&bytes[..length]), Err(CpioError::Damaged { .. })), "{length}");
        }
        for length in end..=bytes.len() {
            assert_eq!(read(&bytes[..length]).unwrap().len(), 3);
        }
    }

    #[test]
    fn hostile_lengths_are_refused() {
        let bytes = small();
        let length_of = |field: usize| 6 + 8 * field..14 + 8 * field;
        for field in [6, 11] {
            for value in ["FFFFFFFF", "+0000001", "0000000G", "80000000"] {
                let mut changed = bytes.clone();
                changed[length_of(field)].copy_from_slice(value.as_bytes());
                assert!(read(&changed).is_err(), "field {field} as {value}");
            }
        }
        let mut empty_name = bytes.clone();
        empty_name[length_of(11)].copy_from_slice(b"00000000");
        assert!(read(&empty_name).is_err());
        assert!(read(b"\x1f\x8b compressed").is_err());
    }
}
