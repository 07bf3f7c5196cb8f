//! Bytes as the parts of a log: reading never panics, and what is accepted is the one spelling of what it means.

#![no_main]

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::{
    AddCheckpoint, Edge, Entry, SignedCheckpoint, Tile, WitnessKey, bundle, entries_of_bundle,
    hashes_of_tile, verify_consistency, verify_inclusion,
};
use cleanroom_link::control::Batch;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, u64, u64, &[u8])| {
    let (what, one, other, bytes) = input;
    match what % 8 {
        0 => {
            let Ok(note) = SignedCheckpoint::parse(bytes) else { return };
            let text = note.unverified().text();
            assert!(bytes.starts_with(text.as_bytes()));
            assert!(!note.signatures().is_empty());
            assert_eq!(SignedCheckpoint::parse(&note.to_bytes()), Ok(note));
        }
        1 => {
            let Ok(entry) = Entry::parse(bytes) else { return };
            assert_eq!(entry.to_bytes(), bytes);
        }
        2 => {
            let Ok(batch) = Batch::decode(bytes) else { return };
            assert_eq!(batch.encode(), bytes);
        }
        3 => {
            let width = usize::from(what) + 1;
            let _ = hashes_of_tile(bytes, width);
            let Ok(entries) = entries_of_bundle(bytes, width) else { return };
            assert_eq!(bundle(entries), bytes);
        }
        5 => {
            let Some(request) = AddCheckpoint::parse(bytes) else { return };
            assert_eq!(AddCheckpoint::parse(&request.to_bytes()), Some(request));
        }
        6 => {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            let Ok(key) = text.parse::<WitnessKey>() else { return };
            assert_eq!(key.to_string(), text);
        }
        4 => {
            let _ = Edge::resume(one, |_| Some(bytes.to_vec()));
            let _ = Tile::last(None, other).map(|tile| tile.to_string());
        }
        _ => {
            let (hashes, _) = bytes.as_chunks::<32>();
            let hashes: Vec<Sha256Digest> = hashes.iter().copied().map(Sha256Digest::from_bytes).collect();
            let root = Sha256Digest::of(&[bytes]);
            // No proof leads to a root that was made of something else.
            let leaf = Sha256Digest::of(&[b"leaf"]);
            assert!(verify_inclusion(leaf, one, other, &hashes, &root).is_err());
            let known = one == 0 || one == other;
            assert!(known || verify_consistency((one, &leaf), (other, &root), &hashes).is_err());
        }
    }
});
