//! The streams in which terms are looked for: words, lookalikes, letters without gaps, and text with its
//! punctuation.
//!
//! A stream has the state of an automaton and no text, so its memory does not grow and a term may come in any
//! pieces.

use aho_corasick::Anchored;
use aho_corasick::automaton::{Automaton as _, StateID};
use regex_automata::dfa::Automaton as _;
use regex_automata::util::primitives::StateID as ExpressionState;

use crate::policy::{Compiled, Literals, Sight};

/// The longest term that is looked for among letters without gaps, in bytes: the stream remembers so many
/// beginnings of words.
pub(crate) const LONGEST_TIGHT_BYTES: usize = 256;

/// Takes what a stream finds: the number of the term, and how it was found.
pub(crate) trait Found {
    fn found(&mut self, needle: usize, sight: Sight);
}

/// A text as the stream of words reads it: lower-case words with one space between them.
pub(crate) fn words_of(folded: &str) -> String {
    let mut words = String::new();
    for character in folded.chars() {
        match Kind::of(character) {
            Kind::Word => words.push(character),
            Kind::Nothing => {}
            Kind::Gap if words.is_empty() || words.ends_with(' ') => {}
            Kind::Gap => words.push(' '),
        }
    }
    words.truncate(words.trim_end().len());
    words
}

/// Whether a folded character is a letter or a digit, and not a gap.
pub(crate) fn is_letter(character: char) -> bool {
    matches!(Kind::of(character), Kind::Word)
}

enum Kind {
    Word,
    Gap,
    /// An apostrophe, without which `don't` and `dont` are one word.
    Nothing,
}

impl Kind {
    fn of(character: char) -> Self {
        match character {
            'a'..='z' | '0'..='9' => Self::Word,
            '\'' => Self::Nothing,
            _ if character.is_ascii() => Self::Gap,
            _ if character.is_alphanumeric() => Self::Word,
            _ => Self::Gap,
        }
    }
}

/// The letter that a character looks like. Letters that look like one another have one.
pub(crate) const fn lookalike(character: char) -> char {
    match character {
        '0' => 'o',
        '1' | 'l' | '|' | '!' => 'i',
        '3' => 'e',
        '4' | '@' => 'a',
        '5' | '$' => 's',
        '6' | '9' => 'g',
        '7' | '+' => 't',
        '8' => 'b',
        _ => character,
    }
}

/// The state of a stream in an automaton of literals.
struct Run {
    state: Option<StateID>,
}

impl Run {
    fn new(literals: &Literals) -> Self {
        Self { state: literals.automaton.start_state(Anchored::No).ok() }
    }

    /// Takes one byte, and gives the patterns that end with it.
    fn take(&mut self, literals: &Literals, byte: u8, mut ends: impl FnMut(usize)) {
        let Some(state) = self.state else { return };
        let state = literals.automaton.next_state(Anchored::No, state, byte);
        self.state = Some(state);
        if literals.automaton.is_match(state) {
            for index in 0..literals.automaton.match_len(state) {
                ends(literals.automaton.match_pattern(state, index).as_usize());
            }
        }
    }
}

/// Words with one space between them.
struct Words {
    run: Run,
    /// Whether the last byte was a space.
    gap: bool,
}

impl Words {
    fn new(compiled: &Compiled) -> Self {
        let mut run = Run::new(&compiled.words);
        run.take(&compiled.words, b' ', |_| {});
        Self { run, gap: true }
    }

    fn push(&mut self, compiled: &Compiled, character: char, found: &mut impl Found) {
        match Kind::of(character) {
            Kind::Word => {
                self.gap = false;
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    self.take(compiled, byte, found);
                }
            }
            Kind::Gap => self.gap(compiled, found),
            Kind::Nothing => {}
        }
    }

    fn gap(&mut self, compiled: &Compiled, found: &mut impl Found) {
        if !core::mem::replace(&mut self.gap, true) {
            self.take(compiled, b' ', found);
        }
    }

    fn take(&mut self, compiled: &Compiled, byte: u8, found: &mut impl Found) {
        self.run.take(&compiled.words, byte, |pattern| {
            if let Some((needle, sight)) = compiled.words.patterns.get(pattern) {
                found.found(*needle, *sight);
            }
        });
    }
}

/// Words in which each character stands for the letter that it looks like, and the same letters without gaps.
struct Lookalikes {
    run: Run,
    gap: bool,
    /// A character that is a letter if another letter follows: `!` in `th!s`, but not in `this!`.
    waiting: Option<char>,
    tight: Tight,
}

impl Lookalikes {
    fn new(compiled: &Compiled) -> Self {
        let mut run = Run::new(&compiled.lookalikes);
        run.take(&compiled.lookalikes, b' ', |_| {});
        Self { run, gap: true, waiting: None, tight: Tight::new(compiled) }
    }

    fn push(&mut self, compiled: &Compiled, character: char, found: &mut impl Found) {
        match (Kind::of(character), character) {
            (Kind::Word, _) => {
                if let Some(waiting) = self.waiting.take() {
                    self.letter(compiled, lookalike(waiting), found);
                }
                self.letter(compiled, lookalike(character), found);
            }
            (_, '|' | '!' | '@' | '$' | '+') => {
                // Of two, the first is no letter.
                if self.waiting.replace(character).is_some() {
                    self.gap(compiled, found);
                }
            }
            (Kind::Gap, _) => {
                self.waiting = None;
                self.gap(compiled, found);
            }
            (Kind::Nothing, _) => {}
        }
    }

    fn letter(&mut self, compiled: &Compiled, letter: char, found: &mut impl Found) {
        let begins = core::mem::replace(&mut self.gap, false);
        self.tight.letter(compiled, letter, begins, found);
        for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
            self.take(compiled, byte, found);
        }
    }

    fn gap(&mut self, compiled: &Compiled, found: &mut impl Found) {
        if !core::mem::replace(&mut self.gap, true) {
            self.take(compiled, b' ', found);
            self.tight.gap(compiled, found);
        }
    }

    fn take(&mut self, compiled: &Compiled, byte: u8, found: &mut impl Found) {
        self.run.take(&compiled.lookalikes, byte, |pattern| {
            if let Some((needle, sight)) = compiled.lookalikes.patterns.get(pattern) {
                found.found(*needle, *sight);
            }
        });
    }
}

/// Letters without the gaps between them. A term must still begin where a word begins and end where a word
/// ends.
struct Tight {
    run: Run,
    /// How many bytes came.
    length: usize,
    /// For each of the last bytes, whether a word begins with it; as a ring.
    begins: [u64; LONGEST_TIGHT_BYTES / 64],
    /// Patterns that end with the last letter.
    ending: Vec<usize>,
}

impl Tight {
    fn new(compiled: &Compiled) -> Self {
        Self {
            run: Run::new(&compiled.tight),
            length: 0,
            begins: [0; LONGEST_TIGHT_BYTES / 64],
            ending: Vec::new(),
        }
    }

    fn letter(&mut self, compiled: &Compiled, letter: char, begins: bool, found: &mut impl Found) {
        // The word went on, so what ended within it did not end with a word.
        for pattern in core::mem::take(&mut self.ending) {
            let open = compiled.tight_edges.get(pattern).is_some_and(|edges| edges.open_end);
            if begins || open {
                report(compiled, pattern, found);
            }
        }
        for (index, byte) in letter.encode_utf8(&mut [0; 4]).bytes().enumerate() {
            let place = self.length % LONGEST_TIGHT_BYTES;
            if let Some(word) = self.begins.get_mut(place / 64) {
                let bit = 1 << (place % 64);
                *word = if begins && index == 0 { *word | bit } else { *word & !bit };
            }
            self.length = self.length.wrapping_add(1);
            let (begins, length, ending) = (&self.begins, self.length, &mut self.ending);
            self.run.take(&compiled.tight, byte, |pattern| {
                let Some(edges) = compiled.tight_edges.get(pattern) else { return };
                let first = length.wrapping_sub(edges.bytes) % LONGEST_TIGHT_BYTES;
                let begun = begins.get(first / 64).is_some_and(|word| word & (1 << (first % 64)) != 0);
                if begun || edges.open_start {
                    ending.push(pattern);
                }
            });
        }
    }

    fn gap(&mut self, compiled: &Compiled, found: &mut impl Found) {
        for pattern in core::mem::take(&mut self.ending) {
            report(compiled, pattern, found);
        }
    }
}

fn report(compiled: &Compiled, pattern: usize, found: &mut impl Found) {
    if let Some((needle, sight)) = compiled.tight.patterns.get(pattern) {
        found.found(*needle, *sight);
    }
}

/// Text with its punctuation, in lower case, with one space or one line end for all white space.
struct Text {
    states: Box<[ExpressionState]>,
    /// White space that comes before the next character.
    white: Option<u8>,
}

impl Text {
    fn new(compiled: &Compiled) -> Self {
        let states = compiled.expressions.iter().map(|expression| expression.start).collect();
        Self { states, white: Some(b'\n') }
    }

    fn push(&mut self, compiled: &Compiled, character: char, found: &mut impl Found) {
        if character.is_whitespace() {
            let line = matches!(character, '\n' | '\r' | '\u{2028}' | '\u{2029}');
            self.white = Some(if line { b'\n' } else { self.white.unwrap_or(b' ') });
            return;
        }
        if let Some(white) = self.white.take() {
            self.take(compiled, white, found);
        }
        for byte in character.encode_utf8(&mut [0; 4]).bytes() {
            self.take(compiled, byte, found);
        }
    }

    fn take(&mut self, compiled: &Compiled, byte: u8, found: &mut impl Found) {
        for (expression, state) in compiled.expressions.iter().zip(&mut self.states) {
            *state = expression.automaton.next_state(*state, byte);
            if expression.automaton.is_match_state(*state) {
                found.found(expression.needle, Sight::Plain);
            }
        }
    }

    /// Finds what ends with the last character. The text may go on afterwards.
    fn settle(&self, compiled: &Compiled, found: &mut impl Found) {
        for (expression, state) in compiled.expressions.iter().zip(&self.states) {
            if expression.automaton.is_match_state(expression.automaton.next_eoi_state(*state)) {
                found.found(expression.needle, Sight::Plain);
            }
        }
    }
}

/// All streams of one layer.
pub(crate) struct Streams {
    words: Words,
    lookalikes: Lookalikes,
    text: Text,
}

impl Streams {
    pub(crate) fn new(compiled: &Compiled) -> Self {
        Self { words: Words::new(compiled), lookalikes: Lookalikes::new(compiled), text: Text::new(compiled) }
    }

    /// Takes one folded character.
    pub(crate) fn push(&mut self, compiled: &Compiled, character: char, found: &mut impl Found) {
        self.words.push(compiled, character, found);
        self.lookalikes.push(compiled, character, found);
        if !compiled.expressions.is_empty() {
            self.text.push(compiled, character, found);
        }
    }

    /// Ends the last word, and finds what ends with it.
    pub(crate) fn settle(&mut self, compiled: &Compiled, found: &mut impl Found) {
        self.words.gap(compiled, found);
        self.lookalikes.waiting = None;
        self.lookalikes.gap(compiled, found);
        self.text.settle(compiled, found);
    }
}
