//! The numbers that give a llama-type model its shape.

use super::ModelError;
use crate::gguf::Gguf;

/// Shape and constants of a model; every size is at least one and within its limit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Hyperparameters {
    pub(crate) context: usize,
    pub(crate) width: usize,
    pub(crate) layers: usize,
    pub(crate) feed_forward: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_width: usize,
    /// Numbers of each head that are rotated with the position.
    pub(crate) rope_width: usize,
    pub(crate) rope_base: f32,
    pub(crate) norm_epsilon: f32,
}

/// Keys that do not change what is computed here, or whose value is checked below. Any other `llama.` key would.
const KNOWN: [&str; 16] = [
    "llama.context_length",
    "llama.embedding_length",
    "llama.block_count",
    "llama.feed_forward_length",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.key_length",
    "llama.attention.value_length",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.rope.dimension_count",
    "llama.rope.freq_base",
    "llama.rope.scaling.type",
    "llama.vocab_size",
    "llama.expert_count",
    "llama.expert_used_count",
    "llama.attention.causal",
];

impl Hyperparameters {
    pub(super) fn from_gguf(file: &Gguf<'_>, vocabulary: usize) -> Result<Self, ModelError> {
        refuse_what_would_be_ignored(file, vocabulary)?;
        let width = required(file, "llama.embedding_length", 1..=1 << 16)?;
        let heads = required(file, "llama.attention.head_count", 1..=1 << 10)?;
        let kv_heads = optional(file, "llama.attention.head_count_kv", 1..=heads)?.unwrap_or(heads);
        let head_width =
            optional(file, "llama.attention.key_length", 8..=1 << 10)?.unwrap_or((width / heads).max(1));
        let value_width = optional(file, "llama.attention.value_length", 8..=1 << 10)?.unwrap_or(head_width);
        let rope_width = optional(file, "llama.rope.dimension_count", 2..=head_width)?.unwrap_or(head_width);
        let unsupported = |key, expected| Err(ModelError::Unsupported { key, expected });
        if heads % kv_heads != 0 {
            return unsupported("llama.attention.head_count", "a multiple of llama.attention.head_count_kv");
        }
        if head_width % 8 != 0 {
            return unsupported("llama.attention.key_length", "a multiple of 8");
        }
        if value_width != head_width {
            return unsupported("llama.attention.value_length", "the same as llama.attention.key_length");
        }
        if rope_width % 2 != 0 {
            return unsupported("llama.rope.dimension_count", "an even number");
        }
        Ok(Self {
            context: required(file, "llama.context_length", 2..=1 << 20)?,
            width,
            layers: required(file, "llama.block_count", 1..=1 << 10)?,
            feed_forward: required(file, "llama.feed_forward_length", 1..=1 << 20)?,
            heads,
            kv_heads,
            head_width,
            rope_width,
            rope_base: positive(file, "llama.rope.freq_base")?.unwrap_or(10_000.0),
            norm_epsilon: positive(file, "llama.attention.layer_norm_rms_epsilon")?
                .ok_or(ModelError::MissingKey { key: "llama.attention.layer_norm_rms_epsilon" })?,
        })
    }

    /// Bytes of the key-value cache of one sequence.
    pub(crate) fn cache_bytes(&self) -> u128 {
        let halves = [self.context, self.layers, 2, self.kv_heads, self.head_width];
        halves.iter().map(|factor| *factor as u128).product::<u128>() * 2
    }
}

/// A setting that is not understood would silently change the model's answers, so it is refused.
fn refuse_what_would_be_ignored(file: &Gguf<'_>, vocabulary: usize) -> Result<(), ModelError> {
    if let Some((key, _)) = file.metadata().find(|(key, _)| key.starts_with("llama.") && !KNOWN.contains(key))
    {
        return Err(ModelError::UnknownHyperparameter { key: key.into() });
    }
    let unsupported = |key, expected| Err(ModelError::Unsupported { key, expected });
    if file.string("llama.rope.scaling.type")?.is_some_and(|scaling| scaling != "none") {
        return unsupported("llama.rope.scaling.type", "none");
    }
    if file.u32("llama.expert_count")?.is_some_and(|count| count != 0) {
        return unsupported("llama.expert_count", "0 (mixtures of experts are not supported)");
    }
    if file.bool("llama.attention.causal")? == Some(false) {
        return unsupported("llama.attention.causal", "true");
    }
    if file.u32("llama.vocab_size")?.is_some_and(|size| size as usize != vocabulary) {
        return unsupported("llama.vocab_size", "the number of tokenizer.ggml.tokens");
    }
    Ok(())
}

fn required(
    file: &Gguf<'_>,
    key: &'static str,
    range: std::ops::RangeInclusive<usize>,
) -> Result<usize, ModelError> {
    optional(file, key, range)?.ok_or(ModelError::MissingKey { key })
}

fn optional(
    file: &Gguf<'_>,
    key: &'static str,
    range: std::ops::RangeInclusive<usize>,
) -> Result<Option<usize>, ModelError> {
    match file.u32(key)?.map(|found| found as usize) {
        Some(found) if !range.contains(&found) => {
            Err(ModelError::OutOfRange { key, found, least: *range.start(), most: *range.end() })
        }
        found => Ok(found),
    }
}

fn positive(file: &Gguf<'_>, key: &'static str) -> Result<Option<f32>, ModelError> {
    match file.f32(key)? {
        Some(found) if !(found.is_finite() && found > 0.0) => {
            Err(ModelError::Unsupported { key, expected: "a positive number" })
        }
        found => Ok(found),
    }
}
