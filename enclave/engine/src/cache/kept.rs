//! Which pages are kept after their prompt has been read, whose they are, and what is in them.
//!
//! The pages of one owner's prompts form a tree: a page follows the page before it, since keys and values
//! depend on everything before. A page is found by its owner, the page before and its own tokens, all
//! compared and none of it by a digest.

use std::{
    cmp::Reverse,
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::Arc,
    time::Instant,
};

use super::Page;
use crate::{owner::Owner, scratch::Scratch};

/// The kept pages of all owners.
#[derive(Default)]
pub(super) struct Kept {
    by_contents: HashMap<Arc<Contents>, Page>,
    entries: HashMap<Page, Entry>,
}

/// What is in a page. Two that are equal hold the same keys and values.
pub(super) struct Contents {
    owner: Owner,
    before: Option<Page>,
    tokens: Scratch<u32>,
}

struct Entry {
    contents: Arc<Contents>,
    /// Pages between this one and the first of its prompt.
    depth: usize,
    /// Sequences that read it. Whoever reads a page reads all before it.
    readers: usize,
    /// When the last of them ended.
    unread_since: Instant,
}

impl Contents {
    pub(super) fn new(owner: Owner, before: Option<Page>, tokens: &[u32]) -> Self {
        Self { owner, before, tokens: Scratch::from(tokens) }
    }
}

impl PartialEq for Contents {
    fn eq(&self, other: &Self) -> bool {
        let Self { owner, before, tokens } = self;
        (owner, before, &**tokens) == (&other.owner, &other.before, &*other.tokens)
    }
}

impl Eq for Contents {}

impl Hash for Contents {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { owner, before, tokens } = self;
        (owner, before, &**tokens).hash(state);
    }
}

impl Kept {
    /// The owner's page of these tokens that follows `before`.
    pub(super) fn find(&self, owner: Owner, before: Option<Page>, tokens: &[u32]) -> Option<Page> {
        self.by_contents.get(&Contents::new(owner, before, tokens)).copied()
    }

    /// Keeps a page that so many sequences read.
    pub(super) fn insert(&mut self, page: Page, contents: Contents, readers: usize, now: Instant) {
        let before = contents.before.and_then(|before| self.entries.get(&before));
        let depth = before.map_or(0, |before| before.depth + 1);
        let contents = Arc::new(contents);
        self.by_contents.insert(Arc::clone(&contents), page);
        self.entries.insert(page, Entry { contents, depth, readers, unread_since: now });
    }

    /// Notes that one more sequence reads a page.
    pub(super) fn read(&mut self, page: Page) {
        if let Some(entry) = self.entries.get_mut(&page) {
            entry.readers += 1;
        }
    }

    /// Notes that a sequence which read a page has ended. Whether the page is kept.
    pub(super) fn unread(&mut self, page: Page, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(&page) else { return false };
        entry.readers = entry.readers.saturating_sub(1);
        entry.unread_since = now;
        true
    }

    /// Keeps one page less: of the owner with most pages that nobody reads the one that nobody has read for
    /// longest, and of several the one with none behind it.
    pub(super) fn evict(&mut self) -> Option<Page> {
        let mut by_owner: HashMap<Owner, usize> = HashMap::new();
        self.unread_entries().for_each(|(_, entry)| *by_owner.entry(entry.contents.owner).or_default() += 1);
        let (owner, _) = by_owner.into_iter().max_by_key(|(owner, pages)| (*pages, owner.0))?;
        let of_owner = self.unread_entries().filter(|(_, entry)| entry.contents.owner == owner);
        let page = of_owner.min_by_key(|(_, entry)| (entry.unread_since, Reverse(entry.depth)))?.0;
        self.remove(page);
        Some(page)
    }

    /// Keeps no page any longer that nobody has read since `limit`.
    pub(super) fn expire(&mut self, limit: Instant) -> Vec<Page> {
        let old = self.unread_entries().filter(|(_, entry)| entry.unread_since <= limit);
        let old: Vec<Page> = old.map(|(page, _)| page).collect();
        old.iter().for_each(|page| self.remove(*page));
        old
    }

    /// Keeps no page of this owner any longer. Gives those that nobody reads; the others are free once they
    /// are not read.
    pub(super) fn forget(&mut self, owner: Owner) -> Vec<Page> {
        let of_owner: Vec<(Page, usize)> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.contents.owner == owner)
            .map(|(page, entry)| (*page, entry.readers))
            .collect();
        of_owner.iter().for_each(|(page, _)| self.remove(*page));
        of_owner.into_iter().filter(|(_, readers)| *readers == 0).map(|(page, _)| page).collect()
    }

    /// Since when nobody has read the page that nobody has read for longest.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.unread_entries().map(|(_, entry)| entry.unread_since).min()
    }

    /// How many pages are kept that nobody reads.
    pub(super) fn unread_pages(&self) -> usize {
        self.unread_entries().count()
    }

    fn unread_entries(&self) -> impl Iterator<Item = (Page, &Entry)> {
        self.entries.iter().filter(|(_, entry)| entry.readers == 0).map(|(page, entry)| (*page, entry))
    }

    fn remove(&mut self, page: Page) {
        if let Some(entry) = self.entries.remove(&page) {
            self.by_contents.remove(&entry.contents);
        }
    }
}
