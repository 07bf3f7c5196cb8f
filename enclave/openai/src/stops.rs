//! Stop strings, which the engine is not told of: engines differ in what they say when one came.

use std::collections::VecDeque;

use cleanroom_backend::{ScoredToken, SecretString};
use zeroize::Zeroizing;

/// Text of an answer that could be the beginning of a stop string, and its tokens.
pub(crate) struct Stops {
    stops: Vec<SecretString>,
    held: Zeroizing<String>,
    /// Tokens that are held, and how many bytes of the held text end with each.
    tokens: VecDeque<(usize, ScoredToken)>,
}

/// What may leave.
pub(crate) struct Released {
    pub(crate) text: Zeroizing<String>,
    pub(crate) tokens: Vec<ScoredToken>,
    /// The stop string that came, by its index. Nothing follows.
    pub(crate) stopped: Option<usize>,
}

impl Stops {
    pub(crate) fn new(stops: Vec<SecretString>) -> Self {
        Self { stops, held: Zeroizing::default(), tokens: VecDeque::new() }
    }

    /// Takes more text in, and lets out what no stop string can begin with.
    pub(crate) fn push(&mut self, text: &str, tokens: Vec<ScoredToken>) -> Released {
        let mut end = self.held.len();
        let last = end.saturating_add(text.len());
        let count = tokens.len();
        for (index, token) in tokens.into_iter().enumerate() {
            end = end.saturating_add(token.chosen.bytes().len()).min(last);
            // The last one ends where the text does, whatever its bytes are.
            self.tokens.push_back((if index + 1 == count { last } else { end }, token));
        }
        self.held.push_str(text);
        let found = self
            .stops
            .iter()
            .enumerate()
            .filter_map(|(index, stop)| self.held.find(stop.as_str()).map(|at| (at, index)));
        if let Some((at, index)) = found.min() {
            let mut released = self.release(at);
            released.stopped = Some(index);
            return released;
        }
        let keep = self.stops.iter().map(|stop| beginning(&self.held, stop.as_str())).max().unwrap_or(0);
        self.release(self.held.len().saturating_sub(keep))
    }

    /// Lets out what is held: the answer has ended.
    pub(crate) fn finish(&mut self) -> Released {
        self.release(self.held.len())
    }

    fn release(&mut self, length: usize) -> Released {
        let rest = Zeroizing::new(self.held.get(length..).unwrap_or_default().to_owned());
        let mut text = std::mem::replace(&mut self.held, rest);
        text.truncate(length);
        let mut tokens = Vec::new();
        while let Some((_, token)) = self.tokens.pop_front_if(|(end, _)| *end <= length) {
            tokens.push(token);
        }
        self.tokens.iter_mut().for_each(|(end, _)| *end = end.saturating_sub(length));
        Released { text, tokens, stopped: None }
    }
}

/// How many bytes at the end of `text` the stop string begins with.
fn beginning(text: &str, stop: &str) -> usize {
    let ends = stop.char_indices().map(|(at, _)| at).skip(1);
    ends.filter(|end| stop.get(..*end).is_some_and(|begin| text.ends_with(begin))).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use cleanroom_backend::TokenScore;

    use super::*;

    fn stops(all: &[&str]) -> Stops {
        Stops::new(all.iter().map(|stop| SecretString::new(stop)).collect())
    }

    /// What leaves of `text` if it comes in pieces of `length` characters, and which string stopped it.
    fn run(all: &[&str], text: &str, length: usize) -> (String, Option<usize>) {
        let (mut stops, mut out) = (stops(all), String::new());
        let characters: Vec<char> = text.chars().collect();
        for piece in characters.chunks(length) {
            let released = stops.push(&piece.iter().collect::<String>(), Vec::new());
            out.push_str(&released.text);
            if released.stopped.is_some() {
                return (out, released.stopped);
            }
        }
        out.push_str(&stops.finish().text);
        (out, None)
    }

    #[test]
    fn a_stop_string_is_found_however_the_text_is_cut() {
        for length in 1..=12 {
            assert_eq!(run(&["AND", "ça"], "é AN ANDY", length), ("é AN ".to_owned(), Some(0)), "{length}");
            assert_eq!(run(&["AND", "ça"], "aç ça", length), ("aç ".to_owned(), Some(1)), "{length}");
            assert_eq!(run(&["AND"], "THE AN", length), ("THE AN".to_owned(), None), "{length}");
            assert_eq!(run(&[], "THE AND", length), ("THE AND".to_owned(), None), "{length}");
        }
        // The first in the text counts, and among equals the first in the list.
        assert_eq!(run(&["world", "o w", "o"], "hello world", 20), ("hell".to_owned(), Some(1)));
    }

    #[test]
    fn tokens_leave_with_the_text_that_they_end_in() {
        let token =
            |text: &str| ScoredToken { chosen: TokenScore::new(text.as_bytes(), true, -1.0), top: vec![] };
        let mut stops = stops(&["AND"]);
        let first = stops.push("a A", vec![token("a"), token(" A")]);
        assert_eq!((first.text.as_str(), first.tokens.len()), ("a ", 1));
        let second = stops.push("n", vec![token("n")]);
        assert_eq!((second.text.as_str(), second.tokens.len()), ("An", 2));
        let third = stops.push("AND", vec![token("AND")]);
        assert_eq!((third.text.as_str(), third.tokens.len(), third.stopped), ("", 0, Some(0)));
    }
}
