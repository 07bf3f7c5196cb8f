use super::layout::{CRC_OFFSET, HEADER_LENGTH, SECTION_HEADER_LENGTH};
use super::*;
use crate::crypto::backend::{rand::SystemRandom, signature as ecdsa};
use crate::digest::Sha256Digest;
use ecdsa::KeyPair as _;

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

// Signatures.

#[test]
fn every_curve_signs() {
    for key in [Key::p256(), Key::p384()] {
        let image = signed(key);
        let measurement = measure(&image.build()).unwrap();
        let certificate = measurement.signing_certificate.unwrap();
        assert_eq!(measurement.pcr0, image.pcr0());
        assert_eq!(measurement.pcr8, Some(pcr(&[certificate.der()])));
        assert_eq!(certificate.pcr8(), pcr(&[certificate.der()]));
        assert_eq!(SigningCertificate::from_der(certificate.der()).as_ref(), Ok(&certificate));
        assert_eq!(certificate.sha384, Sha384Digest::of(&[certificate.der()]));
        assert_eq!(certificate.sha256, Sha256Digest::of(&[certificate.der()]));
    }
    #[cfg(feature = "aws-lc-rs")]
    assert_eq!(
        measure(&signed(Key::p521()).build()).unwrap().signing_certificate.unwrap().curve.to_string(),
        "P-521"
    );
}

#[test]
fn a_request_becomes_a_section() {
    for key in [Key::p256(), Key::p384()] {
        let pem = pem("CERTIFICATE", &key.certificate);
        let request = SignatureRequest::new(&pem, Image::small().pcr0()).unwrap();
        let signature = key.pair.sign(&SystemRandom::new(), &request.to_be_signed()).unwrap();
        let section = request.section(signature.as_ref()).unwrap();
        let image = Image::small().with(SIGNATURE, &section).build();
        let certificate = measure(&image).unwrap().signing_certificate;
        assert_eq!(certificate.as_ref(), Some(request.certificate()));

        let (r, s) = signature.as_ref().split_at(signature.as_ref().len() / 2);
        let integer = |number: &[u8]| {
            let first = number.iter().position(|byte| *byte != 0).unwrap();
            let sign: &[u8] = if number[first] & 0x80 == 0 { &[] } else { &[0] };
            der(0x02, &[sign, &number[first..]].concat())
        };
        let numbers = [integer(r), integer(s)].concat();
        assert_eq!(request.section(&der(0x30, &numbers)).as_ref(), Ok(&section));
        assert!(request.section(&der(0x30, &[numbers, vec![5, 0]].concat())).is_err());

        let other = SignatureRequest::new(&pem, Sha384Digest::of(&[b"another image"])).unwrap();
        assert_eq!(other.section(signature.as_ref()), Err(SignatureError::Forged));
        assert_eq!(request.section(&signature.as_ref()[1..]), Err(SignatureError::Forged));
        assert_eq!(request.section(&[]), Err(SignatureError::Forged));
    }
    assert_eq!(
        SignatureRequest::new(b"no certificate", Image::small().pcr0()).unwrap_err().code(),
        "image-signature-certificate"
    );
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

#[test]
fn the_signature_is_for_this_image() {
    let mut image = signed(Key::p384());
    image.sections[0].1 = b"another kernel".to_vec();
    let error = measure(&image.build()).unwrap_err();
    assert_eq!(error.code(), "image-signature-pcr0");
    assert!(error.to_string().contains(&image.pcr0().to_string()));
}

#[test]
fn the_signature_is_verified() {
    let signer = Key::p384();
    // Signed by another key than the certificate's.
    let forged = SignatureParts { certificate: Key::p384().certificate, ..SignatureParts::new(signer) };
    assert_eq!(refused(&forged.image().build()), "image-signature-forged");
    // The signature's last byte differs.
    let mut parts = SignatureParts::new(Key::p384());
    parts.alter_signature = true;
    assert_eq!(refused(&parts.image().build()), "image-signature-forged");
}

#[test]
fn the_signed_register_is_the_first() {
    let parts = SignatureParts { register: 1, ..SignatureParts::new(Key::p384()) };
    assert_eq!(refused(&parts.image().build()), "image-signature-register");
}

#[test]
fn the_algorithm_is_the_keys() {
    for algorithm in [-7, -36, -8, -1] {
        let parts = SignatureParts { algorithm, ..SignatureParts::new(Key::p384()) };
        assert_eq!(refused(&parts.image().build()), "image-signature-algorithm");
    }
}

#[test]
fn the_certificate_is_pem_of_der() {
    let key = Key::p384();
    let good = pem("CERTIFICATE", &key.certificate);
    let section = |pem: &[u8]| SignatureParts { pem: Some(pem.to_vec()), ..SignatureParts::new(Key::p384()) };
    let refused_as = |pem: &[u8]| refused(&section(pem).image().build());
    assert_eq!(refused_as(&good), "image-signature-forged", "the form is right, the key another");
    // Text in front, and further certificates behind, are what AWS's tools allow.
    assert_eq!(
        refused_as(&[b"Subject: somebody\n", good.as_slice(), &good].concat()),
        "image-signature-forged"
    );

    let bad = "image-signature-certificate";
    assert_eq!(refused_as(b""), bad);
    assert_eq!(refused_as(&key.certificate), bad);
    assert_eq!(refused_as(&pem("CERTIFICATE", b"")), bad);
    assert_eq!(refused_as(&pem("CERTIFICATE", &key.certificate[..100])), bad);
    assert_eq!(refused_as(&pem("CERTIFICATE", &[key.certificate.as_slice(), &[0]].concat())), bad);
    let older = pem("X509 CERTIFICATE", &key.certificate);
    assert_eq!(refused_as(&[older, good.clone()].concat()), bad);
    let text = String::from_utf8(good).unwrap();
    assert_eq!(refused_as(text.replace("-----END", "----END").as_bytes()), bad);
}

#[test]
fn a_certificate_in_ber_is_refused() {
    // The outermost length written longer than needed: other programs would write it anew before they hash it.
    let key = Key::p256();
    let (length, body) = (key.certificate[1], &key.certificate[2..]);
    assert_eq!(usize::from(length), body.len());
    for longer in [&[0x30, 0x81, length][..], &[0x30, 0x82, 0, length]] {
        let pem = pem("CERTIFICATE", &[longer, body].concat());
        let parts = SignatureParts { pem: Some(pem), ..SignatureParts::new(Key::p256()) };
        assert_eq!(refused(&parts.image().build()), "image-signature-certificate");
    }
}

#[test]
fn other_keys_are_refused() {
    let key = Key::p384();
    let mut certificate = key.certificate.clone();
    let oid = certificate.windows(5).position(|window| window == [0x2b, 0x81, 0x04, 0x00, 0x22]).unwrap();
    certificate[oid + 4] = 0x0a;
    let parts = SignatureParts { certificate, ..SignatureParts::new(key) };
    assert_eq!(refused(&parts.image().build()), "image-signature-key-type");
}

#[test]
fn the_section_has_one_encoding() {
    let parts = SignatureParts::new(Key::p384());
    let good = parts.section();
    let with = |section: &[u8]| Image::small().with(SIGNATURE, section).build();
    assert!(measure(&with(&good)).is_ok());
    // Every cut, and every single changed bit up to the certificate's text, is an encoding error.
    for length in 0..good.len() {
        let code = refused(&with(&good[..length]));
        assert_eq!(code, "image-signature-encoding", "cut after {length}");
    }
    for bit in 0..25 * 8 {
        let mut section = good.clone();
        section[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(refused(&with(&section)), "image-signature-encoding", "bit {bit}");
    }
    let encoding = |section: &[u8]| assert_eq!(refused(&with(section)), "image-signature-encoding");
    encoding(&[good.as_slice(), &[0]].concat());
    // Two entries; an indefinite array; a longer head than needed; a claimed length of 2^32.
    encoding(&[&[0x82][..], &good[1..], &good[1..]].concat());
    encoding(&[&[0x9f][..], &good[1..], &[0xff]].concat());
    encoding(&[&[0x98, 1][..], &good[1..]].concat());
    encoding(&[&good[..22], &[0x9b, 0, 0, 0, 1, 0, 0, 0, 0]].concat());
}

#[test]
fn the_signed_structure_has_one_encoding() {
    let valid = || SignatureParts::new(Key::p384());
    let tagged = SignatureParts { tag: true, ..valid() };
    assert!(measure(&tagged.image().build()).is_ok());
    let encoding =
        |parts: SignatureParts| assert_eq!(refused(&parts.image().build()), "image-signature-encoding");
    encoding(SignatureParts { unprotected: vec![0xa1, 1, 1], ..valid() });
    encoding(SignatureParts { protected_extra: vec![0], ..valid() });
    encoding(SignatureParts { payload_extra: vec![0], ..valid() });
    encoding(SignatureParts { cose_extra: vec![0], ..valid() });
    encoding(SignatureParts { value_length: 47, ..valid() });
    encoding(SignatureParts { value_length: 49, ..valid() });
}

/// A signing key and a certificate for it.
struct Key {
    pair: ecdsa::EcdsaKeyPair,
    certificate: Vec<u8>,
    algorithm: i64,
}

impl Key {
    fn p256() -> Self {
        Self::new(&ecdsa::ECDSA_P256_SHA256_FIXED_SIGNING, Curve::P256)
    }

    fn p384() -> Self {
        Self::new(&ecdsa::ECDSA_P384_SHA384_FIXED_SIGNING, Curve::P384)
    }

    #[cfg(feature = "aws-lc-rs")]
    fn p521() -> Self {
        Self::new(&ecdsa::ECDSA_P521_SHA512_FIXED_SIGNING, Curve::P521)
    }

    fn new(signing: &'static ecdsa::EcdsaSigningAlgorithm, curve: Curve) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = ecdsa::EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
        #[cfg(feature = "aws-lc-rs")]
        let pair = ecdsa::EcdsaKeyPair::from_pkcs8(signing, pkcs8.as_ref()).unwrap();
        #[cfg(not(feature = "aws-lc-rs"))]
        let pair = ecdsa::EcdsaKeyPair::from_pkcs8(signing, pkcs8.as_ref(), &random).unwrap();
        let certificate = certificate(curve, pair.public_key().as_ref());
        Self { pair, certificate, algorithm: curve.cose_algorithm() }
    }
}

/// A certificate of version 1, as `openssl x509 -req` writes it, with an empty signature, which nobody reads.
fn certificate(curve: Curve, point: &[u8]) -> Vec<u8> {
    let algorithm = der(0x30, &[]);
    let point = [&[0], point].concat();
    let key_info = [der(0x30, curve.algorithm_identifier()), der(0x03, &point)].concat();
    let names = [der(0x02, &[1]), algorithm.clone(), der(0x30, &[]), der(0x30, &[]), der(0x30, &[])].concat();
    let to_be_signed = der(0x30, &[names, der(0x30, &key_info)].concat());
    der(0x30, &[to_be_signed, algorithm, der(0x03, &[0])].concat())
}

fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len();
    let head = match length {
        0..0x80 => vec![tag, length as u8],
        0x80..0x100 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [head.as_slice(), contents].concat()
}

fn pem(label: &str, der: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n").into_bytes();
    for group in der.chunks(3) {
        let bits =
            group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let character = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= group.len() { character } else { b'=' });
        }
    }
    text.extend_from_slice(format!("\n-----END {label}-----\n").as_bytes());
    text
}

/// [`Image::small`], signed.
fn signed(key: Key) -> Image {
    SignatureParts::new(key).image()
}

/// A signature section whose parts can be made wrong before it is signed.
struct SignatureParts {
    pair: ecdsa::EcdsaKeyPair,
    certificate: Vec<u8>,
    pem: Option<Vec<u8>>,
    algorithm: i64,
    register: u8,
    value_length: usize,
    tag: bool,
    unprotected: Vec<u8>,
    protected_extra: Vec<u8>,
    payload_extra: Vec<u8>,
    cose_extra: Vec<u8>,
    alter_signature: bool,
}

impl SignatureParts {
    fn new(key: Key) -> Self {
        Self {
            pair: key.pair,
            certificate: key.certificate,
            pem: None,
            algorithm: key.algorithm,
            register: 0,
            value_length: 48,
            tag: false,
            unprotected: vec![0xa0],
            protected_extra: vec![],
            payload_extra: vec![],
            cose_extra: vec![],
            alter_signature: false,
        }
    }

    fn image(&self) -> Image {
        Image::small().with(SIGNATURE, &self.section())
    }

    fn section(&self) -> Vec<u8> {
        let mut value = Image::small().pcr0().as_bytes().to_vec();
        value.resize(self.value_length, 0);
        let payload = [
            &[0xa2, 0x6e],
            b"register_index".as_slice(),
            &[self.register, 0x6e],
            b"register_value",
            &integers(&value),
            &self.payload_extra,
        ]
        .concat();
        let algorithm = head(0x20, usize::try_from(-1 - self.algorithm).unwrap());
        let protected = [&[0xa1, 1], algorithm.as_slice(), &self.protected_extra].concat();
        let signed =
            [b"\x84\x6aSignature1".as_slice(), &bytes(&protected), &bytes(&[]), &bytes(&payload)].concat();
        let mut signature = self.pair.sign(&SystemRandom::new(), &signed).unwrap().as_ref().to_vec();
        *signature.last_mut().unwrap() ^= u8::from(self.alter_signature);
        let cose = [
            if self.tag { &[0xd2, 0x84][..] } else { &[0x84] },
            &bytes(&protected),
            &self.unprotected,
            &bytes(&payload),
            &bytes(&signature),
            &self.cose_extra,
        ]
        .concat();
        let pem = self.pem.clone().unwrap_or_else(|| pem("CERTIFICATE", &self.certificate));
        [
            &[0x81, 0xa2, 0x73],
            b"signing_certificate".as_slice(),
            &integers(&pem),
            &[0x69],
            b"signature",
            &integers(&cose),
        ]
        .concat()
    }
}

fn head(major: u8, argument: usize) -> Vec<u8> {
    match argument {
        0..24 => vec![major | argument as u8],
        24..0x100 => vec![major | 24, argument as u8],
        _ => vec![major | 25, (argument >> 8) as u8, argument as u8],
    }
}

fn bytes(contents: &[u8]) -> Vec<u8> {
    [head(0x40, contents.len()).as_slice(), contents].concat()
}

fn integers(contents: &[u8]) -> Vec<u8> {
    let mut array = head(0x80, contents.len());
    contents.iter().for_each(|byte| array.extend(head(0, usize::from(*byte))));
    array
}

proptest::proptest! {
    #[test]
    fn no_input_panics(mut image in proptest::collection::vec(proptest::num::u8::ANY, 0..2000), frame: bool) {
        if frame {
            let small = Image::small().build();
            let length = small.len().min(image.len()).min(600);
            image[..length].copy_from_slice(&small[..length]);
        }
        let _ = measure(&image);
    }
}
