//! The tokenizer of a model file, byte-level BPE or `SentencePiece`: text to tokens, tokens to text.
//!
//! The two ways in are a security boundary. [`Tokenizer::encode_text`] never produces a control token, for
//! any text. Control tokens come only from [`Tokenizer::control`], which the chat template calls for the
//! characters that it wrote itself (see `template`).

#![deny(clippy::indexing_slicing)]

mod bpe;
mod bytes;
mod detokenizer;
mod pieces;
mod split;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::collections::HashMap;

use bpe::{Merger, Merges};
pub(crate) use detokenizer::Detokenizer;
use pieces::Pieces;
use split::Split;
use vocabulary::{Vocabulary, Writing};

use crate::{
    gguf::{Gguf, GgufError},
    scratch::Scratch,
};

/// Why the tokenizer in a file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says what it and its fields mean")]
pub enum TokenizerError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("metadata {key:?} is missing")]
    Missing { key: &'static str },
    #[error(
        "tokenizer.ggml.model {found:?} is not supported; supported are \"gpt2\" (byte-level BPE) and \"llama\" (SentencePiece)"
    )]
    Model { found: String },
    #[error(
        "tokenizer.ggml.pre {found:?} is not supported; supported are \"gpt-2\", \"smollm\", \"default\", \"llama-bpe\", \"falcon3\", \"nanochat\", \"dbrx\", \"qwen2\", \"tekken\" and \"gpt-4o\""
    )]
    Split { found: String },
    #[error("{tokens} tokens, but {types} token types")]
    TypeCount { tokens: usize, types: usize },
    #[error("token {id}: expected a token type from 1 to 6, found {found}")]
    TokenType { id: usize, found: i32 },
    #[error("token {id} repeats the text of token {first}")]
    DuplicateToken { id: usize, first: u32 },
    #[error("token {id} is empty or longer than {limit} bytes")]
    TokenLength { id: usize, limit: usize },
    #[error("{tokens} tokens, but {scores} scores")]
    ScoreCount { tokens: usize, scores: usize },
    #[error("the score of token {id} is not a finite number")]
    Score { id: usize },
    #[error("token {id} is neither in the byte alphabet of byte-level BPE nor a byte like <0x0A>")]
    TokenAlphabet { id: usize },
    #[error("no token stands for the byte {byte:#04x}")]
    MissingByte { byte: u8 },
    #[error("merge {index} does not name two tokens whose joined text is a token")]
    Merge { index: usize },
    #[error("{key} is {found}, but there are only {tokens} tokens")]
    TokenId { key: &'static str, found: u32, tokens: usize },
    #[error("the file names no token that ends a turn")]
    NoEndToken,
    #[error("tokenizer.ggml.add_eos_token is true, and the file names no tokenizer.ggml.eos_token_id")]
    NoTokenToAdd,
    #[error("metadata {key:?} is not understood, and leaving it out could change how text becomes tokens")]
    UnknownSetting { key: String },
    #[error("{key}: only {expected} is supported")]
    Unsupported { key: &'static str, expected: &'static str },
}

/// Texts of control tokens that end a turn, even if the file's own ids do not say so.
const END_TOKENS: [&str; 9] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<|eom_id|>",
    "<|return|>",
    "<|call|>",
];

/// Ends a message and not a turn where turns end with [`RETURN`] (gpt-oss).
const END_OF_MESSAGE: &str = "<|end|>";
const RETURN: &str = "<|return|>";

/// The tokenizer of one model.
pub(crate) struct Tokenizer {
    vocabulary: Vocabulary,
    method: Method,
    /// Control tokens by their first character, the longest text first.
    controls: HashMap<char, Vec<Control>>,
    end_tokens: Vec<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    trims: bool,
}

/// Control tokens of Phi 3 after which white space stays.
const NOT_TRIMMED: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// Keys under `tokenizer.ggml.` that are read here or do not affect tokenisation. Any other key is refused.
const KNOWN: [&str; 37] = [
    "model",
    "pre",
    "tokens",
    "token_type",
    "token_type_count",
    "scores",
    "merges",
    "bos_token_id",
    "eos_token_id",
    "eot_token_id",
    "eom_token_id",
    "unknown_token_id",
    "padding_token_id",
    "separator_token_id",
    "seperator_token_id",
    "mask_token_id",
    "cls_token_id",
    "add_bos_token",
    "add_eos_token",
    "add_sep_token",
    "add_space_prefix",
    "remove_extra_whitespaces",
    "precompiled_charsmap",
    "added_tokens",
    // Names of tokens for filling in the middle, which requests here do not ask for.
    "prefix_token_id",
    "suffix_token_id",
    "middle_token_id",
    "fim_pre_token_id",
    "fim_suf_token_id",
    "fim_mid_token_id",
    "fim_pad_token_id",
    "fim_rep_token_id",
    "fim_sep_token_id",
    "image_token_id",
    "audio_token_id",
    "video_token_id",
    "normalizer.lowercase",
];

/// Refuses settings that would change tokenisation and are not supported.
fn check_settings(file: &Gguf<'_>) -> Result<(), TokenizerError> {
    let unknown = file.metadata().find_map(|(key, _)| {
        let setting = key.strip_prefix("tokenizer.ggml.")?;
        (!KNOWN.contains(&setting)).then_some(key)
    });
    if let Some(key) = unknown {
        return Err(TokenizerError::UnknownSetting { key: key.into() });
    }
    const OFF: [&str; 3] = [
        "tokenizer.ggml.add_sep_token",
        "tokenizer.ggml.remove_extra_whitespaces",
        "tokenizer.ggml.normalizer.lowercase",
    ];
    for key in OFF {
        if file.bool(key)? == Some(true) {
            return Err(TokenizerError::Unsupported { key, expected: "false" });
        }
    }
    const MAP: &str = "tokenizer.ggml.precompiled_charsmap";
    if file.metadata().any(|(key, _)| key == MAP) {
        return Err(TokenizerError::Unsupported { key: MAP, expected: "a file without one" });
    }
    Ok(())
}

/// How text becomes tokens.
enum Method {
    BytePairs { merges: Merges, split: Split },
    SentencePiece(Pieces),
}

struct Control {
    text: String,
    token: u32,
}

impl Tokenizer {
    pub(crate) fn from_gguf(file: &Gguf<'_>) -> Result<Self, TokenizerError> {
        const MODEL: &str = "tokenizer.ggml.model";
        check_settings(file)?;
        let model = file.string(MODEL)?.ok_or(TokenizerError::Missing { key: MODEL })?;
        let (vocabulary, method) = match model {
            "gpt2" => {
                let split = Split::named(file.string("tokenizer.ggml.pre")?.unwrap_or("default"))?;
                let vocabulary = Vocabulary::from_gguf(file, Writing::ByteAlphabet)?;
                let merges = Merges::from_gguf(file, &vocabulary)?;
                (vocabulary, Method::BytePairs { merges, split })
            }
            "llama" => {
                let vocabulary = Vocabulary::from_gguf(file, Writing::Plain)?;
                let pieces = Pieces::from_gguf(file, &vocabulary)?;
                (vocabulary, Method::SentencePiece(pieces))
            }
            found => return Err(TokenizerError::Model { found: found.into() }),
        };
        let id = |key| token_id(file, key, &vocabulary);
        let bos = id("tokenizer.ggml.bos_token_id")?;
        let eos = id("tokenizer.ggml.eos_token_id")?;
        let ends = [eos, id("tokenizer.ggml.eot_token_id")?, id("tokenizer.ggml.eom_token_id")?];
        let has_messages = vocabulary.controls().any(|(text, _)| text == RETURN);
        let ends_turn = |text: &str| END_TOKENS.contains(&text) && !(has_messages && text == END_OF_MESSAGE);
        let named = vocabulary.controls().filter(|(text, _)| ends_turn(text)).map(|(_, token)| token);
        let mut end_tokens: Vec<u32> = ends.into_iter().flatten().chain(named).collect();
        end_tokens.sort_unstable();
        end_tokens.dedup();
        if end_tokens.is_empty() {
            return Err(TokenizerError::NoEndToken);
        }
        // Files without this setting are of a kind that always has it.
        let usual = !matches!(&method, Method::BytePairs { split, .. } if *split != Split::Llama3);
        let add_bos = file.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(usual);
        let add_eos = file.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        if add_eos && eos.is_none() {
            return Err(TokenizerError::NoTokenToAdd);
        }
        // Files do not say this of a token. The tokenizers of Phi 3 with SentencePiece have it.
        let trims = matches!(method, Method::SentencePiece(_))
            && file.string("general.architecture")? == Some("phi3");
        let controls = controls_by_first_character(&vocabulary);
        Ok(Self { vocabulary, method, controls, end_tokens, bos, eos, add_bos, add_eos, trims })
    }

    /// Number of tokens.
    pub(crate) fn len(&self) -> usize {
        self.vocabulary.len()
    }

    /// Bytes of the longest token: no text shorter than `n` times this can be refused for having more than
    /// `n` tokens.
    pub(crate) fn longest_token(&self) -> usize {
        self.vocabulary.longest()
    }

    /// Whether this token ends a turn.
    pub(crate) fn ends_turn(&self, token: u32) -> bool {
        self.end_tokens.binary_search(&token).is_ok()
    }

    /// Text of the token that begins a text, for the chat template.
    pub(crate) fn bos_text(&self) -> &str {
        self.bos.and_then(|token| self.vocabulary.text(token)).unwrap_or_default()
    }

    /// Text of the token that ends a turn, for the chat template.
    pub(crate) fn eos_text(&self) -> &str {
        self.eos.and_then(|token| self.vocabulary.text(token)).unwrap_or_default()
    }

    /// The token every prompt must begin with, if the model wants one.
    pub(crate) fn required_bos(&self) -> Option<u32> {
        self.bos.filter(|_| self.add_bos)
    }

    /// The token that a text ends with, if the model wants one: a text, and not a chat.
    pub(crate) fn required_eos(&self) -> Option<u32> {
        self.eos.filter(|_| self.add_eos)
    }

    /// Whether white space that a chat has after this control token is left out.
    pub(crate) fn is_trimmed_after(&self, control: u32) -> bool {
        self.trims && !NOT_TRIMMED.contains(&self.text_of(control))
    }

    /// Every character that occurs in a control token.
    pub(crate) fn control_alphabet(&self) -> impl Iterator<Item = char> {
        self.controls.values().flatten().flat_map(|control| control.text.chars())
    }

    /// The control token with exactly this text.
    pub(crate) fn control_named(&self, text: &str) -> Option<u32> {
        self.control(text).filter(|(_, length)| *length == text.len()).map(|(token, _)| token)
    }

    /// The longest control token that `text` begins with, and its length in bytes.
    pub(crate) fn control(&self, text: &str) -> Option<(u32, usize)> {
        let candidates = self.controls.get(&text.chars().next()?)?;
        let found = candidates.iter().find(|control| text.starts_with(&control.text))?;
        Some((found.token, found.text.len()))
    }

    /// Appends the tokens of `text`. Never a control token: the merges lead to normal tokens only, and of the
    /// user-defined ones only white space is looked for.
    pub(crate) fn encode_text(&self, text: &str, tokens: &mut Scratch<u32>) {
        match &self.method {
            Method::BytePairs { merges, split } => {
                let mut merger = Merger::new(merges, &self.vocabulary);
                split.each_word(text, &mut |word| {
                    let whole = self.vocabulary.normal(word.as_bytes()).filter(|_| split.whole_words_first());
                    match whole {
                        Some(token) => tokens.push(token),
                        None => merger.encode(word.as_bytes(), tokens),
                    }
                });
            }
            Method::SentencePiece(pieces) => pieces.encode(&self.vocabulary, text, tokens),
        }
    }

    /// The bytes a generated token stands for; none for a control token. A user-defined token stands for its
    /// text.
    pub(crate) fn bytes_of(&self, token: u32) -> &[u8] {
        self.vocabulary.bytes(token)
    }

    /// The text of a token of any kind, if it is whole characters.
    pub(crate) fn text_of(&self, token: u32) -> &str {
        self.vocabulary.text(token).unwrap_or_default()
    }

    /// The token of one byte, which every vocabulary has.
    pub(crate) fn single_byte(&self, byte: u8) -> u32 {
        self.vocabulary.single_byte(byte)
    }
}

fn token_id(
    file: &Gguf<'_>,
    key: &'static str,
    vocabulary: &Vocabulary,
) -> Result<Option<u32>, TokenizerError> {
    match file.u32(key)? {
        Some(found) if found as usize >= vocabulary.len() => {
            Err(TokenizerError::TokenId { key, found, tokens: vocabulary.len() })
        }
        id => Ok(id),
    }
}

fn controls_by_first_character(vocabulary: &Vocabulary) -> HashMap<char, Vec<Control>> {
    let mut controls: HashMap<char, Vec<Control>> = HashMap::new();
    for (text, token) in vocabulary.controls() {
        // White space stays itself in message contents, so a token of nothing else could be forged there.
        if let Some(first) = text.chars().next()
            && !text.chars().all(char::is_whitespace)
        {
            controls.entry(first).or_default().push(Control { text: text.into(), token });
        }
    }
    for group in controls.values_mut() {
        group.sort_by_key(|control| std::cmp::Reverse(control.text.len()));
    }
    controls
}
