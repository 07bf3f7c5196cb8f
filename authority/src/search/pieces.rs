//! The pieces of a model that are searched for, and the search itself.

use std::collections::BTreeSet;
use std::io::{self, Read};

use aho_corasick::AhoCorasick;

use crate::files::fill;

/// The length of a piece in bytes: long enough to be nowhere by accident.
pub(super) const PIECE_BYTES: usize = 32;
/// A piece is taken of each so many bytes of the model.
const STEP_BYTES: usize = 16 * 1024;
/// The most pieces.
const MAX_PIECES: u64 = 4096;
/// What tells weights from text and tables: this many different bytes in a piece.
const DISTINCT_BYTES: usize = 24;
/// What is searched at once.
const WINDOW_BYTES: usize = 4 << 20;

/// Pieces of a model's weights.
pub(super) struct Pieces {
    automaton: AhoCorasick,
}

/// Which pieces were found.
#[derive(Clone)]
pub(super) struct Found(Vec<bool>);

impl Found {
    pub(super) fn count(&self) -> usize {
        self.0.iter().filter(|found| **found).count()
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(found, also)| *found |= also);
    }
}

impl Pieces {
    /// The pieces of a model of `length` bytes. None if nothing in it looks like weights.
    pub(super) fn of(model: &mut impl Read, length: u64) -> io::Result<Option<Self>> {
        let steps = length.div_ceil(STEP_BYTES as u64).max(1);
        let every = steps.div_ceil(MAX_PIECES);
        let mut pieces = BTreeSet::new();
        let mut step = vec![0; STEP_BYTES];
        for number in 0..steps {
            let count = fill(model, &mut step)?;
            if number % every == 0 {
                let read = step.get(..count).unwrap_or_default();
                pieces.extend(
                    read.as_chunks::<PIECE_BYTES>().0.iter().find(|piece| is_weights(piece)).copied(),
                );
            }
        }
        if pieces.is_empty() {
            return Ok(None);
        }
        AhoCorasick::new(&pieces).map(|automaton| Some(Self { automaton })).map_err(io::Error::other)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.automaton.patterns_len()
    }

    pub(super) fn none_found(&self) -> Found {
        Found(vec![false; self.count()])
    }

    /// Searches everything that `source` has, and says how many bytes that were.
    pub(super) fn search(&self, mut source: impl Read, found: &mut Found) -> io::Result<u64> {
        // What follows the last window's end may end a piece that began in it.
        const KEPT: usize = PIECE_BYTES - 1;
        let mut window = vec![0; WINDOW_BYTES];
        let (mut kept, mut bytes) = (0, 0);
        loop {
            let count = fill(&mut source, window.get_mut(kept..).unwrap_or_default())?;
            let end = kept + count;
            for matched in self.automaton.find_iter(window.get(..end).unwrap_or_default()) {
                if let Some(found) = found.0.get_mut(matched.pattern().as_usize()) {
                    *found = true;
                }
            }
            bytes += count as u64;
            if end < WINDOW_BYTES {
                return Ok(bytes);
            }
            window.copy_within(end - KEPT.., 0);
            kept = KEPT;
        }
    }
}

/// Whether a piece has as many different bytes as weights have, and text has not.
fn is_weights(piece: &[u8; PIECE_BYTES]) -> bool {
    piece.iter().collect::<BTreeSet<_>>().len() >= DISTINCT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that look like weights.
    fn weights(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    fn found(pieces: &Pieces, bytes: &[u8]) -> usize {
        let mut found = pieces.none_found();
        assert_eq!(pieces.search(bytes, &mut found).unwrap(), bytes.len() as u64);
        found.count()
    }

    #[test]
    fn a_piece_is_found_at_every_offset_and_across_windows() {
        let model = weights(2 * STEP_BYTES);
        let pieces = Pieces::of(&mut model.as_slice(), model.len() as u64).unwrap().unwrap();
        assert_eq!(pieces.count(), 2);
        for offset in [0, 1, 7, WINDOW_BYTES - STEP_BYTES - 9, WINDOW_BYTES - 5, WINDOW_BYTES - PIECE_BYTES] {
            let mut bytes = vec![0xa5; offset];
            bytes.extend_from_slice(&model);
            assert_eq!(found(&pieces, &bytes), 2, "{offset}");
            assert_eq!(found(&pieces, &bytes[..offset + STEP_BYTES]), 1, "{offset}");
        }
        assert_eq!(found(&pieces, &weights(STEP_BYTES + 1)[1..]), 0);
    }

    #[test]
    fn text_is_not_weights_and_large_models_are_sampled() {
        let text = b"The quick brown fox jumps over the lazy dog, again and again. ".repeat(1000);
        assert!(Pieces::of(&mut text.as_slice(), text.len() as u64).unwrap().is_none());
        let length = (MAX_PIECES as usize + 1) * STEP_BYTES;
        let model = weights(length);
        let pieces = Pieces::of(&mut model.as_slice(), length as u64).unwrap().unwrap();
        assert_eq!(pieces.count() as u64, MAX_PIECES / 2 + 1);
    }
}
