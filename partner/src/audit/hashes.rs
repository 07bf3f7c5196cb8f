//! The hashes of a stored log, as proofs need them.

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::{Frontier, HashSource, TILE_WIDTH, Tile, hashes_of_tile};

use super::store::Store;

/// The longest tile, in bytes.
const MAX_TILE: u64 = 256 * 32;

/// The hashes of one boot's log. A proof that is made of them is verified like anybody's.
pub struct StoredHashes<'a> {
    /// Where they lie.
    pub store: &'a Store,
    /// The boot.
    pub boot: Sha256Digest,
    /// The log's size.
    pub size: u64,
}

impl HashSource for StoredHashes<'_> {
    fn hash(&self, height: u32, index: u64) -> Option<Sha256Digest> {
        // A tile has eight heights: its own hashes, and what they lead to.
        let (level, above) = (height / 8, height % 8);
        let first = index.checked_shl(above)?;
        let width = TILE_WIDTH as u64;
        let last = Tile::last(Some(level), self.size)?;
        let tile = Tile { level: Some(level), index: first / width, width: TILE_WIDTH };
        let tile = if tile.index == last.index { last } else { tile };
        let bytes = self.store.read(&format!("{}/{tile}", self.boot), MAX_TILE).ok()??;
        let hashes = hashes_of_tile(&bytes, tile.width).ok()?;
        let start = usize::try_from(first % width).ok()?;
        let mut tree = Frontier::new();
        hashes.get(start..start.checked_add(1 << above)?)?.iter().for_each(|hash| tree.push(*hash));
        Some(tree.root())
    }
}
