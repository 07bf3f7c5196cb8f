//! The hashes of a stored log, as proofs need them.

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::log::{HashSource, StoredTiles, Tile};

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
        let read = |tile: Tile| self.store.read(&format!("{}/{tile}", self.boot), MAX_TILE).ok()?;
        StoredTiles { size: self.size, read }.hash(height, index)
    }
}
