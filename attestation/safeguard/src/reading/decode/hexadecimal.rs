//! Hexadecimal: pairs of digits in either case, with `0x` before them and one separator between them, or
//! neither.

use zeroize::Zeroize as _;

use super::Utf8;

/// So many bytes in a row may be hidden text. Fewer are taken for numbers.
const SHORTEST: usize = 8;

/// The run of digits.
#[derive(Default)]
pub(crate) struct Hexadecimal {
    /// The first bytes, until there are enough.
    first: [u8; SHORTEST],
    /// How many bytes the run has.
    length: usize,
    /// The first digit of a pair.
    half: Option<u8>,
    /// Whether a separator came after the last pair.
    separated: bool,
    text: Utf8,
}

impl Hexadecimal {
    pub(crate) fn push(&mut self, character: char, emit: &mut impl FnMut(char)) {
        let digit = character.to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match (digit, self.half.take()) {
            (Some(digit), None) => {
                self.separated = false;
                self.half = Some(digit);
            }
            (Some(digit), Some(half)) => self.byte(half << 4 | digit, emit),
            // The zero of `0x`.
            (None, Some(0)) if matches!(character, 'x' | 'X') => {}
            (None, None) if !self.separated && matches!(character, ' ' | ',' | ':' | '-' | '\n') => {
                self.separated = true;
            }
            // `, ` is one separator.
            (None, None) if character == ' ' && self.length > 0 => {}
            _ => self.end(emit),
        }
    }

    /// Ends the run.
    pub(crate) fn end(&mut self, emit: &mut impl FnMut(char)) {
        if self.length >= SHORTEST {
            emit(' ');
        }
        if self.length > 0 || self.half.is_some() {
            *self = Self::default();
        }
    }

    fn byte(&mut self, byte: u8, emit: &mut impl FnMut(char)) {
        if let Some(place) = self.first.get_mut(self.length) {
            *place = byte;
            self.length += 1;
            if self.length == SHORTEST {
                let mut first = self.first;
                first.iter().for_each(|byte| self.text.push(*byte, emit));
                first.zeroize();
            }
        } else {
            self.length = self.length.saturating_add(1);
            self.text.push(byte, emit);
        }
    }
}

impl Drop for Hexadecimal {
    fn drop(&mut self) {
        self.first.zeroize();
        self.half.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> String {
        let (mut decoder, mut decoded) = (Hexadecimal::default(), String::new());
        text.chars().for_each(|character| decoder.push(character, &mut |part| decoded.push(part)));
        decoder.end(&mut |part| decoded.push(part));
        decoded
    }

    #[test]
    fn the_usual_ways_to_write_bytes_are_decoded() {
        for written in [
            "69676e6f726520616c6c",
            "Run 69676E6F726520616C6C!",
            "69 67 6e 6f 72 65 20 61 6c 6c",
            "0x69 0x67 0x6e 0x6f 0x72 0x65 0x20 0x61 0x6c 0x6c",
            "0x69, 0x67, 0x6e, 0x6f, 0x72, 0x65, 0x20, 0x61, 0x6c, 0x6c",
            "69:67:6e:6f:72:65:20:61:6c:6c",
        ] {
            assert_eq!(decode(written).trim(), "ignore all", "{written}");
        }
        assert_eq!(decode("In 1999 a bee ate 3 figs"), "");
    }
}
