//! Measured boot: from a unified kernel image (UKI) to the registers of an instance with a `NitroTPM`.
//!
//! UEFI firmware measures what it starts into the TPM before it starts it. Whoever has the image can therefore compute the
//! registers beforehand. [`BootMeasurement::of`] does so for an image that the firmware starts itself, with Secure Boot off:
//!
//! | register | events |
//! |---|---|
//! | 4 | the text `Calling EFI Application from Boot Option`, the separator, the image, and the image's kernel if its stub has the firmware start it |
//! | 7 | the variables `SecureBoot` (off), `PK`, `KEK`, `db` and `dbx` (all empty), the separator |
//! | 12 | none, so it stays zero: the stub measures there what somebody adds beside the image at boot |
//!
//! An event extends a register: its new value is SHA-384(old value ‖ SHA-384(event)). An executable's digest is its
//! Authenticode digest: SHA-384 of the file without its checksum, without the directory entry of its signatures, and without
//! the signatures. Sources: TCG PC Client Platform Firmware Profile 1.06, sections 3.3.4.5 and 3.3.4.8; "Windows Authenticode
//! Portable Executable Signature Format" 1.0; the UAPI group's "Unified Kernel Image"; systemd's stub.
//!
//! systemd's stub has the firmware start the kernel up to version 257, and so the firmware measures the kernel once more. From
//! version 258 on the stub starts the kernel itself.
//!
//! The reader is strict where readers differ. An executable with gaps, with sections that overlap, or with signatures that are
//! not its last bytes is refused: another reader might measure other bytes, or load other ones than this reader shows.

mod error;
mod executable;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub use error::{BootImageError, Part};

use crate::digest::Sha384Digest;
use crate::measurement::Architecture;
use executable::{Executable, Section};

/// The longest image, in bytes. Firmware reads the whole image into memory, so no useful one comes close.
pub const MAX_BOOT_IMAGE: u64 = 1 << 30;

/// The first version of systemd's stub that starts the kernel itself, unmeasured by the firmware
/// (<https://github.com/systemd/systemd/pull/37372>).
const FIRST_STUB_WITHOUT_FIRMWARE: u32 = 258;

/// What an instance measures that starts a unified kernel image with Secure Boot off, and what the image says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BootMeasurement {
    /// Register 4: the image, as the firmware starts it.
    pub pcr4: Sha384Digest,
    /// Register 7: Secure Boot, which is off. The same for every image.
    pub pcr7: Sha384Digest,
    /// Register 12: zero, because nothing is added beside the image.
    pub pcr12: Sha384Digest,
    /// The Authenticode digest of the image.
    pub authenticode: Sha384Digest,
    /// The Authenticode digest of its kernel. `None` when the stub starts the kernel itself.
    pub kernel_authenticode: Option<Sha384Digest>,
    /// The processor architecture that the image is for.
    pub architecture: Architecture,
    /// The version of systemd's stub, as the image says it.
    pub stub: String,
    /// Length of the file, bytes.
    pub file_length: u64,
    /// Length of the signatures at its end, bytes. Nothing measures them, and with Secure Boot off nothing checks them.
    pub signatures_length: u64,
    /// The sections, in the order of the file.
    pub sections: Vec<BootSection>,
    /// The kernel's command line; what is not UTF-8 is replaced. `None` when the image has none. With Secure Boot off,
    /// whoever starts the image can give another one, which register 12 then shows.
    pub command_line: Option<String>,
}

/// A section of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootSection {
    /// Its name, for instance `.linux`; what is not UTF-8 is replaced.
    pub name: String,
    /// Where its contents begin, bytes from the start of the file.
    pub offset: u64,
    /// Length of its contents, bytes.
    pub length: u64,
}

impl BootMeasurement {
    /// Measures the image in `file`.
    ///
    /// # Errors
    ///
    /// [`BootImageError`] when the file is not a unified kernel image, or is one that readers could disagree about.
    pub fn of(file: &[u8]) -> Result<Self, BootImageError> {
        let file_length = file.len() as u64;
        if file_length > MAX_BOOT_IMAGE {
            return Err(BootImageError::TooLong { actual: file_length });
        }
        let image = Executable::parse(file, Part::Image)?;
        let stub = stub_version(&image)?;
        let kernel = image.contents(".linux")?.ok_or(BootImageError::SectionMissing { name: ".linux" })?;
        let command_line = image.contents(".cmdline")?.map(text);
        let kernel_authenticode = if major(stub)? < FIRST_STUB_WITHOUT_FIRMWARE {
            let kernel = Executable::parse(kernel, Part::Kernel)?;
            if kernel.architecture != image.architecture {
                let (expected, actual) = (image.architecture, kernel.architecture);
                return Err(BootImageError::KernelArchitecture { expected, actual });
            }
            Some(kernel.authenticode())
        } else {
            None
        };
        let authenticode = image.authenticode();
        Ok(Self {
            pcr4: started(&authenticode, kernel_authenticode.as_ref()),
            pcr7: without_secure_boot(),
            pcr12: Register::new().value(),
            authenticode,
            kernel_authenticode,
            architecture: image.architecture,
            stub: stub.to_owned(),
            file_length,
            signatures_length: image.signatures_length(),
            sections: image.sections().map(Section::describe).collect(),
            command_line,
        })
    }
}

/// Register 4 of a machine whose firmware starts an executable with this digest and, from within it, `kernel`.
fn started(image: &Sha384Digest, kernel: Option<&Sha384Digest>) -> Sha384Digest {
    let mut register = Register::new();
    register.event(b"Calling EFI Application from Boot Option");
    register.event(&SEPARATOR);
    register.extend(image);
    if let Some(kernel) = kernel {
        register.extend(kernel);
    }
    register.value()
}

/// The event that ends what the firmware measures before it starts anything.
const SEPARATOR: [u8; 4] = [0; 4];

/// Namespaces of UEFI variables (UEFI 2.10, sections 3.3 and 32.4), with the byte order in which variables have them.
const GLOBAL_VARIABLES: [u8; 16] =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
const IMAGE_SECURITY: [u8; 16] =
    [0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f];

/// Register 7 of a machine on which Secure Boot is off and no keys are enrolled.
fn without_secure_boot() -> Sha384Digest {
    let mut register = Register::new();
    let variables: [(&[u8; 16], &str, &[u8]); 5] = [
        (&GLOBAL_VARIABLES, "SecureBoot", &[0]),
        (&GLOBAL_VARIABLES, "PK", &[]),
        (&GLOBAL_VARIABLES, "KEK", &[]),
        (&IMAGE_SECURITY, "db", &[]),
        (&IMAGE_SECURITY, "dbx", &[]),
    ];
    for (namespace, name, value) in variables {
        register.event(&variable(namespace, name, value));
    }
    register.event(&SEPARATOR);
    register.value()
}

/// `UEFI_VARIABLE_DATA`: the namespace, the name's length in characters and the value's in bytes (both 8 bytes,
/// little-endian), the name in UTF-16 (little-endian), the value.
fn variable(namespace: &[u8; 16], name: &str, value: &[u8]) -> Vec<u8> {
    let name: Vec<u16> = name.encode_utf16().collect();
    let mut event = namespace.to_vec();
    event.extend_from_slice(&(name.len() as u64).to_le_bytes());
    event.extend_from_slice(&(value.len() as u64).to_le_bytes());
    event.extend(name.iter().flat_map(|unit| unit.to_le_bytes()));
    event.extend_from_slice(value);
    event
}

/// A register of a TPM's SHA-384 bank, from the start of the machine.
struct Register(Sha384Digest);

impl Register {
    const fn new() -> Self {
        Self(Sha384Digest::from_bytes([0; Sha384Digest::LENGTH]))
    }

    fn extend(&mut self, digest: &Sha384Digest) {
        self.0 = Sha384Digest::of(&[self.0.as_bytes(), digest.as_bytes()]);
    }

    fn event(&mut self, event: &[u8]) {
        self.extend(&Sha384Digest::of(&[event]));
    }

    const fn value(self) -> Sha384Digest {
        self.0
    }
}

/// The version that systemd's stub writes into its section `.sdmagic`.
fn stub_version<'a>(image: &Executable<'a>) -> Result<&'a str, BootImageError> {
    let magic = image.contents(".sdmagic")?.ok_or(BootImageError::SectionMissing { name: ".sdmagic" })?;
    let refused =
        || BootImageError::Stub { actual: text(magic.get(..magic.len().min(80)).unwrap_or_default()) };
    let magic = std::str::from_utf8(magic).map_err(|_| refused())?.trim_end_matches('\0');
    let version =
        magic.strip_prefix("#### LoaderInfo: systemd-stub ").and_then(|rest| rest.strip_suffix(" ####"));
    version.filter(|version| version.len() <= 64).ok_or_else(refused)
}

/// The number at the front of a version such as `252.39-1~deb12u2`.
fn major(version: &str) -> Result<u32, BootImageError> {
    let digits = version.split(|character: char| !character.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().map_err(|_| BootImageError::Stub { actual: version.to_owned() })
}

/// Text of a section, which may have zeros behind it.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}
