//! The purpose of a key. Every derived, committed or attested value contains it.

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To open the sealed weights of one model.
    Weights,
}

impl Purpose {
    /// The word that stands for it wherever something is hashed, and in files.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Weights => "weights",
        }
    }
}
