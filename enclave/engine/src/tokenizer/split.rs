//! Cutting text into the words that merges never cross, as the regular expressions of `tokenizer.ggml.pre`
//! do.

use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

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
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
    /// ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    Llama3,
    /// As [`Split::Llama3`], but words are put together like any other.
    Dbrx,
    /// As [`Split::Llama3`], with `\p{N}{1,2}`.
    Nanochat,
    /// As [`Split::Llama3`], with every `\p{N}` alone.
    Qwen2,
    /// `[^\r\n\p{L}\p{N}]?U*L+|[^\r\n\p{L}\p{N}]?U+L*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|
    /// \s+(?!\S)|\s+`, where `U` is `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]` and `L` is
    /// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`.
    Tekken,
    /// As [`Split::Tekken`], with `(?i:'s|'t|'re|'ve|'m|'ll|'d)?` at the end of words of letters, and up to three
    /// `\p{N}` together.
    Gpt4o,
}

impl Split {
    pub(super) fn named(name: &str) -> Result<Self, TokenizerError> {
        match name {
            "gpt-2" => Ok(Split::Gpt2),
            "smollm" => Ok(Split::Smollm),
            "default" => Ok(Split::Default),
            // Falcon 3 cuts words as Llama 3 does.
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" => Ok(Split::Llama3),
            // Phi 4.
            "dbrx" => Ok(Split::Dbrx),
            "gpt-4o" => Ok(Split::Gpt4o),
            "nanochat" => Ok(Split::Nanochat),
            "qwen2" | "deepseek-r1-qwen" => Ok(Split::Qwen2),
            "tekken" => Ok(Split::Tekken),
            _ => Err(TokenizerError::Split { found: name.into() }),
        }
    }

    /// Whether a word that is itself a token becomes that token without any merges.
    pub(super) fn whole_words_first(self) -> bool {
        matches!(self, Split::Llama3 | Split::Nanochat | Split::Tekken)
    }

    /// Calls `each` for every word, in order. The words joined are the text.
    pub(super) fn each_word<'t>(self, text: &'t str, each: &mut dyn FnMut(&'t str)) {
        match self {
            Split::Gpt2 => gpt2(text, each),
            Split::Llama3 | Split::Dbrx => words(text, |rest| llama3_word(rest, 3), each),
            Split::Nanochat => words(text, |rest| llama3_word(rest, 2), each),
            Split::Qwen2 => words(text, |rest| llama3_word(rest, 1), each),
            Split::Tekken => {
                words(text, |rest| cased_word(rest).unwrap_or_else(|| after_letters(rest, 1)), each);
            }
            Split::Gpt4o => words(text, gpt4o_word, each),
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
    words(text, gpt2_word, each);
}

/// Cuts word after word, each of the length that `word` says for the rest of the text.
fn words<'t>(text: &'t str, word: impl Fn(&str) -> usize, each: &mut dyn FnMut(&'t str)) {
    let mut rest = text;
    while !rest.is_empty() {
        let (word, after) = rest.split_at(word(rest));
        each(word);
        rest = after;
    }
}

/// Bytes of the first word of a text that is not empty.
fn gpt2_word(text: &str) -> usize {
    if let Some(length) = contraction(text, |a, b| a == b) {
        return length;
    }
    let mut characters = text.chars();
    let first = characters.next().unwrap_or(' ');
    let after_first = characters.as_str();
    let second = characters.next().map(class);
    match (first, class(first), second) {
        (' ', _, Some(second)) if second != Class::Space => 1 + run(after_first, second),
        (_, Class::Space, _) => spaces(text),
        (_, class, _) => run(text, class),
    }
}

/// Bytes of the first word of a text that is not empty; numbers have at most `digits` digits.
fn llama3_word(text: &str, digits: usize) -> usize {
    if let Some(length) = contraction(text, str::eq_ignore_ascii_case) {
        return length;
    }
    let mut characters = text.chars();
    let first = characters.next().unwrap_or(' ');
    let after_first = characters.as_str();
    let second = characters.next().map(class);
    match (class(first), second) {
        (Class::Letter, _) => run(text, Class::Letter),
        (_, Some(Class::Letter)) if may_lead(first) => first.len_utf8() + run(after_first, Class::Letter),
        _ => other_word(text, digits, is_line_end),
    }
}

/// Bytes of the first word of a text that is not empty.
fn gpt4o_word(text: &str) -> usize {
    let Some(word) = cased_word(text) else { return after_letters(text, 3) };
    word + text.get(word..).and_then(|rest| contraction(rest, str::eq_ignore_ascii_case)).unwrap_or(0)
}

/// Bytes of the first word of a text that begins with no word of letters; numbers have at most `digits` digits.
fn after_letters(text: &str, digits: usize) -> usize {
    other_word(text, digits, |character| is_line_end(character) || character == '/')
}

/// Bytes of the word of letters that a text begins with: large ones and then small ones.
fn cased_word(text: &str) -> Option<usize> {
    let leader = text.chars().next().filter(|first| may_lead(*first)).map_or(0, char::len_utf8);
    let rest = text.get(leader..).unwrap_or_default();
    // A mark may lead a word or be its beginning, so the text is tried with it and without.
    let ends_small = ends_small(rest).map(|length| leader + length).or_else(|| ends_small(text));
    let large = || Some(leader + run_of(rest, is_large)).filter(|length| *length > leader);
    ends_small.or_else(large)
}

/// `U*L+` of [`Split::Tekken`]: bytes of the letters that `text` begins with, if the last of them can be small.
fn ends_small(text: &str) -> Option<usize> {
    let large = run_of(text, is_large);
    let (begin, rest) = text.split_at(large);
    let small = run_of(rest, is_small);
    if small > 0 {
        return Some(large + small);
    }
    // What can be either is the end where no small letter follows.
    begin.char_indices().rfind(|(_, character)| is_small(*character)).map(|(at, last)| at + last.len_utf8())
}

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
fn is_large(character: char) -> bool {
    use GeneralCategory::{TitlecaseLetter, UppercaseLetter};
    matches!(character.general_category(), UppercaseLetter | TitlecaseLetter) || has_no_case(character)
}

/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
fn is_small(character: char) -> bool {
    character.general_category() == GeneralCategory::LowercaseLetter || has_no_case(character)
}

/// `[\p{Lm}\p{Lo}\p{M}]`
fn has_no_case(character: char) -> bool {
    use GeneralCategory::{EnclosingMark, ModifierLetter, NonspacingMark, OtherLetter, SpacingMark};
    matches!(
        character.general_category(),
        ModifierLetter | OtherLetter | NonspacingMark | SpacingMark | EnclosingMark
    )
}

/// `[^\r\n\p{L}\p{N}]`
fn may_lead(character: char) -> bool {
    !is_line_end(character) && !matches!(class(character), Class::Letter | Class::Number)
}

/// Bytes of the first word of a text that begins with no word of letters. It has up to `digits` digits; or
/// characters that are neither letters, digits nor spaces, and after them what `may_end` them; or spaces.
fn other_word(text: &str, digits: usize, may_end: impl Fn(char) -> bool) -> usize {
    let mut characters = text.chars();
    let first = characters.next().unwrap_or(' ');
    let second = characters.next().map(class);
    match (first, class(first), second) {
        (_, Class::Number, _) => text
            .char_indices()
            .enumerate()
            .find(|(count, (_, character))| *count == digits || class(*character) != Class::Number)
            .map_or(text.len(), |(_, (at, _))| at),
        (_, Class::Other, _) | (' ', _, Some(Class::Other)) => {
            let start = if first == ' ' { 1 } else { 0 };
            let others = start + text.get(start..).map_or(0, |rest| run(rest, Class::Other));
            others + text.get(others..).map_or(0, |rest| run_of(rest, may_end))
        }
        (first, Class::Letter, _) => first.len_utf8(),
        (_, Class::Space, _) => {
            let run = text.get(..run(text, Class::Space)).unwrap_or_default();
            run.rfind(is_line_end).map_or_else(|| spaces(text), |last| last + 1)
        }
    }
}

/// `\s+(?!\S)|\s+`: the last space before a word is left to the word, unless it is alone.
fn spaces(text: &str) -> usize {
    let spaces = run(text, Class::Space);
    let last = text.get(..spaces).and_then(|run| run.chars().next_back()).map_or(0, char::len_utf8);
    if spaces == text.len() || spaces == last { spaces } else { spaces - last }
}

fn is_line_end(character: char) -> bool {
    matches!(character, '\r' | '\n')
}

/// Bytes of the longest beginning of `text` of one class.
fn run(text: &str, of: Class) -> usize {
    run_of(text, |character| class(character) == of)
}

/// Bytes of the longest beginning of `text` of characters that `matches`.
fn run_of(text: &str, matches: impl Fn(char) -> bool) -> usize {
    text.find(|character| !matches(character)).unwrap_or(text.len())
}

fn contraction(text: &str, equal: impl Fn(&str, &str) -> bool) -> Option<usize> {
    let after = text.strip_prefix('\'')?;
    let ends = ["s", "t", "re", "ve", "m", "ll", "d"];
    let found = ends.iter().find(|end| after.get(..end.len()).is_some_and(|beginning| equal(beginning, end)));
    found.map(|end| 1 + end.len())
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
