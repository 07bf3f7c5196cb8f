//! The kinds of models, and where they differ.

use super::ModelError;

/// What `general.architecture` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Architecture {
    /// Llama 1 to 3, Mistral, `SmolLM` and others of the same shape.
    Llama,
    /// Mistral since Ministral 3: queries grow with the position.
    Mistral3,
    /// Biases on queries, keys and values.
    Qwen2,
    /// Norms on the queries and keys of each head.
    Qwen3,
    /// The same with a mixture of experts.
    Qwen3Moe,
    /// Every second layer sees a window; soft caps; norms before and after each half of a layer.
    Gemma2,
    /// Five of six layers see a window and have a rotation of their own; norms as in Gemma 2, and on the queries
    /// and keys of each head.
    Gemma3,
    /// Phi 3 and Phi 4: queries, keys and values are one tensor, and so are gate and up.
    Phi3,
    /// gpt-oss: a mixture of experts, biases everywhere, a window on every second layer, and scores of attention
    /// that belong to no position.
    GptOss,
}

/// What the gate of a feed-forward half does to its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// `x · σ(x)`.
    Silu,
    /// `x · Φ(x)` in its tanh form.
    Gelu,
    /// `x · σ(1.702 · x)` of bounded numbers, of which the other factor is one more than it says.
    Clamped,
}

/// Which numbers of a head are turned together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pairs {
    /// Neighbours: the first with the second, and so on.
    Neighbours,
    /// The first of the first half with the first of the second half, and so on.
    Halves,
}

impl Architecture {
    pub(super) const ALL: [Architecture; 9] = [
        Architecture::Llama,
        Architecture::Mistral3,
        Architecture::Qwen2,
        Architecture::Qwen3,
        Architecture::Qwen3Moe,
        Architecture::Gemma2,
        Architecture::Gemma3,
        Architecture::Phi3,
        Architecture::GptOss,
    ];

    pub(super) fn named(name: &str) -> Result<Self, ModelError> {
        let found = Self::ALL.into_iter().find(|architecture| architecture.name() == name);
        found.ok_or_else(|| ModelError::Architecture { found: name.into() })
    }

    /// As the file has it, also before the names of its metadata.
    pub(super) fn name(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Mistral3 => "mistral3",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
            Architecture::Qwen3Moe => "qwen3moe",
            Architecture::Gemma2 => "gemma2",
            Architecture::Gemma3 => "gemma3",
            Architecture::Phi3 => "phi3",
            Architecture::GptOss => "gpt-oss",
        }
    }

    /// Settings that files of this kind have beside those of all kinds, after the architecture's name.
    pub(super) fn settings(self) -> &'static [&'static str] {
        match self {
            Architecture::Qwen2 | Architecture::Qwen3 => &[],
            Architecture::Llama | Architecture::Phi3 => &["attention.sliding_window"],
            Architecture::Mistral3 => &["attention.temperature_scale"],
            Architecture::Qwen3Moe => &["expert_feed_forward_length"],
            Architecture::GptOss => &[
                "expert_feed_forward_length",
                "attention.sliding_window",
                "attention.sliding_window_pattern",
            ],
            Architecture::Gemma2 | Architecture::Gemma3 => &[
                "attention.sliding_window",
                "attention.sliding_window_pattern",
                "attn_logit_softcapping",
                "final_logit_softcapping",
                "rope.freq_base_swa",
            ],
        }
    }

    /// Whether queries, keys and values have biases. A file of the llama kind with biases has tensors that
    /// nobody asks for.
    pub(super) fn has_biases(self) -> bool {
        matches!(self, Architecture::Qwen2 | Architecture::GptOss)
    }

    /// Whether there are biases on everything else, too, and a sink for each head.
    pub(super) fn is_gpt_oss(self) -> bool {
        self == Architecture::GptOss
    }

    /// Whether a layer has many feed-forward halves, of which each token takes some.
    pub(super) fn has_experts(self) -> bool {
        matches!(self, Architecture::Qwen3Moe | Architecture::GptOss)
    }

    /// Whether the queries and keys of each head are normed before they are turned.
    pub(super) fn has_head_norms(self) -> bool {
        matches!(self, Architecture::Qwen3 | Architecture::Qwen3Moe | Architecture::Gemma3)
    }

    /// Whether what a half of a layer adds to the stream is normed, and embeddings are multiplied by the square
    /// root of the width.
    pub(super) fn is_gemma(self) -> bool {
        matches!(self, Architecture::Gemma2 | Architecture::Gemma3)
    }

    /// Whether the tensors of queries, keys and values are one, and those of gate and up are.
    pub(super) fn has_joined_tensors(self) -> bool {
        self == Architecture::Phi3
    }

    /// What queries are multiplied by so that the scale is not one over the root of a head's width. Files do not say
    /// it: the largest models of the Gemma kinds, known by their layers, take the stream's `share` of a head.
    pub(super) fn query_factor(self, layers: usize, share: usize, head_width: usize) -> f32 {
        let is_largest = matches!((self, layers), (Architecture::Gemma2, 46) | (Architecture::Gemma3, 62));
        if is_largest { (head_width as f32 / share.max(1) as f32).sqrt() } else { 1.0 }
    }

    pub(crate) fn gate(self) -> Gate {
        match self {
            Architecture::Gemma2 | Architecture::Gemma3 => Gate::Gelu,
            Architecture::GptOss => Gate::Clamped,
            _ => Gate::Silu,
        }
    }

    /// Files of these kinds have their rows reordered so that neighbours are turned together.
    pub(crate) fn pairs(self) -> Pairs {
        match self {
            Architecture::Llama | Architecture::Mistral3 => Pairs::Neighbours,
            Architecture::Qwen2
            | Architecture::Qwen3
            | Architecture::Qwen3Moe
            | Architecture::Gemma2
            | Architecture::Gemma3
            | Architecture::Phi3
            | Architecture::GptOss => Pairs::Halves,
        }
    }
}
