//! Cutting text into the words that merges never cross, as the regular expressions of `tokenizer.ggml.pre` do.

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use super::TokenizerError;

/// Which expressions cut the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Split {
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    Gpt2,
    /// Every `\p{N}` alone, then as [`Split::Gpt2`].
    Smollm,
    /// `[\p{P}\$\+<=>\^~\|]+`, then as [`Split::Gpt2`], then `\p{N}+`, then `[0-9][0-9][0-9]`.
    Default,
}

impl Split {
    pub(super) fn named(name: &str) -> Result<Self, TokenizerError> {
        match name {
            "gpt-2" => Ok(Split::Gpt2),
            "smollm" => Ok(Split::Smollm),
            "default" => Ok(Split::Default),
            _ => Err(TokenizerError::Split { found: name.into() }),
        }
    }

    /// Calls `each` for every word, in order. The words joined are the text.
    pub(super) fn each_word<'t>(self, text: &'t str, each: &mut dyn FnMut(&'t str)) {
        match self {
            Split::Gpt2 => gpt2(text, each),
            Split::Smollm => isolate(text, is_number, 1, &mut |piece| gpt2(piece, each)),
            Split::Default => isolate(text, is_punctuation, usize::MAX, &mut |piece| {
                gpt2(piece, &mut |word| {
                    isolate(word, is_number, usize::MAX, &mut |part| digit_triples(part, each));
                });
            }),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

fn class(character: char) -> Class {
    match character {
        'a'..='z' | 'A'..='Z' => return Class::Letter,
        '0'..='9' => return Class::Number,
        _ if character.is_whitespace() => return Class::Space,
        _ if character.is_ascii() => return Class::Other,
        _ => {}
    }
    match character.general_category_group() {
        GeneralCategoryGroup::Letter => Class::Letter,
        GeneralCategoryGroup::Number => Class::Number,
        _ => Class::Other,
    }
}

fn is_number(character: char) -> bool {
    class(character) == Class::Number
}

/// `[\p{P}\$\+<=>\^~\|]`
fn is_punctuation(character: char) -> bool {
    matches!(character, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|')
        || character.general_category_group() == GeneralCategoryGroup::Punctuation
}

fn gpt2<'t>(text: &'t str, each: &mut dyn FnMut(&'t str)) {
    let mut rest = text;
    while !rest.is_empty() {
        let (word, after) = rest.split_at(gpt2_word(rest));
        each(word);
        rest = after;
    }
}

/// Bytes of the first word of a text that is not empty.
fn gpt2_word(text: &str) -> usize {
    if let Some(length) = contraction(text) {
        return length;
    }
    let mut characters = text.chars();
    let first = characters.next().unwrap_or(' ');
    let after_first = characters.as_str();
    let second = characters.next().map(class);
    match (first, class(first), second) {
        (' ', _, Some(second)) if second != Class::Space => 1 + run(after_first, second),
        (_, Class::Space, _) => {
            let spaces = run(text, Class::Space);
            let last = text.get(..spaces).and_then(|run| run.chars().next_back()).map_or(0, char::len_utf8);
            // The last space before a word is left to the word, unless it is alone.
            if spaces == text.len() || spaces == last { spaces } else { spaces - last }
        }
        (_, class, _) => run(text, class),
    }
}

/// Bytes of the longest beginning of `text` of one class.
fn run(text: &str, of: Class) -> usize {
    text.find(|character| class(character) != of).unwrap_or(text.len())
}

fn contraction(text: &str) -> Option<usize> {
    let after = text.strip_prefix('\'')?;
    let ends = ["s", "t", "re", "ve", "m", "ll", "d"];
    ends.iter().find(|end| after.starts_with(**end)).map(|end| 1 + end.len())
}

/// Cuts out every run of at most `longest` characters that `matches`, and the text between them.
fn isolate<'t>(text: &'t str, matches: impl Fn(char) -> bool, longest: usize, each: &mut dyn FnMut(&'t str)) {
    let mut rest = text;
    while !rest.is_empty() {
        let length = match rest.find(&matches) {
            Some(0) => {
                let end = |(count, (_, c)): &(usize, (usize, char))| *count == longest || !matches(*c);
                rest.char_indices().enumerate().find(end).map_or(rest.len(), |(_, (at, _))| at)
            }
            Some(start) => start,
            None => rest.len(),
        };
        let (piece, after) = rest.split_at(length);
        each(piece);
        rest = after;
    }
}

/// Cuts out every three ASCII digits, from the left.
fn digit_triples<'t>(text: &'t str, each: &mut dyn FnMut(&'t str)) {
    let mut rest = text;
    while let Some(start) =
        rest.as_bytes().windows(3).position(|window| window.iter().all(u8::is_ascii_digit))
    {
        let (before, from) = rest.split_at(start);
        let (triple, after) = from.split_at(3);
        if !before.is_empty() {
            each(before);
        }
        each(triple);
        rest = after;
    }
    if !rest.is_empty() {
        each(rest);
    }
}
