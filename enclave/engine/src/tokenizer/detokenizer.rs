//! Tokens to text as they come: only whole characters leave.

use crate::scratch::{Scratch, ScratchText};

/// Collects bytes and gives out the whole UTF-8 characters among them.
#[derive(Default)]
pub(crate) struct Detokenizer {
    /// The beginning of a character whose end has not come: at most three bytes.
    partial: Scratch<u8>,
}

impl Detokenizer {
    /// Appends the characters that `bytes` completes. What can never become UTF-8 turns into U+FFFD.
    pub(crate) fn push(&mut self, bytes: &[u8], text: &mut ScratchText) {
        let mut joined = Scratch::with_capacity(self.partial.len() + bytes.len());
        joined.extend_from_slice(&self.partial);
        joined.extend_from_slice(bytes);
        self.partial.clear();
        let mut chunks = joined.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            if chunk.invalid().is_empty() {
                continue;
            }
            if chunks.peek().is_none() && is_beginning(chunk.invalid()) {
                self.partial.extend_from_slice(chunk.invalid());
            } else {
                text.push('\u{fffd}');
            }
        }
    }

    /// Ends the text: a character that was never completed turns into U+FFFD.
    pub(crate) fn finish(&mut self, text: &mut ScratchText) {
        if !self.partial.is_empty() {
            self.partial.clear();
            text.push('\u{fffd}');
        }
    }
}

/// Whether more bytes could make this a character: an error with no length is an unexpected end.
fn is_beginning(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(chunks: &[&[u8]]) -> Vec<String> {
        let mut detokenizer = Detokenizer::default();
        let mut out: Vec<String> = chunks
            .iter()
            .map(|chunk| {
                let mut text = ScratchText::default();
                detokenizer.push(chunk, &mut text);
                text.to_string()
            })
            .collect();
        let mut text = ScratchText::default();
        detokenizer.finish(&mut text);
        out.push(text.to_string());
        out
    }

    #[test]
    fn a_character_leaves_when_it_is_whole() {
        assert_eq!(pieces(&[b"\xe2", b"\x82", b"\xac!"]), ["", "", "€!", ""]);
        assert_eq!(pieces(&[b"a\xf0\x9f", b"\x99\x82b"]), ["a", "🙂b", ""]);
    }

    #[test]
    fn what_cannot_become_a_character_is_replaced() {
        assert_eq!(pieces(&[b"\xff", b"a"]), ["\u{fffd}", "a", ""]);
        assert_eq!(pieces(&[b"\xe2\x82", b"a"]), ["", "\u{fffd}a", ""]);
        assert_eq!(pieces(&[b"\xe2\x82"]), ["", "\u{fffd}"]);
    }

    proptest! {
        #[test]
        fn however_bytes_are_cut_the_text_is_the_same(bytes: Vec<u8>, cuts: Vec<prop::sample::Index>) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(pieces(&chunks).concat(), String::from_utf8_lossy(&bytes));
        }
    }
}
