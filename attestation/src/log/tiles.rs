//! Where a log lies: the files of C2SP `tlog-tiles` (version 0.1.0).
//!
//! A tile has the 256 hashes of one level that share their first common node, `tile/L/N`; level 0 are the leaves' hashes, and level L
//! the roots of whole subtrees with `256^L` leaves. The last tile of a level may have fewer, `tile/L/N.p/W`. A bundle has the 256
//! entries of a level 0 tile, each after its length (2 bytes, big-endian).

use core::fmt;

use super::entry::MAX_ENTRY_BYTES;
use super::merkle::{Frontier, HashSource, leaf_hash};
use crate::digest::Sha256Digest;

/// Hashes of a whole tile, and entries of a whole bundle.
pub const TILE_WIDTH: usize = 256;

/// The name of a tile or a bundle. [`fmt::Display`] gives its path within the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tile {
    /// The level, or `None` for a bundle of entries.
    pub level: Option<u32>,
    /// Its place among those of its level.
    pub index: u64,
    /// How many hashes or entries it has: 1 to [`TILE_WIDTH`].
    pub width: usize,
}

impl Tile {
    /// The tiles of a level (or the bundles) of a log of `size` leaves.
    pub fn all(level: Option<u32>, size: u64) -> impl Iterator<Item = Self> {
        let width = TILE_WIDTH as u64;
        let nodes = size.checked_shr(level.unwrap_or(0).saturating_mul(8)).unwrap_or(0);
        let whole = nodes / width;
        let rest = usize::try_from(nodes % width).unwrap_or(0);
        let last = (rest > 0).then_some(Self { level, index: whole, width: rest });
        (0..whole).map(move |index| Self { level, index, width: TILE_WIDTH }).chain(last)
    }

    /// The last tile of a level (or the last bundle) of a log of `size` leaves, if there is one.
    #[must_use]
    pub fn last(level: Option<u32>, size: u64) -> Option<Self> {
        let width = TILE_WIDTH as u64;
        let last = size.checked_shr(level.unwrap_or(0).saturating_mul(8)).unwrap_or(0).checked_sub(1)?;
        let count = (last % width).saturating_add(1);
        Some(Self { level, index: last / width, width: usize::try_from(count).unwrap_or(TILE_WIDTH) })
    }

    /// Whether it has as many hashes or entries as one can have.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.width == TILE_WIDTH
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            Some(level) => write!(formatter, "tile/{level}/")?,
            None => formatter.write_str("tile/entries/")?,
        }
        // Groups of three digits; all but the last begin with `x`.
        let groups = (1..7).rev().filter_map(|group| {
            let above = self.index / 1000_u64.pow(group);
            (above > 0).then_some(above % 1000)
        });
        for group in groups {
            write!(formatter, "x{group:03}/")?;
        }
        write!(formatter, "{:03}", self.index % 1000)?;
        if self.is_whole() { Ok(()) } else { write!(formatter, ".p/{}", self.width) }
    }
}

/// The right edge of a log: the hashes of the last tile of each level, which is not whole, and the entries of the last bundle. It is
/// what a writer needs to go on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    levels: Vec<Vec<Sha256Digest>>,
    entries: Vec<Vec<u8>>,
}

/// The hashes of a log whose tiles `read` gives, as proofs need them. A proof that is made of them is verified like anybody's.
#[derive(Debug, Clone, Copy)]
pub struct StoredTiles<R> {
    /// The log's size.
    pub size: u64,
    /// Gives the bytes of a tile.
    pub read: R,
}

impl<R: Fn(Tile) -> Option<Vec<u8>>> HashSource for StoredTiles<R> {
    fn hash(&self, height: u32, index: u64) -> Option<Sha256Digest> {
        // A tile has eight heights: its own hashes, and what they lead to.
        let (level, above) = (height / 8, height % 8);
        let first = index.checked_shl(above)?;
        let width = TILE_WIDTH as u64;
        let last = Tile::last(Some(level), self.size)?;
        let tile = Tile { level: Some(level), index: first / width, width: TILE_WIDTH };
        let tile = if tile.index == last.index { last } else { tile };
        let hashes = hashes_of_tile(&(self.read)(tile)?, tile.width).ok()?;
        let start = usize::try_from(first % width).ok()?;
        let mut tree = Frontier::new();
        hashes.get(start..start.checked_add(1 << above)?)?.iter().for_each(|hash| tree.push(*hash));
        Some(tree.root())
    }
}

/// A file of a log, and its bytes.
pub type TileFile = (Tile, Vec<u8>);

impl Edge {
    /// The edge of a log of `size` leaves, whose partial tiles and bundle `read` gives. `None` when one is missing or is not of its
    /// width.
    pub fn resume(size: u64, mut read: impl FnMut(Tile) -> Option<Vec<u8>>) -> Option<Self> {
        let mut edge = Self { size, ..Self::default() };
        if let Some(last) = Tile::last(None, size).filter(|tile| !tile.is_whole()) {
            let bytes = read(last)?;
            edge.entries =
                entries_of_bundle(&bytes, last.width).ok()?.into_iter().map(<[u8]>::to_vec).collect();
        }
        for level in 0..8 {
            let Some(last) = Tile::last(Some(level), size) else { break };
            let hashes =
                if last.is_whole() { Vec::new() } else { hashes_of_tile(&read(last)?, last.width).ok()? };
            edge.levels.push(hashes);
        }
        Some(edge)
    }

    /// How many leaves there are.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root of the whole log.
    #[must_use]
    pub fn root(&self) -> Sha256Digest {
        let mut below: Option<Sha256Digest> = None;
        for level in &self.levels {
            let mut tree = Frontier::new();
            level.iter().copied().chain(below).for_each(|hash| tree.push(hash));
            below = (tree.size() > 0).then(|| tree.root());
        }
        below.unwrap_or_else(|| Frontier::new().root())
    }

    /// Appends entries, and gives the files that change: those that become whole, and the new partial ones.
    pub fn append(&mut self, entries: &[Vec<u8>]) -> Vec<TileFile> {
        let mut files = Vec::new();
        for entry in entries {
            self.entries.push(entry.clone());
            self.push(0, leaf_hash(entry), &mut files);
            self.size = self.size.saturating_add(1);
            if self.entries.len() == TILE_WIDTH {
                let index = (self.size / TILE_WIDTH as u64).saturating_sub(1);
                let whole = core::mem::take(&mut self.entries);
                let bytes = bundle(whole.iter().map(Vec::as_slice));
                files.push((Tile { level: None, index, width: TILE_WIDTH }, bytes));
            }
        }
        if !entries.is_empty() {
            self.partial(&mut files);
        }
        files
    }

    fn push(&mut self, level: usize, hash: Sha256Digest, files: &mut Vec<TileFile>) {
        if self.levels.len() <= level {
            self.levels.push(Vec::new());
        }
        let Some(hashes) = self.levels.get_mut(level) else { return };
        hashes.push(hash);
        if hashes.len() < TILE_WIDTH {
            return;
        }
        let hashes = core::mem::take(hashes);
        let shift = u32::try_from(level).unwrap_or(8).saturating_add(1).saturating_mul(8);
        // The leaf that completes the tile is not counted yet.
        let index = self.size.saturating_add(1).checked_shr(shift).unwrap_or(0).saturating_sub(1);
        let name = Tile { level: u32::try_from(level).ok(), index, width: TILE_WIDTH };
        files.push((name, bytes_of(&hashes)));
        let mut tree = Frontier::new();
        hashes.into_iter().for_each(|hash| tree.push(hash));
        self.push(level.saturating_add(1), tree.root(), files);
    }

    fn partial(&self, files: &mut Vec<TileFile>) {
        if let Some(last) = Tile::last(None, self.size).filter(|tile| !tile.is_whole()) {
            files.push((last, bundle(self.entries.iter().map(Vec::as_slice))));
        }
        for (level, hashes) in (0..).zip(&self.levels) {
            if let Some(last) = Tile::last(Some(level), self.size).filter(|tile| !tile.is_whole()) {
                files.push((last, bytes_of(hashes)));
            }
        }
    }
}

fn bytes_of(hashes: &[Sha256Digest]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
}

/// Why bytes are not a tile or a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// A tile of another length.
    #[error("expected {expected} bytes of hashes, got {actual}")]
    Tile {
        /// Bytes that its width needs.
        expected: usize,
        /// Bytes that came.
        actual: usize,
    },
    /// An entry that is cut or longer than entries are.
    #[error("entry {0} of the bundle is cut or too long")]
    Entry(usize),
    /// Bytes after the last entry.
    #[error("the bundle has bytes after its last entry")]
    Rest,
}

/// The hashes of a tile with `width` of them.
///
/// # Errors
/// [`BundleError::Tile`].
pub fn hashes_of_tile(bytes: &[u8], width: usize) -> Result<Vec<Sha256Digest>, BundleError> {
    let expected = width.saturating_mul(Sha256Digest::LENGTH);
    let (hashes, []) = bytes.as_chunks::<{ Sha256Digest::LENGTH }>() else {
        return Err(BundleError::Tile { expected, actual: bytes.len() });
    };
    if hashes.len() != width {
        return Err(BundleError::Tile { expected, actual: bytes.len() });
    }
    Ok(hashes.iter().copied().map(Sha256Digest::from_bytes).collect())
}

/// The entries of a bundle with `width` of them.
///
/// # Errors
/// [`BundleError`] names the first entry that is not whole.
pub fn entries_of_bundle(bytes: &[u8], width: usize) -> Result<Vec<&[u8]>, BundleError> {
    let mut entries = Vec::with_capacity(width.min(TILE_WIDTH));
    let mut rest = bytes;
    for index in 0..width {
        let entry = rest.split_first_chunk::<2>().and_then(|(length, after)| {
            let length = usize::from(u16::from_be_bytes(*length));
            (length <= MAX_ENTRY_BYTES).then(|| after.split_at_checked(length)).flatten()
        });
        let (entry, after) = entry.ok_or(BundleError::Entry(index))?;
        entries.push(entry);
        rest = after;
    }
    if rest.is_empty() { Ok(entries) } else { Err(BundleError::Rest) }
}

/// A bundle of `entries`, each of at most [`MAX_ENTRY_BYTES`].
#[must_use]
pub fn bundle<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend_from_slice(&u16::try_from(entry.len()).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend_from_slice(entry);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        let path = |level, index, width| Tile { level, index, width }.to_string();
        assert_eq!(path(Some(0), 0, 256), "tile/0/000");
        assert_eq!(path(Some(1), 5, 112), "tile/1/005.p/112");
        assert_eq!(path(Some(0), 1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(path(None, 123_456, 1), "tile/entries/x123/456.p/1");
        assert_eq!(path(Some(0), 1_000_000, 256), "tile/0/x001/x000/000");
    }

    #[test]
    fn a_log_has_the_tiles_that_its_size_needs() {
        let names = |level, size| Tile::all(level, size).map(|tile| tile.to_string()).collect::<Vec<_>>();
        assert!(names(Some(0), 0).is_empty());
        assert_eq!(names(Some(0), 1), ["tile/0/000.p/1"]);
        assert_eq!(names(None, 256), ["tile/entries/000"]);
        assert_eq!(names(Some(0), 600), ["tile/0/000", "tile/0/001", "tile/0/002.p/88"]);
        assert_eq!(names(Some(1), 600), ["tile/1/000.p/2"]);
        for size in [0, 1, 255, 256, 257, 65_536, 65_537] {
            for level in [None, Some(0), Some(1), Some(2)] {
                assert_eq!(Tile::last(level, size), Tile::all(level, size).last(), "{level:?} of {size}");
            }
        }
        assert!(names(Some(2), 600).is_empty() && names(Some(8), u64::MAX).is_empty());
    }

    #[test]
    fn what_is_cut_longer_or_of_another_width_is_neither() {
        let bytes = bundle([&b"one"[..], b"", b"three"]);
        assert_eq!(entries_of_bundle(&bytes, 3).unwrap(), [&b"one"[..], b"", b"three"]);
        assert_eq!(entries_of_bundle(&bytes, 2), Err(BundleError::Rest));
        assert_eq!(entries_of_bundle(&bytes, 4), Err(BundleError::Entry(3)));
        assert_eq!(entries_of_bundle(&bytes[..bytes.len() - 1], 3), Err(BundleError::Entry(2)));
        assert!(hashes_of_tile(&[0; 64], 2).is_ok());
        for (length, width) in [(63, 2), (65, 2), (64, 1), (64, 3)] {
            assert!(hashes_of_tile(&vec![0; length], width).is_err());
        }
    }

    #[test]
    fn an_edge_writes_the_tiles_of_the_log_in_whatever_steps_and_can_be_resumed_anywhere() {
        use std::collections::HashMap;
        let entries: Vec<Vec<u8>> = (0..70_000_u32).map(|n| n.to_be_bytes().to_vec()).collect();
        let (mut edge, mut files, mut tree) = (Edge::default(), HashMap::new(), Frontier::new());
        let mut rest = entries.as_slice();
        for step in [1, 254, 1, 1, 65_278, 1, 300].into_iter().cycle() {
            let (now, later) = rest.split_at(step.min(rest.len()));
            files.extend(edge.append(now));
            now.iter().for_each(|entry| tree.push(leaf_hash(entry)));
            rest = later;
            assert_eq!((edge.size(), edge.root()), (tree.size(), tree.root()));
            let resumed = Edge::resume(edge.size(), |tile| files.get(&tile).cloned()).unwrap();
            assert_eq!(resumed, edge, "{} leaves", edge.size());
            if rest.is_empty() {
                break;
            }
        }
        for level in [None, Some(0), Some(1), Some(2)] {
            for tile in Tile::all(level, edge.size()) {
                let bytes = &files[&tile];
                match level {
                    None => assert_eq!(entries_of_bundle(bytes, tile.width).unwrap().len(), tile.width),
                    Some(_) => assert_eq!(hashes_of_tile(bytes, tile.width).unwrap().len(), tile.width),
                }
            }
        }
        assert_eq!(Edge::resume(edge.size(), |_| None), None);
    }
}
