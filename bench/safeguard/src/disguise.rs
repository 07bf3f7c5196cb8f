//! Ways to disguise a text. The last ones are known ways around the rules.

use std::fmt::Write as _;

type Disguise = (&'static str, fn(&str) -> String);

/// Every disguise, with its name.
pub(crate) const ALL: [Disguise; 17] = [
    ("full width", |text| each(text, |letter| char::from_u32(u32::from(letter) + 0xfee0).unwrap_or(letter))),
    ("mathematical letters", |text| each(text, |letter| shifted(letter, 0x1d41a, 0x1d400))),
    ("Cyrillic and Greek lookalikes", |text| each(text, lookalike)),
    ("zero-width characters between letters", |text| between(text, "\u{200b}")),
    ("marks on letters", |text| between(text, "\u{336}")),
    ("tag characters", |text| text.chars().map(tag).collect()),
    ("digits for letters", |text| each(text, digit)),
    ("a space between letters", |text| between(text, " ")),
    ("a hyphen between letters", |text| between(text, "-")),
    ("backwards", |text| text.chars().rev().collect()),
    ("ROT13", |text| each(text, |letter| caesar(letter, 13))),
    ("base64", base64),
    ("hexadecimal", |text| written(text, |target, byte| write!(target, "{byte:02x}"))),
    ("percent escapes", |text| written(text, |target, byte| write!(target, "%{byte:02x}"))),
    ("not read: Caesar by 3", |text| each(text, |letter| caesar(letter, 3))),
    ("not read: binary numbers", |text| written(text, |target, byte| write!(target, "{byte:08b} "))),
    ("not read: words in reverse order", |text| text.split(' ').rev().collect::<Vec<_>>().join(" ")),
];

/// Changes each letter of ASCII.
fn each(text: &str, change: impl Fn(char) -> char) -> String {
    text.chars().map(|letter| if letter.is_ascii_alphabetic() { change(letter) } else { letter }).collect()
}

/// Puts something after each letter.
fn between(text: &str, what: &str) -> String {
    let mut changed = String::new();
    for character in text.chars() {
        changed.push(character);
        if character.is_alphabetic() {
            changed.push_str(what);
        }
    }
    changed
}

fn shifted(letter: char, small: u32, capital: u32) -> char {
    let (first, new) = if letter.is_ascii_lowercase() { ('a', small) } else { ('A', capital) };
    char::from_u32(u32::from(letter) - u32::from(first) + new).unwrap_or(letter)
}

fn lookalike(letter: char) -> char {
    match letter {
        'a' => 'а',
        'c' => 'с',
        'e' => 'е',
        'i' => 'і',
        'o' => 'о',
        'p' => 'р',
        's' => 'ѕ',
        'x' => 'х',
        'y' => 'у',
        'v' => 'ν',
        _ => letter,
    }
}

fn tag(character: char) -> char {
    if character.is_ascii_graphic() || character == ' ' {
        char::from_u32(0xe0000 + u32::from(character)).unwrap_or(character)
    } else {
        character
    }
}

fn digit(letter: char) -> char {
    match letter.to_ascii_lowercase() {
        'a' => '4',
        'e' => '3',
        'i' => '1',
        'o' => '0',
        's' => '5',
        't' => '7',
        _ => letter,
    }
}

fn caesar(letter: char, places: u32) -> char {
    let first = if letter.is_ascii_lowercase() { u32::from('a') } else { u32::from('A') };
    char::from_u32((u32::from(letter) - first + places) % 26 + first).unwrap_or(letter)
}

fn written(text: &str, write: impl Fn(&mut String, u8) -> std::fmt::Result) -> String {
    let mut target = String::new();
    text.bytes().for_each(|byte| write(&mut target, byte).expect("a string takes everything"));
    target
}

fn base64(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for group in text.as_bytes().chunks(3) {
        let bits =
            group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for index in 0..4 {
            let value = (bits >> (18 - 6 * index)) as usize & 63;
            encoded.push(if index <= group.len() { char::from(ALPHABET[value]) } else { '=' });
        }
    }
    encoded
}
