//! UEFI executables and unified kernel images that are as small as they can be.

/// How long a section is in the file at least, and a multiple of it.
const ALIGNMENT: usize = 512;
/// Where the PE header begins, and where the optional header, in these files.
const PE: usize = 0x40;
const OPTIONAL: usize = PE + 24;
/// Directories in the optional header.
const DIRECTORIES: usize = 16;
const TABLE: usize = OPTIONAL + 112 + 8 * DIRECTORIES;

/// Offsets of fields in the files that [`Executable::bytes`] makes.
pub mod field {
    use super::{OPTIONAL, PE, TABLE};

    /// The processor, 2 bytes.
    pub const MACHINE: usize = PE + 4;
    /// The number of sections, 2 bytes.
    pub const SECTIONS: usize = PE + 6;
    /// Offset and number of the symbols, 4 bytes each.
    pub const SYMBOLS: usize = PE + 12;
    /// The length of the optional header, 2 bytes.
    pub const OPTIONAL_LENGTH: usize = PE + 20;
    /// The kind of the optional header, 2 bytes.
    pub const KIND: usize = OPTIONAL;
    /// The length of all headers, 4 bytes.
    pub const HEADERS_LENGTH: usize = OPTIONAL + 60;
    /// The checksum, 4 bytes.
    pub const CHECKSUM: usize = OPTIONAL + 64;
    /// The number of directories, 4 bytes.
    pub const DIRECTORIES: usize = OPTIONAL + 108;
    /// Offset and length of the signatures, 4 bytes each.
    pub const SIGNATURES: usize = OPTIONAL + 112 + 32;

    /// The entry of the section at `index`: name (8 bytes), then length and address in memory, length and offset in the
    /// file (4 bytes each).
    #[must_use]
    pub const fn section(index: usize) -> usize {
        TABLE + 40 * index
    }
}

/// A UEFI executable (PE32+).
#[derive(Clone)]
pub struct Executable {
    /// 0x8664 for `x86_64`, 0xaa64 for aarch64.
    pub machine: u16,
    /// Names and contents.
    pub sections: Vec<(&'static str, Vec<u8>)>,
    /// What stands behind the sections.
    pub rest: Vec<u8>,
    /// What stands where signatures do. Nothing signs anything here.
    pub signatures: Vec<u8>,
}

impl Executable {
    /// An executable for `x86_64` with these sections.
    #[must_use]
    pub fn new(sections: &[(&'static str, &[u8])]) -> Self {
        let sections = sections.iter().map(|(name, contents)| (*name, contents.to_vec())).collect();
        Self { machine: 0x8664, sections, rest: Vec::new(), signatures: Vec::new() }
    }

    /// The file.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let headers_length = (TABLE + 40 * self.sections.len()).next_multiple_of(ALIGNMENT);
        let mut file = vec![0; TABLE];
        let mut put = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x3c, &(PE as u32).to_le_bytes());
        put(PE, b"PE\0\0");
        put(field::MACHINE, &self.machine.to_le_bytes());
        put(field::SECTIONS, &(self.sections.len() as u16).to_le_bytes());
        put(field::OPTIONAL_LENGTH, &((TABLE - OPTIONAL) as u16).to_le_bytes());
        put(field::KIND, &0x20b_u16.to_le_bytes());
        // Alignment of sections in memory and in the file.
        put(OPTIONAL + 32, &(ALIGNMENT as u32).to_le_bytes());
        put(OPTIONAL + 36, &(ALIGNMENT as u32).to_le_bytes());
        put(field::HEADERS_LENGTH, &(headers_length as u32).to_le_bytes());
        put(field::CHECKSUM, &[0xc5; 4]);
        put(field::DIRECTORIES, &(DIRECTORIES as u32).to_le_bytes());
        let (mut offset, mut contents) = (headers_length, Vec::new());
        for (name, bytes) in &self.sections {
            let stored = bytes.len().next_multiple_of(ALIGNMENT);
            let mut entry = name.as_bytes().to_vec();
            entry.resize(8, 0);
            // In memory, each section stands where it stands in the file.
            for value in [bytes.len(), offset, stored, offset] {
                entry.extend_from_slice(&(value as u32).to_le_bytes());
            }
            entry.resize(40, 0);
            file.extend_from_slice(&entry);
            contents.extend_from_slice(bytes);
            offset += stored;
            contents.resize(offset - headers_length, 0);
        }
        file.resize(headers_length, 0);
        file.extend_from_slice(&contents);
        file.extend_from_slice(&self.rest);
        if !self.signatures.is_empty() {
            file.resize(file.len().next_multiple_of(8), 0);
            let place = [file.len() as u32, self.signatures.len() as u32];
            for (index, value) in place.iter().enumerate() {
                let at = field::SIGNATURES + 4 * index;
                file[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            file.extend_from_slice(&self.signatures);
        }
        file
    }
}

/// A unified kernel image with the stub of systemd in this version, for instance `258.1`.
#[must_use]
pub fn unified_kernel(stub: &str) -> Executable {
    let kernel = Executable::new(&[(".text", b"kernel"), (".data", b"data")]).bytes();
    let magic = format!("#### LoaderInfo: systemd-stub {stub} ####\0");
    Executable::new(&[
        (".text", b"stub"),
        (".sdmagic", magic.as_bytes()),
        (".osrel", b"ID=test\n"),
        (".cmdline", b"console=ttyS0"),
        (".linux", &kernel),
        (".initrd", b"ramdisk"),
    ])
}
