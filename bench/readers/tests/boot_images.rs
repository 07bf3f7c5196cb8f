//! Unified kernel images: AWS's own program computes the same registers.
//!
//! `scripts/nitrotpm` gets the program; the stub of systemd is in Debian's package `systemd-boot-efi`. Where one of them is
//! absent, the tests say so; with `CI` set they fail.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use cleanroom_attestation::measured_boot::BootMeasurement;
use cleanroom_forge::boot_image::{Executable, unified_kernel};

/// What is at `path`; nothing, and a line, when it is absent.
fn needed(path: PathBuf, way: &str) -> Option<PathBuf> {
    if path.is_file() {
        return Some(path);
    }
    let missing = format!("{} is missing; get it with: {way}", path.display());
    assert!(std::env::var_os("CI").is_none_or(|value| value.is_empty()), "{missing}");
    eprintln!("NOT TESTED: {missing}");
    None
}

fn awss_program() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache =
        cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"));
    let place = "cleanroom/nitro-tpm-pcr-compute-1.1.2/bin/nitro-tpm-pcr-compute";
    needed(cache.join(place), "scripts/nitrotpm")
}

/// Registers 4, 7 and 12 as AWS's program prints them, or `None` when it refuses the file.
fn by_aws(program: &Path, folder: &Path, file: &[u8]) -> Option<[String; 3]> {
    let path = folder.join("image.efi");
    std::fs::write(&path, file).unwrap();
    let output = Command::new(program).arg("--image").arg(&path).output().unwrap();
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let register = |name: &str| printed["Measurements"][name].as_str().unwrap().to_owned();
    Some(["PCR4", "PCR7", "PCR12"].map(register))
}

fn by_cleanroom(file: &[u8]) -> Option<[String; 3]> {
    let measured = BootMeasurement::of(file).ok()?;
    Some([measured.pcr4, measured.pcr7, measured.pcr12].map(|value| value.to_string()))
}

#[test]
fn made_images_measure_alike() {
    let Some(program) = awss_program() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut images: Vec<Executable> =
        ["249", "252.39-1~deb12u2", "257.9", "258", "260~rc1"].map(unified_kernel).into();
    let mut arm = unified_kernel("258");
    arm.machine = 0xaa64;
    let mut signed = unified_kernel("252.4");
    signed.signatures = vec![7; 40];
    let mut longer = unified_kernel("252.4");
    longer.rest = b"symbols, which are no part of a section".to_vec();
    let mut signed_kernel = unified_kernel("252.4");
    let mut kernel = Executable::new(&[(".text", b"kernel")]);
    kernel.signatures = vec![9; 16];
    signed_kernel.sections[4].1 = kernel.bytes();
    images.extend([arm, signed, longer, signed_kernel]);
    for (index, image) in images.iter().enumerate() {
        let file = image.bytes();
        let ours = by_cleanroom(&file);
        assert!(ours.is_some(), "image {index}");
        assert_eq!(ours, by_aws(&program, folder.path(), &file), "image {index}");
    }
}

#[test]
fn what_cleanroom_accepts_of_changed_images_measures_alike() {
    let Some(program) = awss_program() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = unified_kernel("252.4").bytes();
    let (mut accepted, mut refused) = (0, 0);
    for index in (0..file.len()).step_by(29) {
        let mut changed = file.clone();
        changed[index] ^= 1 << (index % 8);
        match by_cleanroom(&changed) {
            Some(ours) => {
                assert_eq!(Some(ours), by_aws(&program, folder.path(), &changed), "byte {index}");
                accepted += 1;
            }
            None => refused += 1,
        }
    }
    assert!(accepted > 50 && refused > 3, "{accepted} accepted, {refused} refused");
}

/// An image made by `objcopy` of the stub that Debian ships, with systemd's boot loader in the place of a kernel.
#[test]
fn an_image_with_systemds_stub_measures_alike() {
    let Some(program) = awss_program() else { return };
    let efi = Path::new("/usr/lib/systemd/boot/efi");
    let way = "apt-get install systemd-boot-efi";
    let Some(stub) = needed(efi.join("linuxx64.efi.stub"), way) else { return };
    let Some(kernel) = needed(efi.join("systemd-bootx64.efi"), way) else { return };
    let Some(objcopy) = needed("/usr/bin/objcopy".into(), "apt-get install binutils") else { return };

    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, contents: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, contents).unwrap();
        path
    };
    let sections = [
        (".osrel", write("osrel", b"ID=test\n")),
        (".cmdline", write("cmdline", b"console=ttyS0")),
        (".linux", kernel),
        (".initrd", write("initrd", &[5; 70_001])),
    ];
    let image = folder.path().join("made.efi");
    let mut make = Command::new(objcopy);
    // Behind the stub in memory, each at a place of its own.
    let mut address = image_base(&stub) + 0x10_0000;
    for (name, path) in &sections {
        make.arg("--add-section").arg(format!("{name}={}", path.display()));
        make.arg("--change-section-vma").arg(format!("{name}={address:#x}"));
        address += 0x10_0000;
    }
    assert!(make.arg(&stub).arg(&image).status().unwrap().success());

    let file = std::fs::read(&image).unwrap();
    let measured = BootMeasurement::of(&file).unwrap();
    assert_eq!(measured.command_line.as_deref(), Some("console=ttyS0"));
    let mut names = String::new();
    measured.sections.iter().for_each(|section| write!(names, "{} ", section.name).unwrap());
    assert!(names.contains(".linux .initrd"), "{names}");
    assert_eq!(by_cleanroom(&file), by_aws(&program, folder.path(), &file));
}

/// Where an executable wants to be loaded: 8 bytes, 24 behind the start of its optional header.
fn image_base(path: &Path) -> u64 {
    let file = std::fs::read(path).unwrap();
    let start = usize::try_from(u32::from_le_bytes(file[0x3c..0x40].try_into().unwrap())).unwrap();
    u64::from_le_bytes(file[start + 48..start + 56].try_into().unwrap())
}
