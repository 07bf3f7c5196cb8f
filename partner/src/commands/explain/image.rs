//! An enclave image, for people.

use std::io::Read;
use std::path::Path;

use cleanroom_attestation::measurement::{Measurement, Metadata, SectionKind};

use crate::clock::now;
use crate::commands::measure::{measure_path, measure_source, pcrs, signer};
use crate::outcome::{Failure, Outcome};
use crate::output::{self, Listing, Mark, Terminal, printable};

pub(super) fn explain(path: &Path, terminal: &mut Terminal) -> Result<Outcome, Failure> {
    report(path, &measure_path(path)?, terminal)
}

/// As [`explain`], for an image that comes from standard input.
pub(super) fn explain_source(
    path: &Path,
    source: &mut (impl Read + Send),
    terminal: &mut Terminal,
) -> Result<Outcome, Failure> {
    report(path, &measure_source(path, source, None)?, terminal)
}

fn report(path: &Path, measurement: &Measurement, terminal: &mut Terminal) -> Result<Outcome, Failure> {
    terminal.report(measurement, &listing(path, measurement))?;
    Ok(Outcome::Pass)
}

fn listing(path: &Path, measurement: &Measurement) -> Listing {
    let mut listing = Listing::new();
    listing.heading(format!("Enclave image {}", printable(&path.display().to_string())));
    listing.field("length", output::bytes(measurement.file_length));
    listing.field("format", format!("version {}", measurement.version));
    listing.field("architecture", measurement.architecture.to_string());
    listing.field(
        "suggests",
        format!(
            "{} of memory, {} processors",
            output::bytes(measurement.default_memory),
            measurement.default_cpus
        ),
    );
    checks(&mut listing, measurement);
    registers(&mut listing, measurement);
    sections(&mut listing, measurement);

    listing.heading("Kernel command line");
    listing.note(printable(&measurement.command_line));

    if let Some(certificate) = &measurement.signing_certificate {
        listing.heading("Signing certificate");
        signer::fields(&mut listing, certificate, now());
    }
    if let Some(metadata) = &measurement.metadata {
        describe(&mut listing, metadata);
    }
    listing
}

fn checks(listing: &mut Listing, measurement: &Measurement) {
    listing.heading("Checks");
    listing.check(Mark::Ok, "layout", "sections follow each other, nothing between or behind them");
    listing.check(Mark::Ok, "CRC-32", format!("{:08x}", measurement.crc32));
    match &measurement.signing_certificate {
        Some(certificate) => listing.check(
            Mark::Ok,
            "signature",
            format!("over this PCR0, by the {} key of the certificate below", certificate.curve),
        ),
        None => listing.check(Mark::NotAsked, "signature", "the image is not signed"),
    }
}

fn registers(listing: &mut Listing, measurement: &Measurement) {
    listing.heading("Measurements");
    for (name, value, meaning) in pcrs(measurement) {
        let unsigned = name == "PCR8" && measurement.pcr8.is_none();
        let meaning = if unsigned { "zero, because the image is not signed" } else { meaning };
        listing.field(name, format!("{value}\n{meaning}"));
    }
}

fn sections(listing: &mut Listing, measurement: &Measurement) {
    listing.heading("Sections");
    for (index, section) in measurement.sections.iter().enumerate() {
        let covered = match section.kind {
            SectionKind::Kernel | SectionKind::CommandLine => "PCR0, PCR1",
            SectionKind::Ramdisk if is_first_ramdisk(measurement, index) => "PCR0, PCR1",
            SectionKind::Ramdisk => "PCR0, PCR2",
            SectionKind::Signature => "its certificate: PCR8",
            SectionKind::Metadata => "no PCR",
        };
        let found = format!("{} at byte {}, in {covered}", output::bytes(section.length), section.offset);
        listing.field(section.kind.to_string(), found);
    }
}

fn describe(listing: &mut Listing, metadata: &Metadata) {
    listing.heading("Metadata (in no PCR: the builder says so, nothing proves it)");
    let build = &metadata.build;
    for (name, value) in [
        ("image", format!("{} {}", metadata.image_name, metadata.image_version)),
        ("built", build.time.clone()),
        ("with", format!("{} {}", build.tool, build.tool_version)),
        ("kernel", format!("{} {}", build.operating_system, build.kernel_version)),
    ] {
        listing.field(name, printable(&value));
    }
}

fn is_first_ramdisk(measurement: &Measurement, index: usize) -> bool {
    measurement.sections.iter().position(|section| section.kind == SectionKind::Ramdisk) == Some(index)
}
