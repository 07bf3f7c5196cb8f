//! The key-value cache: keys and values in half precision, in pages from one pool.
//!
//! A page holds all layers and heads of [`PAGE`] positions. It belongs to one owner, and is overwritten with
//! zeros before another owner can get it. Full pages of a prompt may be kept for a later prompt of the same
//! owner that begins with the same tokens.

mod kept;

use std::time::Duration;

use kept::{Contents, Kept};
use zeroize::Zeroize;

use crate::{clock::Moment, model::Hyperparameters, owner::Owner};

/// Positions of one page.
pub(crate) const PAGE: usize = 32;

/// The number of a page in the pool.
type Page = usize;

/// The caches of a fixed number of sequences. The pool's memory is reserved once; the operating system
/// provides each part at its first write. Wiped on drop.
pub(crate) struct Cache {
    /// All pages, one after the other.
    pool: Vec<u16>,
    layout: Layout,
    /// Pages of zeros.
    free: Vec<Page>,
    /// The pages of each sequence, in the order of its positions.
    tables: Vec<Vec<Page>>,
    /// How many sequences have each page.
    readers: Vec<usize>,
    kept: Kept,
}

/// The layout of a page: for each layer and head, the keys of all its positions, followed by their values.
#[derive(Clone, Copy)]
struct Layout {
    kv_heads: usize,
    head_width: usize,
    /// Numbers in one page.
    page: usize,
}

/// The pool has no page left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exhausted;

impl Cache {
    /// Bytes of one page for a model of this shape.
    pub(crate) fn page_bytes(shape: &Hyperparameters) -> usize {
        Layout::new(shape).page * size_of::<u16>()
    }

    /// Caches for `sequences` sequences that share `pages` pages.
    pub(crate) fn new(shape: &Hyperparameters, sequences: usize, pages: usize) -> Self {
        let layout = Layout::new(shape);
        Self {
            pool: vec![0; pages * layout.page],
            layout,
            free: (0..pages).rev().collect(),
            tables: vec![Vec::new(); sequences],
            readers: vec![0; pages],
            kept: Kept::default(),
        }
    }

    /// Gives a sequence the missing pages for its first `positions` positions. Takes kept pages when no other
    /// is free.
    ///
    /// # Errors
    /// [`Exhausted`]; the sequence keeps what it has.
    pub(crate) fn extend(&mut self, sequence: usize, positions: usize) -> Result<(), Exhausted> {
        while self.tables[sequence].len() * PAGE < positions {
            if self.free.is_empty()
                && let Some(page) = self.kept.evict()
            {
                self.free(page);
            }
            let page = self.free.pop().ok_or(Exhausted)?;
            self.readers[page] = 1;
            self.tables[sequence].push(page);
        }
        Ok(())
    }

    /// Gives a sequence without pages the kept pages that begin its prompt. Returns the number of positions
    /// that need no computation. The last position always needs it, because its scores are wanted.
    pub(crate) fn reuse(&mut self, sequence: usize, owner: Owner, prompt: &[u32]) -> usize {
        let mut before = None;
        for tokens in prompt[..prompt.len().saturating_sub(1)].chunks_exact(PAGE) {
            let Some(page) = self.kept.find(owner, before, tokens) else { break };
            self.kept.read(page);
            self.readers[page] += 1;
            self.tables[sequence].push(page);
            before = Some(page);
        }
        self.tables[sequence].len() * PAGE
    }

    /// Keeps the full pages of a sequence's prompt for later prompts of the same owner. If an equal page is
    /// already kept, the sequence continues with that one.
    pub(crate) fn keep(&mut self, sequence: usize, owner: Owner, prompt: &[u32], now: Moment) {
        let mut before = None;
        for (index, tokens) in prompt.chunks_exact(PAGE).enumerate() {
            let own = self.tables[sequence][index];
            let page = match self.kept.find(owner, before, tokens) {
                None => {
                    self.kept.insert(own, Contents::new(owner, before, tokens), self.readers[own], now);
                    own
                }
                Some(page) => page,
            };
            if page != own {
                self.kept.read(page);
                self.readers[page] += 1;
                self.tables[sequence][index] = page;
                self.leave(own, now);
            }
            before = Some(page);
        }
    }

    /// Frees the kept pages that nobody has read for `time`.
    pub(crate) fn expire(&mut self, now: Moment, time: Duration) {
        let old = now.before(time).map(|limit| self.kept.expire(limit)).unwrap_or_default();
        old.into_iter().for_each(|page| self.free(page));
    }

    /// The time since which the oldest kept page has not been read.
    pub(crate) fn oldest_kept(&self) -> Option<Moment> {
        self.kept.oldest()
    }

    /// Frees an owner's kept pages. Pages that a sequence still reads are freed when it ends.
    pub(crate) fn forget(&mut self, owner: Owner) {
        for page in self.kept.forget(owner) {
            self.free(page);
        }
    }

    /// Pages that are free, and kept ones that no sequence reads.
    pub(crate) fn free_and_kept(&self) -> (usize, usize) {
        (self.free.len(), self.kept.unread_pages())
    }

    /// The memory for the key and the value of one head at one position. The sequence must have a page for
    /// it.
    pub(crate) fn place(
        &mut self,
        sequence: usize,
        layer: usize,
        head: usize,
        position: usize,
    ) -> (&mut [u16], &mut [u16]) {
        let page = self.tables[sequence][position / PAGE];
        let (keys, values) = self.layout.head(layer, head);
        let row = position % PAGE * self.layout.head_width;
        let page = &mut self.pool[page * self.layout.page..][..self.layout.page];
        let (before, from) = page.split_at_mut(values);
        (&mut before[keys + row..][..self.layout.head_width], &mut from[row..][..self.layout.head_width])
    }

    /// Keys and values of one head up to position `end`, page by page. The first pages may be left out, up to
    /// the one of position `begin`.
    pub(crate) fn head(
        &self,
        sequence: usize,
        layer: usize,
        head: usize,
        begin: usize,
        end: usize,
    ) -> impl Iterator<Item = (&[u16], &[u16])> + Clone {
        let (keys, values) = self.layout.head(layer, head);
        let width = self.layout.head_width;
        let pages = self.tables[sequence].iter().zip((0..end).step_by(PAGE)).skip(begin / PAGE);
        pages.map(move |(page, first)| {
            let numbers = (end - first).min(PAGE) * width;
            let page = &self.pool[page * self.layout.page..][..self.layout.page];
            (&page[keys..][..numbers], &page[values..][..numbers])
        })
    }

    /// Takes a sequence's pages, and wipes and frees those that are neither kept nor read by another
    /// sequence.
    pub(crate) fn release(&mut self, sequence: usize, now: Moment) {
        for page in std::mem::take(&mut self.tables[sequence]) {
            self.leave(page, now);
        }
    }

    /// A sequence no longer has a page.
    fn leave(&mut self, page: Page, now: Moment) {
        self.readers[page] -= 1;
        let is_kept = self.kept.unread(page, now);
        if self.readers[page] == 0 && !is_kept {
            self.free(page);
        }
    }

    /// Overwrites a page with zeros before anybody can get it.
    fn free(&mut self, page: Page) {
        self.pool[page * self.layout.page..][..self.layout.page].zeroize();
        self.free.push(page);
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        // Free pages are already wiped, and most were never touched.
        let mut is_used = vec![true; self.readers.len()];
        self.free.iter().for_each(|page| is_used[*page] = false);
        for (page, _) in self.pool.chunks_exact_mut(self.layout.page).zip(is_used).filter(|(_, used)| *used) {
            page.zeroize();
        }
    }
}

impl Layout {
    fn new(shape: &Hyperparameters) -> Self {
        let (kv_heads, head_width) = (shape.kv_heads, shape.head_width);
        Self { kv_heads, head_width, page: shape.layers * kv_heads * 2 * PAGE * head_width }
    }

    /// Where in a page the keys and the values of one head begin.
    fn head(&self, layer: usize, head: usize) -> (usize, usize) {
        let keys = (layer * self.kv_heads + head) * 2 * PAGE * self.head_width;
        (keys, keys + PAGE * self.head_width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{QueryFactor, Rope, Scaling};

    fn cache(sequences: usize, pages: usize) -> Cache {
        let shape = Hyperparameters {
            context: 5 * PAGE,
            width: 16,
            layers: 2,
            feed_forward: 8,
            experts: None,
            heads: 2,
            kv_heads: 2,
            head_width: 8,
            rope_width: 8,
            rope: Rope { base: 1.0, scaling: Scaling::Linear(1.0), magnitude: 1.0 },
            local_rope: None,
            original_context: 5 * PAGE,
            window: None,
            attention_cap: None,
            score_cap: None,
            embedding_factor: 1.0,
            query_factor: QueryFactor { constant: 1.0, growth: 0.0, period: 1 },
            norm_epsilon: 1.0,
            pooling: None,
        };
        Cache::new(&shape, sequences, pages)
    }

    /// Every place of the first `positions` positions of a sequence, and a number of its own.
    fn places(sequence: usize, positions: usize) -> impl Iterator<Item = ([usize; 3], u16)> {
        let places = (0..2).flat_map(move |layer| {
            (0..2).flat_map(move |head| (0..positions).map(move |position| [layer, head, position]))
        });
        places.zip((1 + sequence as u16 * 10_000)..)
    }

    fn fill(cache: &mut Cache, sequence: usize, positions: usize) {
        cache.extend(sequence, positions).unwrap();
        for ([layer, head, position], mark) in places(sequence, positions) {
            let (key, value) = cache.place(sequence, layer, head, position);
            key.fill(mark);
            value.fill(mark + 5_000);
        }
    }

    #[test]
    fn every_sequence_head_and_layer_has_its_own_place() {
        let mut cache = cache(2, 5);
        let positions = [2 * PAGE + 3, PAGE];
        // Grown in turns, so that their pages lie between each other's.
        for grown in [1, PAGE + 1, 2 * PAGE + 1] {
            for (sequence, positions) in positions.iter().enumerate() {
                cache.extend(sequence, grown.min(*positions)).unwrap();
            }
        }
        for (sequence, positions) in positions.into_iter().enumerate() {
            fill(&mut cache, sequence, positions);
        }
        for (sequence, positions) in positions.into_iter().enumerate() {
            for (layer, head) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let (keys, values): (Vec<_>, Vec<_>) =
                    cache.head(sequence, layer, head, 0, positions).unzip();
                let expected: Vec<u16> = places(sequence, positions)
                    .filter(|([l, h, _], _)| (*l, *h) == (layer, head))
                    .flat_map(|(_, mark)| [mark; 8])
                    .collect();
                assert_eq!(keys.concat(), expected);
                assert!(values.concat().iter().zip(&expected).all(|(value, key)| *value == key + 5_000));
                let later = cache.head(sequence, layer, head, PAGE + 1, positions);
                assert_eq!(later.map(|(keys, _)| keys).collect::<Vec<_>>(), keys[1..]);
            }
        }
    }

    #[test]
    fn a_page_is_wiped_before_another_sequence_gets_it() {
        let mut cache = cache(2, 3);
        fill(&mut cache, 0, 3 * PAGE);
        assert_eq!(cache.extend(1, 1), Err(Exhausted));
        assert!(cache.pool.iter().all(|number| *number != 0));
        cache.release(0, Moment::ZERO);
        cache.extend(1, 3 * PAGE).unwrap();
        for (layer, head) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let mut pages = cache.head(1, layer, head, 0, 3 * PAGE);
            assert!(pages.all(|(keys, values)| keys.iter().chain(values).all(|number| *number == 0)));
        }
    }

    #[test]
    fn all_pages_return() {
        let mut cache = cache(3, 4);
        for round in 0..20 {
            let sequence = round % 3;
            fill(&mut cache, sequence, 1 + round * 7 % (2 * PAGE));
            cache.release((sequence + 2) % 3, Moment::ZERO);
        }
        (0..3).for_each(|sequence| cache.release(sequence, Moment::ZERO));
        cache.free.sort_unstable();
        assert_eq!(cache.free, [0, 1, 2, 3]);
    }

    const A: Owner = Owner([1; 32]);
    const B: Owner = Owner([2; 32]);

    /// Reads a prompt, and gives how many positions it found.
    fn read(cache: &mut Cache, sequence: usize, owner: Owner, prompt: &[u32], now: Moment) -> usize {
        let found = cache.reuse(sequence, owner, prompt);
        cache.extend(sequence, prompt.len()).unwrap();
        for (position, token) in prompt.iter().enumerate().skip(found) {
            for (layer, head) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let (key, value) = cache.place(sequence, layer, head, position);
                key.fill(*token as u16);
                value.fill(*token as u16);
            }
        }
        cache.keep(sequence, owner, prompt, now);
        let (keys, _): (Vec<_>, Vec<_>) = cache.head(sequence, 1, 1, 0, prompt.len()).unzip();
        let expected: Vec<u16> = prompt.iter().flat_map(|token| [*token as u16; 8]).collect();
        assert_eq!(keys.concat(), expected, "what was found is what would have been computed");
        found
    }

    /// A prompt of pages, each full of one token.
    fn prompt(pages: &[u32]) -> Vec<u32> {
        pages.iter().flat_map(|token| [*token; PAGE]).collect()
    }

    fn holds(cache: &Cache, token: u16) -> bool {
        cache.pool.contains(&token)
    }

    #[test]
    fn a_prompt_is_found_by_its_owner_alone_and_from_its_beginning() {
        let (mut cache, now) = (cache(2, 12), Moment::ZERO);
        assert_eq!(read(&mut cache, 0, A, &prompt(&[1, 2, 3]), now), 0);
        assert_eq!(read(&mut cache, 1, B, &prompt(&[1, 2, 3]), now), 0, "another owner finds nothing");
        cache.release(1, now);
        // While it is read, and after.
        assert_eq!(read(&mut cache, 1, A, &prompt(&[1, 2, 4]), now), 2 * PAGE);
        cache.release(0, now);
        cache.release(1, now);
        for (pages, found) in
            [(&[1, 2, 3, 5][..], 3), (&[1, 2, 3], 2), (&[1, 2, 4, 4], 3), (&[2, 3], 0), (&[1, 3], 1)]
        {
            assert_eq!(read(&mut cache, 0, A, &prompt(pages), now), found * PAGE, "{pages:?}");
            cache.release(0, now);
            // Nothing of this round for the next.
            cache.forget(A);
            for pages in [[1, 2, 3], [1, 2, 4]] {
                read(&mut cache, 0, A, &prompt(&pages), now);
                cache.release(0, now);
            }
        }
        let mut short = prompt(&[1, 2]);
        short.pop();
        assert_eq!(read(&mut cache, 0, A, &short, now), PAGE);
    }

    #[test]
    fn equal_prompts_read_at_once_end_on_the_same_pages() {
        let (mut cache, now) = (cache(2, 6), Moment::ZERO);
        for sequence in 0..2 {
            assert_eq!(cache.reuse(sequence, A, &prompt(&[1, 2])), 0);
            cache.extend(sequence, 2 * PAGE).unwrap();
        }
        cache.keep(0, A, &prompt(&[1, 2]), now);
        cache.keep(1, A, &prompt(&[1, 2]), now);
        assert_eq!(cache.tables[0], cache.tables[1]);
        assert_eq!(cache.free_and_kept(), (4, 0));
        cache.release(0, now);
        assert_eq!(cache.free_and_kept(), (4, 0), "the other still reads them");
        cache.release(1, now);
        assert_eq!(cache.free_and_kept(), (4, 2));
        cache.forget(A);
        assert_eq!(cache.free_and_kept(), (6, 0));
    }

    #[test]
    fn kept_pages_make_room_the_oldest_of_whoever_has_most_first_and_wiped() {
        let (mut cache, begun) = (cache(1, 6), Moment::ZERO);
        let later = |seconds| begun.after(Duration::from_secs(seconds));
        for (second, owner, pages) in [(0, B, &[9][..]), (1, A, &[1, 2]), (2, A, &[3, 4])] {
            read(&mut cache, 0, owner, &prompt(pages), later(second));
            cache.release(0, later(second));
        }
        assert_eq!(cache.free_and_kept(), (1, 5));
        cache.extend(0, 2 * PAGE).unwrap();
        assert!(!holds(&cache, 2), "the end of the older prompt goes first");
        cache.extend(0, 3 * PAGE).unwrap();
        assert!(!holds(&cache, 1));
        assert!(holds(&cache, 3) && holds(&cache, 4) && holds(&cache, 9), "another owner's stays");
        cache.extend(0, 6 * PAGE).unwrap();
        assert!(cache.pool.iter().all(|number| *number == 0));
        assert_eq!(cache.extend(0, 7 * PAGE), Err(Exhausted));
        cache.release(0, later(3));
        assert_eq!(cache.free_and_kept(), (6, 0));
    }

    #[test]
    fn kept_pages_go_after_a_time_without_use() {
        let (mut cache, begun) = (cache(1, 6), Moment::ZERO);
        let later = |seconds| begun.after(Duration::from_secs(seconds));
        read(&mut cache, 0, A, &prompt(&[1, 2]), begun);
        cache.expire(later(100), Duration::from_secs(10));
        assert!(holds(&cache, 1), "a page that is read does not expire");
        cache.release(0, later(100));
        assert_eq!(cache.oldest_kept(), Some(later(100)));
        // Half of it is used again.
        assert_eq!(read(&mut cache, 0, A, &prompt(&[1, 5]), later(105)), PAGE);
        cache.release(0, later(105));
        cache.expire(later(110), Duration::from_secs(10));
        assert!(holds(&cache, 1) && !holds(&cache, 2) && holds(&cache, 5));
        cache.expire(later(115), Duration::from_secs(10));
        assert_eq!(cache.free_and_kept(), (6, 0));
        assert!(cache.pool.iter().all(|number| *number == 0));
    }

    #[test]
    fn nothing_is_kept_of_an_owner_who_is_forgotten() {
        let (mut cache, now) = (cache(2, 8), Moment::ZERO);
        read(&mut cache, 0, A, &prompt(&[1]), now);
        read(&mut cache, 1, B, &prompt(&[3]), now);
        cache.release(0, now);
        cache.release(1, now);
        read(&mut cache, 0, A, &prompt(&[1, 2]), now);
        cache.forget(A);
        assert!(holds(&cache, 1), "the sequence goes on");
        assert_eq!(cache.reuse(1, A, &prompt(&[1, 2])), 0, "and nobody else finds its pages");
        cache.release(0, now);
        assert!(!holds(&cache, 1) && !holds(&cache, 2) && holds(&cache, 3));
        assert_eq!(cache.free_and_kept(), (7, 1));
    }
}
