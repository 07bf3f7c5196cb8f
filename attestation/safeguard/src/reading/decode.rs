//! Text that is hidden in encodings: base64, hexadecimal, and escapes.
//!
//! Each decoder reads characters one by one and holds a few of them, so text can be cut anywhere.

mod base64;
mod escapes;
mod hexadecimal;

use zeroize::Zeroize as _;

pub(crate) use self::base64::Base64;
pub(crate) use self::escapes::Escapes;
pub(crate) use self::hexadecimal::Hexadecimal;

/// Puts bytes together to characters. What is no UTF-8 becomes U+FFFD, which counts as a gap between words.
#[derive(Default)]
pub(crate) struct Utf8 {
    bytes: [u8; 4],
    length: usize,
}

impl Utf8 {
    pub(crate) fn push(&mut self, byte: u8, emit: &mut impl FnMut(char)) {
        if self.length == 0 && byte.is_ascii() {
            return emit(char::from(byte));
        }
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
        let begun = self.bytes.get(..self.length).unwrap_or_default();
        match core::str::from_utf8(begun) {
            Ok(text) => text.chars().for_each(&mut *emit),
            // The character is not complete.
            Err(error) if error.error_len().is_none() && self.length < self.bytes.len() => return,
            Err(_) => {
                emit(char::REPLACEMENT_CHARACTER);
                // A byte that ends a broken character may be a letter.
                if self.length > 1 && byte.is_ascii() {
                    emit(char::from(byte));
                }
            }
        }
        self.length = 0;
    }
}

impl Drop for Utf8 {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}
