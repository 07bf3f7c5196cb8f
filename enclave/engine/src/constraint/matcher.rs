//! Which tokens may come next in one answer.

use std::sync::Arc;

use super::{
    grammar::{Grammar, State},
    tokens::{TokenTable, permit},
    walker::{Frame, Thread, Walker},
};
use crate::scratch::Scratch;

/// Sets of permitted tokens that are remembered: in a string, or from one item of an array to the next, an
/// answer stands where it stood before.
const REMEMBERED: usize = 8;

/// Follows one answer.
pub struct Matcher {
    grammar: Arc<Grammar>,
    tokens: Arc<TokenTable>,
    walker: Walker,
    /// The one used last comes first.
    remembered: Vec<Permitted>,
}

/// The tokens that may come where an answer stands.
struct Permitted {
    standing: Scratch<Thread>,
    calls: Scratch<Frame>,
    /// One bit for each token.
    tokens: Scratch<u64>,
}

impl Matcher {
    pub(super) fn new(grammar: Arc<Grammar>, tokens: Arc<TokenTable>) -> Self {
        Self { walker: Walker::new(&grammar), remembered: Vec::new(), grammar, tokens }
    }

    /// Lowers the scores of all tokens that must not come next to minus infinity.
    pub(crate) fn mask(&mut self, scores: &mut [f32]) {
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
        let (standing, calls) = (self.walker.standing(), self.walker.calls());
        let stood = |known: &Permitted| *known.standing == *standing && *known.calls == *calls;
        match self.remembered.iter().position(stood) {
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
        let standing = Scratch::from(self.walker.standing());
        Permitted { standing, calls: Scratch::from(self.walker.calls()), tokens }
    }

    /// Goes on by a token. If it must not come, nothing changes and the answer is no.
    pub fn accept(&mut self, token: u32) -> bool {
        if self.tokens.ends.contains(&token) {
            return self.is_complete();
        }
        let bytes = self.tokens.text(token);
        !bytes.is_empty() && self.walker.accept(&self.grammar, bytes)
    }

    /// A token that may come next, whatever the scores are.
    pub(crate) fn any_token(&self) -> u32 {
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
        self.states().any(|state| matches!(state, State::End))
    }

    fn states(&self) -> impl Iterator<Item = &State> {
        self.walker.standing().iter().filter_map(|thread| self.grammar.state(thread.state))
    }
}

#[cfg(test)]
impl Matcher {
    /// Whether nothing is larger than it may be after a mask.
    pub(super) fn within_limits(&self) -> bool {
        self.walker.within_limits() && self.remembered.len() <= REMEMBERED
    }
}
