//! Bytes as an enclave image: however they arrive, the measurement is the same, and it is what the format defines.

#![no_main]

use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_attestation::measurement::{ImageError, Measurement, Measurer, SectionKind};
use cleanroom_fuzz::correct_crc;
use libfuzzer_sys::fuzz_target;

// The first byte is the size of the pieces, in steps of 7 bytes; the rest is the image, as it is and with its CRC corrected.
fuzz_target!(|input: &[u8]| {
    let Some((step, image)) = input.split_first() else { return };
    let piece = usize::from(*step) * 7 + 1;
    check(image, piece);
    check(&correct_crc(image), piece);
});

fn check(image: &[u8], piece: usize) {
    let measured = measure(image, image.len().max(1));
    assert_eq!(measured, measure(image, piece), "pieces of {piece} bytes");
    assert_eq!(measured.is_ok(), halves(image, piece).is_ok());
    let Ok(measurement) = measured else { return };

    assert_eq!(measurement.file_length, image.len() as u64);
    let contents = |kinds: &[SectionKind]| {
        let sections = measurement.sections.iter().filter(|section| kinds.contains(&section.kind));
        sections
            .map(|section| {
                let start = usize::try_from(section.offset).expect("within the image");
                (
                    section.kind,
                    &image[start..start + usize::try_from(section.length).expect("within the image")],
                )
            })
            .collect::<Vec<_>>()
    };
    let measured = contents(&[SectionKind::Kernel, SectionKind::CommandLine, SectionKind::Ramdisk]);
    let mut ramdisks = 0;
    let (mut all, mut bootstrap, mut application) = (Vec::new(), Vec::new(), Vec::new());
    for (kind, contents) in measured {
        ramdisks += usize::from(kind == SectionKind::Ramdisk);
        all.extend_from_slice(contents);
        if kind == SectionKind::Ramdisk && ramdisks > 1 {
            application.extend_from_slice(contents);
        } else {
            bootstrap.extend_from_slice(contents);
        }
    }
    assert_eq!(measurement.pcr0, pcr(&all));
    assert_eq!(measurement.pcr1, pcr(&bootstrap));
    assert_eq!(measurement.pcr2, pcr(&application));
    let signed = contents(&[SectionKind::Signature]).len();
    assert_eq!(usize::from(measurement.pcr8.is_some()), signed);
    serde_json::to_string(&measurement).expect("every measurement can be written");
}

fn pcr(contents: &[u8]) -> Sha384Digest {
    Sha384Digest::of(&[&[0; 48], Sha384Digest::of(&[contents]).as_bytes()])
}

fn measure(image: &[u8], piece: usize) -> Result<Measurement, ImageError> {
    let mut measurer = Measurer::new();
    image.chunks(piece).try_for_each(|piece| measurer.update(piece))?;
    measurer.finish()
}

fn halves(image: &[u8], piece: usize) -> Result<Measurement, ImageError> {
    let (mut lead, mut application) = Measurer::new().split();
    image.chunks(piece).try_for_each(|piece| lead.update(piece))?;
    application.update(image)?;
    lead.finish(application.finish()?)
}
