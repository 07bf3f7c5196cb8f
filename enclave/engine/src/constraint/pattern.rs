//! The keyword `pattern`: ECMA-262 expressions that describe regular languages, applied inside a JSON string.
//!
//! Supported: characters and escapes, `.`, classes, `\d`, `\w`, `\s` and their complements, groups,
//! alternatives, `?`, `*`, `+`, counts, and `^` and `$` at the two ends. Everything else is refused:
//! lookaround, back-references, word boundaries, Unicode properties.

use super::SchemaError;
use super::grammar::{Builder, State, StateId};
use crate::scratch::Scratch;

/// Levels of groups.
const MAX_DEPTH: usize = 24;
/// Longest count of a repetition.
const MAX_COUNT: u32 = 4096;

/// Two common patterns that are not regular, each with a regular one that describes a part of it: Pydantic's
/// `Decimal` and Zod's `email`.
const KNOWN: [(&str, &str); 2] = [
    (r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$", r"^[+-]?(\d{1,15}(\.\d{0,15})?|\.\d{1,15})$"),
    (
        r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$",
        r"^[A-Za-z0-9_+\-]{1,32}(\.[A-Za-z0-9_+\-]{1,16}){0,2}@([A-Za-z0-9]{1,32}\.){1,3}[A-Za-z]{2,12}$",
    ),
];

const REFUSED: SchemaError = SchemaError::Value(
    "pattern",
    "a regular expression of characters, classes, groups, alternatives and repetitions, anchored at its ends only",
);

/// A parsed pattern.
pub(super) enum Pattern {
    /// One character out of these inclusive ranges, which are in rising order and do not touch.
    Set(Scratch<(u32, u32)>),
    /// One after the other.
    All(Vec<Pattern>),
    /// One of these.
    Any(Vec<Pattern>),
    /// From `least` to `most` times.
    Repeat(Box<Pattern>, u32, Option<u32>),
}

impl Pattern {
    /// Reads a regular expression. Without anchors it describes every text that contains a match.
    pub(super) fn parse(text: &str) -> Result<Self, SchemaError> {
        let known = KNOWN.iter().find(|(pattern, _)| *pattern == text).map(|(_, part)| *part);
        let mut parser = Parser { rest: known.unwrap_or(text), depth: 0 };
        let mut branches = Vec::new();
        loop {
            let anchored = parser.take('^');
            let mut parts = parser.sequence()?;
            if !anchored {
                parts.insert(0, anything());
            }
            if !parser.take('$') {
                parts.push(anything());
            }
            branches.push(Pattern::All(parts));
            if !parser.take('|') {
                break;
            }
        }
        if parser.rest.is_empty() { Ok(Pattern::Any(branches)) } else { Err(REFUSED) }
    }

    /// The least and the greatest number of characters of its texts; `None` when there is no greatest.
    pub(super) fn lengths(&self) -> (u32, Option<u32>) {
        let add = |a: Option<u32>, b: Option<u32>| Some(a?.saturating_add(b?));
        match self {
            Pattern::Set(_) => (1, Some(1)),
            Pattern::All(parts) => parts
                .iter()
                .map(Pattern::lengths)
                .fold((0, Some(0)), |all, part| (all.0.saturating_add(part.0), add(all.1, part.1))),
            Pattern::Any(parts) => {
                let lengths = || parts.iter().map(Pattern::lengths);
                let most = lengths().map(|(_, most)| most).try_fold(0, |all, most| Some(all.max(most?)));
                (lengths().map(|(least, _)| least).min().unwrap_or(0), most)
            }
            Pattern::Repeat(part, least, most) => {
                let (part_least, part_most) = part.lengths();
                let longest = match (part_most, most) {
                    (Some(0), _) => Some(0),
                    (Some(part), Some(times)) => Some(part.saturating_mul(*times)),
                    _ => None,
                };
                (part_least.saturating_mul(*least), longest)
            }
        }
    }

    /// Its texts inside a JSON string, followed by `next`.
    pub(super) fn states(&self, builder: &mut Builder, next: StateId) -> Result<StateId, SchemaError> {
        match self {
            Pattern::Set(ranges) => set(builder, ranges, next),
            Pattern::All(parts) => parts.iter().rev().try_fold(next, |next, part| part.states(builder, next)),
            Pattern::Any(parts) => {
                let states: Result<Vec<_>, _> = parts.iter().map(|part| part.states(builder, next)).collect();
                builder.split(states?)
            }
            Pattern::Repeat(part, least, most) => {
                let mut state = match most {
                    None => {
                        let again = builder.reserve()?;
                        let body = part.states(builder, again)?;
                        builder.set(again, State::Split([body, next].into()));
                        again
                    }
                    Some(most) => {
                        let mut state = next;
                        for _ in *least..*most {
                            let body = part.states(builder, state)?;
                            state = builder.split(vec![body, next])?;
                        }
                        state
                    }
                };
                for _ in 0..*least {
                    state = part.states(builder, state)?;
                }
                Ok(state)
            }
        }
    }
}

/// Any text.
fn anything() -> Pattern {
    Pattern::Repeat(Box::new(Pattern::Set(everything())), 0, None)
}

/// All characters of a JSON string: no lone surrogates, and only those control characters that have a short
/// escape.
fn everything() -> Scratch<(u32, u32)> {
    Scratch::from([(0x08, 0x0a), (0x0c, 0x0d), (0x20, 0xd7ff), (0xe000, 0x10_ffff)].as_slice())
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    fn take(&mut self, character: char) -> bool {
        let rest = self.rest.strip_prefix(character);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn next(&mut self) -> Result<char, SchemaError> {
        let mut characters = self.rest.chars();
        let next = characters.next().ok_or(REFUSED)?;
        self.rest = characters.as_str();
        Ok(next)
    }

    fn alternatives(&mut self) -> Result<Pattern, SchemaError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(REFUSED);
        }
        let mut branches = vec![Pattern::All(self.sequence()?)];
        while self.take('|') {
            branches.push(Pattern::All(self.sequence()?));
        }
        self.depth -= 1;
        Ok(Pattern::Any(branches))
    }

    fn sequence(&mut self) -> Result<Vec<Pattern>, SchemaError> {
        let mut parts = Vec::new();
        while let Some(character) = self.rest.chars().next()
            && !"|)$".contains(character)
        {
            let part = self.atom()?;
            parts.push(self.repeated(part)?);
        }
        Ok(parts)
    }

    fn atom(&mut self) -> Result<Pattern, SchemaError> {
        match self.next()? {
            '(' => {
                // Groups are all the same here: nothing is captured.
                if self.take('?') && !self.take(':') {
                    return Err(REFUSED);
                }
                let inside = self.alternatives()?;
                if self.take(')') { Ok(inside) } else { Err(REFUSED) }
            }
            '[' => self.class().map(Pattern::Set),
            '.' => Ok(Pattern::Set(negated(&[(0x0a, 0x0a), (0x0d, 0x0d), (0x2028, 0x2029)]))),
            '\\' => Ok(Pattern::Set(self.escape()?.0)),
            '^' | '*' | '+' | '?' | '{' | '}' | ']' => Err(REFUSED),
            character => Ok(Pattern::Set(Scratch::from([(character as u32, character as u32)].as_slice()))),
        }
    }

    fn repeated(&mut self, part: Pattern) -> Result<Pattern, SchemaError> {
        let (least, most) = if self.take('?') {
            (0, Some(1))
        } else if self.take('*') {
            (0, None)
        } else if self.take('+') {
            (1, None)
        } else if self.take('{') {
            let least = self.number()?;
            let most = match (self.take(','), self.rest.starts_with('}')) {
                (false, _) => Some(least),
                (true, true) => None,
                (true, false) => Some(self.number()?),
            };
            if !self.take('}') || most.is_some_and(|most| most < least) {
                return Err(REFUSED);
            }
            (least, most)
        } else {
            return Ok(part);
        };
        // Greedy or lazy makes no difference to the language.
        self.take('?');
        if self.rest.starts_with(['*', '+', '?', '{']) {
            return Err(REFUSED);
        }
        Ok(Pattern::Repeat(Box::new(part), least, most))
    }

    fn number(&mut self) -> Result<u32, SchemaError> {
        let digits = self.rest.len() - self.rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        number.parse().ok().filter(|number| *number <= MAX_COUNT).ok_or(REFUSED)
    }

    /// The escape after a backslash, and whether it is one character.
    fn escape(&mut self) -> Result<(Scratch<(u32, u32)>, bool), SchemaError> {
        const DIGITS: [(u32, u32); 1] = [(0x30, 0x39)];
        const WORD: [(u32, u32); 4] = [(0x30, 0x39), (0x41, 0x5a), (0x5f, 0x5f), (0x61, 0x7a)];
        const SPACE: [(u32, u32); 9] = [
            (0x09, 0x0d),
            (0x20, 0x20),
            (0xa0, 0xa0),
            (0x1680, 0x1680),
            (0x2000, 0x200a),
            (0x2028, 0x2029),
            (0x202f, 0x202f),
            (0x205f, 0x205f),
            (0x3000, 0x3000),
        ];
        let one = |code: u32| Ok((Scratch::from([(code, code)].as_slice()), true));
        match self.next()? {
            'd' => Ok((Scratch::from(DIGITS.as_slice()), false)),
            'w' => Ok((Scratch::from(WORD.as_slice()), false)),
            's' => Ok((Scratch::from(SPACE.as_slice()), false)),
            'D' => Ok((negated(&DIGITS), false)),
            'W' => Ok((negated(&WORD), false)),
            'S' => Ok((negated(&SPACE), false)),
            't' => one(0x09),
            'n' => one(0x0a),
            'r' => one(0x0d),
            'f' => one(0x0c),
            'x' => self.code(2).and_then(one),
            'u' => self.code(4).and_then(one),
            // Each other letter or digit has a special meaning that is not supported.
            character if character.is_ascii_alphanumeric() => Err(REFUSED),
            character => one(character as u32),
        }
    }

    fn code(&mut self, digits: usize) -> Result<u32, SchemaError> {
        let (code, rest) = self.rest.split_at_checked(digits).ok_or(REFUSED)?;
        self.rest = rest;
        let is_hex = code.bytes().all(|byte| byte.is_ascii_hexdigit());
        u32::from_str_radix(code, 16).ok().filter(|_| is_hex).ok_or(REFUSED)
    }

    /// The inside of brackets.
    fn class(&mut self) -> Result<Scratch<(u32, u32)>, SchemaError> {
        let is_negated = self.take('^');
        let mut ranges: Scratch<(u32, u32)> = Scratch::new();
        while !self.take(']') {
            let (first, is_one) = self.member()?;
            let is_range = is_one && self.rest.starts_with('-') && !self.rest.starts_with("-]");
            if !is_range {
                ranges.extend_from_slice(&first);
                continue;
            }
            self.take('-');
            let (last, is_one) = self.member()?;
            match (first.first(), last.first()) {
                (Some((from, _)), Some((to, _))) if is_one && from <= to => ranges.push((*from, *to)),
                _ => return Err(REFUSED),
            }
        }
        let apart = united(ranges);
        Ok(if is_negated { negated(&apart) } else { apart })
    }

    fn member(&mut self) -> Result<(Scratch<(u32, u32)>, bool), SchemaError> {
        match self.next()? {
            '\\' if self.take('b') => Ok((Scratch::from([(0x08, 0x08)].as_slice()), true)),
            '\\' => self.escape(),
            character => Ok((Scratch::from([(character as u32, character as u32)].as_slice()), true)),
        }
    }
}

/// The same characters in rising order, none twice.
fn united(mut ranges: Scratch<(u32, u32)>) -> Scratch<(u32, u32)> {
    ranges.sort_unstable();
    let mut apart: Scratch<(u32, u32)> = Scratch::with_capacity(ranges.len());
    for (first, last) in ranges.iter().copied() {
        match apart.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => apart.push((first, last)),
        }
    }
    apart
}

/// All other characters.
fn negated(ranges: &[(u32, u32)]) -> Scratch<(u32, u32)> {
    let mut others = Scratch::new();
    let mut from = 0;
    for (first, last) in ranges {
        if from < *first {
            others.push((from, first - 1));
        }
        from = last.saturating_add(1);
    }
    others.push((from, u32::MAX));
    others
}

/// One character of a set as it is written in JSON, and then `next`.
fn set(builder: &mut Builder, ranges: &[(u32, u32)], next: StateId) -> Result<StateId, SchemaError> {
    /// Characters with an escape of one letter.
    const ESCAPED: [(u32, u8); 7] =
        [(0x22, b'"'), (0x5c, b'\\'), (0x08, b'b'), (0x09, b't'), (0x0a, b'n'), (0x0c, b'f'), (0x0d, b'r')];
    /// Characters that stand for themselves.
    const PLAIN: [(u32, u32); 5] =
        [(0x20, 0x21), (0x23, 0x5b), (0x5d, 0x7f), (0x80, 0xd7ff), (0xe000, 0x10_ffff)];
    let mut first_bytes = Scratch::new();
    for (first, last) in ranges {
        for (from, to) in PLAIN {
            let (low, high) = (*first.max(&from), *last.min(&to));
            if low <= high {
                utf8(builder, low, high, next, &mut first_bytes)?;
            }
        }
    }
    let is_in = |code: u32| ranges.iter().any(|(first, last)| (*first..=*last).contains(&code));
    let letters: Vec<_> = ESCAPED.iter().filter(|(code, _)| is_in(*code)).collect();
    if !letters.is_empty() {
        let letters: Scratch<_> = letters.iter().map(|(_, letter)| (*letter, *letter, next)).collect();
        let letters = builder.ranges(&letters)?;
        first_bytes.push((b'\\', b'\\', letters));
    }
    if first_bytes.is_empty() {
        // No character of a JSON string is left, so nothing matches.
        return Err(REFUSED);
    }
    builder.ranges(&first_bytes)
}

/// The ways into characters from `low` to `high` by their first bytes in UTF-8.
fn utf8(
    builder: &mut Builder,
    low: u32,
    high: u32,
    next: StateId,
    first_bytes: &mut Scratch<(u8, u8, StateId)>,
) -> Result<(), SchemaError> {
    // The last codes of one, two and three bytes.
    for end in [0x7f, 0x7ff, 0xffff] {
        if low <= end && end < high {
            utf8(builder, low, end, next, first_bytes)?;
            return utf8(builder, end + 1, high, next, first_bytes);
        }
    }
    // Where all of the last bytes are free, they are written as ranges.
    for bits in [6, 12, 18] {
        let mask = (1 << bits) - 1;
        if high <= 0x7f || low & !mask == high & !mask {
            continue;
        }
        if low & mask != 0 {
            utf8(builder, low, low | mask, next, first_bytes)?;
            return utf8(builder, (low | mask) + 1, high, next, first_bytes);
        }
        if high & mask != mask {
            utf8(builder, low, (high & !mask) - 1, next, first_bytes)?;
            return utf8(builder, high & !mask, high, next, first_bytes);
        }
    }
    let bytes = |code: u32| {
        let mut bytes = [0; 4];
        let length = char::from_u32(code).map_or(0, |character| character.encode_utf8(&mut bytes).len());
        (bytes, length)
    };
    let ((lows, length), (highs, _)) = (bytes(low), bytes(high));
    let mut state = next;
    for (low, high) in lows.iter().zip(&highs).take(length).skip(1).rev() {
        state = builder.ranges(&[(*low, *high, state)])?;
    }
    first_bytes.push((lows[0], highs[0], state));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_the_texts() {
        for (pattern, lengths) in [
            ("^$", (0, Some(0))),
            ("^a{2,5}$", (2, Some(5))),
            ("^(ab|c)?d+$", (1, None)),
            ("a", (1, None)),
            (r"^\d{3}-[a-z]{2}$", (6, Some(6))),
            ("^(ab|c){2}$", (2, Some(4))),
        ] {
            assert_eq!(
                Pattern::parse(pattern).map(|pattern| pattern.lengths()).ok(),
                Some(lengths),
                "{pattern}"
            );
        }
    }

    #[test]
    fn what_is_no_regular_language_or_no_expression_is_refused() {
        for pattern in [
            r"(?=a)b", r"(?<!a)b", r"(a)\1", r"\bword", r"\p{L}", "a^b", "a$b", "(", "[a", "a{2,1}", "a**",
            "*a", "a{9999}", "[z-a]", r"\u12",
        ] {
            assert!(Pattern::parse(pattern).is_err(), "{pattern}");
        }
        let deep = format!("^{}a{}$", "(".repeat(100), ")".repeat(100));
        assert!(Pattern::parse(&deep).is_err());
    }
}
