//! A model's identity: a SHA-256 tree over its plaintext.
//!
//! The weights are cut into chunks of 16 KiB. Sealed files use the same chunks, so a chunk can be checked as
//! soon as it is decrypted. The chunks are the leaves of the Merkle tree of RFC 6962 section 2.1: a leaf
//! hashes as `SHA-256(0x00 ‖ chunk)`, an inner node as `SHA-256(0x01 ‖ left ‖ right)`, and a tree of n leaves
//! splits at the largest power of two below n. A release names the root, and PCR 16 commits to it.

use crate::digest::{Sha256, Sha256Digest};
use crate::log::Frontier;

/// The length of every chunk but the last, in bytes.
pub const CHUNK_BYTES: usize = 16 * 1024;

/// The identity of a model whose bytes are all in memory.
#[must_use]
pub fn model_digest(bytes: &[u8]) -> Sha256Digest {
    let mut digester = ModelDigester::new();
    digester.update(bytes);
    digester.finish()
}

/// Computes a model's identity piece by piece, in memory that does not grow with the model.
pub struct ModelDigester {
    chunk: Sha256,
    chunk_bytes: usize,
    tree: Frontier,
}

impl ModelDigester {
    /// Nothing hashed yet.
    #[must_use]
    pub fn new() -> Self {
        Self { chunk: leaf_hasher(), chunk_bytes: 0, tree: Frontier::new() }
    }

    /// Appends `bytes`.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.chunk_bytes == 0
                && let Some((leaves, later)) = two_leaves(bytes)
            {
                leaves.into_iter().for_each(|leaf| self.tree.push(leaf));
                bytes = later;
                continue;
            }
            let room = CHUNK_BYTES.saturating_sub(self.chunk_bytes).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            self.chunk.update(now);
            self.chunk_bytes = self.chunk_bytes.saturating_add(room);
            bytes = later;
            if self.chunk_bytes == CHUNK_BYTES {
                self.close_chunk();
            }
        }
    }

    /// The identity of all that was appended. A model of no bytes has one empty chunk.
    #[must_use]
    pub fn finish(mut self) -> Sha256Digest {
        if self.chunk_bytes > 0 || self.tree.size() == 0 {
            self.close_chunk();
        }
        self.tree.root()
    }

    fn close_chunk(&mut self) {
        self.tree.push(core::mem::replace(&mut self.chunk, leaf_hasher()).finish());
        self.chunk_bytes = 0;
    }
}

impl Default for ModelDigester {
    fn default() -> Self {
        Self::new()
    }
}

/// Puts the identities of a model's pieces together, so that pieces can be hashed at once. Every piece but the last has the
/// same number of chunks, a power of two, so each is a whole subtree of the model.
#[derive(Default)]
pub struct SubtreeDigester(Frontier);

impl SubtreeDigester {
    /// No piece yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Frontier::new())
    }

    /// Appends the next piece by its identity, as [`ModelDigester`] computes it for the piece alone.
    pub fn push(&mut self, piece: Sha256Digest) {
        self.0.push(piece);
    }

    /// The identity of the model. `None` if there was no piece.
    #[must_use]
    pub fn finish(self) -> Option<Sha256Digest> {
        (self.0.size() > 0).then(|| self.0.root())
    }
}

/// The byte before a leaf (RFC 6962 section 2.1).
const LEAF: u8 = 0;

fn leaf_hasher() -> Sha256 {
    let mut hasher = Sha256::new();
    hasher.update(&[LEAF]);
    hasher
}

/// The hashes of two whole chunks at the beginning of `bytes`, and what follows them. `None` if there are no two, or this
/// processor has no lanes; one chunk after the other is then hashed by the library.
#[cfg(feature = "lanes")]
fn two_leaves(bytes: &[u8]) -> Option<([Sha256Digest; 2], &[u8])> {
    let (first, rest) = bytes.split_first_chunk::<CHUNK_BYTES>()?;
    let (second, later) = rest.split_first_chunk::<CHUNK_BYTES>()?;
    let leaves = cleanroom_lanes::pair(LEAF, first, second)?;
    Some((leaves.map(Sha256Digest::from_bytes), later))
}

#[cfg(not(feature = "lanes"))]
const fn two_leaves(_: &[u8]) -> Option<([Sha256Digest; 2], &[u8])> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::node_hash as node;

    /// RFC 6962 section 2.1, word for word: recursive, and so a second opinion.
    fn recursive(chunks: &[&[u8]]) -> Sha256Digest {
        match chunks {
            [] => Sha256Digest::of(&[&[0]]),
            [chunk] => Sha256Digest::of(&[&[0], chunk]),
            _ => {
                let split = chunks.len().next_power_of_two() / 2;
                node(&recursive(&chunks[..split]), &recursive(&chunks[split..]))
            }
        }
    }

    #[test]
    fn agrees_with_the_recursive_definition_however_it_is_fed() {
        for length in
            [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 7 * CHUNK_BYTES + 3]
        {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
            let expected = recursive(&bytes.chunks(CHUNK_BYTES).collect::<Vec<_>>());
            assert_eq!(model_digest(&bytes), expected, "{length} bytes");
            let mut digester = ModelDigester::new();
            bytes.chunks(1000).for_each(|piece| digester.update(piece));
            assert_eq!(digester.finish(), expected, "{length} bytes in pieces");
            // Pairs of chunks begin at a chunk of an odd number, and chunks begin inside a piece.
            for piece in [CHUNK_BYTES, 3 * CHUNK_BYTES, 5 * CHUNK_BYTES / 2] {
                let mut digester = ModelDigester::new();
                bytes.chunks(piece).for_each(|piece| digester.update(piece));
                assert_eq!(digester.finish(), expected, "{length} bytes in pieces of {piece}");
            }
        }
    }

    #[test]
    fn pieces_that_are_hashed_apart_give_the_same_identity() {
        for chunks in [1_usize, 2, 4] {
            for length in [0, 1, CHUNK_BYTES, 4 * CHUNK_BYTES, 5 * CHUNK_BYTES + 1, 11 * CHUNK_BYTES - 1] {
                let bytes: Vec<u8> = (0..length).map(|i| (i * 37 % 253) as u8).collect();
                let mut pieces = SubtreeDigester::new();
                bytes.chunks(chunks * CHUNK_BYTES).for_each(|piece| pieces.push(model_digest(piece)));
                let expected = (length > 0).then(|| model_digest(&bytes));
                assert_eq!(pieces.finish(), expected, "{length} bytes in pieces of {chunks} chunks");
            }
        }
    }

    #[test]
    fn chunks_and_nodes_never_collide() {
        let two = vec![0xAB; 2 * CHUNK_BYTES];
        let leaf = Sha256Digest::of(&[&[0], &two[..CHUNK_BYTES]]);
        // The bytes of the inner node, offered as a model, have another identity.
        let forged = [leaf.as_bytes().as_slice(), leaf.as_bytes().as_slice()].concat();
        assert_ne!(model_digest(&two), model_digest(&forged));
    }
}
