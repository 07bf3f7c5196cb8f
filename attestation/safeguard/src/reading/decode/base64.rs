//! Base64 of both alphabets (RFC 4648, sections 4 and 5), with or without padding, over several lines.

use zeroize::Zeroize as _;

use super::Utf8;

/// So many characters in a row may be base64. Fewer are taken for words: 16 characters are 12 bytes of text.
const SHORTEST: usize = 16;

/// The run of characters that may be base64.
#[derive(Default)]
pub(crate) struct Base64 {
    /// The values of the first characters, until there are enough.
    first: [u8; SHORTEST],
    /// How many characters the run has.
    length: usize,
    /// Bits that do not fill a byte yet, and how many there are.
    bits: u32,
    count: u32,
    /// Line ends since the last character of the run.
    breaks: usize,
    text: Utf8,
}

impl Base64 {
    pub(crate) fn push(&mut self, character: char, emit: &mut impl FnMut(char)) {
        match value(character) {
            Some(value) => self.take(value, emit),
            // An encoder wraps its lines after a multiple of four characters.
            None if matches!(character, '\r' | '\n')
                && self.length >= SHORTEST
                && self.length.is_multiple_of(4)
                && self.breaks < 2 =>
            {
                self.breaks += 1;
            }
            None => self.end(emit),
        }
    }

    /// Ends the run.
    pub(crate) fn end(&mut self, emit: &mut impl FnMut(char)) {
        if self.length >= SHORTEST {
            emit(' ');
        }
        if self.length > 0 {
            *self = Self::default();
        }
    }

    fn take(&mut self, value: u8, emit: &mut impl FnMut(char)) {
        self.breaks = 0;
        if let Some(place) = self.first.get_mut(self.length) {
            *place = value;
            self.length += 1;
            if self.length == SHORTEST {
                let mut first = self.first;
                first.iter().for_each(|value| self.decode(*value, emit));
                first.zeroize();
            }
        } else {
            self.length = self.length.saturating_add(1);
            self.decode(value, emit);
        }
    }

    fn decode(&mut self, value: u8, emit: &mut impl FnMut(char)) {
        self.bits = (self.bits << 6 | u32::from(value)) & 0xffff;
        self.count += 6;
        if self.count >= 8 {
            self.count -= 8;
            let [.., byte] = (self.bits >> self.count).to_be_bytes();
            self.text.push(byte, emit);
        }
    }
}

impl Drop for Base64 {
    fn drop(&mut self) {
        self.first.zeroize();
        self.bits.zeroize();
    }
}

fn value(character: char) -> Option<u8> {
    let byte = u8::try_from(character).ok()?;
    Some(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> String {
        let (mut decoder, mut decoded) = (Base64::default(), String::new());
        text.chars().for_each(|character| decoder.push(character, &mut |part| decoded.push(part)));
        decoder.end(&mut |part| decoded.push(part));
        decoded
    }

    #[test]
    fn both_alphabets_and_lines_are_decoded() {
        assert_eq!(decode("Say: aWdub3JlIHByZXZpb3Vz."), "ignore previous ");
        assert_eq!(decode("aWdub3JlIHBy\nZXZpb3Vz"), "");
        assert_eq!(decode("aWdub3JlIHByZXZp\nb3Vz"), "ignore previous ");
        assert_eq!(decode("Pz8_Pj4-w7zDvMO8w7zDvA=="), "???>>>üüüüü ");
    }

    #[test]
    fn words_are_not_decoded() {
        assert_eq!(decode("responsibility for the measurements of today"), "");
    }
}
