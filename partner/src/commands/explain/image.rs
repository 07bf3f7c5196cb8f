//! An enclave image, for people.

use std::io::Read;
use std::path::Path;

use cleanroom_attestation::measurement::{Measurement, SectionKind};

use crate::clock::now;
use crate::commands::measure::{measure_path, measure_source, pcrs, signer};
use crate::outcome::{Failure, Outcome};
use crate::output::{self, Mark, Page, Terminal, printable};

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
    terminal.report(measurement, &page(path, measurement))?;
    Ok(Outcome::Pass)
}

fn page(path: &Path, measurement: &Measurement) -> Page {
    let mut page = Page::new();
    page.heading(format!("Enclave image {}", printable(&path.display().to_string())));
    page.field("length", output::bytes(measurement.file_length));
    page.field("format", format!("version {}", measurement.version));
    page.field("architecture", measurement.architecture.to_string());
    page.field(
        "suggests",
        format!(
            "{} of memory, {} processors",
            output::bytes(measurement.default_memory),
            measurement.default_cpus
        ),
    );

    page.heading("Checks");
    page.check(Mark::Ok, "layout", "sections follow each other, nothing between or behind them");
    page.check(Mark::Ok, "CRC-32", format!("{:08x}", measurement.crc32));
    match &measurement.signing_certificate {
        Some(certificate) => page.check(
            Mark::Ok,
            "signature",
            format!("over this PCR0, by the {} key of the certificate below", certificate.curve),
        ),
        None => page.check(Mark::NotAsked, "signature", "the image is not signed"),
    }

    page.heading("Measurements");
    for (name, value, meaning) in pcrs(measurement) {
        let unsigned = name == "PCR8" && measurement.pcr8.is_none();
        let meaning = if unsigned { "zero, because the image is not signed" } else { meaning };
        page.field(name, format!("{value}\n{meaning}"));
    }

    page.heading("Sections");
    for (index, section) in measurement.sections.iter().enumerate() {
        let covered = match section.kind {
            SectionKind::Kernel | SectionKind::CommandLine => "PCR0, PCR1",
            SectionKind::Ramdisk if is_first_ramdisk(measurement, index) => "PCR0, PCR1",
            SectionKind::Ramdisk => "PCR0, PCR2",
            SectionKind::Signature => "its certificate: PCR8",
            SectionKind::Metadata => "no PCR",
        };
        let found = format!("{} at byte {}, in {covered}", output::bytes(section.length), section.offset);
        page.field(section.kind.to_string(), found);
    }

    page.heading("Kernel command line");
    page.note(printable(&measurement.command_line));

    if let Some(certificate) = &measurement.signing_certificate {
        page.heading("Signing certificate");
        signer::fields(&mut page, certificate, now());
    }
    if let Some(metadata) = &measurement.metadata {
        page.heading("Metadata (in no PCR: the builder says so, nothing proves it)");
        let build = &metadata.build;
        for (name, value) in [
            ("image", format!("{} {}", metadata.image_name, metadata.image_version)),
            ("built", build.time.clone()),
            ("with", format!("{} {}", build.tool, build.tool_version)),
            ("kernel", format!("{} {}", build.operating_system, build.kernel_version)),
        ] {
            page.field(name, printable(&value));
        }
    }
    page
}

fn is_first_ramdisk(measurement: &Measurement, index: usize) -> bool {
    measurement.sections.iter().position(|section| section.kind == SectionKind::Ramdisk) == Some(index)
}
