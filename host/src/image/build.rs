//! Puts an image together from its parts.

use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_attestation::measured_boot::{BootImageError, BootMeasurement};
use cleanroom_attestation::measurement::{
    ApplicationPath, Architecture, BuildInformation, ImageError, Manifest, ManifestError, ManifestFile,
    Measurement, Measurer, SectionKind, SignatureRequest,
};
use cleanroom_attestation::time::Timestamp;

use super::cpio::{Archive, CpioError, Kind};
use super::signing::{Signer, SigningError};
use super::unified::{self, StubError};
use super::writer::{self, SectionCount};
use super::{COMMAND_LINE, NITROTPM_COMMAND_LINE};

/// Where the program that runs in the enclave is.
pub const PROGRAM: &str = "/app/enclave";
/// Where its configuration is.
pub const CONFIGURATION: &str = "/app/enclave.toml";
/// Where PID 1 finds the name of the platform, if that is not a Nitro enclave.
pub const PLATFORM: &str = "platform";
/// What stands there in an image of an instance with a `NitroTPM`.
pub const NITROTPM: &str = "nitrotpm\n";

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The kernel: a bzImage.
    pub kernel: Input,
    /// The program that the kernel starts: static, for Linux on `x86_64`.
    pub init: Input,
    /// The application: at least [`PROGRAM`], static too, and [`CONFIGURATION`].
    pub application: Vec<ApplicationInput>,
    /// The image's name. In no PCR.
    pub name: String,
    /// The image's version, as its builder counts. In no PCR.
    pub version: String,
    /// When the image was built, by its own account. In no PCR; the same at every build, or the file's bits
    /// differ.
    pub time: Timestamp,
}

/// The contents of a file and what to call it.
#[derive(Debug, Clone)]
pub struct Input {
    /// The file's name, without its folder: where a build happens is nobody's business.
    pub name: String,
    /// Its contents.
    pub contents: Vec<u8>,
}

/// A file of the application.
#[derive(Debug, Clone)]
pub struct ApplicationInput {
    /// Where it is in the enclave.
    pub path: ApplicationPath,
    /// Whether it is a program.
    pub executable: bool,
    /// What is in it.
    pub input: Input,
}

/// An image, measured by reading back what was written.
#[derive(Debug)]
pub struct Built {
    /// The image file.
    pub image: Vec<u8>,
    /// Its PCRs and what else its reader says.
    pub measurement: Measurement,
    /// The list of the application's files that is in it.
    pub manifest: Manifest,
    /// The kernel's version by its own account.
    pub kernel_version: String,
    /// What the builder should know although it is no reason to stop.
    pub warnings: Vec<String>,
}

/// A unified kernel image, measured by reading back what was written.
#[derive(Debug)]
pub struct BuiltUnified {
    /// The image file.
    pub image: Vec<u8>,
    /// The registers of an instance that starts it, and what else its reader says.
    pub measurement: BootMeasurement,
    /// The list of the application's files that is in it.
    pub manifest: Manifest,
    /// The kernel's version by its own account.
    pub kernel_version: String,
}

/// Puts an image for instances with a `NitroTPM` together, behind systemd's `stub`. Such an image has no metadata:
/// name, version and time of the inputs are not in it.
///
/// # Errors
///
/// [`BuildError`] when an input is not what it should be.
pub fn build_unified(inputs: &Inputs, stub: &[u8]) -> Result<BuiltUnified, BuildError> {
    let (kernel_version, manifest) = check(inputs)?;
    let mut ramdisks = boot_ramdisk(&inputs.init.contents, &manifest, Some(NITROTPM))?;
    // The kernel unpacks one archive after the other.
    ramdisks.extend_from_slice(&application_ramdisk(&inputs.application)?);
    let parts: [(&str, &[u8]); 3] = [
        (".cmdline", NITROTPM_COMMAND_LINE.as_bytes()),
        (".linux", &inputs.kernel.contents),
        (".initrd", &ramdisks),
    ];
    let image = unified::write(stub, &parts)?;
    let measurement = BootMeasurement::of(&image)?;
    Ok(BuiltUnified { image, measurement, manifest, kernel_version })
}

/// The kernel's version and the list of the application's files, if all inputs are what they should be.
fn check(inputs: &Inputs) -> Result<(String, Manifest), BuildError> {
    let kernel_version = kernel_version(&inputs.kernel.contents).ok_or(BuildError::Kernel)?;
    require_static(&inputs.init)?;
    for path in [PROGRAM, CONFIGURATION] {
        let file = inputs.application.iter().find(|file| file.path.as_str() == path);
        let file = file.ok_or(BuildError::Missing { path })?;
        if path == PROGRAM {
            require_static(&file.input)?;
        }
    }
    Ok((kernel_version, manifest(&inputs.application)?))
}

/// Puts an image together, and signs it if there is a signer. `now` is held against the certificate's
/// validity.
///
/// # Errors
///
/// [`BuildError`] when an input is not what it should be, or when the image was to be signed and is not.
pub fn build(inputs: &Inputs, signer: Option<&Signer>, now: Timestamp) -> Result<Built, BuildError> {
    let (kernel_version, manifest) = check(inputs)?;
    let boot = boot_ramdisk(&inputs.init.contents, &manifest, None)?;
    let application = application_ramdisk(&inputs.application)?;
    let metadata = BuildInformation {
        time: inputs.time.to_string(),
        tool: env!("CARGO_PKG_NAME").to_owned(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        operating_system: "Linux".to_owned(),
        kernel_version: kernel_version.clone(),
    };
    let metadata = metadata.section(&inputs.name, &inputs.version, &serde_json::Value::Null);
    let mut sections: Vec<(SectionKind, &[u8])> = vec![
        (SectionKind::Kernel, &inputs.kernel.contents),
        (SectionKind::CommandLine, COMMAND_LINE.as_bytes()),
        (SectionKind::Metadata, &metadata),
        (SectionKind::Ramdisk, &boot),
        (SectionKind::Ramdisk, &application),
    ];
    let mut image = writer::write(Architecture::X86_64, &sections)?;
    let mut measurement = measure(&image)?;
    let mut warnings = Vec::new();
    let signature;
    if let Some(signer) = signer {
        let request =
            SignatureRequest::new(signer.certificate(), measurement.pcr0).map_err(SigningError::from)?;
        signature = signer.sign(&request, now, &mut warnings)?;
        sections.push((SectionKind::Signature, &signature));
        image = writer::write(Architecture::X86_64, &sections)?;
        measurement = measure(&image)?;
        if measurement.pcr8.is_none() {
            return Err(BuildError::NotSigned);
        }
    }
    Ok(Built { image, measurement, manifest, kernel_version, warnings })
}

fn measure(image: &[u8]) -> Result<Measurement, ImageError> {
    let mut measurer = Measurer::new();
    measurer.update(image)?;
    measurer.finish()
}

fn permissions(file: &ApplicationInput) -> u16 {
    if file.executable { 0o755 } else { 0o644 }
}

fn manifest(application: &[ApplicationInput]) -> Result<Manifest, ManifestError> {
    let files = application.iter().map(|file| ManifestFile {
        path: file.path.clone(),
        mode: permissions(file),
        size: file.input.contents.len() as u64,
        digest: Sha384Digest::of(&[&file.input.contents]),
    });
    Manifest::new(files.collect())
}

/// What the kernel needs to start, and the list of all that comes after it.
fn boot_ramdisk(init: &[u8], manifest: &Manifest, platform: Option<&str>) -> Result<Vec<u8>, CpioError> {
    let mut archive = Archive::default();
    archive.add("dev", Kind::Folder, 0o755, &[])?;
    // The kernel opens it before PID 1 can mount anything.
    archive.add("dev/console", Kind::Device { major: 5, minor: 1 }, 0o600, &[])?;
    archive.add("init", Kind::File, 0o755, init)?;
    archive.add(
        Manifest::PATH.trim_start_matches('/'),
        Kind::File,
        0o444,
        manifest.to_string().as_bytes(),
    )?;
    if let Some(platform) = platform {
        archive.add(PLATFORM, Kind::File, 0o444, platform.as_bytes())?;
    }
    Ok(archive.finish())
}

fn application_ramdisk(application: &[ApplicationInput]) -> Result<Vec<u8>, CpioError> {
    let mut files: Vec<&ApplicationInput> = application.iter().collect();
    files.sort_by(|left, right| left.path.cmp(&right.path));
    let mut folders: Vec<&str> = files.iter().flat_map(|file| file.path.folders()).collect();
    folders.sort_unstable();
    folders.dedup();
    let mut archive = Archive::default();
    for folder in folders {
        archive.add(folder.trim_start_matches('/'), Kind::Folder, 0o755, &[])?;
    }
    for file in files {
        let path = file.path.as_str().trim_start_matches('/');
        archive.add(path, Kind::File, permissions(file), &file.input.contents)?;
    }
    Ok(archive.finish())
}

/// The version that a bzImage names (the kernel's "Linux/x86 Boot Protocol": `header` at 0x202,
/// `kernel_version` at 0x20e).
fn kernel_version(kernel: &[u8]) -> Option<String> {
    if kernel.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let offset = kernel.get(0x20e..0x210)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))?;
    let text = kernel.get(usize::from(offset) + 0x200..)?;
    let end = text.iter().take(256).position(|byte| *byte == b' ' || *byte == 0)?;
    let version = text.get(..end)?;
    let plain = !version.is_empty() && version.iter().all(u8::is_ascii_graphic);
    plain.then(|| String::from_utf8_lossy(version).into_owned())
}

/// An image has no dynamic linker: a program that asks for one would stop the enclave at its start.
fn require_static(program: &Input) -> Result<(), BuildError> {
    let wrong = |problem| BuildError::Program { name: program.name.clone(), problem };
    match interpreter(&program.contents) {
        None => Err(wrong("it is no 64-bit ELF program for x86_64")),
        Some(true) => {
            Err(wrong("it needs a dynamic linker; build it with RUSTFLAGS='-C target-feature=+crt-static'"))
        }
        Some(false) => Ok(()),
    }
}

/// Whether an ELF program for `x86_64` names an interpreter (a program header of type 3); `None` if it is
/// none.
fn interpreter(program: &[u8]) -> Option<bool> {
    const INTERPRETER: &[u8] = &[3, 0, 0, 0];
    const X86_64: &[u8] = &[62, 0];
    let identity = program.get(..6)?;
    if identity != b"\x7fELF\x02\x01" || program.get(18..20)? != X86_64 {
        return None;
    }
    let number = |at: usize| program.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes));
    let table = program.get(32..40)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))?;
    let (size, count) = (usize::from(number(54)?), usize::from(number(56)?));
    let table = program.get(usize::try_from(table).ok()?..)?.get(..size.checked_mul(count)?)?;
    Some(size >= 4 && table.chunks_exact(size).any(|header| header.starts_with(INTERPRETER)))
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The kernel is none.
    #[error(
        "expected a bzImage as the kernel (\"HdrS\" at byte 514, a version); build one with image/kernel/build"
    )]
    Kernel,
    /// A program cannot run in an image.
    #[error("expected a static program in `{name}`: {problem}")]
    Program {
        /// The file.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A file that every application has is not given.
    #[error("the application has no `{path}`")]
    Missing {
        /// The file.
        path: &'static str,
    },
    /// The application's files cannot be listed.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file does not go into a ramdisk.
    #[error(transparent)]
    Cpio(#[from] CpioError),
    /// The image could not be signed.
    #[error("the image is not signed: {0}")]
    Signing(#[from] SigningError),
    /// The image was to be signed, and its reader found no signature.
    #[error("expected a signed image, but the image has no signature; this is a defect of this program")]
    NotSigned,
    /// The image has more parts than the format has room for.
    #[error(transparent)]
    Sections(#[from] SectionCount),
    /// The image is refused by its own reader.
    #[error("the image is refused by its own reader: {source} [{}]", source.code())]
    Image {
        /// Why.
        source: Box<ImageError>,
    },
    /// The stub is of no use.
    #[error(transparent)]
    Stub(#[from] StubError),
    /// The unified kernel image is refused by its own reader.
    #[error("the image is refused by its own reader: {source} [{}]", source.code())]
    UnifiedImage {
        /// Why.
        source: Box<BootImageError>,
    },
}

impl From<BootImageError> for BuildError {
    fn from(source: BootImageError) -> Self {
        Self::UnifiedImage { source: Box::new(source) }
    }
}

impl From<ImageError> for BuildError {
    fn from(source: ImageError) -> Self {
        Self::Image { source: Box::new(source) }
    }
}

#[cfg(test)]
mod tests;
