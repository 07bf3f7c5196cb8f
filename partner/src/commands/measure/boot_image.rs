//! Unified kernel images, from which an instance with a NitroTPM boots.

use std::io::Read;
use std::path::Path;

use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_attestation::measured_boot::{BootImageError, BootMeasurement, MAX_BOOT_IMAGE};

use crate::outcome::{Failure, Outcome};
use crate::output::{self, Listing, printable};

/// What a UEFI executable begins with.
pub(crate) const MAGIC: &[u8] = b"MZ";

/// Measures the image that `source` gives, which is called `path` in messages.
pub(crate) fn measure(path: &Path, source: impl Read) -> Result<BootMeasurement, Failure> {
    let mut file = Vec::new();
    let taken = source.take(MAX_BOOT_IMAGE + 1).read_to_end(&mut file);
    taken.map_err(|error| Failure::unreadable(path, &error))?;
    BootMeasurement::of(&file).map_err(|error: BootImageError| Failure {
        outcome: Outcome::Refused,
        code: error.code(),
        message: format!("{} is refused: {error} [{}]", path.display(), error.code()),
    })
}

/// The image, without what it contains.
pub(crate) fn describe(listing: &mut Listing, path: &Path, measurement: &BootMeasurement) {
    listing.field("image", printable(&path.display().to_string()));
    listing.field("length", output::bytes(measurement.file_length));
    listing.field(
        "format",
        format!(
            "unified kernel image, {}, stub of systemd {}",
            measurement.architecture,
            printable(&measurement.stub)
        ),
    );
    listing.field("Secure Boot", "off: with Secure Boot on, PCR7 is another one, and PCR4 may be");
    listing.heading("");
    for (name, value) in registers(measurement) {
        listing.field(name, value.to_string());
    }
}

/// Each register that the image determines.
pub(crate) const fn registers(measurement: &BootMeasurement) -> [(&'static str, Sha384Digest); 3] {
    [("PCR4", measurement.pcr4), ("PCR7", measurement.pcr7), ("PCR12", measurement.pcr12)]
}

/// The table of a policy that accepts this image. `name` is a TOML string.
pub(super) fn policy_table(name: &str, measurement: &BootMeasurement) -> String {
    let BootMeasurement { pcr4, pcr7, pcr12, .. } = measurement;
    format!(
        "[[nitrotpm_image]]\nname = {name}\npcrs.4 = \"{pcr4}\"\npcrs.7 = \"{pcr7}\"\npcrs.12 = \"{pcr12}\"\n"
    )
}
