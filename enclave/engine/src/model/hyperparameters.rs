//! The numbers that give a model its shape.

use super::{Architecture, ModelError};
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
    /// What a position counts for in the rotation: below 1 where a longer context was made of a shorter one.
    pub(crate) rope_step: f32,
    pub(crate) norm_epsilon: f32,
    /// `None` for a model that is not made for embeddings.
    pub(crate) pooling: Option<Pooling>,
}

/// How the last states of a text become one embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// The mean of all tokens'.
    Mean,
    /// The last token's.
    Last,
}

/// Keys, after the architecture's name, that do not change what is computed here, or whose value is checked
/// below. Any other would.
const KNOWN: [&str; 19] = [
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.causal",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "vocab_size",
    "expert_count",
    "expert_used_count",
    "pooling_type",
];

impl Hyperparameters {
    pub(super) fn from_gguf(
        file: &Gguf<'_>,
        architecture: Architecture,
        vocabulary: usize,
    ) -> Result<Self, ModelError> {
        let keys = Keys { file, architecture };
        keys.refuse_what_would_be_ignored(vocabulary)?;
        let width = keys.required("embedding_length", 1..=1 << 16)?;
        let heads = keys.required("attention.head_count", 1..=1 << 10)?;
        let kv_heads = keys.optional("attention.head_count_kv", 1..=heads)?.unwrap_or(heads);
        let head_width =
            keys.optional("attention.key_length", 8..=1 << 10)?.unwrap_or((width / heads).max(1));
        let value_width = keys.optional("attention.value_length", 8..=1 << 10)?.unwrap_or(head_width);
        let rope_width = keys.optional("rope.dimension_count", 2..=head_width)?.unwrap_or(head_width);
        if heads % kv_heads != 0 {
            return keys.unsupported("attention.head_count", "a multiple of attention.head_count_kv");
        }
        if head_width % 8 != 0 {
            return keys.unsupported("attention.key_length", "a multiple of 8");
        }
        if value_width != head_width {
            return keys.unsupported("attention.value_length", "the same as attention.key_length");
        }
        if rope_width % 2 != 0 {
            return keys.unsupported("rope.dimension_count", "an even number");
        }
        const EPSILON: &str = "attention.layer_norm_rms_epsilon";
        Ok(Self {
            context: keys.required("context_length", 2..=1 << 20)?,
            width,
            layers: keys.required("block_count", 1..=1 << 10)?,
            feed_forward: keys.required("feed_forward_length", 1..=1 << 20)?,
            heads,
            kv_heads,
            head_width,
            rope_width,
            rope_base: keys.positive("rope.freq_base")?.unwrap_or(10_000.0),
            rope_step: keys.rope_step()?,
            norm_epsilon: keys
                .positive(EPSILON)?
                .ok_or_else(|| ModelError::MissingKey { key: keys.name(EPSILON) })?,
            pooling: keys.pooling()?,
        })
    }

    /// Bytes of the key-value cache of one sequence.
    pub(crate) fn cache_bytes(&self) -> u128 {
        let halves = [self.context, self.layers, 2, self.kv_heads, self.head_width];
        halves.iter().map(|factor| *factor as u128).product::<u128>() * 2
    }
}

/// The metadata of one architecture.
struct Keys<'f, 'a> {
    file: &'f Gguf<'a>,
    architecture: Architecture,
}

impl Keys<'_, '_> {
    /// A setting that is not understood would silently change the model's answers, so it is refused.
    fn refuse_what_would_be_ignored(&self, vocabulary: usize) -> Result<(), ModelError> {
        let prefix = self.name("");
        let unknown = self
            .file
            .metadata()
            .find(|(key, _)| key.strip_prefix(&prefix).is_some_and(|rest| !KNOWN.contains(&rest)));
        if let Some((key, _)) = unknown {
            return Err(ModelError::UnknownHyperparameter { key: key.into() });
        }
        if self.file.u32(&self.name("expert_count"))?.is_some_and(|count| count != 0) {
            return self.unsupported("expert_count", "0 (mixtures of experts are not supported)");
        }
        if self.file.bool(&self.name("attention.causal"))? == Some(false) {
            return self.unsupported("attention.causal", "true");
        }
        if self.file.u32(&self.name("vocab_size"))?.is_some_and(|size| size as usize != vocabulary) {
            return self.unsupported("vocab_size", "the number of tokenizer.ggml.tokens");
        }
        Ok(())
    }

    /// Linear scaling stretches the positions; the other kinds are not supported.
    fn rope_step(&self) -> Result<f32, ModelError> {
        const TYPE: &str = "rope.scaling.type";
        let factor = self.positive("rope.scaling.factor")?;
        match self.file.string(&self.name(TYPE))? {
            Some("none") => Ok(1.0),
            // A factor without a type is of this one.
            None | Some("linear") => Ok(1.0 / factor.unwrap_or(1.0)),
            Some(_) => self.unsupported(TYPE, "none or linear"),
        }
    }

    /// The numbers are llama.cpp's.
    fn pooling(&self) -> Result<Option<Pooling>, ModelError> {
        const TYPE: &str = "pooling_type";
        match self.file.u32(&self.name(TYPE))? {
            None | Some(0) => Ok(None),
            Some(1) => Ok(Some(Pooling::Mean)),
            Some(3) => Ok(Some(Pooling::Last)),
            Some(_) => self.unsupported(TYPE, "0 (none), 1 (mean) or 3 (last)"),
        }
    }

    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture.name())
    }

    fn unsupported<T>(&self, key: &str, expected: &'static str) -> Result<T, ModelError> {
        Err(ModelError::Unsupported { key: self.name(key), expected })
    }

    fn required(&self, key: &str, range: std::ops::RangeInclusive<usize>) -> Result<usize, ModelError> {
        self.optional(key, range)?.ok_or_else(|| ModelError::MissingKey { key: self.name(key) })
    }

    fn optional(
        &self,
        key: &str,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<Option<usize>, ModelError> {
        let key = self.name(key);
        match self.file.u32(&key)?.map(|found| found as usize) {
            Some(found) if !range.contains(&found) => {
                Err(ModelError::OutOfRange { key, found, least: *range.start(), most: *range.end() })
            }
            found => Ok(found),
        }
    }

    fn positive(&self, key: &str) -> Result<Option<f32>, ModelError> {
        match self.file.f32(&self.name(key))? {
            Some(found) if !(found.is_finite() && found > 0.0) => self.unsupported(key, "a positive number"),
            found => Ok(found),
        }
    }
}
