//! What sequences remember: keys and values of their positions, in half precision, in pages from one pool.
//!
//! A page holds all layers and heads of [`PAGE`] positions. It belongs to one sequence at a time, and is overwritten with zeros before it is
//! free for another.

use zeroize::Zeroize;

use crate::model::Hyperparameters;

/// Positions of one page.
pub(crate) const PAGE: usize = 32;

/// The number of a page in the pool.
type Page = usize;

/// The key-value caches of a fixed number of sequences. The pool's memory is reserved once; the operating system provides it as it is first
/// written. Wiped on drop.
pub(crate) struct Cache {
    /// All pages, one after the other.
    pool: Vec<u16>,
    layout: Layout,
    /// Pages of zeros.
    free: Vec<Page>,
    /// The pages of each sequence, in the order of its positions.
    tables: Vec<Vec<Page>>,
}

/// How a page is divided: for each layer and head the keys of all its positions, and then their values.
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
        }
    }

    /// Gives a sequence pages for its first `positions` positions, as far as it has none.
    ///
    /// # Errors
    /// [`Exhausted`]; the sequence keeps what it has.
    pub(crate) fn extend(&mut self, sequence: usize, positions: usize) -> Result<(), Exhausted> {
        let table = &mut self.tables[sequence];
        while table.len() * PAGE < positions {
            table.push(self.free.pop().ok_or(Exhausted)?);
        }
        Ok(())
    }

    /// The places for the key and the value of one head at one position, for which the sequence has a page.
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

    /// Keys and values of one head at the first `positions` positions, page by page.
    pub(crate) fn head(
        &self,
        sequence: usize,
        layer: usize,
        head: usize,
        positions: usize,
    ) -> impl Iterator<Item = (&[u16], &[u16])> + Clone {
        let (keys, values) = self.layout.head(layer, head);
        let width = self.layout.head_width;
        self.tables[sequence].iter().zip((0..positions).step_by(PAGE)).map(move |(page, first)| {
            let numbers = (positions - first).min(PAGE) * width;
            let page = &self.pool[page * self.layout.page..][..self.layout.page];
            (&page[keys..][..numbers], &page[values..][..numbers])
        })
    }

    /// Takes a sequence's pages away, and frees them wiped.
    pub(crate) fn release(&mut self, sequence: usize) {
        for page in std::mem::take(&mut self.tables[sequence]) {
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
        (0..self.tables.len()).for_each(|sequence| self.release(sequence));
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

    fn cache(sequences: usize, pages: usize) -> Cache {
        let shape = Hyperparameters {
            context: 5 * PAGE,
            width: 16,
            layers: 2,
            feed_forward: 8,
            heads: 2,
            kv_heads: 2,
            head_width: 8,
            rope_width: 8,
            rope_base: 1.0,
            rope_step: 1.0,
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
                let (keys, values): (Vec<_>, Vec<_>) = cache.head(sequence, layer, head, positions).unzip();
                let expected: Vec<u16> = places(sequence, positions)
                    .filter(|([l, h, _], _)| (*l, *h) == (layer, head))
                    .flat_map(|(_, mark)| [mark; 8])
                    .collect();
                assert_eq!(keys.concat(), expected);
                assert!(values.concat().iter().zip(&expected).all(|(value, key)| *value == key + 5_000));
            }
        }
    }

    #[test]
    fn a_page_is_wiped_before_another_sequence_gets_it() {
        let mut cache = cache(2, 3);
        fill(&mut cache, 0, 3 * PAGE);
        assert_eq!(cache.extend(1, 1), Err(Exhausted));
        assert!(cache.pool.iter().all(|number| *number != 0));
        cache.release(0);
        cache.extend(1, 3 * PAGE).unwrap();
        for (layer, head) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let mut pages = cache.head(1, layer, head, 3 * PAGE);
            assert!(pages.all(|(keys, values)| keys.iter().chain(values).all(|number| *number == 0)));
        }
    }

    #[test]
    fn all_pages_return() {
        let mut cache = cache(3, 4);
        for round in 0..20 {
            let sequence = round % 3;
            fill(&mut cache, sequence, 1 + round * 7 % (2 * PAGE));
            cache.release((sequence + 2) % 3);
        }
        (0..3).for_each(|sequence| cache.release(sequence));
        cache.free.sort_unstable();
        assert_eq!(cache.free, [0, 1, 2, 3]);
    }
}
