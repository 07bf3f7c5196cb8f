use super::layout::{CRC_OFFSET, HEADER_LENGTH, SECTION_HEADER_LENGTH};
use super::*;

mod signatures;

use signatures::{Key, signed};

const KERNEL: u16 = 1;
const COMMAND_LINE: u16 = 2;
const RAMDISK: u16 = 3;
const SIGNATURE: u16 = 4;
const METADATA: u16 = 5;

const METADATA_JSON: &str = r#"{"ImageName":"clean room","ImageVersion":"1.0","BuildMetadata":{"BuildTime":"2026-01-01T00:00:00+00:00","BuildTool":"tests","BuildToolVersion":"0.1","OperatingSystem":"Linux","KernelVersion":"6.12"},"DockerInfo":{"Id":["x",{"y":null}]},"CustomMetadata":null}"#;

/// Writes an image section by section; each field can be made wrong before [`Image::build`].
struct Image {
    version: u16,
    sections: Vec<(u16, Vec<u8>)>,
}

impl Image {
    fn small() -> Self {
        let sections = vec![
            (KERNEL, b"kernel".to_vec()),
            (COMMAND_LINE, b"console=ttyS0".to_vec()),
            (METADATA, METADATA_JSON.into()),
            (RAMDISK, b"first ramdisk".to_vec()),
            (RAMDISK, b"second ramdisk".to_vec()),
            (RAMDISK, b"third".to_vec()),
        ];
        Self { version: 4, sections }
    }

    fn without(mut self, kind: u16) -> Self {
        self.sections.retain(|(other, _)| *other != kind);
        self
    }

    fn with(mut self, kind: u16, contents: &[u8]) -> Self {
        self.sections.push((kind, contents.to_vec()));
        self
    }

    fn pcr0(&self) -> Sha384Digest {
        let measured = self.sections.iter().filter(|(kind, _)| (KERNEL..=RAMDISK).contains(kind));
        let parts: Vec<&[u8]> = measured.map(|(_, contents)| contents.as_slice()).collect();
        pcr(&parts)
    }

    fn build(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let (mut offsets, mut lengths) = ([0_u64; 32], [0_u64; 32]);
        for (index, (kind, contents)) in self.sections.iter().enumerate() {
            offsets[index] = (HEADER_LENGTH + body.len()) as u64;
            lengths[index] = contents.len() as u64;
            body.extend_from_slice(&kind.to_be_bytes());
            body.extend_from_slice(&[0; 2]);
            body.extend_from_slice(&(contents.len() as u64).to_be_bytes());
            body.extend_from_slice(contents);
        }
        let mut image = b".eif".to_vec();
        image.extend_from_slice(&self.version.to_be_bytes());
        image.extend_from_slice(&[0; 2]);
        image.extend_from_slice(&(1_u64 << 30).to_be_bytes());
        image.extend_from_slice(&2_u64.to_be_bytes());
        image.extend_from_slice(&[0; 2]);
        image.extend_from_slice(&(self.sections.len() as u16).to_be_bytes());
        for field in offsets.iter().chain(&lengths) {
            image.extend_from_slice(&field.to_be_bytes());
        }
        image.extend_from_slice(&[0; 8]);
        image.extend_from_slice(&body);
        correct_crc(&mut image);
        image
    }
}

fn correct_crc(image: &mut [u8]) {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&image[..CRC_OFFSET]);
    crc.update(&image[HEADER_LENGTH..]);
    image[CRC_OFFSET..HEADER_LENGTH].copy_from_slice(&crc.finalize().to_be_bytes());
}

fn pcr(parts: &[&[u8]]) -> Sha384Digest {
    Sha384Digest::of(&[&[0; 48], Sha384Digest::of(parts).as_bytes()])
}

fn measure(image: &[u8]) -> Result<Measurement, ImageError> {
    let mut measurer = Measurer::new();
    measurer.update(image)?;
    measurer.finish()
}

/// The code under which `image` is refused.
fn refused(image: &[u8]) -> &'static str {
    measure(image).expect_err("the image must be refused").code()
}

/// Replaces bytes at `offset` and corrects the CRC, so that nothing but the change itself can be refused.
fn changed(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = Image::small().build();
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
    correct_crc(&mut image);
    image
}

#[test]
fn known_answer() {
    // Computed with Python's hashlib from the contents of Image::small.
    let measurement = measure(&Image::small().build()).unwrap();
    assert_eq!(measurement.pcr0.to_string(), KNOWN_PCR0);
    assert_eq!(measurement.pcr1.to_string(), KNOWN_PCR1);
    assert_eq!(measurement.pcr2.to_string(), KNOWN_PCR2);
    assert_eq!(measurement.pcr8, None);
}

const KNOWN_PCR0: &str =
    "8fd4bd031d8a5fa5a70d14b61c854b5c346305751128d03bcffe8b6550f74b61ff4cb3f78f497da37270a09814ead4e4";
const KNOWN_PCR1: &str =
    "5fe1aeda49d5d421c95a10148a9730a588b3543443aa54fc2bdac925a0d9250e5c39dd9e63169bba04db090a56c72bae";
const KNOWN_PCR2: &str =
    "6dbbca867c3702045c87f814ad9b90e97b7c74322b91b5139a192d74b9fe60198c709321fb2f339460199290d2e58894";

#[test]
fn describes_the_image() {
    let image = Image::small().build();
    let measurement = measure(&image).unwrap();
    assert_eq!(measurement.version, 4);
    assert_eq!(measurement.architecture, Architecture::X86_64);
    assert_eq!((measurement.default_memory, measurement.default_cpus), (1 << 30, 2));
    assert_eq!(measurement.file_length, image.len() as u64);
    assert_eq!(measurement.command_line, "console=ttyS0");
    let metadata = measurement.metadata.unwrap();
    assert_eq!((metadata.image_name.as_str(), metadata.build.tool.as_str()), ("clean room", "tests"));
    let kinds: Vec<_> = measurement.sections.iter().map(|section| section.kind).collect();
    let ramdisk = SectionKind::Ramdisk;
    let expected =
        [SectionKind::Kernel, SectionKind::CommandLine, SectionKind::Metadata, ramdisk, ramdisk, ramdisk];
    assert_eq!(kinds, expected);
    let kernel = measurement.sections[0];
    let start = usize::try_from(kernel.offset).unwrap();
    assert_eq!(&image[start..start + usize::try_from(kernel.length).unwrap()], b"kernel");
    let aarch64 = measure(&changed(6, &[0, 1])).unwrap();
    assert_eq!(aarch64.architecture, Architecture::Aarch64);
}

#[test]
fn contents_count_in_the_order_of_the_file() {
    let image = Image {
        version: 4,
        sections: vec![
            (METADATA, METADATA_JSON.into()),
            (KERNEL, b"K".to_vec()),
            (RAMDISK, b"1".to_vec()),
            (RAMDISK, b"2".to_vec()),
            (COMMAND_LINE, b"C".to_vec()),
            (RAMDISK, b"3".to_vec()),
        ],
    };
    let measurement = measure(&image.build()).unwrap();
    assert_eq!(measurement.pcr0, pcr(&[b"K12C3"]));
    assert_eq!(measurement.pcr1, pcr(&[b"K1C"]));
    assert_eq!(measurement.pcr2, pcr(&[b"23"]));
}

#[test]
fn one_ramdisk_leaves_the_application_empty() {
    let mut image = Image::small();
    image.sections.truncate(4);
    let measurement = measure(&image.build()).unwrap();
    assert_eq!(measurement.pcr0, measurement.pcr1);
    assert_eq!(measurement.pcr2, pcr(&[]));
}

#[test]
fn older_versions_need_no_metadata() {
    for version in [2, 3] {
        let image = Image { version, ..Image::small().without(METADATA) };
        assert_eq!(measure(&image.build()).unwrap().version, version);
    }
}

#[test]
fn pieces_of_any_size_measure_alike() {
    let image = signed(Key::p384()).build();
    let whole = measure(&image).unwrap();
    for size in [1, 2, 3, 11, 12, 13, 547, 548, 549] {
        let mut measurer = Measurer::new();
        image.chunks(size).for_each(|piece| measurer.update(piece).unwrap());
        measurer.update(&[]).unwrap();
        assert_eq!(measurer.finish().unwrap(), whole, "pieces of {size}");
    }
}

#[test]
fn halves_measure_like_the_whole() {
    let image = Image::small().build();
    let (mut lead, mut application) = Measurer::new().split();
    image.chunks(100).for_each(|piece| lead.update(piece).unwrap());
    image.chunks(7).for_each(|piece| application.update(piece).unwrap());
    assert_eq!(lead.finish(application.finish().unwrap()).unwrap(), measure(&image).unwrap());
}

#[test]
fn halves_must_have_read_the_same() {
    let image = Image::small().build();
    let (mut lead, mut application) = Measurer::new().split();
    lead.update(&image).unwrap();
    application.update(&image[..image.len() - 1]).unwrap();
    let error = lead.finish(application.finish().unwrap()).unwrap_err();
    assert_eq!(error, ImageError::SplitInput { expected: 19, actual: 18 });
}

#[test]
fn every_cut_is_refused() {
    let image = signed(Key::p256()).build();
    for length in 0..image.len() {
        let error = measure(&image[..length]).expect_err("a cut image must be refused");
        let expected = if length < HEADER_LENGTH { HEADER_LENGTH } else { image.len() } as u64;
        assert_eq!(error, ImageError::Truncated { expected, actual: length as u64 });
    }
    let longer = [image.as_slice(), &[0]].concat();
    assert_eq!(refused(&longer), "image-trailing-bytes");
}

#[test]
fn every_flipped_bit_is_refused() {
    let image = signed(Key::p256()).build();
    for bit in 0..image.len() * 8 {
        let mut flipped = image.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(measure(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn the_frame_hides_nothing() {
    // With a corrected CRC, only the architecture and the two suggestions may differ in the header of an acceptable image.
    for bit in 0..CRC_OFFSET * 8 {
        let mut image = Image::small().build();
        image[bit / 8] ^= 1 << (bit % 8);
        correct_crc(&mut image);
        let allowed = bit == 7 * 8 || (8..24).contains(&(bit / 8));
        assert_eq!(measure(&image).is_ok(), allowed, "bit {bit}");
    }
}

#[test]
fn a_failure_stays() {
    let mut measurer = Measurer::new();
    let error = measurer.update(&changed(0, b".elf")).unwrap_err();
    assert_eq!(error, ImageError::Magic { actual: *b".elf" });
    assert_eq!(measurer.update(&Image::small().build()), Err(error.clone()));
    assert_eq!(measurer.finish(), Err(error));

    let (mut lead, mut application) = Measurer::new().split();
    assert!(application.update(&changed(0, b".elf")).is_err());
    assert!(application.update(&Image::small().build()).is_err());
    assert!(application.finish().is_err());
    let (_, unfed) = Measurer::new().split();
    assert!(lead.update(&changed(0, b".elf")).is_err());
    assert!(lead.finish(unfed.finish().unwrap()).is_err());
}

#[test]
fn the_header_is_read_strictly() {
    assert_eq!(refused(&changed(0, b"\x7fELF")), "image-magic");
    for version in [0_u16, 1, 5, 0x0400] {
        assert_eq!(refused(&changed(4, &version.to_be_bytes())), "image-version");
    }
    assert_eq!(refused(&changed(6, &[0, 2])), "image-reserved-bits");
    assert_eq!(refused(&changed(24, &[0, 1])), "image-reserved-bits");
    for flags in [[0x00, 0x40], [0x02, 0x00], [0x02, 0x40], [0x02, 0x41]] {
        let error = measure(&changed(6, &flags)).unwrap_err();
        assert_eq!(error.code(), "image-pcie-flags", "{flags:x?}");
        assert!(error.to_string().contains("in PCR 0"), "{error}");
    }
    assert_eq!(refused(&changed(6, &[0x02, 0x42])), "image-reserved-bits");
    assert_eq!(refused(&changed(540, &[0, 0, 0, 1])), "image-reserved-bits");
    for count in [0_u16, 1, 33, 0xffff] {
        assert_eq!(refused(&changed(26, &count.to_be_bytes())), "image-section-count");
    }
    // A gap before the first section, and before the second.
    assert_eq!(refused(&changed(28, &549_u64.to_be_bytes())), "image-section-offset");
    assert_eq!(refused(&changed(36, &567_u64.to_be_bytes())), "image-section-offset");
    // An entry beyond the six in use: its offset, its length.
    assert_eq!(refused(&changed(28 + 6 * 8, &1_u64.to_be_bytes())), "image-unused-entry");
    assert_eq!(refused(&changed(284 + 6 * 8, &1_u64.to_be_bytes())), "image-unused-entry");
    // Lengths that wrap around.
    for length in [u64::MAX, u64::MAX - 560 + 1] {
        assert_eq!(refused(&changed(284, &length.to_be_bytes())), "image-section-overflow");
    }
}

#[test]
fn the_sections_are_read_strictly() {
    // The first section's own header: type, flags, length.
    for kind in [0_u16, 6, 0x0100, 0xffff] {
        assert_eq!(refused(&changed(548, &kind.to_be_bytes())), "image-section-type");
    }
    assert_eq!(refused(&changed(550, &[0, 1])), "image-reserved-bits");
    assert_eq!(refused(&changed(552, &5_u64.to_be_bytes())), "image-section-length");

    for kind in [KERNEL, COMMAND_LINE, METADATA, SIGNATURE] {
        let twice = Image::small().with(kind, b"").with(kind, b"").build();
        assert_eq!(refused(&twice), "image-section-duplicate");
    }
    for kind in [COMMAND_LINE, RAMDISK, METADATA] {
        assert_eq!(refused(&Image::small().without(kind).build()), "image-section-missing");
    }
    let no_kernel = Image::small().without(KERNEL);
    assert_eq!(refused(&no_kernel.build()), "image-section-order");
    assert_eq!(refused(&no_kernel.without(RAMDISK).build()), "image-section-missing");

    let image = Image { version: 2, ..Image::small().without(METADATA).with(SIGNATURE, b"") };
    assert_eq!(refused(&image.build()), "image-section-version");
    for version in [2, 3] {
        assert_eq!(refused(&Image { version, ..Image::small() }.build()), "image-section-version");
    }
}

#[test]
fn claimed_lengths_are_limited_before_anything_is_kept() {
    for (kind, limit) in [(COMMAND_LINE, 4096), (SIGNATURE, 32_768), (METADATA, 1 << 20)] {
        let image = |length| Image::small().without(kind).with(kind, &vec![b' '; length]).build();
        assert_ne!(refused_or_accepted(&image(limit)), "image-section-too-long");
        // The refusal needs no more than the section's header.
        let image = image(limit + 1);
        let start = image.len() - (limit + 1) - SECTION_HEADER_LENGTH;
        let mut measurer = Measurer::new();
        measurer.update(&image[..start + SECTION_HEADER_LENGTH - 1]).unwrap();
        let error = measurer.update(&image[start + SECTION_HEADER_LENGTH - 1..][..1]).unwrap_err();
        assert_eq!(error.code(), "image-section-too-long");
    }
}

fn refused_or_accepted(image: &[u8]) -> &'static str {
    measure(image).map_or_else(|error| error.code(), |_| "accepted")
}

#[test]
fn an_endless_kernel_is_no_reason_to_allocate() {
    let mut image = Image::small();
    image.sections.swap(0, 5);
    image.sections[0] = (KERNEL, Vec::new());
    image.sections[5] = (RAMDISK, Vec::new());
    let mut image = image.build();
    let claimed = u64::MAX / 2;
    // The last section claims eight exabytes and brings one.
    image[284 + 5 * 8..284 + 6 * 8].copy_from_slice(&claimed.to_be_bytes());
    let length = image.len();
    image[length - 8..].copy_from_slice(&claimed.to_be_bytes());
    image.push(0);
    assert_eq!(refused(&image), "image-truncated");
}

#[test]
fn the_crc_is_checked() {
    let mut image = Image::small().build();
    let last = image.len() - 1;
    image[last] ^= 1;
    assert_eq!(refused(&image), "image-crc");
}

#[test]
fn the_command_line_has_no_zero_byte() {
    let image = Image::small().without(COMMAND_LINE).with(COMMAND_LINE, b"quiet\0init=/evil");
    let error = measure(&image.build()).unwrap_err();
    assert_eq!(error, ImageError::CommandLine { offset: 5 });
}

#[test]
fn metadata_is_the_documented_object() {
    let with = |text: &str| Image::small().without(METADATA).with(METADATA, text.as_bytes()).build();
    assert!(measure(&with(&METADATA_JSON.replace(r#","CustomMetadata":null"#, ""))).is_ok());
    let twice = METADATA_JSON.replace(r#""ImageName":"#, r#""ImageName":"other","ImageName":"#);
    let deep = METADATA_JSON.replace("null}", &"[".repeat(100_000));
    for text in ["", "[]", "null", "{}", "\u{feff}{}", METADATA_JSON.trim_end_matches('}'), &twice, &deep] {
        assert_eq!(refused(&with(text)), "image-metadata", "{text:.100}");
    }
    for field in ["ImageName", "ImageVersion", "BuildMetadata", "BuildTime", "KernelVersion", "DockerInfo"] {
        assert_eq!(refused(&with(&METADATA_JSON.replace(field, "Else"))), "image-metadata", "{field}");
    }
    assert_eq!(refused(&with(&format!("{METADATA_JSON}x"))), "image-metadata");
    let error = measure(&with(&METADATA_JSON.replace("\"1.0\"", "7"))).unwrap_err();
    let ImageError::Metadata { problem, line: 1, .. } = error else { panic!("{error}") };
    assert_eq!(problem, "a field is missing, repeated or of another type");
}

#[test]
fn written_metadata_is_read() {
    let build = BuildInformation {
        time: "2026-01-01T00:00:00Z".to_owned(),
        tool: "a \"tool\"".to_owned(),
        tool_version: "1".to_owned(),
        operating_system: "Linux".to_owned(),
        kernel_version: "6.12".to_owned(),
    };
    let section = build.section("clean\nroom", "0.1", &serde_json::json!({ "source": [1, null] }));
    let metadata = Metadata::parse(&section).unwrap();
    assert_eq!((metadata.image_name.as_str(), metadata.image_version.as_str()), ("clean\nroom", "0.1"));
    assert_eq!(metadata.build, build);
}
