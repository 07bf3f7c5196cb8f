//! Chains that were validated before.

use std::collections::HashMap;

use super::validated::{Authorities, Certificates, Chain};
use super::window::{Clock, Window};

/// Remembers validated chains, so that a verifier that sees the same security modules again and again validates each
/// chain once.
///
/// It has two levels: the certificates above the leaf, which live for hours to years and save three of five signature
/// verifications, and whole chains, which live three hours and save four. An entry holds its certificates and is found only
/// by certificates that are equal to them, byte by byte. It also holds the time in which all of them are valid, and is used
/// only for times within it. A policy that does not trust an entry's root does not see the entry. The cache is bounded: a
/// new entry replaces the one that expires first.
///
/// A cache changes no answer: a chain that known authorities do not vouch for is validated from the root, as if there were
/// no cache.
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

    /// An empty cache of at most `capacity` entries in each of its two levels. An entry takes about 4 KiB for a chain of
    /// AWS, and less than 10 KiB for the longest chain that a document can carry.
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

    pub(super) fn chain(&mut self, certificates: &Certificates<'_>, clock: Clock) -> Option<&Chain> {
        self.chains.get(certificates.bundle, certificates.leaf, clock)
    }

    pub(super) fn authorities(
        &mut self,
        certificates: &Certificates<'_>,
        clock: Clock,
    ) -> Option<&Authorities> {
        self.authorities.get(certificates.bundle, &[], clock)
    }

    pub(super) fn insert_chain(&mut self, certificates: &Certificates<'_>, chain: Chain) {
        self.chains.insert(certificates.bundle, certificates.leaf, chain);
    }

    pub(super) fn insert_authorities(&mut self, certificates: &Certificates<'_>, authorities: Authorities) {
        self.authorities.insert(certificates.bundle, &[], authorities);
    }
}

impl Default for ChainCache {
    fn default() -> Self {
        Self::new()
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

/// An entry's key: the last bytes of its last certificate. They belong to a signature, so they differ from certificate to
/// certificate. Entries with equal keys replace each other; a lookup compares all bytes.
type Key = [u8; 32];

fn key(bundle: &[&[u8]], leaf: &[u8]) -> Key {
    let last = if leaf.is_empty() { bundle.last().copied().unwrap_or_default() } else { leaf };
    let mut key = Key::default();
    for (target, source) in key.iter_mut().zip(last.iter().rev()) {
        *target = *source;
    }
    key
}

#[derive(Debug)]
struct Level<T> {
    entries: HashMap<Key, Entry<T>>,
    capacity: usize,
    hits: u64,
}

#[derive(Debug)]
struct Entry<T> {
    bundle: Vec<Box<[u8]>>,
    leaf: Box<[u8]>,
    value: T,
}

impl<T> Entry<T> {
    fn is_of(&self, bundle: &[&[u8]], leaf: &[u8]) -> bool {
        *self.leaf == *leaf
            && self.bundle.len() == bundle.len()
            && self.bundle.iter().zip(bundle).all(|(known, given)| **known == **given)
    }
}

impl<T: Expires> Level<T> {
    fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), capacity, hits: 0 }
    }

    fn get(&mut self, bundle: &[&[u8]], leaf: &[u8], clock: Clock) -> Option<&T> {
        let entry = self.entries.get(&key(bundle, leaf)).filter(|entry| entry.is_of(bundle, leaf))?;
        clock.within(entry.value.window()).ok()?;
        self.hits = self.hits.saturating_add(1);
        Some(&entry.value)
    }

    fn insert(&mut self, bundle: &[&[u8]], leaf: &[u8], value: T) {
        if self.capacity == 0 {
            return;
        }
        let key = key(bundle, leaf);
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
            let first = self.entries.iter().min_by_key(|(_, entry)| entry.value.window().not_after);
            if let Some(first) = first.map(|(key, _)| *key) {
                self.entries.remove(&first);
            }
        }
        let bundle = bundle.iter().map(|der| Box::from(*der)).collect();
        self.entries.insert(key, Entry { bundle, leaf: leaf.into(), value });
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::time::Timestamp;

    #[derive(Debug, PartialEq)]
    struct Until(u64);

    impl Expires for Until {
        fn window(&self) -> Window {
            Window { not_before: Timestamp::from_seconds(0), not_after: Timestamp::from_seconds(self.0) }
        }
    }

    fn at(seconds: u64) -> Clock {
        Clock { at: Timestamp::from_seconds(seconds), max_skew: Duration::ZERO }
    }

    #[test]
    fn the_first_to_expire_goes() {
        let mut level = Level::new(2);
        level.insert(&[b"root"], b"1", Until(20));
        level.insert(&[b"root"], b"2", Until(10));
        level.insert(&[b"root"], b"1", Until(21));
        assert_eq!(level.entries.len(), 2, "an entry replaces itself");
        level.insert(&[b"root"], b"3", Until(30));
        assert_eq!(level.get(&[b"root"], b"1", at(5)), Some(&Until(21)));
        assert_eq!(level.get(&[b"root"], b"2", at(5)), None);
        assert_eq!(level.get(&[b"root"], b"3", at(5)), Some(&Until(30)));
        assert_eq!(level.get(&[b"root"], b"3", at(31)), None);
    }

    /// A key is a few bytes; an entry is used only for all of its bytes.
    #[test]
    fn every_byte_counts() {
        let tail = [7; 40];
        let with = |first: u8| [&[first][..], &tail].concat();
        let mut level = Level::new(2);
        level.insert(&[b"root", b"zone"], &with(1), Until(20));
        assert!(level.get(&[b"root", b"zone"], &with(1), at(5)).is_some());
        assert!(level.get(&[b"root", b"zone"], &with(2), at(5)).is_none());
        assert!(level.get(&[b"root", b"Zone"], &with(1), at(5)).is_none());
        assert!(level.get(&[b"root"], &with(1), at(5)).is_none());
        assert!(level.get(&[b"roo", b"tzone"], &with(1), at(5)).is_none());
    }
}
