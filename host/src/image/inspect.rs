//! The contents of an image: its PCRs, its sections, and the files in its ramdisks.

use std::collections::BTreeMap;

use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_attestation::measurement::{
    ImageError, Manifest, ManifestError, Measurement, Measurer, Section, SectionKind,
};
use serde::Serialize;

use super::cpio::{self, CpioError, Kind};

/// What is in an image.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// Its PCRs, sections and signature.
    pub measurement: Measurement,
    /// SHA-384 of each section's contents, in the order of the file.
    pub section_digests: Vec<Sha384Digest>,
    /// The ramdisks, in the order of the file.
    pub ramdisks: Vec<Ramdisk>,
    /// Whether the application is what the manifest in the first ramdisk lists.
    pub application: Application,
}

/// A ramdisk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ramdisk {
    /// What it unpacks to.
    Entries(Vec<RamdiskEntry>),
    /// Why it cannot be read; it is measured all the same.
    Unreadable(String),
}

/// A file, folder, device or link in a ramdisk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RamdiskEntry {
    /// Its path, as the archive has it.
    pub path: String,
    /// What it is: `file`, `folder`, `link`, `device 5:1` or `other`.
    pub kind: String,
    /// Its permissions, octal.
    pub permissions: String,
    /// Owner and group.
    pub owner: (u32, u32),
    /// When it was changed, seconds since 1970.
    pub modified: u32,
    /// Length of its contents, bytes.
    pub size: usize,
    /// SHA-384 of its contents.
    pub sha384: Sha384Digest,
}

/// Whether the application is what the manifest lists. PID 1 looks for itself at each start; this says it
/// beforehand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Application {
    /// It is, file for file.
    Whole {
        /// How many files.
        files: usize,
        /// Bytes in them.
        bytes: u64,
    },
    /// The first ramdisk has no manifest: the image is another builder's.
    NoManifest,
    /// It is not: the enclave would halt at its start.
    Different(String),
}

/// Looks into an image.
///
/// # Errors
///
/// [`ImageError`] when the bytes are not an image. A ramdisk that cannot be read is no error.
pub fn inspect(image: &[u8]) -> Result<Inspection, ImageError> {
    let mut measurer = Measurer::new();
    measurer.update(image)?;
    let measurement = measurer.finish()?;
    let section_digests =
        measurement.sections.iter().map(|section| Sha384Digest::of(&[contents(image, section)])).collect();
    let bytes: Vec<&[u8]> = ramdisks(&measurement).map(|section| contents(image, section)).collect();
    let application = application(&bytes);
    let ramdisks = bytes
        .iter()
        .map(|bytes| match entries(bytes) {
            Ok(entries) => Ramdisk::Entries(entries),
            Err(error) => Ramdisk::Unreadable(error.to_string()),
        })
        .collect();
    Ok(Inspection { measurement, section_digests, ramdisks, application })
}

fn ramdisks(measurement: &Measurement) -> impl Iterator<Item = &Section> {
    measurement.sections.iter().filter(|section| section.kind == SectionKind::Ramdisk)
}

/// A section's contents. The image has been measured, so its sections are where it says.
pub(super) fn contents<'a>(image: &'a [u8], section: &Section) -> &'a [u8] {
    let range = usize::try_from(section.offset).ok().zip(usize::try_from(section.length).ok());
    let range = range.and_then(|(offset, length)| Some(offset..offset.checked_add(length)?));
    range.and_then(|range| image.get(range)).unwrap_or_default()
}

fn entries(ramdisk: &[u8]) -> Result<Vec<RamdiskEntry>, CpioError> {
    let entry = |entry: cpio::Entry| {
        let contents = ramdisk.get(entry.contents).unwrap_or_default();
        RamdiskEntry {
            path: entry.path,
            kind: match entry.kind {
                Kind::File => "file".to_owned(),
                Kind::Folder => "folder".to_owned(),
                Kind::Link => "link".to_owned(),
                Kind::Device { major, minor } => format!("device {major}:{minor}"),
                Kind::Other(_) => "other".to_owned(),
            },
            permissions: format!("{:04o}", entry.permissions),
            owner: entry.owner,
            modified: entry.modified,
            size: contents.len(),
            sha384: Sha384Digest::of(&[contents]),
        }
    };
    Ok(cpio::read(ramdisk)?.into_iter().map(entry).collect())
}

/// Compares the later ramdisks with the manifest in the first, as PID 1 does with what they unpack to.
fn application(ramdisks: &[&[u8]]) -> Application {
    let Some((boot, rest)) = ramdisks.split_first() else { return Application::NoManifest };
    let Ok(boot_entries) = cpio::read(boot) else { return Application::NoManifest };
    let path = Manifest::PATH.trim_start_matches('/');
    let Some(manifest) = boot_entries.iter().find(|entry| entry.path == path) else {
        return Application::NoManifest;
    };
    let manifest = boot.get(manifest.contents.clone()).unwrap_or_default();
    match compare(manifest, rest) {
        Ok(whole) => whole,
        Err(error) => Application::Different(error.to_string()),
    }
}

fn compare(manifest: &[u8], ramdisks: &[&[u8]]) -> Result<Application, ApplicationError> {
    let manifest = Manifest::parse(manifest)?;
    let mut files = BTreeMap::new();
    for ramdisk in ramdisks {
        for entry in cpio::read(ramdisk)? {
            let path = format!("/{}", entry.path.trim_start_matches('/'));
            let folder = manifest.files().iter().any(|file| file.path.folders().any(|folder| folder == path));
            if entry.kind == Kind::Folder && folder {
                continue;
            }
            let contents = ramdisk.get(entry.contents.clone()).unwrap_or_default();
            files.insert(path, (entry.kind, entry.permissions, contents));
        }
    }
    let mut bytes = 0;
    for file in manifest.files() {
        let path = file.path.as_str();
        let (kind, permissions, contents) =
            files.remove(path).ok_or_else(|| ApplicationError::Missing(path.to_owned()))?;
        let same = kind == Kind::File
            && permissions == file.mode
            && contents.len() as u64 == file.size
            && Sha384Digest::of(&[contents]) == file.digest;
        if !same {
            return Err(ApplicationError::Changed(path.to_owned()));
        }
        bytes += file.size;
    }
    match files.into_keys().next() {
        Some(path) => Err(ApplicationError::Extra(path)),
        None => Ok(Application::Whole { files: manifest.files().len(), bytes }),
    }
}

#[derive(Debug, thiserror::Error)]
enum ApplicationError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Cpio(#[from] CpioError),
    #[error("`{0}` is in the manifest but not in the application")]
    Missing(String),
    #[error("`{0}` differs from what the manifest lists")]
    Changed(String),
    #[error("`{0}` is in the application but not in the manifest")]
    Extra(String),
}

#[cfg(test)]
mod tests;
