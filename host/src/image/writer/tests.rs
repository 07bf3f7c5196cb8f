//! The writer against the reader, which shares no layout with it.

use cleanroom_attestation::measurement::{ImageError, Measurement, Measurer, of_contents};

use super::*;

const METADATA: &[u8] = br#"{"ImageName":"","ImageVersion":"","BuildMetadata":{"BuildTime":"","BuildTool":"","BuildToolVersion":"","OperatingSystem":"","KernelVersion":""},"DockerInfo":{}}"#;

const SECTIONS: [(SectionKind, &[u8]); 5] = [
    (SectionKind::Kernel, b"kernel"),
    (SectionKind::CommandLine, b"line"),
    (SectionKind::Metadata, METADATA),
    (SectionKind::Ramdisk, b""),
    (SectionKind::Ramdisk, b"application"),
];

fn read(image: &[u8]) -> Result<Measurement, ImageError> {
    let mut measurer = Measurer::new();
    measurer.update(image)?;
    measurer.finish()
}

#[test]
fn what_is_written_is_read() {
    for architecture in [Architecture::X86_64, Architecture::Aarch64] {
        let image = write(architecture, &SECTIONS).unwrap();
        let measurement = read(&image).unwrap();
        assert_eq!(measurement.architecture, architecture);
        assert_eq!((measurement.version, measurement.file_length), (4, image.len() as u64));
        assert_eq!(measurement.pcr0, of_contents(&[b"kernel", b"line", b"application"]));
        assert_eq!(measurement.pcr2, of_contents(&[b"application"]));
        let sections = measurement.sections.iter().map(|section| {
            let start = section.offset as usize;
            (section.kind, &image[start..start + section.length as usize])
        });
        assert!(sections.eq(SECTIONS));
    }
}

/// Where bytes of the frame stand whose value the reader does not prescribe: default memory and processors.
const FREE: core::ops::Range<usize> = 8..24;
/// Where the checksum stands.
const CHECKSUM: core::ops::Range<usize> = 544..548;

#[test]
fn writer_and_reader_agree_on_every_byte_of_the_frame() {
    let image = write(Architecture::X86_64, &SECTIONS).unwrap();
    let measurement = read(&image).unwrap();
    // The frame is everything but contents.
    let is_contents = |at: usize| {
        measurement.sections.iter().any(|section| {
            let start = section.offset as usize;
            (start..start + section.length as usize).contains(&at)
        })
    };
    let frame: Vec<usize> = (0..image.len()).filter(|at| !is_contents(*at)).collect();
    assert_eq!(
        frame.len(),
        548 + 12 * SECTIONS.len(),
        "the reader finds the contents where they were written"
    );
    for at in frame {
        for bit in 0..8 {
            let mut changed = image.clone();
            changed[at] ^= 1 << bit;
            assert!(read(&changed).is_err(), "byte {at}, bit {bit}: the checksum does not cover it");
            if CHECKSUM.contains(&at) {
                continue;
            }
            let mut checksum = crc32fast::Hasher::new();
            checksum.update(&changed[..CHECKSUM.start]);
            checksum.update(&changed[CHECKSUM.end..]);
            changed[CHECKSUM].copy_from_slice(&checksum.finalize().to_be_bytes());
            match read(&changed) {
                Ok(_) if FREE.contains(&at) => {}
                Err(_) if !FREE.contains(&at) => {}
                // Another version or architecture is another image, and is read as one.
                Ok(other) if (4..8).contains(&at) => assert_ne!(other, measurement, "byte {at}, bit {bit}"),
                other => panic!("byte {at}, bit {bit}: {other:?}"),
            }
        }
    }
}

#[test]
fn the_table_has_room_for_32() {
    let sections = |count| vec![(SectionKind::Ramdisk, &b"x"[..]); count];
    for actual in [0, 1, 33, 70_000] {
        assert_eq!(write(Architecture::X86_64, &sections(actual)), Err(SectionCount { actual }));
    }
    assert!(write(Architecture::X86_64, &sections(32)).is_ok());
}
