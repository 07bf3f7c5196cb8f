use cleanroom_attestation::measurement::Architecture;

use super::super::cpio::Archive;
use super::super::testing::{NOW, inputs};
use super::*;
use crate::image::{build, writer};

/// The test image with its ramdisks changed.
fn image_with(change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<u8> {
    let image = build(&inputs(), None, NOW).unwrap();
    let sections = &image.measurement.sections;
    let mut ramdisks: Vec<Vec<u8>> =
        ramdisks(&image.measurement).map(|section| contents(&image.image, section).to_vec()).collect();
    change(&mut ramdisks);
    let rest = sections.iter().filter(|section| section.kind != SectionKind::Ramdisk);
    let mut parts: Vec<(SectionKind, &[u8])> =
        rest.map(|section| (section.kind, contents(&image.image, section))).collect();
    parts.extend(ramdisks.iter().map(|ramdisk| (SectionKind::Ramdisk, ramdisk.as_slice())));
    writer::write(Architecture::X86_64, &parts).unwrap()
}

fn application_of(image: &[u8]) -> Application {
    inspect(image).unwrap().application
}

fn different(image: &[u8]) -> String {
    match application_of(image) {
        Application::Different(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_application_that_is_cut_off_is_noticed() {
    let whole = image_with(|_| ());
    assert!(matches!(application_of(&whole), Application::Whole { files: 3, .. }));
    let cut = image_with(|ramdisks| {
        let length = ramdisks[1].len();
        ramdisks[1].truncate(length / 2);
    });
    assert!(different(&cut).contains("cpio"));
    assert!(different(&image_with(|ramdisks| ramdisks[1].clear())).contains("/app/enclave"));
}

#[test]
fn an_application_that_was_changed_is_noticed() {
    let changed = image_with(|ramdisks| {
        let place = ramdisks[1].windows(5).position(|window| window == b"x = 1").unwrap();
        ramdisks[1][place] = b'y';
    });
    assert_eq!(different(&changed), "`/app/enclave.toml` differs from what the manifest lists");
    let further = |path: &'static str, kind| {
        image_with(|ramdisks| {
            let mut archive = Archive::default();
            archive.add(path, kind, 0o755, b"").unwrap();
            ramdisks.push(archive.finish());
        })
    };
    for (path, kind) in
        [("app/extra", Kind::File), ("init", Kind::File), ("app/folder", Kind::Folder), ("x", Kind::Link)]
    {
        assert!(different(&further(path, kind)).contains("not in the manifest"), "{path}");
    }
    // A later ramdisk replaces the file of an earlier one.
    assert!(different(&further("app/enclave", Kind::File)).contains("/app/enclave"));
    assert!(different(&further("app/enclave", Kind::Link)).contains("/app/enclave"));
}

#[test]
fn images_of_other_builders_are_shown_as_they_are() {
    let other = image_with(|ramdisks| *ramdisks = vec![b"\x1f\x8b compressed".to_vec()]);
    let inspection = inspect(&other).unwrap();
    assert_eq!(inspection.application, Application::NoManifest);
    assert!(matches!(&inspection.ramdisks[..], [Ramdisk::Unreadable(_)]));
    assert!(serde_json::to_value(&inspection).is_ok());
}

#[test]
fn what_is_no_image_is_refused() {
    assert!(inspect(b"").is_err());
    let mut image = image_with(|_| ());
    let last = image.last_mut().unwrap();
    *last ^= 1;
    assert_eq!(inspect(&image).unwrap_err().code(), "image-crc");
}
