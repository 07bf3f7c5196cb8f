//! `SentencePiece`: joins the neighbours whose joined text is the token with the highest score first, and the
//! leftmost among equals.

use super::{
    TokenizerError,
    vocabulary::{SPACE, Vocabulary},
};
use crate::{
    gguf::Gguf,
    scratch::{Scratch, ScratchHeap, ScratchText},
};

/// Ranks of tokens: integers in the order of their scores.
pub(super) struct Pieces {
    ranks: Vec<i32>,
    /// Whether text begins with a space that is not written.
    space_prefix: bool,
}

impl Pieces {
    pub(super) fn from_gguf(file: &Gguf<'_>, vocabulary: &Vocabulary) -> Result<Self, TokenizerError> {
        const SCORES: &str = "tokenizer.ggml.scores";
        let scores = file.f32s(SCORES)?.ok_or(TokenizerError::Missing { key: SCORES })?;
        if scores.len() != vocabulary.len() {
            return Err(TokenizerError::ScoreCount { tokens: vocabulary.len(), scores: scores.len() });
        }
        let ranks = scores.enumerate().map(|(id, score)| rank(score).ok_or(TokenizerError::Score { id }));
        let space_prefix = file.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        Ok(Self { ranks: ranks.collect::<Result<_, _>>()?, space_prefix })
    }

    /// Appends the tokens of a text. Takes time in proportion to `n log n`. Runs of white space that are tokens of
    /// their own come first. A character that is no token becomes the tokens of its bytes.
    pub(super) fn encode(&self, vocabulary: &Vocabulary, text: &str, tokens: &mut Scratch<u32>) {
        let (mut begin, mut at) = (0, 0);
        let between = |begin: usize, end: usize| text.get(begin..end).unwrap_or_default();
        while let Some(character) = between(at, text.len()).chars().next() {
            let rest = between(at, text.len()).as_bytes();
            let found = if character.is_whitespace() { vocabulary.white_space(rest) } else { None };
            match found {
                Some((token, length)) => {
                    self.join(vocabulary, between(begin, at), begin == 0, tokens);
                    tokens.push(token);
                    at += length;
                    begin = at;
                }
                None => at += character.len_utf8(),
            }
        }
        self.join(vocabulary, between(begin, at), begin == 0, tokens);
    }

    /// Appends the tokens of a text without such runs.
    fn join(&self, vocabulary: &Vocabulary, text: &str, is_first: bool, tokens: &mut Scratch<u32>) {
        if text.is_empty() {
            return;
        }
        let mut spaced = ScratchText::with_capacity(text.len() + 1);
        if self.space_prefix && is_first {
            spaced.push(' ');
        }
        text.chars().for_each(|character| spaced.push(if character == SPACE { ' ' } else { character }));
        let mut joiner = Joiner::new(self, vocabulary, &spaced);
        while let Some((_, left, length)) = joiner.candidates.pop() {
            joiner.join(!left, length);
        }
        for symbol in joiner.symbols.iter().filter(|symbol| symbol.length > 0) {
            let bytes = joiner.bytes(symbol.start, symbol.length);
            match vocabulary.normal(bytes) {
                Some(token) => tokens.push(token),
                None => tokens.extend(bytes.iter().map(|byte| vocabulary.single_byte(*byte))),
            }
        }
    }
}

/// Integers in the order of the numbers; `None` if a number is not finite.
fn rank(score: f32) -> Option<i32> {
    let bits = (score + 0.0).to_bits().cast_signed();
    score.is_finite().then_some(if bits < 0 { bits ^ i32::MAX } else { bits })
}

/// A text that is being joined.
struct Joiner<'a> {
    pieces: &'a Pieces,
    vocabulary: &'a Vocabulary,
    text: &'a [u8],
    symbols: Scratch<Symbol>,
    candidates: ScratchHeap<Candidate>,
}

/// A part of the text: a doubly linked list inside a vector. A symbol joined to its left neighbour has no
/// length.
#[derive(Clone, Copy, Default)]
struct Symbol {
    start: u32,
    length: u32,
    previous: u32,
    next: u32,
}

/// Rank, inverted index of the left symbol (a heap yields its greatest), length of both together.
type Candidate = (i32, u32, u32);

const NONE: u32 = u32::MAX;

impl<'a> Joiner<'a> {
    fn new(pieces: &'a Pieces, vocabulary: &'a Vocabulary, text: &'a str) -> Self {
        let count = text.chars().count();
        let mut symbols = Scratch::with_capacity(count);
        symbols.extend(text.char_indices().enumerate().map(|(index, (start, character))| Symbol {
            start: start as u32,
            length: character.len_utf8() as u32,
            previous: if index == 0 { NONE } else { index as u32 - 1 },
            next: if index + 1 == count { NONE } else { index as u32 + 1 },
        }));
        // Every join adds at most two candidates to the first.
        let candidates = ScratchHeap::with_capacity(3 * count);
        let mut joiner = Self { pieces, vocabulary, text: text.as_bytes(), symbols, candidates };
        (0..count as u32).for_each(|left| joiner.consider(left));
        joiner
    }

    fn bytes(&self, start: u32, length: u32) -> &'a [u8] {
        self.text.get(start as usize..).and_then(|rest| rest.get(..length as usize)).unwrap_or_default()
    }

    /// Joins the symbol at `left` with its neighbour, if they still have this length together.
    fn join(&mut self, left: u32, length: u32) {
        let Some(first) = self.symbols.get(left as usize).copied() else { return };
        let Some(second) = self.symbols.get(first.next as usize).copied() else { return };
        if first.length == 0 || first.length + second.length != length {
            return;
        }
        if let Some(symbol) = self.symbols.get_mut(left as usize) {
            (symbol.length, symbol.next) = (length, second.next);
        }
        if let Some(symbol) = self.symbols.get_mut(first.next as usize) {
            symbol.length = 0;
        }
        if let Some(symbol) = self.symbols.get_mut(second.next as usize) {
            symbol.previous = left;
        }
        self.consider(first.previous);
        self.consider(left);
    }

    /// Notes the pair that begins at `left`, if its text is a token.
    fn consider(&mut self, left: u32) {
        let Some(first) = self.symbols.get(left as usize) else { return };
        let Some(second) = self.symbols.get(first.next as usize) else { return };
        let length = first.length + second.length;
        if length as usize > self.vocabulary.longest() {
            return;
        }
        let token = self.vocabulary.normal(self.bytes(first.start, length));
        if let Some(rank) = token.and_then(|token| self.pieces.ranks.get(token as usize)) {
            self.candidates.push((*rank, !left, length));
        }
    }
}
