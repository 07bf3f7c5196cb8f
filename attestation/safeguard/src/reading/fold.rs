//! What a character is read as: one spelling for all that look or mean the same.
//!
//! Each character is read alone, so text can be cut anywhere. Compatibility decomposition (Unicode's NFKD)
//! makes the same text of full-width, circled and mathematical letters as NFKC does. Marks and invisible
//! characters are dropped, so the order of marks and their composition do not matter. Prototypes of
//! confusable characters come from UTS 39.

use std::sync::LazyLock;

use unicode_normalization::char::decompose_compatible;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};
use unicode_security::confusable_detection::skeleton;

/// Gives the characters that `character` is read as, in their own case and without those that cannot be seen.
pub(crate) fn decompose(character: char, mut emit: impl FnMut(char)) {
    match character {
        // NUL and controls are dropped: they are not seen. Among them is what UTF-16 has between letters.
        '\0'..='\x08' | '\x0e'..='\x1f' | '\x7f' => {}
        ..='\x7f' => emit(character),
        // The commonest ideographs decompose to nothing else.
        '\u{4e00}'..='\u{9fff}' => emit(character),
        // Tag characters are invisible copies of ASCII.
        '\u{e0020}'..='\u{e007e}' => {
            if let Some(ascii) = char::from_u32(u32::from(character) - 0xe0000) {
                emit(ascii);
            }
        }
        _ => match enclosed_letter(character) {
            Some(letter) => emit(letter),
            None => decompose_compatible(character, |part| {
                if is_seen(part) {
                    emit(part);
                }
            }),
        },
    }
}

/// Gives the lower-case characters that a character of [`decompose`] is read as.
pub(crate) fn fold(character: char, mut emit: impl FnMut(char)) {
    match character {
        ..='\x7f' => emit(character.to_ascii_lowercase()),
        // The commonest ideographs, and the letters that syllables of Korean decompose to, are read as they
        // are.
        '\u{1100}'..='\u{11ff}' | '\u{4e00}'..='\u{9fff}' => emit(character),
        _ => match ALPHABETS.get(character) {
            Some(folded) => folded.iter().for_each(|part| emit(*part)),
            None => look_up(character, emit),
        },
    }
}

/// What [`look_up`] gives for the characters of alphabets. Looking up takes a microsecond for a letter.
struct Alphabets {
    /// Where the characters begin that a character is read as; one place more than there are characters.
    starts: Vec<usize>,
    folded: Vec<char>,
}

static ALPHABETS: LazyLock<Alphabets> = LazyLock::new(|| {
    let (mut starts, mut folded) = (vec![0], Vec::new());
    for code in 0..Alphabets::END {
        if let Some(character) = char::from_u32(code) {
            look_up(character, |part| folded.push(part));
        }
        starts.push(folded.len());
    }
    Alphabets { starts, folded }
});

impl Alphabets {
    /// The first character after the alphabets: those of Europe, the Near East, India and South East Asia
    /// come before it.
    const END: u32 = 0x2000;

    fn get(&self, character: char) -> Option<&[char]> {
        let place = usize::try_from(u32::from(character)).ok()?;
        self.folded.get(*self.starts.get(place)?..*self.starts.get(place + 1)?)
    }
}

fn look_up(character: char, mut emit: impl FnMut(char)) {
    for lower in character.to_lowercase() {
        if lower == 'ß' {
            emit('s');
            emit('s');
            continue;
        }
        let mut buffer = [0; 4];
        let mut prototype = skeleton(lower.encode_utf8(&mut buffer));
        match (prototype.next(), prototype.next(), prototype.next()) {
            // The prototype of `m` is `rn`.
            (Some('r'), Some('n'), None) => emit('m'),
            _ => {
                for part in skeleton(lower.encode_utf8(&mut [0; 4])) {
                    for part in part.to_lowercase().filter(|part| is_seen(*part)) {
                        emit(drawn_letter(part).unwrap_or(part));
                    }
                }
            }
        }
    }
}

/// The whole of a text as it is read.
pub(crate) fn fold_text(text: &str) -> String {
    let mut folded = String::new();
    for character in text.chars() {
        decompose(character, |part| fold(part, |part| folded.push(part)));
    }
    folded
}

/// The letter that is 13 places further in the alphabet. Other characters stay.
pub(crate) fn rotate(character: char) -> char {
    match character {
        'a'..='m' => char::from_u32(u32::from(character) + 13).unwrap_or(character),
        'n'..='z' => char::from_u32(u32::from(character) - 13).unwrap_or(character),
        _ => character,
    }
}

/// Whether a character is more than a mark on another one, and not invisible.
fn is_seen(character: char) -> bool {
    if character.is_ascii() {
        return true;
    }
    let mark = matches!(
        character.general_category(),
        GeneralCategory::NonspacingMark | GeneralCategory::EnclosingMark | GeneralCategory::Format
    );
    // Unicode's Default_Ignorable_Code_Point, without the marks and formats among them.
    let ignorable = matches!(
        character,
        '\u{115f}' | '\u{1160}' | '\u{2065}' | '\u{3164}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{e0000}'..='\u{e0fff}'
    );
    !mark && !ignorable
}

/// Letters in a square or a circle that have no decomposition, and the letters of flags.
fn enclosed_letter(character: char) -> Option<char> {
    let first = match character {
        '\u{1f150}'..='\u{1f169}' => 0x1f150,
        '\u{1f170}'..='\u{1f189}' => 0x1f170,
        '\u{1f1e6}'..='\u{1f1ff}' => 0x1f1e6,
        _ => return None,
    };
    char::from_u32(u32::from(character) - first + u32::from('a'))
}

/// Letters that are drawn small, turned or crossed, and that UTS 39 does not count as confusable.
const fn drawn_letter(character: char) -> Option<char> {
    Some(match character {
        'ᴀ' | 'ɐ' => 'a',
        'ʙ' | 'ƀ' => 'b',
        'ᴄ' | 'ɔ' => 'c',
        'ᴅ' | 'đ' => 'd',
        'ᴇ' | 'ǝ' => 'e',
        'ꜰ' | 'ɟ' => 'f',
        'ɢ' | 'ƃ' => 'g',
        'ʜ' | 'ɥ' | 'ħ' => 'h',
        'ɪ' | 'ᴉ' | 'ı' | 'ɨ' => 'i',
        'ᴊ' | 'ɾ' => 'j',
        'ᴋ' | 'ʞ' => 'k',
        'ʟ' | 'ł' => 'l',
        'ᴍ' | 'ɯ' => 'm',
        'ɴ' => 'n',
        'ᴏ' | 'ø' => 'o',
        'ᴘ' => 'p',
        'ꞯ' => 'q',
        'ʀ' | 'ɹ' => 'r',
        'ꜱ' => 's',
        'ᴛ' | 'ʇ' | 'ŧ' => 't',
        'ᴜ' | 'ʉ' => 'u',
        'ᴠ' | 'ʌ' => 'v',
        'ᴡ' | 'ʍ' => 'w',
        'ʏ' | 'ʎ' => 'y',
        'ᴢ' | 'ƶ' => 'z',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_word_are_read_alike() {
        for written in [
            "Ignore",
            "ＩＧＮＯＲＥ",
            "𝒊𝒈𝒏𝒐𝒓𝒆",
            "ⓘⓖⓝⓞⓡⓔ",
            "🅸🅶🅽🅾🆁🅴",
            "i\u{200b}g\u{200d}n\u{2060}o\u{00ad}r\u{feff}e",
            "i\u{202e}gnore\u{202c}",
            "ìǵñôr̶e̷",
            "ɪɢɴᴏʀᴇ",
            "іgnоrе",
            "ιgnore",
            "\u{e0069}\u{e0067}\u{e006e}\u{e006f}\u{e0072}\u{e0065}",
            "i\u{fe0f}g\u{e0100}n\u{fe0f}ore",
        ] {
            assert_eq!(fold_text(written), "ignore", "{written}");
        }
        assert_eq!(fold_text("Straße Œuvre ﬁne m"), "strasse oeuvre fine m");
        assert_eq!(fold_text("忽略 指示"), "忽略 指示");
    }

    #[test]
    fn every_character_is_read_as_few_that_can_be_seen() {
        for character in (0..=0x0010_ffff).filter_map(char::from_u32) {
            let read = fold_text(&character.to_string());
            assert!(read.chars().count() <= 20, "{character:?}");
            assert!(!read.chars().any(|part| part.is_ascii_uppercase() || !is_seen(part)), "{character:?}");
            // Characters that are ignorable by default have an empty skeleton.
            if !is_seen(character) || skeleton(&character.to_string()).next().is_none() {
                assert!(tag_or_nothing(character, &read), "{character:?} is read as {read:?}");
            }
        }
    }

    fn tag_or_nothing(character: char, read: &str) -> bool {
        read.is_empty() || ('\u{e0020}'..='\u{e007e}').contains(&character)
    }

    #[test]
    fn rotating_twice_is_the_alphabet() {
        assert_eq!("az é".chars().map(rotate).collect::<String>(), "nm é");
        assert!(('a'..='z').all(|letter| rotate(rotate(letter)) == letter));
    }
}
