//! Which tokens may come next in one answer.

use std::sync::Arc;

use super::{
    grammar::{Grammar, State},
    tokens::{TokenTable, permit},
    walker::{Frame, Thread, Walker},
};
use crate::scratch::Scratch;

/// Number of remembered sets of permitted tokens. Inside a string, and from one array item to the next, the
/// same positions come back.
const REMEMBERED: usize = 8;

/// Follows one answer.
pub struct Matcher {
    grammar: Arc<Grammar>,
    tokens: Arc<TokenTable>,
    walker: Walker,
    /// The one used last comes first.
    remembered: Vec<Permitted>,
    /// While any text may come.
    free: Option<Free>,
}

/// What a form follows.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    /// The form begins behind this text.
    pub(super) marker: &'static str,
    /// Whether the marker counts at the beginning of the answer only.
    pub(super) at_start: bool,
    /// Whether the answer may end without it.
    pub(super) may_end: bool,
}

/// Text before a form.
struct Free {
    waiting: Waiting,
    /// The last bytes of the text, fewer than the marker has.
    last: Scratch<u8>,
    /// Whether nothing but white space has come.
    is_start: bool,
}

/// The tokens that may come at some positions.
struct Permitted {
    current: Scratch<Thread>,
    calls: Scratch<Frame>,
    /// One bit for each token.
    tokens: Scratch<u64>,
}

impl Matcher {
    pub(super) fn new(grammar: Arc<Grammar>, tokens: Arc<TokenTable>, waiting: Option<Waiting>) -> Self {
        let free = waiting.map(|waiting| Free { waiting, last: Scratch::new(), is_start: true });
        Self { walker: Walker::new(&grammar), remembered: Vec::new(), grammar, tokens, free }
    }

    /// Lowers the scores of all tokens that must not come next to minus infinity.
    pub(crate) fn mask(&mut self, scores: &mut [f32]) {
        if let Some(free) = &self.free {
            let Self { walker, grammar, tokens, .. } = self;
            free.mask(walker, grammar, tokens, scores);
            return;
        }
        for (scores, permitted) in scores.chunks_mut(64).zip(self.permitted()) {
            match *permitted {
                0 => scores.fill(f32::NEG_INFINITY),
                u64::MAX => {}
                permitted => {
                    let refused = scores.iter_mut().enumerate().filter(|(bit, _)| permitted >> bit & 1 == 0);
                    refused.for_each(|(_, score)| *score = f32::NEG_INFINITY);
                }
            }
        }
    }

    /// The tokens that may come next: a bit for each, the lowest of the first word for token 0.
    pub fn permitted(&mut self) -> &[u64] {
        let (current, calls) = (self.walker.current(), self.walker.calls());
        let is_same = |known: &Permitted| *known.current == *current && *known.calls == *calls;
        match self.remembered.iter().position(is_same) {
            Some(index) => self.remembered.get_mut(..=index).unwrap_or_default().rotate_right(1),
            None => {
                let found = self.find_permitted();
                self.remembered.truncate(REMEMBERED - 1);
                self.remembered.insert(0, found);
            }
        }
        self.remembered.first().map_or(&[], |known| &known.tokens)
    }

    fn find_permitted(&mut self) -> Permitted {
        let mut tokens = Scratch::filled(self.tokens.len().div_ceil(64));
        self.walker.find_permitted(&self.grammar, &self.tokens, &mut tokens);
        if self.is_complete() {
            self.tokens.ends.iter().for_each(|token| permit(&mut tokens, *token));
        }
        if self.states().any(|state| !matches!(state, State::End)) {
            permit(&mut tokens, self.any_token());
        }
        let current = Scratch::from(self.walker.current());
        Permitted { current, calls: Scratch::from(self.walker.calls()), tokens }
    }

    /// Advances by a token. Returns `false` and changes nothing if the token is not permitted.
    pub fn accept(&mut self, token: u32) -> bool {
        if self.tokens.ends.contains(&token) {
            return self.is_complete();
        }
        let bytes = self.tokens.text(token);
        if let Some(free) = &mut self.free {
            if let Some(rest) = free.push(bytes) {
                self.free = None;
                return rest == 0
                    || self
                        .walker
                        .accept(&self.grammar, bytes.get(bytes.len() - rest..).unwrap_or_default());
            }
            if !free.can_come() {
                // From here on the answer is text.
                free.last.clear();
            }
            return true;
        }
        !bytes.is_empty() && self.walker.accept(&self.grammar, bytes)
    }

    /// A token that may come next, regardless of scores.
    pub(crate) fn any_token(&self) -> u32 {
        if self.free.is_some() {
            return self.tokens.of_byte(b' ');
        }
        let byte = self.states().find_map(|state| match state {
            State::Bytes(ranges) => ranges.first().map(|range| range.first),
            State::Characters { close, .. } => Some(if close.is_some() { b'"' } else { b' ' }),
            _ => None,
        });
        match byte {
            Some(byte) => self.tokens.of_byte(byte),
            None => self.tokens.ends.first().copied().unwrap_or(0),
        }
    }

    /// Whether the answer may end here.
    pub(crate) fn is_complete(&self) -> bool {
        if let Some(free) = &self.free {
            return free.waiting.may_end;
        }
        self.states().any(|state| matches!(state, State::End))
    }

    fn states(&self) -> impl Iterator<Item = &State> {
        self.walker.current().iter().filter_map(|thread| self.grammar.state(thread.state))
    }
}

impl Free {
    /// Whether the marker can still come.
    fn can_come(&self) -> bool {
        !self.waiting.at_start || self.is_start
    }

    /// Takes more text. Once the marker has come: how many bytes follow it.
    fn push(&mut self, bytes: &[u8]) -> Option<usize> {
        if !self.can_come() {
            return None;
        }
        let marker = self.waiting.marker.as_bytes();
        for (index, byte) in bytes.iter().enumerate() {
            if self.waiting.at_start && self.last.is_empty() && byte.is_ascii_whitespace() {
                continue;
            }
            self.last.push(*byte);
            let begins = |last: &[u8]| marker.starts_with(last);
            if self.waiting.at_start {
                self.is_start = begins(&self.last);
                if !self.is_start {
                    return None;
                }
            } else {
                // The longest end of the text that begins the marker.
                let kept =
                    (0..self.last.len()).find(|from| begins(self.last.get(*from..).unwrap_or_default()));
                let rest = Scratch::from(kept.and_then(|from| self.last.get(from..)).unwrap_or_default());
                self.last = rest;
            }
            if self.last.len() == marker.len() {
                return Some(bytes.len() - index - 1);
            }
        }
        None
    }

    /// Refuses tokens that complete the marker and go on as the form does not, and the end where it may not come.
    fn mask(&self, walker: &mut Walker, grammar: &Grammar, tokens: &TokenTable, scores: &mut [f32]) {
        let mut refuse = |token: u32| {
            if let Some(score) = scores.get_mut(token as usize) {
                *score = f32::NEG_INFINITY;
            }
        };
        if !self.waiting.may_end {
            tokens.ends.iter().for_each(|token| refuse(*token));
        }
        if !self.can_come() {
            return;
        }
        let marker = self.waiting.marker.as_bytes();
        // How much of the marker stands there already, for each way in which it can.
        let begun: Vec<usize> = (0..=self.last.len())
            .filter(|from| self.last.get(*from..).is_some_and(|last| marker.starts_with(last)))
            .map(|from| self.last.len() - from)
            .collect();
        for token in 0..tokens.len() as u32 {
            let bytes = tokens.text(token);
            let completes = |begun: &usize| {
                let missing = marker.get(*begun..).unwrap_or_default();
                (bytes.len() > missing.len() && bytes.starts_with(missing)).then_some(missing.len())
            };
            if let Some(length) = begun.iter().find_map(completes)
                && !walker.permits(grammar, bytes.get(length..).unwrap_or_default())
            {
                refuse(token);
            }
        }
    }
}

#[cfg(test)]
impl Matcher {
    /// Whether nothing is larger than it may be after a mask.
    pub(super) fn within_limits(&self) -> bool {
        self.walker.within_limits() && self.remembered.len() <= REMEMBERED
    }
}
