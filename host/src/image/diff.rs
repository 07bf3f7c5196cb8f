//! The differences between two images: sections, files, and the PCRs that each difference changes.

use std::collections::BTreeMap;

use cleanroom_attestation::measurement::{Measurement, SectionKind};
use serde::Serialize;

use super::inspect::{Inspection, Ramdisk, RamdiskEntry};

/// One difference between two images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where: a section, or a file in a ramdisk, or a field.
    pub place: String,
    /// What the first image has there; `None` if nothing.
    pub first: Option<String>,
    /// What the second image has there; `None` if nothing.
    pub second: Option<String>,
    /// The PCRs that the place is measured into. Empty for what is not measured.
    pub pcrs: Vec<u8>,
}

/// What differs between two images, in the order of the format. Nothing, if and only if the two files are the
/// same bit for bit, or differ in their checksum alone.
#[must_use]
pub fn diff(first: &Inspection, second: &Inspection) -> Vec<Difference> {
    let mut differences = Differences(Vec::new());
    fields(first, second, &mut differences);
    orders(first, second, &mut differences);
    single_sections(first, second, &mut differences);
    ramdisks(first, second, &mut differences);
    signatures(first, second, &mut differences);
    differences.0
}

struct Differences(Vec<Difference>);

impl Differences {
    fn compare(&mut self, place: &str, [first, second]: [Option<String>; 2], pcrs: &[u8]) {
        if first != second {
            self.0.push(Difference { place: place.to_owned(), first, second, pcrs: pcrs.to_vec() });
        }
    }
}

/// The header's fields.
fn fields(first: &Inspection, second: &Inspection, differences: &mut Differences) {
    let mut compare = |place, field: &dyn Fn(&Measurement) -> String| {
        differences.compare(place, [first, second].map(|image| Some(field(&image.measurement))), &[]);
    };
    compare("format version", &|image| image.version.to_string());
    compare("architecture", &|image| image.architecture.to_string());
    compare("suggested memory", &|image| image.default_memory.to_string());
    compare("suggested processors", &|image| image.default_cpus.to_string());
}

/// The order of the sections.
fn orders(first: &Inspection, second: &Inspection, differences: &mut Differences) {
    let order = |image: &Inspection, counts: &dyn Fn(SectionKind) -> bool| {
        let kinds = image.measurement.sections.iter().map(|section| section.kind);
        Some(kinds.filter(|kind| counts(*kind)).map(|kind| kind.to_string()).collect::<Vec<_>>().join(", "))
    };
    let measured = |kind| !matches!(kind, SectionKind::Metadata | SectionKind::Signature);
    let orders = [first, second].map(|image| order(image, &measured));
    let is_same = orders[0] == orders[1];
    differences.compare("order of the measured sections", orders, &[0, 1, 2]);
    if is_same {
        // That only one is signed is said below.
        let has =
            |image: &Inspection, kind| image.measurement.sections.iter().any(|section| section.kind == kind);
        let in_both = |kind| has(first, kind) && has(second, kind);
        let orders = [first, second].map(|image| order(image, &in_both));
        differences.compare("order of the sections", orders, &[]);
    }
}

/// The sections of which each image has one.
fn single_sections(first: &Inspection, second: &Inspection, differences: &mut Differences) {
    for kind in [SectionKind::Kernel, SectionKind::CommandLine, SectionKind::Metadata] {
        let pcrs: &[u8] = if kind == SectionKind::Metadata { &[] } else { &[0, 1] };
        let contents = [first, second].map(|image| match kind {
            SectionKind::CommandLine => Some(image.measurement.command_line.clone()),
            _ => digests(image, kind).next(),
        });
        differences.compare(&kind.to_string(), contents, pcrs);
    }
    // What is not UTF-8 in a command line shows alike and differs.
    if first.measurement.command_line == second.measurement.command_line {
        let contents = [first, second].map(|image| digests(image, SectionKind::CommandLine).next());
        differences.compare("command line", contents, &[0, 1]);
    }
}

/// The ramdisks, and the files in those that both images have.
fn ramdisks(first: &Inspection, second: &Inspection, differences: &mut Differences) {
    let [left, right] = [first, second].map(|image| digests(image, SectionKind::Ramdisk).collect::<Vec<_>>());
    for index in 0..left.len().max(right.len()) {
        let pcrs: &[u8] = if index == 0 { &[0, 1] } else { &[0, 2] };
        if left.get(index) != right.get(index) {
            ramdisk(index, first, second, |place, left, right| {
                differences.compare(place, [left, right], pcrs);
            });
            let place = format!("ramdisk {index}");
            differences.compare(&place, [left.get(index).cloned(), right.get(index).cloned()], pcrs);
        }
    }
}

/// Who signed, and the signatures.
fn signatures(first: &Inspection, second: &Inspection, differences: &mut Differences) {
    let certificates = [first, second].map(|image| {
        let certificate = image.measurement.signing_certificate.as_ref();
        certificate.map(|certificate| format!("SHA-256 {}", certificate.sha256))
    });
    differences.compare("signing certificate", certificates, &[8]);
    let contents = [first, second].map(|image| digests(image, SectionKind::Signature).next());
    differences.compare("signature", contents, &[]);
}

/// Length and digest of each section of a kind, as text.
fn digests(image: &Inspection, kind: SectionKind) -> impl Iterator<Item = String> {
    let sections = image.measurement.sections.iter().zip(&image.section_digests);
    let sections = sections.filter(move |(section, _)| section.kind == kind);
    sections.map(|(section, digest)| format!("{} bytes, SHA-384 {digest}", section.length))
}

/// Compares what two ramdisks unpack to.
fn ramdisk(
    index: usize,
    first: &Inspection,
    second: &Inspection,
    mut compare: impl FnMut(&str, Option<String>, Option<String>),
) {
    let [left, right] = [first, second].map(|image| match image.ramdisks.get(index) {
        Some(Ramdisk::Entries(entries)) => Some(listing(entries)),
        _ => None,
    });
    // Of a ramdisk that is absent or unreadable there is nothing to say but that it differs.
    let (Some(left), Some(right)) = (left, right) else { return };
    let mut paths: Vec<&str> = left.keys().chain(right.keys()).copied().collect();
    paths.sort_unstable();
    paths.dedup();
    for path in paths {
        compare(&format!("ramdisk {index}: {path}"), left.get(path).cloned(), right.get(path).cloned());
    }
}

fn listing(entries: &[RamdiskEntry]) -> BTreeMap<&str, String> {
    let mut listing: BTreeMap<&str, String> = BTreeMap::new();
    for RamdiskEntry { path, kind, permissions, owner, modified, size, sha384 } in entries {
        let (user, group) = owner;
        let text =
            format!("{kind} {permissions} {user}:{group} at {modified}, {size} bytes, SHA-384 {sha384}");
        // An archive may name a path twice; the kernel takes the last.
        listing
            .entry(path)
            .and_modify(|earlier| *earlier = format!("{earlier}; then {text}"))
            .or_insert(text);
    }
    listing
}

#[cfg(test)]
mod tests;
