//! The text of one answer on its way out: whole characters only, and never a stop string or a part of one.

use std::collections::VecDeque;

use zeroize::Zeroizing;

use super::Text;
use crate::{logprobs::ScoredToken, scratch::ScratchText, tokenizer::Detokenizer};

/// Turns tokens into the text that may be emitted.
pub(super) struct Answer {
    detokenizer: Detokenizer,
    stops: Vec<Zeroizing<String>>,
    /// Text that could still become a stop string.
    held: ScratchText,
    /// Bytes of text that were emitted.
    emitted: usize,
    /// Tokens with probabilities that were not, and where in the text each ends.
    tokens: VecDeque<(usize, ScoredToken)>,
}

/// What came of some bytes.
pub(super) struct Piece {
    /// Text to emit now.
    pub(super) text: Option<Text>,
    /// The index of the stop string that came, if one did; everything from it on is gone.
    pub(super) stopped: Option<usize>,
}

impl Answer {
    pub(super) fn new(stops: Vec<Zeroizing<String>>) -> Self {
        Self {
            detokenizer: Detokenizer::default(),
            stops,
            held: ScratchText::default(),
            emitted: 0,
            tokens: VecDeque::new(),
        }
    }

    /// Takes the bytes of the next token, and its probability where that is wanted.
    pub(super) fn push(&mut self, bytes: &[u8], scored: Option<ScoredToken>) -> Piece {
        self.detokenizer.push(bytes, &mut self.held);
        self.tokens.extend(scored.map(|token| (self.emitted + self.held.len(), token)));
        match self.stop() {
            Some((start, stop)) => Piece { text: self.release(start), stopped: Some(stop) },
            None => Piece { text: self.release(self.held.len() - self.undecided()), stopped: None },
        }
    }

    /// Takes the end of the answer: what was held is text after all.
    pub(super) fn finish(&mut self) -> Option<Text> {
        self.detokenizer.finish(&mut self.held);
        match self.stop() {
            Some((start, _)) => self.release(start),
            None => {
                let text = self.release(self.held.len());
                // Tokens without a text, or with a part of a character that never became whole.
                let rest = self.tokens.drain(..).map(|(_, token)| token);
                match text {
                    Some(mut text) => {
                        text.tokens.extend(rest);
                        Some(text)
                    }
                    None => {
                        let tokens: Vec<_> = rest.collect();
                        (!tokens.is_empty()).then(|| Text { text: ScratchText::default(), tokens })
                    }
                }
            }
        }
    }

    /// Where the first stop string begins, and which it is: of several that begin there, the first in the
    /// list.
    fn stop(&self) -> Option<(usize, usize)> {
        let found = self.stops.iter().zip(0..);
        found.filter_map(|(stop, index)| Some((self.held.find(stop.as_str())?, index))).min()
    }

    /// Bytes at the end that are the beginning of a stop string.
    fn undecided(&self) -> usize {
        let beginnings =
            self.stops.iter().flat_map(|stop| stop.char_indices().filter_map(|(at, _)| stop.get(..at)));
        beginnings.filter(|beginning| self.held.ends_with(beginning)).map(str::len).max().unwrap_or(0)
    }

    /// Takes the first `length` bytes out of what is held.
    fn release(&mut self, length: usize) -> Option<Text> {
        let (released, kept) = self.held.split_at_checked(length)?;
        let (text, held) = (ScratchText::from(released), ScratchText::from(kept));
        self.held = held;
        if text.is_empty() {
            return None;
        }
        self.emitted += text.len();
        let whole = self.tokens.partition_point(|(end, _)| *end <= self.emitted);
        let tokens = self.tokens.drain(..whole).map(|(_, token)| token).collect();
        Some(Text { text, tokens })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(stops: &[&str]) -> Answer {
        Answer::new(stops.iter().map(|stop| Zeroizing::new((*stop).to_owned())).collect())
    }

    /// All text that is emitted for these pieces, and whether a stop string ended it.
    fn emitted(stops: &[&str], pieces: &[&[u8]]) -> (String, bool) {
        let mut answer = answer(stops);
        let mut out = String::new();
        for piece in pieces {
            let Piece { text, stopped } = answer.push(piece, None);
            out.extend(text.iter().map(Text::as_str));
            if stopped.is_some() {
                return (out, true);
            }
        }
        out.extend(answer.finish().iter().map(Text::as_str));
        (out, false)
    }

    #[test]
    fn text_flows_through_and_is_held_only_while_undecided() {
        let mut answer = answer(&["stop"]);
        let mut push = |bytes: &[u8]| answer.push(bytes, None).text.map(|text| text.as_str().to_owned());
        assert_eq!(push(b"one st").as_deref(), Some("one "));
        assert_eq!(push(b"o"), None);
        assert_eq!(push(b"ne").as_deref(), Some("stone"));
    }

    #[test]
    fn a_stop_string_across_pieces_is_not_emitted() {
        assert_eq!(emitted(&["END"], &[b"text E", b"N", b"D and more"]), ("text ".into(), true));
        assert_eq!(emitted(&["b", "abc"], &[b"a", b"b", b"c"]), ("a".into(), true));
        assert_eq!(
            emitted(&["\u{20ac}\u{20ac}"], &[b"\xe2\x82\xac", b"\xe2\x82", b"\xac"]),
            (String::new(), true)
        );
    }

    #[test]
    fn what_was_held_is_emitted_at_the_end() {
        assert_eq!(emitted(&["END"], &[b"text E", b"N"]), ("text EN".into(), false));
        assert_eq!(emitted(&[], &[b"caf\xc3"]), ("caf\u{fffd}".into(), false));
    }

    proptest! {
        #[test]
        fn the_text_up_to_the_first_stop_comes_out_however_it_is_cut(
            text in "[ab€]{0,24}", stops in prop::collection::vec("[ab€]{1,4}", 0..3), size in 1..5_usize,
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            let (out, stopped) = emitted(&stops, &pieces);
            prop_assert!(text.starts_with(&out));
            prop_assert!(stops.iter().all(|stop| !out.contains(stop)));
            prop_assert_eq!(stopped, stops.iter().any(|stop| text.contains(stop)));
            prop_assert!(stopped || out == text);
        }
    }
}
