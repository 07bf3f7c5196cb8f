//! Writes images in the one form that the reader takes.

use super::error::ImageError;
use super::layout::{CRC_OFFSET, HEADER_LENGTH, MAX_SECTIONS, SECTION_HEADER_LENGTH};
use super::section::{Architecture, SectionKind};

/// The version that is written: the newest.
const VERSION: u16 = 4;
/// What AWS's tools write and none of them reads: memory in bytes, and processors.
const DEFAULT_MEMORY: u64 = 1 << 30;
const DEFAULT_CPUS: u64 = 2;

/// An image of these sections, in this order, byte for byte as AWS's tools lay it out.
///
/// Nothing but the frame is checked here; [`Measurer`](super::Measurer) says whether the result is an image, and measures it.
///
/// # Errors
///
/// [`ImageError::SectionCount`] when there are fewer than 2 sections or more than 32.
pub fn encode(architecture: Architecture, sections: &[(SectionKind, &[u8])]) -> Result<Vec<u8>, ImageError> {
    let count = u16::try_from(sections.len()).unwrap_or(u16::MAX);
    if !(2..=MAX_SECTIONS as u16).contains(&count) {
        return Err(ImageError::SectionCount { actual: count });
    }
    let body: usize = sections.iter().map(|(_, contents)| SECTION_HEADER_LENGTH + contents.len()).sum();
    let mut image = Vec::with_capacity(HEADER_LENGTH + body);
    image.extend_from_slice(b".eif");
    image.extend_from_slice(&VERSION.to_be_bytes());
    image.extend_from_slice(&u16::from(architecture == Architecture::Aarch64).to_be_bytes());
    image.extend_from_slice(&DEFAULT_MEMORY.to_be_bytes());
    image.extend_from_slice(&DEFAULT_CPUS.to_be_bytes());
    image.extend_from_slice(&[0; 2]);
    image.extend_from_slice(&count.to_be_bytes());
    let mut offset = HEADER_LENGTH as u64;
    let mut offsets = [0; MAX_SECTIONS];
    let mut lengths = [0; MAX_SECTIONS];
    for (entry, (_, contents)) in offsets.iter_mut().zip(&mut lengths).zip(sections) {
        *entry.0 = offset;
        *entry.1 = contents.len() as u64;
        offset += (SECTION_HEADER_LENGTH + contents.len()) as u64;
    }
    for field in offsets.into_iter().chain(lengths) {
        image.extend_from_slice(&field.to_be_bytes());
    }
    image.resize(HEADER_LENGTH, 0);
    for (kind, contents) in sections {
        image.extend_from_slice(&kind.code().to_be_bytes());
        image.extend_from_slice(&[0; 2]);
        image.extend_from_slice(&(contents.len() as u64).to_be_bytes());
        image.extend_from_slice(contents);
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(image.get(..CRC_OFFSET).unwrap_or_default());
    crc.update(image.get(HEADER_LENGTH..).unwrap_or_default());
    if let Some(field) = image.get_mut(CRC_OFFSET..HEADER_LENGTH) {
        field.copy_from_slice(&crc.finalize().to_be_bytes());
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measurement::{Measurer, of_contents};

    const METADATA: &[u8] = br#"{"ImageName":"","ImageVersion":"","BuildMetadata":{"BuildTime":"","BuildTool":"","BuildToolVersion":"","OperatingSystem":"","KernelVersion":""},"DockerInfo":{}}"#;

    #[test]
    fn what_is_written_is_read() {
        let sections: [(SectionKind, &[u8]); 5] = [
            (SectionKind::Kernel, b"kernel"),
            (SectionKind::CommandLine, b"line"),
            (SectionKind::Metadata, METADATA),
            (SectionKind::Ramdisk, b""),
            (SectionKind::Ramdisk, b"application"),
        ];
        for architecture in [Architecture::X86_64, Architecture::Aarch64] {
            let image = encode(architecture, &sections).unwrap();
            let mut measurer = Measurer::new();
            measurer.update(&image).unwrap();
            let measurement = measurer.finish().unwrap();
            assert_eq!(measurement.architecture, architecture);
            assert_eq!((measurement.version, measurement.file_length), (4, image.len() as u64));
            assert_eq!(measurement.pcr0, of_contents(&[b"kernel", b"line", b"application"]));
            assert_eq!(measurement.pcr2, of_contents(&[b"application"]));
            let read = measurement.sections.iter().map(|section| {
                let start = section.offset as usize;
                (section.kind, &image[start..start + section.length as usize])
            });
            assert!(read.eq(sections));
        }
    }

    #[test]
    fn the_table_has_room_for_32() {
        let sections = |count| vec![(SectionKind::Ramdisk, &b"x"[..]); count];
        for count in [0, 1, 33, 70_000] {
            assert!(encode(Architecture::X86_64, &sections(count)).is_err(), "{count}");
        }
        assert!(encode(Architecture::X86_64, &sections(32)).is_ok());
    }
}
