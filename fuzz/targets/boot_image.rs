//! Bytes as a unified kernel image: reading never panics, and what is accepted is measured whole.

#![no_main]

use cleanroom_attestation::measured_boot::BootMeasurement;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let measurement = match BootMeasurement::of(file) {
        Ok(measurement) => measurement,
        Err(error) => {
            assert!(error.code().starts_with("boot-image-") && !error.to_string().is_empty());
            return;
        }
    };
    assert_eq!(measurement.file_length, file.len() as u64);
    assert!(measurement.pcr12.is_zero());
    for section in &measurement.sections {
        assert!(section.offset + section.length <= measurement.file_length);
    }
    serde_json::to_string(&measurement).expect("every measurement can be written");
    // Another byte of a section is another image.
    if let Some(section) = measurement.sections.iter().find(|section| section.length > 0) {
        let mut changed = file.to_vec();
        changed[usize::try_from(section.offset).expect("within the file")] ^= 1;
        if let Ok(other) = BootMeasurement::of(&changed) {
            assert_ne!(other.pcr4, measurement.pcr4);
        }
    }
});
