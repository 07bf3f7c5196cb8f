//! The platform that the image is for. The first ramdisk says so, and is measured as all of the image is: no
//! device that somebody adds to the machine and no word of the command line decides what PID 1 leaves out.

use std::io::ErrorKind;
use std::path::Path;

use crate::halt::Halt;

/// Where the first ramdisk says it.
pub(crate) const FILE: &str = "/platform";
/// What stands there in an image of an instance with a `NitroTPM`.
const NITROTPM: &str = "nitrotpm\n";

/// A platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Platform {
    /// A Nitro enclave, which has a parent and `/dev/nsm`.
    NitroEnclave,
    /// An instance that is the enclave itself, which has a TPM and a network.
    NitroTpm,
}

impl Platform {
    /// The platform that the file at `path` names. Without the file it is a Nitro enclave.
    pub(crate) fn of_image(path: &Path) -> Result<Self, Halt> {
        match std::fs::read_to_string(path) {
            Ok(name) if name == NITROTPM => Ok(Self::NitroTpm),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::NitroEnclave),
            Ok(_) | Err(_) => Err(Halt::Platform),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_names_its_platform_or_is_a_nitro_enclaves() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("platform");
        assert_eq!(Platform::of_image(&file).unwrap(), Platform::NitroEnclave);
        std::fs::write(&file, "nitrotpm\n").unwrap();
        assert_eq!(Platform::of_image(&file).unwrap(), Platform::NitroTpm);
        for other in ["", "nitro", "nitrotpm", "nitrotpm\n\n"] {
            std::fs::write(&file, other).unwrap();
            assert!(matches!(Platform::of_image(&file), Err(Halt::Platform)), "{other:?}");
        }
    }
}
