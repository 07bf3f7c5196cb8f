//! A unified kernel image, for people.

use std::io::Read;
use std::path::Path;

use cleanroom_attestation::measured_boot::BootMeasurement;

use super::document::tpm_meaning;
use crate::commands::measure::boot_image::measure;
use crate::outcome::{Failure, Outcome};
use crate::output::{self, Listing, Mark, Terminal, printable};

pub(super) fn explain(path: &Path, source: impl Read, terminal: &mut Terminal) -> Result<Outcome, Failure> {
    let measurement = measure(path, source)?;
    terminal.report(&measurement, &listing(path, &measurement))?;
    Ok(Outcome::Pass)
}

fn listing(path: &Path, measurement: &BootMeasurement) -> Listing {
    let mut listing = Listing::new();
    listing.heading(format!("Unified kernel image {}", printable(&path.display().to_string())));
    listing.field("length", output::bytes(measurement.file_length));
    listing.field("architecture", measurement.architecture.to_string());
    listing.field("stub", format!("systemd {}", printable(&measurement.stub)));

    listing.heading("Checks");
    listing.check(Mark::Ok, "layout", "sections follow each other, nothing between them, each name once");
    let signatures = match measurement.signatures_length {
        0 => "the image is not signed".to_owned(),
        length => {
            format!("{} at its end, in no register; only Secure Boot checks them", output::bytes(length))
        }
    };
    listing.check(Mark::NotAsked, "signatures", signatures);

    listing.heading("Registers of an instance that starts this image, with Secure Boot off");
    let kernel = match measurement.kernel_authenticode {
        Some(_) => "; its kernel as well, because this stub has the firmware start it",
        None => "; its kernel as a part of it",
    };
    for (index, value, more) in
        [(4, measurement.pcr4, kernel), (7, measurement.pcr7, ""), (12, measurement.pcr12, "")]
    {
        listing.field(format!("PCR{index}"), format!("{value}\n{}{more}", tpm_meaning(index)));
    }

    listing.heading("Digests (Authenticode, SHA-384)");
    listing.field("image", measurement.authenticode.to_string());
    if let Some(kernel) = &measurement.kernel_authenticode {
        listing.field("kernel", kernel.to_string());
    }

    listing.heading("Sections");
    for section in &measurement.sections {
        let found = format!("{} at byte {}", output::bytes(section.length), section.offset);
        listing.field(printable(&section.name), found);
    }

    listing.heading("Kernel command line");
    listing.note(match &measurement.command_line {
        Some(line) => printable(line),
        None => "none in the image: whoever starts it gives one, and PCR12 shows that".to_owned(),
    });
    listing
}
