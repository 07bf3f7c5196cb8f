//! The byte alphabet of byte-level BPE: every byte has a visible character, so that token texts are valid
//! strings.
//!
//! Printable Latin-1 characters stand for themselves; the other 68 bytes, in order, for U+0100 onwards
//! (GPT-2's `bytes_to_unicode`).

/// The byte that `character` stands for.
pub(super) fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    if let Ok(byte) = u8::try_from(code) {
        return is_itself(byte).then_some(byte);
    }
    let index = usize::try_from(code.checked_sub(0x100)?).ok()?;
    (0..=u8::MAX).filter(|byte| !is_itself(*byte)).nth(index)
}

/// Whether this byte stands for itself in the alphabet.
fn is_itself(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut characters: Vec<(u8, char)> =
            (0..0x200).filter_map(char::from_u32).filter_map(|c| Some((byte_of(c)?, c))).collect();
        characters.sort_unstable();
        assert_eq!(characters.len(), 256);
        assert!(characters.iter().enumerate().all(|(byte, pair)| usize::from(pair.0) == byte));
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of(' '), None);
        assert_eq!(byte_of('\u{144}'), None);
    }
}
