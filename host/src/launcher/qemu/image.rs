//! An enclave image file, taken apart for a machine that does not read it, and measured as it stands.

use std::path::Path;

use cleanroom_attestation::measurement::{Measurement, Measurer, Section, SectionKind};
use cleanroom_software_nsm::Measurements;

use super::BootFiles;
use crate::launcher::LaunchError;
use crate::launcher::program::read_file;
use crate::launcher::state::StateFolder;

const MIB: u64 = 1 << 20;

/// An image that was measured and whose parts are in the state folder.
pub struct BootImage {
    /// What it measures to.
    pub measurement: Measurement,
    /// Its parts.
    pub files: BootFiles,
    /// Bytes of memory below which its kernel and its ramdisks lie on top of each other.
    least_memory: u64,
}

impl BootImage {
    /// Measures the image at `path` and takes it apart.
    ///
    /// # Errors
    /// [`LaunchError`] when it cannot be read or is none.
    pub fn read(path: &Path, state: &StateFolder) -> Result<Self, LaunchError> {
        let bytes = read_file("image", path)?;
        let mut measurer = Measurer::new();
        let measurement = measurer
            .update(&bytes)
            .and_then(|()| measurer.finish())
            .map_err(|error| LaunchError::Image { path: path.to_owned(), error: Box::new(error) })?;
        let parts = |kind| contents(&bytes, &measurement.sections, kind);
        let (kernel, ramdisks) = (parts(SectionKind::Kernel), parts(SectionKind::Ramdisk));
        let least_memory = kernel_end(&kernel).unwrap_or(0).saturating_add(ramdisks.len() as u64);
        let files = BootFiles {
            kernel: state.write("kernel", 0o400, &kernel)?,
            ramdisks: state.write("ramdisks", 0o400, &ramdisks)?,
            command_line: measurement.command_line.clone(),
        };
        Ok(Self { measurement, files, least_memory })
    }

    /// Whether the kernel and the ramdisks find a place each in so much memory. In less the machine destroys
    /// one with the other before anything in the image runs that could say so: it may stand still, restart or
    /// panic.
    ///
    /// # Errors
    /// [`LaunchError::Memory`] when they do not. That they fit does not mean that there is enough to serve.
    pub fn fits(&self, memory_mib: u32) -> Result<(), LaunchError> {
        let least = self.least_memory.div_ceil(MIB);
        if u64::from(memory_mib) >= least {
            return Ok(());
        }
        Err(LaunchError::Memory { least, actual: memory_mib })
    }

    /// What the security module of an enclave from this image attests.
    #[must_use]
    pub fn measurements(&self) -> Measurements {
        let Measurement { pcr0, pcr1, pcr2, pcr8, .. } = &self.measurement;
        let measurements = Measurements::of_image(*pcr0, *pcr1, *pcr2);
        match pcr8 {
            Some(signer) => measurements.with_signer(*signer),
            None => measurements,
        }
    }
}

/// The first address behind a bzImage while it unpacks itself: `pref_address` and `init_size` of the setup
/// header, little-endian, since version 2.10 of Linux's x86 boot protocol
/// (`Documentation/arch/x86/boot.rst`). QEMU puts ramdisks at the end of memory.
fn kernel_end(kernel: &[u8]) -> Option<u64> {
    let field = |offset, length| kernel.get(offset..offset + length);
    let version = u16::from_le_bytes(field(0x206, 2)?.try_into().ok()?);
    if field(0x202, 4)? != b"HdrS" || version < 0x020a {
        return None;
    }
    let preferred_address = u64::from_le_bytes(field(0x258, 8)?.try_into().ok()?);
    let init_size = u32::from_le_bytes(field(0x260, 4)?.try_into().ok()?);
    preferred_address.checked_add(init_size.into())
}

/// The contents of all sections of one kind, in the file's order.
fn contents(image: &[u8], sections: &[Section], kind: SectionKind) -> Vec<u8> {
    let of_kind = sections.iter().filter(|section| section.kind == kind);
    of_kind
        .filter_map(|section| {
            let begin = usize::try_from(section.offset).ok()?;
            image.get(begin..begin.checked_add(usize::try_from(section.length).ok()?)?)
        })
        .flatten()
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> Vec<u8> {
        let mut kernel = vec![0; 0x300];
        for (offset, bytes) in [
            (0x202, &b"HdrS"[..]),
            (0x206, &0x020f_u16.to_le_bytes()),
            (0x258, &0x0100_0000_u64.to_le_bytes()),
            (0x260, &0x00f8_0000_u32.to_le_bytes()),
        ] {
            kernel[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        kernel
    }

    #[test]
    fn where_a_kernel_ends_is_read_from_its_header() {
        assert_eq!(kernel_end(&kernel()), Some(0x01f8_0000));
        assert_eq!(kernel_end(&kernel()[..0x263]), None);
        assert_eq!(kernel_end(b"\x7fELF"), None);
        let mut old = kernel();
        old[0x206] = 9;
        assert_eq!(kernel_end(&old), None);
        let mut endless = kernel();
        endless[0x258..0x260].fill(0xff);
        assert_eq!(kernel_end(&endless), None);
    }
}
