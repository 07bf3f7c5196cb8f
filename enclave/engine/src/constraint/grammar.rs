//! A language of bytes as an automaton. Its states can call others, because JSON nests.

use super::SchemaError;
use crate::scratch::Scratch;

/// The number of a state in its [`Grammar`].
pub(super) type StateId = u32;

/// Most states of one grammar: about two megabytes.
const MAX_STATES: usize = 1 << 15;
/// The most nested calls: how deep an answer may nest.
pub(super) const MAX_DEPTH: u32 = 48;
/// A state from which no end can be reached.
const ENDLESS: u32 = u32::MAX;

/// What a state permits next.
pub(super) enum State {
    /// One byte out of these.
    Bytes(Scratch<Range>),
    /// Any of these states, without a byte.
    Split(Box<[StateId]>),
    /// Everything from `rule` to its [`State::Return`], and then `then`.
    Call { rule: StateId, then: StateId },
    /// Inside a JSON string: at least one more character may come, and at most `left`.
    Characters {
        /// `u32::MAX` for any number.
        left: u32,
        /// The state after the closing quote; `None` where the quote is not permitted.
        close: Option<StateId>,
        /// The state after a character.
        after: StateId,
    },
    /// Returns to the caller.
    Return,
    /// The end of the answer.
    End,
}

/// Bytes from `first` to `last` lead to `next`.
#[derive(Clone, Copy, Default)]
pub(super) struct Range {
    pub(super) first: u8,
    pub(super) last: u8,
    pub(super) next: StateId,
}

/// States that every grammar has.
pub(super) const RETURN: StateId = 0;
pub(super) const END: StateId = 1;
/// After a backslash in a string.
pub(super) const ESCAPE: StateId = 2;
/// The last one, two, three bytes of a character in UTF-8.
pub(super) const TAIL: [StateId; 3] = [3, 4, 5];
/// The last bytes of a character that begins with 0xe0, 0xed, 0xf0, 0xf4 (RFC 3629, section 4).
pub(super) const TAIL_E0: StateId = 6;
pub(super) const TAIL_ED: StateId = 7;
pub(super) const TAIL_F0: StateId = 8;
pub(super) const TAIL_F4: StateId = 9;

/// A finished language. It contains a partner's text and is erased on drop.
pub(super) struct Grammar {
    states: Vec<State>,
    /// For each state, the least number of nested calls on a way to its [`State::Return`] or [`State::End`].
    heights: Scratch<u32>,
    root: StateId,
}

impl Grammar {
    pub(super) fn state(&self, id: StateId) -> Option<&State> {
        self.states.get(id as usize)
    }

    pub(super) fn height(&self, id: StateId) -> u32 {
        self.heights.get(id as usize).copied().unwrap_or(ENDLESS)
    }

    pub(super) fn root(&self) -> StateId {
        self.root
    }

    pub(super) fn len(&self) -> usize {
        self.states.len()
    }
}

/// Builds a grammar backwards: a state is made after the states that follow it.
pub(super) struct Builder {
    states: Vec<State>,
    white_space: StateId,
}

impl Builder {
    pub(super) fn new() -> Self {
        let range = |first, last, next| Range { first, last, next };
        let tail = |first, last, next| bytes(&[range(first, last, next)]);
        let states = vec![
            State::Return,
            State::End,
            State::Split(Box::default()), // ESCAPE, below.
            tail(0x80, 0xbf, RETURN),
            tail(0x80, 0xbf, TAIL[0]),
            tail(0x80, 0xbf, TAIL[1]),
            tail(0xa0, 0xbf, TAIL[0]),
            tail(0x80, 0x9f, TAIL[0]),
            tail(0x90, 0xbf, TAIL[1]),
            tail(0x80, 0x8f, TAIL[1]),
        ];
        let mut builder = Self { states, white_space: RETURN };
        // These few states fit.
        let _ = builder.escapes();
        builder.white_space = builder.make_white_space().unwrap_or(RETURN);
        builder
    }

    /// One byte that leads to `next`.
    pub(super) fn byte(&mut self, byte: u8, next: StateId) -> Result<StateId, SchemaError> {
        self.ranges(&[(byte, byte, next)])
    }

    pub(super) fn ranges(&mut self, ranges: &[(u8, u8, StateId)]) -> Result<StateId, SchemaError> {
        let ranges: Scratch<Range> =
            ranges.iter().map(|&(first, last, next)| Range { first, last, next }).collect();
        self.add(State::Bytes(ranges))
    }

    /// These bytes one after the other.
    pub(super) fn literal(&mut self, text: &[u8], next: StateId) -> Result<StateId, SchemaError> {
        text.iter().rev().try_fold(next, |next, byte| self.byte(*byte, next))
    }

    /// One of these texts. Where they begin alike they share states.
    pub(super) fn literals(
        &mut self,
        texts: &mut [Scratch<u8>],
        next: StateId,
    ) -> Result<StateId, SchemaError> {
        texts.sort_unstable_by(|a, b| a.iter().cmp(b.iter()));
        self.sorted_literals(texts, 0, next)
    }

    fn sorted_literals(
        &mut self,
        texts: &[Scratch<u8>],
        from: usize,
        next: StateId,
    ) -> Result<StateId, SchemaError> {
        let (Some(first), Some(last)) = (texts.first(), texts.last()) else { return Ok(next) };
        // In a sorted list, a prefix of the first and the last is a prefix of all.
        let common = first.iter().zip(last.iter()).skip(from).take_while(|(a, b)| a == b).count();
        let fork = from + common;
        let mut ranges = Vec::new();
        let mut rest = texts;
        let mut ends = false;
        while let [text, others @ ..] = rest {
            let Some(byte) = text.get(fork).copied() else {
                (ends, rest) = (true, others);
                continue;
            };
            let (group, behind) = rest.split_at(rest.partition_point(|text| text.get(fork) == Some(&byte)));
            ranges.push((byte, byte, self.sorted_literals(group, fork + 1, next)?));
            rest = behind;
        }
        let mut state = if ranges.is_empty() { next } else { self.ranges(&ranges)? };
        if ends && !ranges.is_empty() {
            state = self.split(vec![next, state])?;
        }
        self.literal(first.get(from..fork).unwrap_or_default(), state)
    }

    pub(super) fn split(&mut self, states: Vec<StateId>) -> Result<StateId, SchemaError> {
        match states.as_slice() {
            [only] => Ok(*only),
            _ => self.add(State::Split(states.into())),
        }
    }

    pub(super) fn call(&mut self, rule: StateId, then: StateId) -> Result<StateId, SchemaError> {
        self.add(State::Call { rule, then })
    }

    /// White space and then `next`: nothing, one space, or a line break and an indentation. Bounded, since a
    /// model may never stop.
    pub(super) fn white_space(&mut self, next: StateId) -> Result<StateId, SchemaError> {
        self.call(self.white_space, next)
    }

    /// The inside of a string and its closing quote: from `least` to `most` characters.
    pub(super) fn characters(
        &mut self,
        least: u32,
        most: Option<u32>,
        next: StateId,
    ) -> Result<StateId, SchemaError> {
        let mut state = match most {
            Some(_) => self.byte(b'"', next)?,
            None => {
                let id = self.reserve()?;
                self.set(id, State::Characters { left: u32::MAX, close: Some(next), after: id });
                id
            }
        };
        for left in 1..=most.unwrap_or(least) {
            let before = most.unwrap_or(least) - left;
            let close = (before >= least).then_some(next);
            let left = if most.is_some() { left } else { u32::MAX };
            state = self.add(State::Characters { left, close, after: state })?;
        }
        Ok(state)
    }

    /// A state that is [set](Self::set) later, because others must lead to it first.
    pub(super) fn reserve(&mut self) -> Result<StateId, SchemaError> {
        self.add(State::Split(Box::default()))
    }

    pub(super) fn set(&mut self, id: StateId, state: State) {
        if let Some(place) = self.states.get_mut(id as usize) {
            *place = state;
        }
    }

    /// The language that begins at `rule`.
    pub(super) fn finish(mut self, rule: StateId) -> Result<Grammar, SchemaError> {
        let root = self.call(rule, END)?;
        let heights = heights(&self.states);
        match heights.get(root as usize) {
            Some(height) if *height <= MAX_DEPTH => Ok(Grammar { states: self.states, heights, root }),
            _ => Err(SchemaError::Endless),
        }
    }

    fn add(&mut self, state: State) -> Result<StateId, SchemaError> {
        if self.states.len() >= MAX_STATES {
            return Err(SchemaError::TooLarge);
        }
        self.states.push(state);
        Ok((self.states.len() - 1) as StateId)
    }

    fn escapes(&mut self) -> Result<(), SchemaError> {
        let hex = |next| [(b'0', b'9', next), (b'A', b'F', next), (b'a', b'f', next)];
        let one = self.ranges(&hex(RETURN))?;
        let two = self.ranges(&hex(one))?;
        let three = self.ranges(&hex(two))?;
        let low = self.ranges(&[(b'0', b'7', two)])?;
        // No escapes of surrogates: a lone one is no character, and a pair can be written as the character
        // itself.
        let digits = [
            (b'0', b'9', three),
            (b'A', b'C', three),
            (b'a', b'c', three),
            (b'E', b'F', three),
            (b'e', b'f', three),
            (b'D', b'D', low),
            (b'd', b'd', low),
        ];
        let code = self.ranges(&digits)?;
        let range = |byte, next| Range { first: byte, last: byte, next };
        let mut ranges: Scratch<Range> = b"\"\\/bfnrt".iter().map(|byte| range(*byte, RETURN)).collect();
        ranges.push(range(b'u', code));
        self.set(ESCAPE, bytes(&ranges));
        Ok(())
    }

    fn make_white_space(&mut self) -> Result<StateId, SchemaError> {
        const MAX_INDENTATION: usize = 20;
        let mut indentation = RETURN;
        for _ in 0..MAX_INDENTATION {
            let space = self.byte(b' ', indentation)?;
            indentation = self.split(vec![RETURN, space])?;
        }
        let some = self.ranges(&[(b' ', b' ', RETURN), (b'\n', b'\n', indentation)])?;
        self.split(vec![RETURN, some])
    }
}

fn bytes(ranges: &[Range]) -> State {
    State::Bytes(Scratch::from(ranges))
}

/// For each state the least number of nested calls to its end; [`ENDLESS`] where none exists within
/// [`MAX_DEPTH`].
fn heights(states: &[State]) -> Scratch<u32> {
    let mut before: Vec<Vec<StateId>> = vec![Vec::new(); states.len()];
    for (id, state) in (0..).zip(states) {
        let mut follows = |next: StateId| {
            if let Some(before) = before.get_mut(next as usize) {
                before.push(id);
            }
        };
        match state {
            State::Return | State::End => {}
            State::Bytes(ranges) => ranges.iter().for_each(|range| follows(range.next)),
            State::Split(ids) => ids.iter().for_each(|id| follows(*id)),
            State::Call { rule, then } => [*rule, *then].into_iter().for_each(follows),
            State::Characters { close, after, .. } => {
                close.iter().copied().chain([*after]).for_each(follows);
            }
        }
    }
    // A height only ever falls, and from at most MAX_DEPTH, so each state is looked at a bounded number of
    // times.
    let mut heights: Scratch<u32> = states.iter().map(|_| ENDLESS).collect();
    let mut changed: Vec<StateId> = (0..states.len() as StateId).collect();
    while let Some(id) = changed.pop() {
        let height = |id: StateId| heights.get(id as usize).copied().unwrap_or(ENDLESS);
        let least = |ids: &mut dyn Iterator<Item = StateId>| ids.map(height).min().unwrap_or(ENDLESS);
        let found = match states.get(id as usize) {
            None => continue,
            Some(State::Return | State::End) => 0,
            Some(State::Bytes(ranges)) => least(&mut ranges.iter().map(|range| range.next)),
            Some(State::Split(ids)) => least(&mut ids.iter().copied()),
            // The last call of a rule takes its caller's place.
            Some(State::Call { rule, then: RETURN }) => height(*rule),
            Some(State::Call { rule, then }) => height(*rule).saturating_add(1).max(height(*then)),
            Some(State::Characters { close, after, .. }) => least(&mut close.iter().copied().chain([*after])),
        };
        if found <= MAX_DEPTH
            && let Some(height) = heights.get_mut(id as usize)
            && found < *height
        {
            *height = found;
            changed.extend(before.get(id as usize).into_iter().flatten());
        }
    }
    heights
}
