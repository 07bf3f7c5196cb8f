//! Byte-pair merging: the pair with the lowest rank is joined first, the leftmost of equals.

use std::collections::HashMap;

use super::{TokenizerError, bytes::byte_of, vocabulary::Vocabulary};
use crate::{
    gguf::Gguf,
    scratch::{Scratch, ScratchHeap},
};

/// What a pair of tokens becomes, and how early. A merge only ever leads to a normal token.
pub(super) struct Merges(HashMap<(u32, u32), Merge>);

#[derive(Clone, Copy)]
struct Merge {
    rank: u32,
    result: u32,
}

impl Merges {
    pub(super) fn from_gguf(file: &Gguf<'_>, vocabulary: &Vocabulary) -> Result<Self, TokenizerError> {
        const MERGES: &str = "tokenizer.ggml.merges";
        let lines = file.strings(MERGES)?.ok_or(TokenizerError::Missing { key: MERGES })?;
        let mut merges = HashMap::with_capacity(lines.len());
        for (index, line) in lines.iter().enumerate() {
            let (pair, result) = read_merge(line, vocabulary).ok_or(TokenizerError::Merge { index })?;
            // A pair that is listed twice keeps its first, lower rank.
            merges.entry(pair).or_insert(Merge { rank: index as u32, result });
        }
        Ok(Self(merges))
    }
}

/// Two token texts with a space between; the space itself is never part of a text in the byte alphabet.
fn read_merge(line: &str, vocabulary: &Vocabulary) -> Option<((u32, u32), u32)> {
    let bytes = |text: &str| text.chars().map(byte_of).collect::<Option<Vec<u8>>>();
    let (left, right) = line.split_once(' ')?;
    let (mut left, right) = (bytes(left)?, bytes(right)?);
    let pair = (vocabulary.normal(&left)?, vocabulary.normal(&right)?);
    left.extend(right);
    Some((pair, vocabulary.normal(&left)?))
}

/// Encodes words one after the other, reusing its buffers.
pub(super) struct Merger<'a> {
    merges: &'a Merges,
    vocabulary: &'a Vocabulary,
    symbols: Scratch<Symbol>,
    candidates: ScratchHeap<Candidate>,
}

/// A part of the word: a doubly linked list inside a vector. A symbol merged into its left neighbour is
/// marked.
#[derive(Clone, Copy, Default)]
struct Symbol {
    token: u32,
    previous: u32,
    next: u32,
    merged: bool,
}

/// The order in which pairs are joined, then the tokens the pair had when it was found.
/// A binary heap yields its greatest entry, so rank and position are stored inverted.
type Candidate = (u64, u32, u32);

const NONE: u32 = u32::MAX;

impl<'a> Merger<'a> {
    pub(super) fn new(merges: &'a Merges, vocabulary: &'a Vocabulary) -> Self {
        Self { merges, vocabulary, symbols: Scratch::new(), candidates: ScratchHeap::with_capacity(0) }
    }

    /// Appends the tokens of one word. Takes time in proportion to `n log n`, so a long word is no attack.
    pub(super) fn encode(&mut self, word: &[u8], tokens: &mut Scratch<u32>) {
        self.start(word);
        while let Some((order, left_token, right_token)) = self.candidates.pop() {
            let left = (!order & u64::from(u32::MAX)) as u32;
            self.join(left, left_token, right_token);
        }
        tokens.extend(self.symbols.iter().filter(|symbol| !symbol.merged).map(|symbol| symbol.token));
    }

    fn start(&mut self, word: &[u8]) {
        let count = word.len();
        self.symbols.clear();
        self.symbols.extend(word.iter().enumerate().map(|(index, byte)| Symbol {
            token: self.vocabulary.single_byte(*byte),
            previous: if index == 0 { NONE } else { index as u32 - 1 },
            next: if index + 1 == count { NONE } else { index as u32 + 1 },
            merged: false,
        }));
        // Every join adds at most two candidates to the first count - 1.
        self.candidates.reserve(3 * count);
        for left in 0..count as u32 {
            self.consider(left);
        }
    }

    /// Joins the symbol at `left` with its neighbour, if they are still the pair that was found.
    fn join(&mut self, left: u32, left_token: u32, right_token: u32) {
        let Some(first) = self.symbols.get(left as usize).copied() else { return };
        let right = first.next;
        let Some(second) = self.symbols.get(right as usize).copied() else { return };
        if first.merged || first.token != left_token || second.token != right_token {
            return;
        }
        let Some(merge) = self.merges.0.get(&(left_token, right_token)).copied() else { return };
        if let Some(symbol) = self.symbols.get_mut(left as usize) {
            symbol.token = merge.result;
            symbol.next = second.next;
        }
        if let Some(symbol) = self.symbols.get_mut(right as usize) {
            symbol.merged = true;
        }
        if let Some(symbol) = self.symbols.get_mut(second.next as usize) {
            symbol.previous = left;
        }
        self.consider(first.previous);
        self.consider(left);
    }

    /// Notes the pair that begins at `left`, if there is a merge for it.
    fn consider(&mut self, left: u32) {
        let Some(first) = self.symbols.get(left as usize) else { return };
        let Some(second) = self.symbols.get(first.next as usize) else { return };
        if let Some(merge) = self.merges.0.get(&(first.token, second.token)) {
            let order = !(u64::from(merge.rank) << 32 | u64::from(left));
            self.candidates.push((order, first.token, second.token));
        }
    }
}
