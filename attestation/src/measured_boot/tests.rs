use cleanroom_forge::boot_image::{field, unified_kernel};

use super::*;

/// PCR 7 of every machine without Secure Boot and keys, as AWS's `nitro-tpm-pcr-compute` 1.1.2 prints it.
const WITHOUT_SECURE_BOOT: &str =
    "98441c7f7625d10058c47683aec486ce311c633235eb555593a7ee791121e3578ae72d04ecef661f272d59058b77af35";

fn code(file: &[u8]) -> &'static str {
    BootMeasurement::of(file).unwrap_err().code()
}

/// The image with `value` at `offset`.
fn with<const N: usize>(offset: usize, value: [u8; N]) -> Vec<u8> {
    let mut file = unified_kernel("252.4").bytes();
    file[offset..offset + N].copy_from_slice(&value);
    file
}

/// `nitro-tpm-pcr-compute` 1.1.2 of AWS printed these registers for the same two files.
#[test]
fn the_registers_are_those_of_awss_program() {
    let measured = BootMeasurement::of(&unified_kernel("257.9-1~deb13u1").bytes()).unwrap();
    assert_eq!(
        measured.pcr4.to_string(),
        "f12382188b115f71093fba8757b35233a0400f9efd403af7505dc58ece33e07b81715da896a04380bf7b80344a60b110"
    );
    assert_eq!(measured.pcr7.to_string(), WITHOUT_SECURE_BOOT);
    assert!(measured.pcr12.is_zero());
    let measured = BootMeasurement::of(&unified_kernel("258").bytes()).unwrap();
    assert_eq!(
        measured.pcr4.to_string(),
        "d99111304b6bf0f72564630944632167b5bdbb1dd02af71eb05fd4f1b06ecb343a88dabaa4ecd7831d213a3633475304"
    );
    assert_eq!(measured.pcr7.to_string(), WITHOUT_SECURE_BOOT);
    assert_eq!(measured.kernel_authenticode, None);
}

#[test]
fn an_image_says_what_is_in_it() {
    let file = unified_kernel("252.39-1~deb12u2").bytes();
    let measured = BootMeasurement::of(&file).unwrap();
    assert_eq!(measured.stub, "252.39-1~deb12u2");
    assert_eq!(measured.architecture, Architecture::X86_64);
    assert_eq!(measured.command_line.as_deref(), Some("console=ttyS0"));
    assert_eq!((measured.file_length, measured.signatures_length), (file.len() as u64, 0));
    let section = &measured.sections[3];
    let start = usize::try_from(section.offset).unwrap();
    assert_eq!((section.name.as_str(), section.length), (".cmdline", 13));
    assert_eq!(&file[start..start + 13], b"console=ttyS0");
}

/// Every byte of the file changes register 4, but for the checksum, the place of the signatures, and the signatures.
#[test]
fn register_4_covers_every_byte() {
    let mut image = unified_kernel("252.4");
    image.signatures = vec![7; 16];
    let file = image.bytes();
    let whole = BootMeasurement::of(&file).unwrap();
    assert_eq!(whole.signatures_length, 16);
    let signatures = file.len() - 16;
    for index in 0..file.len() {
        let mut changed = file.clone();
        changed[index] ^= 1;
        let uncovered = (field::CHECKSUM..field::CHECKSUM + 4).contains(&index) || index >= signatures;
        match BootMeasurement::of(&changed) {
            Ok(measured) => assert_eq!(measured.pcr4 == whole.pcr4, uncovered, "byte {index}"),
            Err(error) => assert!(!uncovered, "byte {index}: {error}"),
        }
    }
    // Signing does not change what is measured.
    image.signatures.clear();
    assert_eq!(BootMeasurement::of(&image.bytes()).unwrap().pcr4, whole.pcr4);
}

#[test]
fn the_kernel_is_measured_where_the_firmware_starts_it() {
    let old = unified_kernel("257");
    let kernel = &old.sections.iter().find(|(name, _)| *name == ".linux").unwrap().1;
    let measured = BootMeasurement::of(&old.bytes()).unwrap();
    let kernel = Executable::parse(kernel, Part::Kernel).unwrap().authenticode();
    assert_eq!(measured.kernel_authenticode, Some(kernel));
    assert_eq!(measured.pcr4, started(&measured.authenticode, Some(&kernel)));
    assert_ne!(measured.pcr4, started(&measured.authenticode, None));
    // A later stub starts the kernel itself, and then its format is the stub's affair.
    let mut new = unified_kernel("258");
    new.sections[4].1 = b"not an executable".to_vec();
    let measured = BootMeasurement::of(&new.bytes()).unwrap();
    assert_eq!(measured.pcr4, started(&measured.authenticode, None));
}

#[test]
fn every_beginning_of_an_image_is_refused() {
    let file = unified_kernel("252.4").bytes();
    for length in 0..file.len() {
        let error = BootMeasurement::of(&file[..length]).unwrap_err();
        assert!(
            matches!(error.code(), "boot-image-truncated" | "boot-image-section-missing"),
            "{length}: {error}"
        );
    }
}

#[test]
fn headers_must_be_those_of_an_executable() {
    assert_eq!(code(&with(0, *b"ZM")), "boot-image-magic");
    assert_eq!(code(&with(0x40, *b"NE")), "boot-image-magic");
    assert_eq!(code(&with(0x3c, u32::MAX.to_le_bytes())), "boot-image-truncated");
    assert_eq!(code(&with(field::MACHINE, 0x14c_u16.to_le_bytes())), "boot-image-header");
    assert_eq!(code(&with(field::KIND, 0x10b_u16.to_le_bytes())), "boot-image-header");
    for sections in [0, 97_u16] {
        assert_eq!(code(&with(field::SECTIONS, sections.to_le_bytes())), "boot-image-header");
    }
    for directories in [4, 15, 17, u32::MAX] {
        assert_eq!(code(&with(field::DIRECTORIES, directories.to_le_bytes())), "boot-image-header");
    }
    assert_eq!(code(&with(field::OPTIONAL_LENGTH, 232_u16.to_le_bytes())), "boot-image-header");
    assert_eq!(code(&with(field::HEADERS_LENGTH, 0x40_u32.to_le_bytes())), "boot-image-header");
    assert_eq!(code(&with(field::HEADERS_LENGTH, u32::MAX.to_le_bytes())), "boot-image-truncated");
}

#[test]
fn sections_must_cover_the_file_without_gaps() {
    let file = unified_kernel("252.4").bytes();
    let second = field::section(1);
    let offset = u32::from_le_bytes(file[second + 20..second + 24].try_into().unwrap());
    for other in [offset - 512, offset + 512, 0, u32::MAX] {
        assert_eq!(code(&with(second + 20, other.to_le_bytes())), "boot-image-section-offset");
    }
    // A section that reaches over the end, and one that is longer than it was.
    let last = field::section(5);
    assert_eq!(code(&with(last + 16, u32::MAX.to_le_bytes())), "boot-image-truncated");
    assert_eq!(code(&with(second + 16, 1024_u32.to_le_bytes())), "boot-image-section-offset");
    // Two sections at one place in memory, and one that is longer there than in the file.
    let address: [u8; 4] = file[field::section(0) + 12..field::section(0) + 16].try_into().unwrap();
    assert_eq!(code(&with(second + 12, address)), "boot-image-section-address");
    let linux = field::section(4);
    for length in [0, 512 * 8_u32] {
        let refused = code(&with(linux + 8, length.to_le_bytes()));
        assert!(matches!(refused, "boot-image-section-length" | "boot-image-section-address"), "{refused}");
    }
    assert_eq!(code(&with(field::section(3) + 8, 0_u32.to_le_bytes())), "boot-image-section-length");
}

#[test]
fn a_name_stands_for_one_section() {
    let mut image = unified_kernel("252.4");
    image.sections.push((".cmdline", b"init=/bin/sh".to_vec()));
    assert_eq!(code(&image.bytes()), "boot-image-section-twice");
    for name in [".linux", ".sdmagic"] {
        let mut image = unified_kernel("252.4");
        image.sections.retain(|(other, _)| *other != name);
        assert_eq!(code(&image.bytes()), "boot-image-section-missing");
    }
    let mut image = unified_kernel("252.4");
    image.sections.retain(|(name, _)| *name != ".cmdline");
    assert_eq!(BootMeasurement::of(&image.bytes()).unwrap().command_line, None);
}

#[test]
fn signatures_must_be_the_end_of_the_file() {
    let mut image = unified_kernel("252.4");
    image.signatures = vec![7; 16];
    let file = image.bytes();
    for (offset, length) in
        [(0, 16), (8, 16), (file.len() - 16, 8), (file.len() - 16, 0), (file.len() - 16, 24)]
    {
        let mut changed = file.clone();
        changed[field::SIGNATURES..field::SIGNATURES + 4].copy_from_slice(&(offset as u32).to_le_bytes());
        changed[field::SIGNATURES + 4..field::SIGNATURES + 8].copy_from_slice(&(length as u32).to_le_bytes());
        assert_eq!(code(&changed), "boot-image-signatures", "{length} bytes at {offset}");
    }
    let mut longer = file.clone();
    longer.push(0);
    assert_eq!(code(&longer), "boot-image-signatures");
    // What stands between the sections and the signatures is measured.
    image.rest = b"symbols!".to_vec();
    let measured = BootMeasurement::of(&image.bytes()).unwrap();
    assert_ne!(measured.pcr4, BootMeasurement::of(&file).unwrap().pcr4);
}

#[test]
fn only_the_stub_of_systemd_is_known() {
    for magic in ["", "#### LoaderInfo: systemd-boot 252 ####", "#### LoaderInfo: systemd-stub ####", "258"] {
        let mut image = unified_kernel("252.4");
        image.sections[1].1 = format!("{magic}\0").into_bytes();
        assert_eq!(code(&image.bytes()), "boot-image-stub", "{magic}");
    }
    for version in ["", "v252", "~rc1", "99999999999", &"2".repeat(65)] {
        assert_eq!(code(&unified_kernel(version).bytes()), "boot-image-stub", "{version}");
    }
}

#[test]
fn the_kernel_must_be_an_executable_for_the_same_processor() {
    let mut image = unified_kernel("252.4");
    image.sections[4].1 =
        b"not an executable, but long enough for the place of its header to be read".to_vec();
    let error = BootMeasurement::of(&image.bytes()).unwrap_err();
    assert!(matches!(error, BootImageError::Magic { part: Part::Kernel, .. }), "{error}");
    assert!(error.to_string().contains("CONFIG_EFI_STUB"));
    let mut image = unified_kernel("252.4");
    image.machine = 0xaa64;
    assert_eq!(code(&image.bytes()), "boot-image-kernel-architecture");
    // Unmeasured by the firmware, it is not looked at.
    let mut image = unified_kernel("258");
    image.machine = 0xaa64;
    assert_eq!(BootMeasurement::of(&image.bytes()).unwrap().architecture, Architecture::Aarch64);
}
