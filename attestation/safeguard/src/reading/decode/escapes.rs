//! Escapes within text: `%69` of addresses (RFC 3986, section 2.1), `\x69` and `\u0069` of programs, and
//! `&#105;` and
//! `&#x69;` of HTML.

use zeroize::Zeroize as _;

use super::Utf8;

/// So many characters before an escape and after it are read with it.
const AROUND: usize = 64;
/// The longest escape, `&#x10ffff;`.
const LONGEST: usize = 10;

/// The text around the last escape.
pub(crate) struct Escapes {
    /// The last characters that were not given on, as a ring.
    before: [char; AROUND],
    next: usize,
    /// How many characters will be given on before the next escape must have come.
    open: usize,
    /// An escape that has begun.
    begun: [char; LONGEST],
    length: usize,
    text: Utf8,
}

impl Default for Escapes {
    fn default() -> Self {
        Self {
            before: ['\0'; AROUND],
            next: 0,
            open: 0,
            begun: ['\0'; LONGEST],
            length: 0,
            text: Utf8::default(),
        }
    }
}

/// What the characters that have begun an escape are.
enum Begun {
    Incomplete,
    Not,
    Byte(u8),
    Character(char),
}

impl Escapes {
    pub(crate) fn push(&mut self, character: char, emit: &mut impl FnMut(char)) {
        if self.length == 0 && !matches!(character, '%' | '\\' | '&') {
            return self.plain(character, emit);
        }
        if let Some(place) = self.begun.get_mut(self.length) {
            *place = character;
            self.length += 1;
        }
        match classify(self.begun.get(..self.length).unwrap_or_default()) {
            Begun::Incomplete if self.length < LONGEST => {}
            Begun::Incomplete | Begun::Not => self.give_up(character, emit),
            Begun::Byte(byte) => {
                self.length = 0;
                self.opened(emit);
                self.text.push(byte, emit);
            }
            Begun::Character(escaped) => {
                self.length = 0;
                self.opened(emit);
                emit(escaped);
            }
        }
    }

    /// Ends the text.
    pub(crate) fn end(&mut self, emit: &mut impl FnMut(char)) {
        if self.open > 0 {
            emit(' ');
        }
        *self = Self::default();
    }

    /// A character that is no escape.
    fn plain(&mut self, character: char, emit: &mut impl FnMut(char)) {
        if self.open > 0 {
            self.open -= 1;
            emit(character);
            if self.open == 0 {
                emit(' ');
            }
        } else if let Some(place) = self.before.get_mut(self.next) {
            *place = character;
            self.next = (self.next + 1) % AROUND;
        }
    }

    /// An escape has come: what stands before it is read, too.
    fn opened(&mut self, emit: &mut impl FnMut(char)) {
        if self.open == 0 {
            let (newer, older) = self.before.split_at(self.next);
            older
                .iter()
                .chain(newer)
                .filter(|character| **character != '\0')
                .for_each(|character| emit(*character));
            self.before.zeroize();
            self.next = 0;
        }
        self.open = AROUND;
    }

    /// What has begun is no escape after all. Its last character may begin another one.
    fn give_up(&mut self, last: char, emit: &mut impl FnMut(char)) {
        let begun = self.begun;
        let length = core::mem::take(&mut self.length);
        for character in begun.iter().take(length.saturating_sub(1)) {
            self.plain(*character, emit);
        }
        if length > 1 && matches!(last, '%' | '\\' | '&') {
            self.push(last, emit);
        } else {
            self.plain(last, emit);
        }
    }
}

impl Drop for Escapes {
    fn drop(&mut self) {
        self.before.zeroize();
        self.begun.zeroize();
    }
}

fn classify(begun: &[char]) -> Begun {
    match begun {
        ['%' | '\\' | '&'] | ['\\', 'x' | 'u'] | ['&', '#'] | ['&', '#', 'x' | 'X'] => Begun::Incomplete,
        ['%', digits @ ..] | ['\\', 'x', digits @ ..] => match (digits.len(), number(digits, 16)) {
            (_, None) => Begun::Not,
            (2, Some(code)) => u8::try_from(code).map_or(Begun::Not, Begun::Byte),
            _ => Begun::Incomplete,
        },
        ['\\', 'u', digits @ ..] => match (digits.len(), number(digits, 16)) {
            (_, None) => Begun::Not,
            (4, Some(code)) => char::from_u32(code).map_or(Begun::Not, Begun::Character),
            _ => Begun::Incomplete,
        },
        ['&', '#', 'x' | 'X', digits @ .., ';'] => entity(digits, 16),
        ['&', '#', digits @ .., ';'] => entity(digits, 10),
        ['&', '#', 'x' | 'X', digits @ ..] if number(digits, 16).is_some() => Begun::Incomplete,
        ['&', '#', digits @ ..] if number(digits, 10).is_some() => Begun::Incomplete,
        _ => Begun::Not,
    }
}

fn entity(digits: &[char], radix: u32) -> Begun {
    number(digits, radix).and_then(char::from_u32).map_or(Begun::Not, Begun::Character)
}

/// The number that at least one digit makes.
fn number(digits: &[char], radix: u32) -> Option<u32> {
    if digits.is_empty() {
        return None;
    }
    digits
        .iter()
        .try_fold(0_u32, |number, digit| number.checked_mul(radix)?.checked_add(digit.to_digit(radix)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> String {
        let (mut decoder, mut decoded) = (Escapes::default(), String::new());
        text.chars().for_each(|character| decoder.push(character, &mut |part| decoded.push(part)));
        decoder.end(&mut |part| decoded.push(part));
        decoded
    }

    #[test]
    fn escapes_are_read_with_what_stands_around_them() {
        for written in [
            "ignore%20all",
            "%69gnore%20all",
            "ignore\\x20all",
            "ign\\u006fre all",
            "&#105;gnore all",
            "&#x69;gnore &#x61;ll",
        ] {
            assert_eq!(decode(written).trim(), "ignore all", "{written}");
        }
        assert_eq!(decode("gr%C3%BC%C3%9Fe"), "grüße ");
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(decode("100% of R&D in C:\\temp &#; &#xzz;"), "");
        assert_eq!(decode("100%%20&&#105; %u"), "100% &i %u ");
    }
}
