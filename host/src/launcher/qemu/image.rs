//! An enclave image file, taken apart for a machine that does not read it, and measured as it stands.

use std::path::Path;

use cleanroom_attestation::measurement::{Measurement, Measurer, Section, SectionKind};
use cleanroom_software_nsm::Measurements;

use super::BootFiles;
use crate::launcher::LaunchError;
use crate::launcher::program::read_file;
use crate::launcher::state::StateFolder;

/// An image that was measured and whose parts are in the state folder.
pub struct BootImage {
    /// What it measures to.
    pub measurement: Measurement,
    /// Its parts.
    pub files: BootFiles,
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
        let files = BootFiles {
            kernel: state.write("kernel", 0o400, &parts(SectionKind::Kernel))?,
            ramdisks: state.write("ramdisks", 0o400, &parts(SectionKind::Ramdisk))?,
            command_line: measurement.command_line.clone(),
        };
        Ok(Self { measurement, files })
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
