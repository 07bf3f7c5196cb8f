//! The positions of an answer in its language, and the positions after one more byte.
//!
//! An answer can have several positions at once, for instance in the middle of two texts that begin alike.
//! Each is a thread: a state and its open calls. Threads beyond [`MAX_THREADS`] and work beyond [`MAX_WORK`]
//! are left out. The choice becomes narrower, never wrong: every thread that is kept leads to an end, and at
//! least one token of one byte is found.

use std::ops::Range;

use super::{
    grammar::{ESCAPE, Grammar, MAX_DEPTH, RETURN, State, StateId, TAIL, TAIL_E0, TAIL_ED, TAIL_F0, TAIL_F4},
    tokens::{TokenTable, Tree, permit},
};
use crate::scratch::Scratch;

/// The most threads of one answer.
const MAX_THREADS: usize = 128;
/// The most states that are visited for one token. They take three milliseconds; usual schemas take a tenth
/// of one (`scripts/bench constraint`).
const MAX_WORK: usize = 1 << 18;
/// The same for one byte.
const MAX_WORK_PER_BYTE: usize = 1 << 16;

/// One position of an answer.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Thread {
    pub(super) state: StateId,
    /// The innermost call under way; 0 for none.
    frame: u32,
}

/// A call under way.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Frame {
    then: StateId,
    parent: u32,
    depth: u32,
}

/// The threads of one answer.
pub(super) struct Walker {
    /// The first is no call.
    frames: Scratch<Frame>,
    /// The answer's threads, followed during a walk by those that the walk reaches.
    threads: Scratch<Thread>,
    /// How many of `threads` are the answer's own.
    current: usize,
    pending: Scratch<Thread>,
    /// For each state, the byte and the call of its last visit.
    seen: Scratch<(u32, u32)>,
    byte_number: u32,
    work: usize,
}

impl Walker {
    /// Stands at the beginning.
    pub(super) fn new(grammar: &Grammar) -> Self {
        let mut walker = Self {
            frames: Scratch::filled(1),
            threads: Scratch::new(),
            current: 0,
            pending: Scratch::new(),
            seen: Scratch::filled(grammar.len()),
            byte_number: 0,
            work: 0,
        };
        walker.begin_byte();
        walker.enter(grammar, 0, grammar.root(), 0);
        walker.current = walker.threads.len();
        walker
    }

    /// Where the answer stands.
    pub(super) fn current(&self) -> &[Thread] {
        self.threads.get(..self.current).unwrap_or_default()
    }

    /// The calls that are under way.
    pub(super) fn calls(&self) -> &[Frame] {
        &self.frames
    }

    /// Advances by some bytes. Returns `false` and changes nothing if they are not permitted.
    pub(super) fn accept(&mut self, grammar: &Grammar, bytes: &[u8]) -> bool {
        let frames = self.frames.len();
        let from = self.advance(grammar, bytes);
        if from.is_empty() {
            self.threads.truncate(self.current);
            self.frames.truncate(frames);
            return false;
        }
        self.keep(from);
        true
    }

    /// Whether some bytes may come next. Nothing changes.
    pub(super) fn permits(&mut self, grammar: &Grammar, bytes: &[u8]) -> bool {
        let frames = self.frames.len();
        let from = self.advance(grammar, bytes);
        self.threads.truncate(self.current);
        self.frames.truncate(frames);
        !from.is_empty()
    }

    /// Walks the answer's threads over some bytes. Returns where the threads after the last byte stand.
    fn advance(&mut self, grammar: &Grammar, bytes: &[u8]) -> Range<usize> {
        let mut from = 0..self.current;
        for byte in bytes {
            self.begin_byte();
            let start = self.threads.len();
            self.step(grammar, from, *byte);
            from = start..self.threads.len();
        }
        from
    }

    /// Permits all tokens with a text that may come next.
    pub(super) fn find_permitted(&mut self, grammar: &Grammar, tokens: &TokenTable, permitted: &mut [u64]) {
        self.work = 0;
        // The threads to be walked follow the answer's own.
        for index in 0..self.current {
            let Some(thread) = self.threads.get(index).copied() else { break };
            if !matches!(grammar.state(thread.state), Some(State::End | State::Characters { .. })) {
                self.threads.push(thread);
            }
        }
        self.walk(grammar, &tokens.all, permitted);
        for index in 0..self.current {
            let Some(thread) = self.threads.get(index).copied() else { break };
            if in_any_string(grammar, thread) {
                tokens.plain.permit(permitted, u32::MAX);
                self.threads.push(thread);
            }
        }
        self.walk(grammar, &tokens.rest, permitted);
        for index in 0..self.current {
            let Some(thread) = self.threads.get(index).copied() else { break };
            match grammar.state(thread.state) {
                Some(State::Characters { left, .. }) if !in_any_string(grammar, thread) => {
                    tokens.plain.permit(permitted, *left);
                    self.walk_rests(grammar, &tokens.rests, thread, permitted);
                }
                _ => {}
            }
        }
    }

    /// Permits tokens inside a string with a limited number of characters, by their number of plain
    /// characters.
    fn walk_rests(
        &mut self,
        grammar: &Grammar,
        rests: &[(u32, Tree)],
        Thread { mut state, frame }: Thread,
        permitted: &mut [u64],
    ) {
        let mut read = 0;
        for (characters, rests) in rests {
            if self.work > MAX_WORK {
                return;
            }
            while read < *characters {
                let Some(State::Characters { after, .. }) = grammar.state(state) else { return };
                state = *after;
                read += 1;
            }
            let frames = self.frames.len();
            self.begin_byte();
            self.enter(grammar, self.current, state, frame);
            self.walk(grammar, rests, permitted);
            self.frames.truncate(frames);
        }
    }

    /// Permits the tokens of a tree that may follow the walked threads, and drops those threads.
    fn walk(&mut self, grammar: &Grammar, tree: &Tree, permitted: &mut [u64]) {
        let frames = self.frames.len();
        let base = self.current..self.threads.len();
        // The lengths of `threads` and `calls` after each byte of the path.
        let mut levels: Vec<(Range<usize>, usize)> = Vec::new();
        let mut index = if base.is_empty() { usize::MAX } else { 0 };
        while let Some(node) = tree.node(index) {
            levels.truncate(usize::from(node.depth));
            let (from, frames) = levels.last().cloned().unwrap_or((base.clone(), frames));
            self.threads.truncate(from.end);
            self.frames.truncate(frames);
            if self.work > MAX_WORK {
                break;
            }
            self.begin_byte();
            let start = from.end;
            self.step(grammar, from, node.byte);
            let reached = self.threads.get(start..).unwrap_or_default();
            if reached.is_empty() {
                index = node.skip as usize;
                continue;
            }
            if node.goes_on_plainly() && reached.iter().any(|thread| in_any_string(grammar, *thread)) {
                tree.all_tokens(node).iter().for_each(|token| permit(permitted, *token));
                index = node.skip as usize;
                continue;
            }
            tree.tokens(node).iter().for_each(|token| permit(permitted, *token));
            levels.push((start..self.threads.len(), self.frames.len()));
            index += 1;
        }
        self.threads.truncate(self.current);
        self.frames.truncate(frames);
    }

    fn begin_byte(&mut self) {
        self.byte_number = match self.byte_number.checked_add(1) {
            Some(number) => number,
            None => {
                self.seen.iter_mut().for_each(|seen| *seen = (0, 0));
                1
            }
        };
    }

    /// Appends the threads that `from` reaches by one byte.
    fn step(&mut self, grammar: &Grammar, from: Range<usize>, byte: u8) {
        let start = self.threads.len();
        for index in from {
            let Some(Thread { state, frame }) = self.threads.get(index).copied() else { continue };
            self.work += 1;
            match grammar.state(state) {
                Some(State::Bytes(ranges)) => {
                    for range in ranges.iter().filter(|range| (range.first..=range.last).contains(&byte)) {
                        self.enter(grammar, start, range.next, frame);
                    }
                }
                Some(State::Characters { close, after, .. }) => match byte {
                    b'"' => close.iter().for_each(|close| self.enter(grammar, start, *close, frame)),
                    b'\\' => self.enter_call(grammar, start, ESCAPE, *after, frame),
                    0x20..=0x7f => self.enter(grammar, start, *after, frame),
                    0xc2..=0xdf => self.enter_call(grammar, start, TAIL[0], *after, frame),
                    0xe0 => self.enter_call(grammar, start, TAIL_E0, *after, frame),
                    0xed => self.enter_call(grammar, start, TAIL_ED, *after, frame),
                    0xe1..=0xef => self.enter_call(grammar, start, TAIL[1], *after, frame),
                    0xf0 => self.enter_call(grammar, start, TAIL_F0, *after, frame),
                    0xf1..=0xf3 => self.enter_call(grammar, start, TAIL[2], *after, frame),
                    0xf4 => self.enter_call(grammar, start, TAIL_F4, *after, frame),
                    _ => {}
                },
                _ => {}
            }
        }
    }

    /// Enters the rest of a character: a call that nests nothing.
    fn enter_call(&mut self, grammar: &Grammar, start: usize, rule: StateId, then: StateId, frame: u32) {
        let depth = self.depth(frame);
        if depth.saturating_add(grammar.height(then)) <= MAX_DEPTH {
            let frame = self.push_frame(Frame { then, parent: frame, depth });
            self.enter(grammar, start, rule, frame);
        }
    }

    /// Adds the threads at `state`, and at every state that it reaches without a byte, to those from `start`
    /// on.
    fn enter(&mut self, grammar: &Grammar, start: usize, state: StateId, frame: u32) {
        self.pending.clear();
        self.pending.push(Thread { state, frame });
        let mut work = 0;
        while let Some(thread) = self.pending.pop() {
            work += 1;
            if work > MAX_WORK_PER_BYTE {
                break;
            }
            let depth = self.depth(thread.frame);
            if depth.saturating_add(grammar.height(thread.state)) > MAX_DEPTH {
                continue;
            }
            let mark = (self.byte_number, thread.frame);
            match self.seen.get_mut(thread.state as usize) {
                Some(seen) if *seen != mark => *seen = mark,
                _ => continue,
            }
            match grammar.state(thread.state) {
                None => {}
                Some(State::Bytes(_) | State::Characters { .. } | State::End) => {
                    let threads = self.threads.get(start..).unwrap_or_default();
                    if threads.len() < MAX_THREADS && !threads.contains(&thread) {
                        work += threads.len() / 8;
                        self.threads.push(thread);
                    }
                }
                Some(State::Split(states)) => {
                    let states = states.iter().rev();
                    self.pending.extend(states.map(|state| Thread { state: *state, ..thread }));
                }
                Some(State::Call { rule, then: RETURN }) => {
                    self.pending.push(Thread { state: *rule, ..thread });
                }
                Some(State::Call { rule, then })
                    if depth.saturating_add(grammar.height(*then)) <= MAX_DEPTH =>
                {
                    let frame = Frame { then: *then, parent: thread.frame, depth: depth + 1 };
                    let frame = self.push_frame(frame);
                    self.pending.push(Thread { state: *rule, frame });
                }
                Some(State::Call { .. }) => {}
                Some(State::Return) => {
                    if let Some(Frame { then, parent, .. }) = self.frames.get(thread.frame as usize).copied()
                    {
                        self.pending.push(Thread { state: then, frame: parent });
                    }
                }
            }
        }
        self.work += work;
    }

    fn depth(&self, frame: u32) -> u32 {
        self.frames.get(frame as usize).map_or(0, |frame| frame.depth)
    }

    fn push_frame(&mut self, frame: Frame) -> u32 {
        self.frames.push(frame);
        (self.frames.len() - 1) as u32
    }

    /// Makes these threads the answer's own, and forgets every call that none of them has open.
    fn keep(&mut self, threads: Range<usize>) {
        let mut kept: Scratch<Frame> = Scratch::filled(1);
        let mut places: Scratch<u32> = Scratch::filled(self.frames.len());
        let mut current = Scratch::from(self.threads.get(threads).unwrap_or_default());
        for thread in current.iter_mut() {
            // Outwards to a call that is already kept, then inwards again.
            let mut way = Scratch::new();
            let mut frame = thread.frame;
            while frame != 0 && places.get(frame as usize) == Some(&0) {
                way.push(frame);
                frame = self.frames.get(frame as usize).map_or(0, |frame| frame.parent);
            }
            for frame in way.iter().rev().copied() {
                let Some(Frame { then, parent, depth }) = self.frames.get(frame as usize).copied() else {
                    continue;
                };
                let parent = places.get(parent as usize).copied().unwrap_or(0);
                if let Some(place) = places.get_mut(frame as usize) {
                    *place = kept.len() as u32;
                }
                kept.push(Frame { then, parent, depth });
            }
            thread.frame = places.get(thread.frame as usize).copied().unwrap_or(0);
        }
        self.current = current.len();
        (self.threads, self.frames) = (current, kept);
    }
}

/// Whether a thread is in a string without a limit on its length.
fn in_any_string(grammar: &Grammar, thread: Thread) -> bool {
    let state = grammar.state(thread.state);
    matches!(state, Some(State::Characters { left: u32::MAX, after, .. }) if *after == thread.state)
}

#[cfg(test)]
impl Walker {
    /// Whether nothing is larger than it may be after a mask.
    pub(super) fn within_limits(&self) -> bool {
        self.current <= MAX_THREADS
            && self.work <= MAX_WORK + MAX_WORK_PER_BYTE * MAX_THREADS
            && self.frames.len() <= 1 + MAX_THREADS * (MAX_DEPTH as usize + 2)
    }
}
