//! Holds a log that cleanroom wrote against other people's readers: `signed_note` for its checkpoint, `tlog_tiles` for its tiles
//! and proofs. They share no line with cleanroom. `tests/standards.rs` does the same with COSE receipts and attestation results.

use std::error::Error;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::{
    NoteKey, StoredTiles, Tile, consistency_path, entries_of_bundle, inclusion_path, leaf_hash, range_root,
    verify_consistency, verify_inclusion,
};
use signed_note::{Note, StandardVerifier, VerifierList};
use tlog_tiles::tile::{TileHashReader, TileReader};
use tlog_tiles::tlog::{self, Hash, check_record, check_tree, prove_record, prove_tree, record_hash};

/// Entries of a bundle, and hashes of a tile.
const WIDTH: u64 = 256;

/// What the readers saw.
#[derive(Debug, Default, Clone, Copy)]
pub struct Read {
    /// Leaves of the log.
    pub size: u64,
    /// The longest inclusion proof, in hashes.
    pub inclusion: usize,
    /// The longest consistency proof, in hashes.
    pub consistency: usize,
}

/// A log's tiles as their library asks for them.
struct Tiles<F>(F);

impl<F: Fn(&str) -> Option<Vec<u8>>> TileReader for Tiles<F> {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[tlog_tiles::tile::Tile]) -> Result<Vec<Vec<u8>>, tlog::Error> {
        let read = |tile: &tlog_tiles::tile::Tile| {
            // The height of the tiles is in their paths, and C2SP's is always 8.
            let path = tile.path().replacen("tile/8/", "tile/", 1);
            (self.0)(&path).ok_or_else(|| tlog::Error::InvalidInput(format!("{path} is missing")))
        };
        tiles.iter().map(read).collect()
    }

    fn save_tiles(&self, _: &[tlog_tiles::tile::Tile], _: &[Vec<u8>]) {}
}

/// Reads a log with other people's code, and compares what it says at the leaves `samples` with what cleanroom says.
///
/// `read` gives the bytes of a file of the log by its path.
///
/// # Errors
/// Whatever one of the two does not accept, or says differently.
pub fn read(
    read: impl Fn(&str) -> Option<Vec<u8>>,
    key: &NoteKey,
    samples: &[u64],
) -> Result<Read, Box<dyn Error>> {
    let note = Note::from_bytes(&read("checkpoint").ok_or("there is no checkpoint")?)?;
    let verifier = StandardVerifier::new(&key.verifier())?;
    let (verified, _) = note.verify(&VerifierList::new(vec![Box::new(verifier)]))?;
    if verified.len() != 1 {
        return Err("the checkpoint has not exactly one signature of the log".into());
    }
    let checkpoint = tlog_tiles::checkpoint::Checkpoint::from_bytes(note.text())
        .map_err(|error| format!("the checkpoint: {error}"))?;
    if checkpoint.origin() != key.name() {
        return Err("the checkpoint is of another log".into());
    }
    let (size, root) = (checkpoint.size(), *checkpoint.hash());
    let ours = StoredTiles { size, read: |tile: Tile| read(&tile.to_string()) };
    let tiles = Tiles(&read);
    // It computes the root from the tiles, so each hash that it gives was proven.
    let theirs = TileHashReader::new(size, root, &tiles);
    let mut seen = Read { size, ..Read::default() };
    for index in samples.iter().copied().filter(|index| *index < size) {
        let entry = entry(&read, index, size)?;
        let leaf = record_hash(&entry);
        if digest(&leaf) != leaf_hash(&entry) {
            return Err(format!("leaf {index} has another hash").into());
        }
        let path = inclusion_path(&ours, index, size)?;
        let proof = prove_record(size, index, &theirs)?;
        if hashes(&path) != proof {
            return Err(format!("leaf {index} has another inclusion proof").into());
        }
        check_record(&hashes(&path), size, root, index, leaf)?;
        verify_inclusion(
            leaf_hash(&entry),
            index,
            size,
            &proof.iter().map(digest).collect::<Vec<_>>(),
            &digest(&root),
        )?;
        seen.inclusion = seen.inclusion.max(path.len());

        let old = index + 1;
        let old_root = range_root(&ours, 0, old)?;
        let path = consistency_path(&ours, old, size)?;
        let proof = prove_tree(size, old, &theirs)?;
        if hashes(&path) != proof {
            return Err(format!("the log of {old} entries has another consistency proof").into());
        }
        check_tree(&hashes(&path), size, root, old, Hash(*old_root.as_bytes()))?;
        verify_consistency(
            (old, &old_root),
            (size, &digest(&root)),
            &proof.iter().map(digest).collect::<Vec<_>>(),
        )?;
        seen.consistency = seen.consistency.max(path.len());
    }
    Ok(seen)
}

/// An entry out of its bundle.
fn entry(read: impl Fn(&str) -> Option<Vec<u8>>, index: u64, size: u64) -> Result<Vec<u8>, Box<dyn Error>> {
    let last = Tile::last(None, size).ok_or("the log is empty")?;
    let whole = Tile { level: None, index: index / WIDTH, width: WIDTH as usize };
    let tile = if whole.index == last.index { last } else { whole };
    let bundle = read(&tile.to_string()).ok_or_else(|| format!("{tile} is missing"))?;
    let entries = entries_of_bundle(&bundle, tile.width)?;
    Ok(entries.get((index % WIDTH) as usize).ok_or("the bundle is short")?.to_vec())
}

fn digest(hash: &Hash) -> Sha256Digest {
    Sha256Digest::from_bytes(hash.0)
}

fn hashes(digests: &[Sha256Digest]) -> Vec<Hash> {
    digests.iter().map(|digest| Hash(*digest.as_bytes())).collect()
}
