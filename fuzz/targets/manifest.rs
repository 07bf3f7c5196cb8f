//! Bytes as a manifest: reading never panics, and what is accepted is the one text for the files it lists.

#![no_main]

use cleanroom_attestation::measurement::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let manifest = match Manifest::parse(bytes) {
        Ok(manifest) => manifest,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert_eq!(manifest.to_string().as_bytes(), bytes);
    for file in manifest.files() {
        assert!(file.path.as_str().starts_with("/app/"));
        assert!(file.path.folders().all(|folder| manifest.file(folder).is_none()));
        assert_eq!(manifest.file(file.path.as_str()), Some(file));
    }
    assert_eq!(Manifest::new(manifest.files().to_vec()), Ok(manifest));
});
