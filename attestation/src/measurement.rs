//! Measurements: from an enclave image file (EIF) to the PCRs that an enclave started from it has.
//!
//! [`Measurer`] takes an image's bytes in pieces of any size, in one pass and constant memory, and ends in a
//! [`Measurement`] or in an [`ImageError`]. It follows AWS's specification of the format (README of the crate
//! `aws-nitro-enclaves-image-format`, dated 2024-06-21). It refuses everything that the specification leaves
//! open: gaps, reserved bits, unused sections, trailing bytes. Bytes that no PCR covers and no reader checks
//! could hide something.
//!
//! Each PCR of an image is SHA-384(48 zero bytes ‖ SHA-384(contents)), the contents being those of the named sections, without their
//! headers, in the order of the file:
//!
//! | PCR | contents |
//! |---|---|
//! | 0 | kernel, command line, every ramdisk |
//! | 1 | kernel, command line, first ramdisk |
//! | 2 | every ramdisk but the first |
//! | 8 | the DER of the certificate that signed PCR0; all zero when the image is not signed |
//!
//! Contents are concatenated without lengths, so bytes can move from one section to its neighbour under the same PCR. Two
//! images with equal PCRs are therefore the same image only if their [sections](Measurement::sections) are equal too; who
//! audits rebuilds the image and compares both.
//!
//! # What it costs
//!
//! The physical floor is one SHA-384 pass over kernel, command line and ramdisks for PCR0. PCR1 adds nothing: its contents
//! are a prefix of PCR0's, so its state is a copy taken where the second ramdisk begins (a command line that comes later is
//! at most 4 KiB). PCR2 starts from an empty state in the middle of PCR0's input, and SHA-384 states cannot be joined, so
//! all ramdisks but the first are hashed a second time. [`Measurer::split`] gives that second hash away to another thread;
//! with two processors an image then takes as long as hashing it once.

mod certificate;
mod checksum;
mod error;
mod layout;
mod manifest;
mod metadata;
mod registers;
mod section;
mod signature;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub use certificate::{Curve, SigningCertificate};
pub use checksum::Checksum;
pub use error::{ImageError, SignatureError};
pub use manifest::{ApplicationPath, Manifest, ManifestError, ManifestFile};
pub use metadata::{BuildInformation, Metadata};
pub use registers::{extended_once, of_contents, of_name, of_program};
pub use section::{Architecture, Section, SectionKind};

use crate::digest::{Sha384, Sha384Digest};
use layout::{Step, Walk};
pub use signature::SignatureRequest;
use signature::SignatureSection;

/// What an image measures to, and what it says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Measurement {
    /// PCR0: the whole image.
    pub pcr0: Sha384Digest,
    /// PCR1: kernel, command line and first ramdisk.
    pub pcr1: Sha384Digest,
    /// PCR2: the application, every ramdisk but the first.
    pub pcr2: Sha384Digest,
    /// PCR8: the signing certificate. `None` for an unsigned image, whose enclave has 48 zero bytes there.
    pub pcr8: Option<Sha384Digest>,
    /// The format's version: 2, 3 or 4.
    pub version: u16,
    /// The processor architecture that the image is for.
    pub architecture: Architecture,
    /// Memory that the image suggests for its enclave, bytes. In no PCR, and AWS's tools ignore it.
    pub default_memory: u64,
    /// Processors that the image suggests for its enclave. In no PCR, and AWS's tools ignore it.
    pub default_cpus: u64,
    /// CRC-32 (IEEE) of the file without the field that holds it; checked.
    pub crc32: u32,
    /// Length of the file, bytes.
    pub file_length: u64,
    /// The sections in the order of the file.
    pub sections: Vec<Section>,
    /// The kernel's command line; what is not UTF-8 is replaced. Covered by PCR0 and PCR1.
    pub command_line: String,
    /// The certificate that signed the image. Its signature over PCR0 has been verified; who it belongs to, and whether
    /// it was in force when the enclave started, has not.
    pub signing_certificate: Option<SigningCertificate>,
    /// What the builder says about the build. In no PCR: anybody can change it without changing a measurement.
    pub metadata: Option<Metadata>,
}

/// Measures an image as its bytes arrive: [`update`](Self::update) with each piece, then [`finish`](Self::finish).
///
/// Memory stays below 4 MiB whatever the image claims: only the command line (4 KiB at most), the signature (32 KiB) and
/// the metadata (1 MiB) are kept, each collected as it arrives.
pub struct Measurer {
    image: ImageMeasurer,
    application: ApplicationMeasurer,
}

impl Measurer {
    /// Nothing read yet.
    #[must_use]
    pub fn new() -> Self {
        Self { image: ImageMeasurer::new(), application: ApplicationMeasurer::new() }
    }

    /// Two halves for two threads. Both must be fed the whole file; each then does one hash of its own, and
    /// [`ImageMeasurer::finish`] joins them.
    #[must_use]
    pub fn split(self) -> (ImageMeasurer, ApplicationMeasurer) {
        (self.image, self.application)
    }

    /// Appends the next bytes of the file.
    ///
    /// # Errors
    ///
    /// [`ImageError`] as soon as the bytes so far cannot begin an acceptable image. Every later call repeats it.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.image.update(bytes)?;
        self.application.update(bytes)
    }

    /// Ends the file.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when the file is cut off, lacks a section, or fails its CRC or its signature.
    pub fn finish(self) -> Result<Measurement, ImageError> {
        self.image.finish(self.application.finish()?)
    }
}

impl Default for Measurer {
    fn default() -> Self {
        Self::new()
    }
}

/// The half of a [`Measurer`] that does everything but hash for PCR2.
pub struct ImageMeasurer {
    walk: Walk,
    position: u64,
    checksum: Checksum,
    /// Hashes PCR0's contents.
    image: Sha384,
    /// Hashes PCR1's contents, once they differ from PCR0's: from the second ramdisk on.
    bootstrap: Option<Sha384>,
    ramdisks: usize,
    application_length: u64,
    current: Option<SectionKind>,
    command_line: Vec<u8>,
    signature: Vec<u8>,
    metadata: Vec<u8>,
    failed: Option<ImageError>,
}

impl ImageMeasurer {
    fn new() -> Self {
        Self {
            walk: Walk::new(),
            position: 0,
            checksum: Checksum::default(),
            image: Sha384::new(),
            bootstrap: None,
            ramdisks: 0,
            application_length: 0,
            current: None,
            command_line: Vec::new(),
            signature: Vec::new(),
            metadata: Vec::new(),
            failed: None,
        }
    }

    /// Appends the next bytes of the file.
    ///
    /// # Errors
    ///
    /// As [`Measurer::update`].
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        let checksum = Checksum::of(bytes, self.position);
        self.update_with(bytes, &checksum)
    }

    /// As [`Self::update`], with the checksum of these bytes, which another thread has computed. A checksum of other bytes
    /// ends in [`ImageError::Crc`].
    ///
    /// # Errors
    ///
    /// As [`Measurer::update`].
    pub fn update_with(&mut self, bytes: &[u8], checksum: &Checksum) -> Result<(), ImageError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.checksum.append(checksum);
        self.position = self.position.saturating_add(bytes.len() as u64);
        let result = self.take(bytes);
        self.failed = result.as_ref().err().cloned();
        result
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        let mut input = bytes;
        loop {
            match self.walk.step(&mut input)? {
                Step::Begin(section) => self.begin(section),
                Step::Contents(contents) => self.contents(contents),
                Step::NeedMore => return Ok(()),
            }
        }
    }

    fn begin(&mut self, section: Section) {
        self.current = Some(section.kind);
        if section.kind == SectionKind::Ramdisk {
            self.ramdisks += 1;
            if self.ramdisks == 2 {
                self.bootstrap = Some(self.image.clone());
            }
        }
    }

    fn contents(&mut self, bytes: &[u8]) {
        match self.current {
            Some(SectionKind::Kernel) => self.measure_bootstrap(bytes),
            Some(SectionKind::CommandLine) => {
                self.measure_bootstrap(bytes);
                self.command_line.extend_from_slice(bytes);
            }
            Some(SectionKind::Ramdisk) => {
                self.image.update(bytes);
                if self.ramdisks > 1 {
                    self.application_length = self.application_length.saturating_add(bytes.len() as u64);
                }
            }
            Some(SectionKind::Signature) => self.signature.extend_from_slice(bytes),
            Some(SectionKind::Metadata) => self.metadata.extend_from_slice(bytes),
            None => {}
        }
    }

    /// Adds contents that belong to both PCR0 and PCR1.
    fn measure_bootstrap(&mut self, bytes: &[u8]) {
        self.image.update(bytes);
        if let Some(bootstrap) = &mut self.bootstrap {
            bootstrap.update(bytes);
        }
    }

    /// Ends the file and joins it with the other half's hash.
    ///
    /// # Errors
    ///
    /// As [`Measurer::finish`]; [`ImageError::SplitInput`] when the other half was not fed the same file.
    pub fn finish(self, application: ApplicationDigest) -> Result<Measurement, ImageError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let (header, sections) = self.walk.finish()?;
        let crc32 = self.checksum.finish();
        if crc32 != header.crc32 {
            return Err(ImageError::Crc { expected: header.crc32, actual: crc32 });
        }
        if application.length != self.application_length {
            let (expected, actual) = (self.application_length, application.length);
            return Err(ImageError::SplitInput { expected, actual });
        }
        if let Some(offset) = self.command_line.iter().position(|byte| *byte == 0) {
            return Err(ImageError::CommandLine { offset });
        }
        let has = |kind| sections.iter().any(|section| section.kind == kind);
        let metadata = if has(SectionKind::Metadata) { Some(Metadata::parse(&self.metadata)?) } else { None };

        let bootstrap = self.bootstrap.unwrap_or_else(|| self.image.clone());
        let pcr0 = extended_once(self.image.finish().as_bytes());
        let signing_certificate = if has(SectionKind::Signature) {
            Some(SignatureSection::parse(&self.signature)?.verify(&pcr0)?)
        } else {
            None
        };
        Ok(Measurement {
            pcr0,
            pcr1: extended_once(bootstrap.finish().as_bytes()),
            pcr2: extended_once(application.digest.as_bytes()),
            pcr8: signing_certificate.as_ref().map(SigningCertificate::pcr8),
            version: header.version,
            architecture: header.architecture,
            default_memory: header.default_memory,
            default_cpus: header.default_cpus,
            crc32,
            file_length: header.file_length,
            sections,
            command_line: String::from_utf8_lossy(&self.command_line).into_owned(),
            signing_certificate,
            metadata,
        })
    }
}

/// The half of a [`Measurer`] that hashes for PCR2: it walks the same file and reads only the later ramdisks.
pub struct ApplicationMeasurer {
    walk: Walk,
    application: Sha384,
    length: u64,
    ramdisks: usize,
    in_application: bool,
    failed: Option<ImageError>,
}

impl ApplicationMeasurer {
    const fn idle(application: Sha384) -> Self {
        Self { walk: Walk::new(), application, length: 0, ramdisks: 0, in_application: false, failed: None }
    }

    fn new() -> Self {
        Self::idle(Sha384::new())
    }

    /// Appends the next bytes of the file.
    ///
    /// # Errors
    ///
    /// As [`Measurer::update`].
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.take(bytes);
        self.failed = result.as_ref().err().cloned();
        result
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        let mut input = bytes;
        loop {
            match self.walk.step(&mut input)? {
                Step::Begin(section) => {
                    let ramdisk = section.kind == SectionKind::Ramdisk;
                    self.ramdisks += usize::from(ramdisk);
                    self.in_application = ramdisk && self.ramdisks > 1;
                }
                Step::Contents(contents) if self.in_application => {
                    self.application.update(contents);
                    self.length = self.length.saturating_add(contents.len() as u64);
                }
                Step::Contents(_) => {}
                Step::NeedMore => return Ok(()),
            }
        }
    }

    /// Ends the file.
    ///
    /// # Errors
    ///
    /// The error that an earlier [`update`](Self::update) returned. Whether the file was whole is
    /// [`ImageMeasurer::finish`]'s to say.
    pub fn finish(self) -> Result<ApplicationDigest, ImageError> {
        match self.failed {
            Some(error) => Err(error),
            None => Ok(ApplicationDigest { digest: self.application.finish(), length: self.length }),
        }
    }
}

/// The hash of all ramdisks but the first, and how many bytes it covers.
#[derive(Debug, Clone, Copy)]
pub struct ApplicationDigest {
    digest: Sha384Digest,
    length: u64,
}
