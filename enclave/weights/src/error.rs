//! The reasons why the enclave gets no weights.

use cleanroom_sealing::SealError;

/// Why the weights cannot be had. The words never repeat a byte of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeightsError {
    /// The model is larger than what there is room for. Nothing of it was read.
    #[error(
        "expected a model of at most {limit} bytes, the host's store announced {announced}; give the enclave more memory"
    )]
    TooLarge {
        /// Bytes that the store announced.
        announced: u64,
        /// Bytes that there is room for.
        limit: u64,
    },
    /// Sealed weights are due, and the store has plain ones.
    #[error("the release requires sealed weights, but the host's store has unsealed ones")]
    NotSealed,
    /// Plain weights are due, and the store has sealed ones.
    #[error(
        "the host's store has sealed weights, and neither the image's configuration nor a release says how they open"
    )]
    NotPlain,
    /// The sealed file is not what was sealed with the key.
    #[error("the sealed weights do not open: {0}")]
    Sealed(#[from] SealError),
    /// The store does not give what it is asked for: it stalls, hangs up, or answers another question.
    #[error(
        "the host's store failed {failures} times in a row to give a range of the model as it was asked for"
    )]
    Stalled {
        /// How often in a row.
        failures: u32,
    },
    /// The store says of the model what it did not say before.
    #[error("the model in the host's store changed during the transfer")]
    Changed,
}

impl WeightsError {
    /// The stable code of the reason.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "model-too-large",
            Self::NotSealed => "not-sealed",
            Self::NotPlain => "not-plain",
            Self::Sealed(error) => error.code(),
            Self::Stalled { .. } => "store-stalled",
            Self::Changed => "store-changed",
        }
    }

    /// Whether another attempt could find the store better.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        matches!(self, Self::Stalled { .. } | Self::Changed)
    }
}
