//! Enclave images: building, signing, looking into them, comparing them. No container runtime is involved.
//!
//! An image is a kernel, its command line and two ramdisks, which the kernel unpacks one over the other:
//!
//! | ramdisk | contents | PCRs |
//! |---|---|---|
//! | boot | `/init`, the [manifest](cleanroom_attestation::measurement::Manifest) of the application, `/dev/console` | 0, 1 |
//! | application | `/app/enclave`, its configuration `/app/enclave.toml`, further files below `/app` | 0, 2 |
//!
//! An image of an instance with a `NitroTPM` has the same two ramdisks and another kernel. It is one file that UEFI firmware starts, a
//! unified kernel image, and registers 4, 7 and 12 of the TPM measure it.
//!
//! The same inputs give the same bits, wherever and whenever they are put together. docs/reproduce.md tells
//! an auditor how.

pub mod build;
pub mod cpio;
pub mod diff;
pub mod inspect;
pub mod signing;
pub mod summary;
#[cfg(test)]
mod testing;
pub mod unified;
pub mod writer;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use cleanroom_attestation::measurement::ImageError;

pub use build::{BuildError, Built, Inputs, build, build_unified};
pub use diff::{Difference, diff};
pub use inspect::{Inspection, inspect};
pub use signing::{Signer, SigningError};

/// The kernel's command line in every image. docs/reproduce.md says what each word is for.
pub const COMMAND_LINE: &str = include_str!("../../image/command-line").trim_ascii();

/// The kernel's command line in every image of an instance with a `NitroTPM`.
pub const NITROTPM_COMMAND_LINE: &str = include_str!("../../image/command-line.nitrotpm").trim_ascii();

/// The longest file that is read, as an input or as an image: 2 GiB. Weights are never in an image.
pub const MAX_FILE: u64 = 2 << 30;

/// Reads a whole file into memory.
///
/// # Errors
///
/// [`ImageFileError`] when it cannot be read or is longer than [`MAX_FILE`].
pub fn read(path: &Path) -> Result<Vec<u8>, ImageFileError> {
    let failed = |source| ImageFileError::Read { path: path.to_owned(), source };
    let mut contents = Vec::new();
    let file = File::open(path).map_err(failed)?;
    let length = file.take(MAX_FILE + 1).read_to_end(&mut contents).map_err(failed)?;
    if length as u64 > MAX_FILE {
        return Err(ImageFileError::TooLong { path: path.to_owned() });
    }
    Ok(contents)
}

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ImageFileError {
    /// It could not be read.
    #[error("could not read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is too long.
    #[error("`{}` is longer than 2 GiB; weights do not belong in an image", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// It is no image.
    #[error("`{}` is refused: {source} [{}]", path.display(), source.code())]
    Image {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<ImageError>,
    },
}
