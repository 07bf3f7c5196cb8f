//! The numbers that give a model its shape.

use super::{
    Architecture, ModelError,
    rope::{Rope, Scaling, Yarn},
};
use crate::gguf::Gguf;

/// Shape and constants of a model; every size is at least one and within its limit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Hyperparameters {
    pub(crate) context: usize,
    pub(crate) width: usize,
    pub(crate) layers: usize,
    /// Numbers between the two matrices of a feed-forward half, or of an expert.
    pub(crate) feed_forward: usize,
    /// `None` where a layer has one feed-forward half.
    pub(crate) experts: Option<ExpertCounts>,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_width: usize,
    /// Numbers of each head that are rotated with the position.
    pub(crate) rope_width: usize,
    pub(crate) rope: Rope,
    /// Of the layers with a window, if theirs is another.
    pub(crate) local_rope: Option<Rope>,
    /// The context of the model that this one was made of, if it was made longer. Else its own.
    pub(crate) original_context: usize,
    /// `None` where every layer sees everything.
    pub(crate) window: Option<Window>,
    /// Bound of the scores of attention, before they become weights.
    pub(crate) attention_cap: Option<f32>,
    /// Bound of the scores of the vocabulary.
    pub(crate) score_cap: Option<f32>,
    /// What embeddings are multiplied by.
    pub(crate) embedding_factor: f32,
    pub(crate) query_factor: QueryFactor,
    pub(crate) norm_epsilon: f32,
    /// `None` for a model that is not made for embeddings.
    pub(crate) pooling: Option<Pooling>,
}

/// Which layers see only the positions that are near, and how many: those before a token with its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) length: usize,
    /// One layer in so many sees everything: the last of them. 0 if none does.
    pub(crate) pattern: usize,
}

/// The experts of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExpertCounts {
    pub(crate) all: usize,
    /// Those that a token takes.
    pub(crate) used: usize,
}

/// What queries are multiplied by, beside the usual scale of one over the root of a head's width.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct QueryFactor {
    /// At every position.
    pub(crate) constant: f32,
    /// Grows with the logarithm of the position: `1 + growth · ln(1 + ⌊position / period⌋)`.
    pub(crate) growth: f32,
    pub(crate) period: usize,
}

impl QueryFactor {
    pub(crate) fn at(self, position: usize) -> f32 {
        if self.growth == 0.0 {
            return self.constant;
        }
        let turns = (1 + position / self.period.max(1)) as f32;
        self.constant * (1.0 + self.growth * turns.ln())
    }
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
const KNOWN: [&str; 25] = [
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
    "rope.scaling.attn_factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_log_multiplier",
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
        let context = keys.required("context_length", 2..=1 << 20)?;
        let layers = keys.required("block_count", 1..=1 << 10)?;
        let original_context =
            keys.optional("rope.scaling.original_context_length", 1..=1 << 20)?.unwrap_or(context);
        let rope = keys.rope(original_context)?;
        let window = keys.window()?;
        let experts = keys.experts()?;
        Ok(Self {
            context,
            width,
            layers,
            feed_forward: match experts {
                Some(_) => keys.required("expert_feed_forward_length", 1..=1 << 20)?,
                None => keys.required("feed_forward_length", 1..=1 << 20)?,
            },
            experts,
            heads,
            kv_heads,
            head_width,
            rope_width,
            rope,
            local_rope: keys.local_rope(rope, window)?,
            original_context,
            window,
            attention_cap: keys.cap("attn_logit_softcapping", 50.0)?,
            score_cap: keys.cap("final_logit_softcapping", 30.0)?,
            embedding_factor: if architecture.is_gemma() { (width as f32).sqrt() } else { 1.0 },
            query_factor: QueryFactor {
                constant: architecture.query_factor(layers, width / heads, head_width),
                growth: keys.not_negative("attention.temperature_scale")?.unwrap_or(0.0),
                period: original_context,
            },
            norm_epsilon: keys
                .positive(EPSILON)?
                .ok_or_else(|| ModelError::MissingKey { key: keys.name(EPSILON) })?,
            pooling: keys.pooling()?,
        })
    }

    /// How many positions a layer sees, a token's own included. `None` for all.
    pub(crate) fn window_of(&self, layer: usize) -> Option<usize> {
        self.window.filter(|window| window.is_of(layer)).map(|window| window.length)
    }

    /// Bytes of the key-value cache of one sequence.
    pub(crate) fn cache_bytes(&self) -> u128 {
        let halves = [self.context, self.layers, 2, self.kv_heads, self.head_width];
        halves.iter().map(|factor| *factor as u128).product::<u128>() * 2
    }
}

impl Window {
    fn is_of(self, layer: usize) -> bool {
        self.pattern == 0 || layer % self.pattern + 1 < self.pattern
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
        let is_known = |rest: &str| KNOWN.contains(&rest) || self.architecture.settings().contains(&rest);
        let unknown = self
            .file
            .metadata()
            .find(|(key, _)| key.strip_prefix(&prefix).is_some_and(|rest| !is_known(rest)));
        if let Some((key, _)) = unknown {
            return Err(ModelError::UnknownHyperparameter { key: key.into() });
        }
        let experts = self.file.u32(&self.name("expert_count"))?;
        if !self.architecture.has_experts() && experts.is_some_and(|count| count != 0) {
            return self.unsupported("expert_count", "0 (this architecture has no mixture of experts)");
        }
        if self.file.bool(&self.name("attention.causal"))? == Some(false) {
            return self.unsupported("attention.causal", "true");
        }
        if self.file.u32(&self.name("vocab_size"))?.is_some_and(|size| size as usize != vocabulary) {
            return self.unsupported("vocab_size", "the number of tokenizer.ggml.tokens");
        }
        Ok(())
    }

    /// The rotation of layers that see everything. `original` is the context before it was made longer.
    fn rope(&self, original: usize) -> Result<Rope, ModelError> {
        const TYPE: &str = "rope.scaling.type";
        const FACTOR: &str = "rope.scaling.factor";
        let factor = self.positive(FACTOR)?;
        let magnitude = self.positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
        let (scaling, magnitude) = match self.file.string(&self.name(TYPE))? {
            Some("none") => (Scaling::Linear(1.0), magnitude),
            // A factor without a type is of this one.
            None | Some("linear") => (Scaling::Linear(1.0 / factor.unwrap_or(1.0)), magnitude),
            // The factors are tensors.
            Some("longrope") if self.architecture == Architecture::Phi3 => match factor {
                None => (Scaling::Linear(1.0), magnitude),
                Some(_) => return self.unsupported(FACTOR, "a file of this rope.scaling.type without one"),
            },
            Some("yarn") => {
                self.number("rope.scaling.yarn_ext_factor", "1", |found| found == 1.0)?;
                let log_multiplier = self.not_negative("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0);
                let yarn = Yarn {
                    // The published settings of gpt-oss say so, and files do not.
                    is_cut_between_pairs: self.architecture != Architecture::GptOss,
                    factor: factor.ok_or_else(|| ModelError::MissingKey { key: self.name(FACTOR) })?,
                    original,
                    fast: self.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                    slow: self.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                };
                (Scaling::Yarn(yarn), magnitude * yarn.magnitude(log_multiplier))
            }
            Some(_) => return self.unsupported(TYPE, "none, linear, yarn or, of phi3, longrope"),
        };
        Ok(Rope { base: self.positive("rope.freq_base")?.unwrap_or(10_000.0), scaling, magnitude })
    }

    /// Layers of Gemma 3 that see a window were not made for a longer context.
    fn local_rope(&self, rope: Rope, window: Option<Window>) -> Result<Option<Rope>, ModelError> {
        let base = self.positive("rope.freq_base_swa")?;
        Ok(match (self.architecture, window) {
            (_, None) => None,
            (Architecture::Gemma3, _) => {
                let base = base.unwrap_or(10_000.0);
                Some(Rope { base, scaling: Scaling::Linear(1.0), magnitude: 1.0 })
            }
            _ => base.map(|base| Rope { base, ..rope }),
        })
    }

    fn experts(&self) -> Result<Option<ExpertCounts>, ModelError> {
        if !self.architecture.has_experts() {
            return Ok(None);
        }
        let all = self.required("expert_count", 1..=512)?;
        Ok(Some(ExpertCounts { all, used: self.required("expert_used_count", 1..=all)? }))
    }

    fn window(&self) -> Result<Option<Window>, ModelError> {
        const LONGEST: usize = 1 << 30;
        let usual = match self.architecture {
            Architecture::Gemma2 => Window { length: 4096, pattern: 2 },
            Architecture::Gemma3 => Window { length: 0, pattern: 6 },
            Architecture::GptOss => Window { length: 0, pattern: 2 },
            _ => Window { length: 0, pattern: 0 },
        };
        let length = self.optional("attention.sliding_window", 0..=LONGEST)?.unwrap_or(usual.length);
        let pattern =
            self.optional("attention.sliding_window_pattern", 0..=1 << 10)?.unwrap_or(usual.pattern);
        Ok((length > 0).then_some(Window { length, pattern }))
    }

    /// A bound of scores. Files of Gemma 2 that do not say it have the `usual` one.
    fn cap(&self, key: &str, usual: f32) -> Result<Option<f32>, ModelError> {
        let usual = (self.architecture == Architecture::Gemma2).then_some(usual);
        Ok(self.positive(key)?.or(usual))
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
        self.number(key, "a positive number", |found| found > 0.0)
    }

    fn not_negative(&self, key: &str) -> Result<Option<f32>, ModelError> {
        self.number(key, "a number that is not negative", |found| found >= 0.0)
    }

    /// A finite number of which `is_right` holds.
    fn number(
        &self,
        key: &str,
        expected: &'static str,
        is_right: impl Fn(f32) -> bool,
    ) -> Result<Option<f32>, ModelError> {
        match self.file.f32(&self.name(key))? {
            Some(found) if !(found.is_finite() && is_right(found)) => self.unsupported(key, expected),
            found => Ok(found),
        }
    }
}
