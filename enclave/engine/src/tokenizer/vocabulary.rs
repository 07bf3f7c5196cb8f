//! The tokens of a model: their bytes, their kinds, and the way back from text to token.

use std::collections::{HashMap, hash_map::Entry};

use super::{TokenizerError, bytes::byte_of};
use crate::gguf::Gguf;

/// Longest token text; the longest in published vocabularies are runs of a few hundred spaces.
const MAX_TOKEN_BYTES: usize = 1024;

/// Stands for a space in the texts of `SentencePiece`'s tokens.
pub(super) const SPACE: char = '\u{2581}';

/// `tokenizer.ggml.token_type`, reduced to what the tokenizer must tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Text; merges lead here.
    Normal,
    /// One byte, for what no other token covers (`SentencePiece`).
    Byte,
    /// Written by chat templates only, and never part of an answer.
    Control,
    /// A mark like `<think>`: text in an answer, and in a prompt only where the chat template wrote it.
    UserDefined,
    /// Reserved; neither text nor template produces it.
    Unused,
}

/// How the texts of tokens are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writing {
    /// In the byte alphabet of byte-level BPE.
    ByteAlphabet,
    /// As text with [`SPACE`] for a space; bytes as `<0x0A>` (`SentencePiece`).
    Plain,
}

pub(super) struct Vocabulary {
    tokens: Vec<Token>,
    normal: HashMap<Box<[u8]>, u32>,
    /// User-defined tokens of nothing but white space, which are text wherever they stand (`SentencePiece`).
    white_space: HashMap<Box<[u8]>, u32>,
    /// The lengths of these, the longest first.
    white_space_lengths: Vec<usize>,
    single_bytes: [u32; 256],
    longest: usize,
}

struct Token {
    kind: Kind,
    text: Box<[u8]>,
}

impl Vocabulary {
    pub(super) fn from_gguf(file: &Gguf<'_>, writing: Writing) -> Result<Self, TokenizerError> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        const TYPES: &str = "tokenizer.ggml.token_type";
        let texts = file.strings(TOKENS)?.ok_or(TokenizerError::Missing { key: TOKENS })?;
        let types = file.i32s(TYPES)?.ok_or(TokenizerError::Missing { key: TYPES })?;
        if texts.len() != types.len() {
            return Err(TokenizerError::TypeCount { tokens: texts.len(), types: types.len() });
        }
        let mut tokens = Vec::with_capacity(texts.len());
        let mut normal = HashMap::with_capacity(texts.len());
        let (mut bytes, mut white_space) = (HashMap::new(), HashMap::new());
        for (id, (text, number)) in texts.iter().zip(types).enumerate() {
            let token = token(id, text, number, writing)?;
            if token.kind == Kind::Normal {
                match normal.entry(token.text.clone()) {
                    Entry::Vacant(slot) => slot.insert(id as u32),
                    Entry::Occupied(slot) => {
                        return Err(TokenizerError::DuplicateToken { id, first: *slot.get() });
                    }
                };
            }
            if let (Kind::Byte, [byte]) = (token.kind, &*token.text) {
                bytes.entry(*byte).or_insert(id as u32);
            }
            if token.kind == Kind::UserDefined && writing == Writing::Plain && is_white_space(&token.text) {
                white_space.entry(token.text.clone()).or_insert(id as u32);
            }
            tokens.push(token);
        }
        let mut single_bytes = [0; 256];
        for (byte, slot) in (0..=u8::MAX).zip(&mut single_bytes) {
            let found = match writing {
                Writing::ByteAlphabet => normal.get([byte].as_slice()).copied(),
                Writing::Plain => bytes.get(&byte).copied(),
            };
            *slot = found.ok_or(TokenizerError::MissingByte { byte })?;
        }
        let longest = tokens.iter().map(|token| token.text.len()).max().unwrap_or(0);
        let mut white_space_lengths: Vec<usize> = white_space.keys().map(|text| text.len()).collect();
        white_space_lengths.sort_unstable_by(|a, b| b.cmp(a));
        white_space_lengths.dedup();
        Ok(Self { tokens, normal, white_space, white_space_lengths, single_bytes, longest })
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// The normal token of exactly these bytes.
    pub(super) fn normal(&self, bytes: &[u8]) -> Option<u32> {
        self.normal.get(bytes).copied()
    }

    /// The longest run of white space that is a token of its own and that `text` begins with, and its bytes.
    pub(super) fn white_space(&self, text: &[u8]) -> Option<(u32, usize)> {
        let mut lengths = self.white_space_lengths.iter();
        lengths.find_map(|length| Some((*self.white_space.get(text.get(..*length)?)?, *length)))
    }

    pub(super) fn single_byte(&self, byte: u8) -> u32 {
        self.single_bytes.get(usize::from(byte)).copied().unwrap_or(0)
    }

    /// A token's contribution to an answer; empty unless the token is text.
    pub(super) fn bytes(&self, token: u32) -> &[u8] {
        match self.tokens.get(token as usize) {
            Some(Token { kind: Kind::Normal | Kind::Byte | Kind::UserDefined, text }) => text,
            _ => &[],
        }
    }

    /// The text of a token of any kind.
    pub(super) fn text(&self, token: u32) -> Option<&str> {
        self.tokens.get(token as usize).and_then(|token| std::str::from_utf8(&token.text).ok())
    }

    /// The tokens that only a chat template may write, and their texts.
    pub(super) fn controls(&self) -> impl Iterator<Item = (&str, u32)> {
        self.tokens
            .iter()
            .enumerate()
            .filter(|(_, token)| matches!(token.kind, Kind::Control | Kind::UserDefined))
            .filter_map(|(id, token)| Some((std::str::from_utf8(&token.text).ok()?, id as u32)))
    }
}

fn token(id: usize, text: &str, number: i32, writing: Writing) -> Result<Token, TokenizerError> {
    let kind = match (number, writing) {
        (1, _) | (6, Writing::ByteAlphabet) => Kind::Normal,
        (6, Writing::Plain) => Kind::Byte,
        (3, _) => Kind::Control,
        (4, _) => Kind::UserDefined,
        (2 | 5, _) => Kind::Unused,
        (found, _) => return Err(TokenizerError::TokenType { id, found }),
    };
    let text: Box<[u8]> = match (kind, writing) {
        (Kind::Normal, Writing::ByteAlphabet) => {
            text.chars().map(byte_of).collect::<Option<_>>().ok_or(TokenizerError::TokenAlphabet { id })?
        }
        (Kind::Normal | Kind::UserDefined, Writing::Plain) => text.replace(SPACE, " ").into_bytes().into(),
        (Kind::Byte, _) => [byte_named(text).ok_or(TokenizerError::TokenAlphabet { id })?].into(),
        (Kind::Control | Kind::UserDefined | Kind::Unused, _) => text.as_bytes().into(),
    };
    if text.is_empty() || text.len() > MAX_TOKEN_BYTES {
        return Err(TokenizerError::TokenLength { id, limit: MAX_TOKEN_BYTES });
    }
    Ok(Token { kind, text })
}

fn is_white_space(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| text.chars().all(char::is_whitespace))
}

/// The byte of a text like `<0x0A>`.
fn byte_named(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}
