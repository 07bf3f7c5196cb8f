//! The index of kept pages: owner, tokens and age of each.
//!
//! The pages of one owner's prompts form a tree: keys and values depend on all earlier tokens, so each page
//! has a predecessor. A lookup compares owner, predecessor and tokens in full; no digest stands for any of
//! them.

use std::{
    cmp::Reverse,
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::Arc,
};

use super::Page;
use crate::{clock::Moment, owner::Owner, scratch::Scratch};

/// The kept pages of all owners.
#[derive(Default)]
pub(super) struct Kept {
    by_contents: HashMap<Arc<Contents>, Page>,
    entries: HashMap<Page, Entry>,
}

/// The contents of a page. Equal contents mean equal keys and values.
pub(super) struct Contents {
    owner: Owner,
    before: Option<Page>,
    tokens: Scratch<u32>,
}

struct Entry {
    contents: Arc<Contents>,
    /// Number of predecessors.
    depth: usize,
    /// Number of sequences that read it. A reader of a page reads all its predecessors.
    readers: usize,
    /// The time at which the last reader ended.
    unread_since: Moment,
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
    pub(super) fn insert(&mut self, page: Page, contents: Contents, readers: usize, now: Moment) {
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

    /// Notes that a reader has ended. Returns whether the page is kept.
    pub(super) fn unread(&mut self, page: Page, now: Moment) -> bool {
        let Some(entry) = self.entries.get_mut(&page) else { return false };
        entry.readers = entry.readers.saturating_sub(1);
        entry.unread_since = now;
        true
    }

    /// Gives up one page: among the unread pages of the owner that has most of them, the one with the oldest
    /// last reader, and among equals the one without successors.
    pub(super) fn evict(&mut self) -> Option<Page> {
        let mut by_owner: HashMap<Owner, usize> = HashMap::new();
        self.unread_entries().for_each(|(_, entry)| *by_owner.entry(entry.contents.owner).or_default() += 1);
        let (owner, _) = by_owner.into_iter().max_by_key(|(owner, pages)| (*pages, owner.0))?;
        let of_owner = self.unread_entries().filter(|(_, entry)| entry.contents.owner == owner);
        let page = of_owner.min_by_key(|(_, entry)| (entry.unread_since, Reverse(entry.depth)))?.0;
        self.remove(page);
        Some(page)
    }

    /// Gives up each page that nobody has read since `limit`.
    pub(super) fn expire(&mut self, limit: Moment) -> Vec<Page> {
        let old = self.unread_entries().filter(|(_, entry)| entry.unread_since <= limit);
        let old: Vec<Page> = old.map(|(page, _)| page).collect();
        old.iter().for_each(|page| self.remove(*page));
        old
    }

    /// Gives up all pages of an owner. Returns the unread ones; the others become free when their readers
    /// end.
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

    /// The oldest time at which a kept page lost its last reader.
    pub(super) fn oldest(&self) -> Option<Moment> {
        self.unread_entries().map(|(_, entry)| entry.unread_since).min()
    }

    /// Number of kept pages without a reader.
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
