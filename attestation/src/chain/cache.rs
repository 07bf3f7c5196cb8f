//! Chains that were validated before.

use std::collections::HashMap;

use super::certificate::Window;
use super::path::{Authorities, Chain};
use crate::digest::{Sha256, Sha256Digest};
use crate::time::Timestamp;

/// Remembers validated chains, so that a verifier that sees the same security modules again and again validates each
/// chain once.
///
/// It has two levels: the certificates above the leaf, which live for hours to years and save three of five signature
/// verifications, and whole chains, which live three hours and save four. Each entry is found by the SHA-256 of its
/// certificates, holds the time in which all of them are valid, and is used only for times within it. A policy that does
/// not trust an entry's root does not see the entry. The cache is bounded: a new entry takes the place of the one that
/// expires first.
#[derive(Debug)]
pub struct ChainCache {
    authorities: Level<Authorities>,
    chains: Level<Chain>,
}

impl ChainCache {
    /// How many entries each level has unless the caller says otherwise.
    pub const DEFAULT_CAPACITY: usize = 256;

    /// An empty cache of [`Self::DEFAULT_CAPACITY`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(Self::DEFAULT_CAPACITY)
    }

    /// An empty cache of at most `capacity` entries in each of its two levels. An entry takes less than 1 KiB.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { authorities: Level::new(capacity), chains: Level::new(capacity) }
    }

    /// How many sets of authorities and how many whole chains it holds.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        (self.authorities.entries.len(), self.chains.entries.len())
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    /// How often the authorities alone were found, and how often a whole chain was.
    #[must_use]
    pub const fn hits(&self) -> (u64, u64) {
        (self.authorities.hits, self.chains.hits)
    }

    /// Forgets all whole chains and keeps the authorities above them.
    pub fn forget_leaves(&mut self) {
        self.chains.entries.clear();
    }

    pub(super) fn chain(&mut self, keys: &Keys, at: Timestamp) -> Option<&Chain> {
        self.chains.get(&keys.chain, at)
    }

    pub(super) fn authorities(&mut self, keys: &Keys, at: Timestamp) -> Option<&Authorities> {
        self.authorities.get(&keys.authorities, at)
    }

    pub(super) fn insert_chain(&mut self, keys: &Keys, chain: Chain) {
        self.chains.insert(keys.chain, chain);
    }

    pub(super) fn insert_authorities(&mut self, keys: &Keys, authorities: Authorities) {
        self.authorities.insert(keys.authorities, authorities);
    }
}

impl Default for ChainCache {
    fn default() -> Self {
        Self::new()
    }
}

/// Under which keys the two levels hold a chain.
pub(super) struct Keys {
    authorities: Sha256Digest,
    chain: Sha256Digest,
}

impl Keys {
    /// Every certificate goes in with its length before it, so that no two lists of certificates hash the same bytes.
    pub(super) fn of(bundle: &[&[u8]], leaf: &[u8]) -> Self {
        let mut hasher = Sha256::new();
        for certificate in bundle {
            hasher.update(&(certificate.len() as u64).to_be_bytes());
            hasher.update(certificate);
        }
        let authorities = hasher.finish();
        Self { authorities, chain: Sha256Digest::of(&[authorities.as_bytes(), leaf]) }
    }
}

trait Expires {
    fn window(&self) -> Window;
}

impl Expires for Authorities {
    fn window(&self) -> Window {
        self.window
    }
}

impl Expires for Chain {
    fn window(&self) -> Window {
        self.window
    }
}

#[derive(Debug)]
struct Level<T> {
    entries: HashMap<Sha256Digest, T>,
    capacity: usize,
    hits: u64,
}

impl<T: Expires> Level<T> {
    fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), capacity, hits: 0 }
    }

    fn get(&mut self, key: &Sha256Digest, at: Timestamp) -> Option<&T> {
        let entry = self.entries.get(key).filter(|entry| entry.window().contains(at))?;
        self.hits = self.hits.saturating_add(1);
        Some(entry)
    }

    fn insert(&mut self, key: Sha256Digest, entry: T) {
        if self.capacity == 0 {
            return;
        }
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
            let first = self.entries.iter().min_by_key(|(_, entry)| entry.window().not_after);
            if let Some(first) = first.map(|(key, _)| *key) {
                self.entries.remove(&first);
            }
        }
        self.entries.insert(key, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Until(u64);

    impl Expires for Until {
        fn window(&self) -> Window {
            Window { not_before: Timestamp::from_seconds(0), not_after: Timestamp::from_seconds(self.0) }
        }
    }

    #[test]
    fn the_first_to_expire_goes() {
        let key = |number: u8| Sha256Digest::of(&[&[number]]);
        let mut level = Level::new(2);
        level.insert(key(1), Until(20));
        level.insert(key(2), Until(10));
        level.insert(key(1), Until(21));
        assert_eq!(level.entries.len(), 2, "an entry takes its own place");
        level.insert(key(3), Until(30));
        let now = Timestamp::from_seconds(5);
        assert_eq!(level.get(&key(1), now), Some(&Until(21)));
        assert_eq!(level.get(&key(2), now), None);
        assert_eq!(level.get(&key(3), now), Some(&Until(30)));
        assert_eq!(level.get(&key(3), Timestamp::from_seconds(31)), None);
    }
}
