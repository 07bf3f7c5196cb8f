//! Logs of many sizes, read by other people's code; and the same with one bit turned, which it refuses.

use std::collections::HashMap;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bench_readers::read;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::{Checkpoint, Edge, Entry, NoteKey, boot_of, origin};

/// A log of `size` entries in memory, as a host stores it, and the key of its checkpoint.
fn log(size: u64) -> (HashMap<String, Vec<u8>>, NoteKey) {
    let pair = Ed25519KeyPair::generate().unwrap();
    let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let key = NoteKey::of_boot(der.as_ref()).unwrap();
    let entries: Vec<Vec<u8>> = (0..size).map(|at_ms| Entry::Shutdown { at_ms }.to_bytes()).collect();
    let mut edge = Edge::default();
    let mut files: HashMap<String, Vec<u8>> = HashMap::new();
    // In two parts, as a host fetches it.
    for part in [&entries[..entries.len() / 3], &entries[entries.len() / 3..]] {
        files.extend(edge.append(part).into_iter().map(|(tile, bytes)| (tile.to_string(), bytes)));
    }
    let checkpoint = Checkpoint { origin: origin(&boot_of(der.as_ref())), size, root: edge.root() };
    let signature = pair.sign(checkpoint.text().as_bytes());
    files.insert("checkpoint".to_owned(), checkpoint.signed(&key, signature.as_ref()));
    (files, key)
}

fn samples(size: u64) -> Vec<u64> {
    let mut samples: Vec<u64> = (0..size).step_by(usize::try_from(size / 12 + 1).unwrap()).collect();
    samples.extend([0, 1, 255, 256, 257, size / 2, size.saturating_sub(2), size - 1]);
    samples
}

#[test]
fn notes_tiles_and_proofs_are_those_that_others_read() {
    for size in [1, 2, 3, 7, 255, 256, 257, 511, 1000, 65_535, 65_536, 65_537, 100_003] {
        let (files, key) = log(size);
        let seen = read(|path| files.get(path).cloned(), &key, &samples(size))
            .unwrap_or_else(|error| panic!("{size}: {error}"));
        assert_eq!(seen.size, size);
    }
}

#[test]
fn they_refuse_what_was_changed() {
    let size = 1000;
    let (files, key) = log(size);
    let samples: Vec<u64> = (0..size).collect();
    assert!(read(|path| files.get(path).cloned(), &key, &samples).is_ok());
    let changed = ["checkpoint", "tile/0/000", "tile/0/003.p/232", "tile/1/000.p/3", "tile/entries/001"];
    for name in changed {
        let whole = files.get(name).unwrap_or_else(|| panic!("{name}")).len();
        for place in [whole / 2, whole - 2] {
            let turned = |path: &str| {
                let mut bytes = files.get(path)?.clone();
                if path == name {
                    bytes[place] ^= 1;
                }
                Some(bytes)
            };
            assert!(read(turned, &key, &samples).is_err(), "{name}, byte {place}");
        }
    }
    let (_, other) = log(1);
    assert!(read(|path| files.get(path).cloned(), &other, &samples).is_err(), "another log's key");
    assert_ne!(key.name(), other.name());
    assert_eq!(key.name().len(), "cleanroom/log/".len() + 2 * Sha256Digest::LENGTH);
}
