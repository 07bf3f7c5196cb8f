//! Why two images differ: which section, which file in it, and which PCRs that changes.

use std::collections::BTreeMap;

use cleanroom_attestation::measurement::SectionKind;
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
    let mut differences = Vec::new();
    let mut compare = |place: &str, left: Option<String>, right: Option<String>, pcrs: &[u8]| {
        if left != right {
            differences.push(Difference {
                place: place.to_owned(),
                first: left,
                second: right,
                pcrs: pcrs.to_vec(),
            });
        }
    };
    let [left, right] = [first, second].map(|image| &image.measurement);
    compare("format version", Some(left.version.to_string()), Some(right.version.to_string()), &[]);
    compare("architecture", Some(left.architecture.to_string()), Some(right.architecture.to_string()), &[]);
    compare(
        "suggested memory",
        Some(left.default_memory.to_string()),
        Some(right.default_memory.to_string()),
        &[],
    );
    compare(
        "suggested processors",
        Some(left.default_cpus.to_string()),
        Some(right.default_cpus.to_string()),
        &[],
    );
    let order = |image: &Inspection, counts: &dyn Fn(SectionKind) -> bool| {
        let kinds = image.measurement.sections.iter().map(|section| section.kind);
        Some(kinds.filter(|kind| counts(*kind)).map(|kind| kind.to_string()).collect::<Vec<_>>().join(", "))
    };
    let measured = |kind| !matches!(kind, SectionKind::Metadata | SectionKind::Signature);
    compare("order of the measured sections", order(first, &measured), order(second, &measured), &[0, 1, 2]);
    if order(first, &measured) == order(second, &measured) {
        // That only one is signed is said below.
        let has =
            |image: &Inspection, kind| image.measurement.sections.iter().any(|section| section.kind == kind);
        let in_both = |kind| has(first, kind) && has(second, kind);
        compare("order of the sections", order(first, &in_both), order(second, &in_both), &[]);
    }

    for kind in [SectionKind::Kernel, SectionKind::CommandLine, SectionKind::Metadata] {
        let pcrs: &[u8] = if kind == SectionKind::Metadata { &[] } else { &[0, 1] };
        let [left, right] = [first, second].map(|image| match kind {
            SectionKind::CommandLine => Some(image.measurement.command_line.clone()),
            _ => digests(image, kind).next(),
        });
        compare(&kind.to_string(), left, right, pcrs);
    }
    // What is not UTF-8 in a command line shows alike and differs.
    if left.command_line == right.command_line {
        let [left, right] = [first, second].map(|image| digests(image, SectionKind::CommandLine).next());
        compare("command line", left, right, &[0, 1]);
    }
    let [left, right] = [first, second].map(|image| digests(image, SectionKind::Ramdisk).collect::<Vec<_>>());
    for index in 0..left.len().max(right.len()) {
        let pcrs: &[u8] = if index == 0 { &[0, 1] } else { &[0, 2] };
        if left.get(index) != right.get(index) {
            ramdisk(index, first, second, |place, left, right| compare(place, left, right, pcrs));
            let place = format!("ramdisk {index}");
            compare(&place, left.get(index).cloned(), right.get(index).cloned(), pcrs);
        }
    }
    let [left, right] = [first, second].map(|image| {
        let certificate = image.measurement.signing_certificate.as_ref();
        certificate.map(|certificate| format!("SHA-256 {}", certificate.sha256))
    });
    compare("signing certificate", left, right, &[8]);
    let [left, right] = [first, second].map(|image| digests(image, SectionKind::Signature).next());
    compare("signature", left, right, &[]);
    differences
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
