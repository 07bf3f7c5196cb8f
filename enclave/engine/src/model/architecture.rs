//! The kinds of models, and where they differ.

use super::ModelError;

/// What `general.architecture` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Architecture {
    /// Llama 1 to 3, Mistral, `SmolLM` and others of the same shape.
    Llama,
    /// Biases on queries, keys and values.
    Qwen2,
    /// Norms on the queries and keys of each head.
    Qwen3,
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
    pub(super) const ALL: [Architecture; 3] = [Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3];

    pub(super) fn named(name: &str) -> Result<Self, ModelError> {
        let found = Self::ALL.into_iter().find(|architecture| architecture.name() == name);
        found.ok_or_else(|| ModelError::Architecture { found: name.into() })
    }

    /// As the file has it, also before the names of its metadata.
    pub(super) fn name(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
        }
    }

    /// Whether queries, keys and values have biases. A file of the llama kind with biases has tensors that
    /// nobody asks for.
    pub(super) fn has_biases(self) -> bool {
        self == Architecture::Qwen2
    }

    /// Whether the queries and keys of each head are normed before they are turned.
    pub(super) fn has_head_norms(self) -> bool {
        self == Architecture::Qwen3
    }

    /// Files of the llama kind have their rows reordered so that neighbours are turned together.
    pub(crate) fn pairs(self) -> Pairs {
        match self {
            Architecture::Llama => Pairs::Neighbours,
            Architecture::Qwen2 | Architecture::Qwen3 => Pairs::Halves,
        }
    }
}
