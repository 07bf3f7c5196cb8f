//! How much an enclave has to do, as far as its host hears of it.

/// What an enclave that works says of its requests. There are no numbers on purpose: an enclave whose traffic is
/// shaped does not tell how many requests it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    feature = "control",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case")
)]
pub enum Load {
    /// No request.
    Idle,
    /// Some, and there is room for more.
    Busy,
    /// As many as there may be. A further one is refused.
    Full,
}

impl Load {
    /// Every value there is.
    pub const ALL: [Self; 3] = [Self::Idle, Self::Busy, Self::Full];

    /// With `taken` of `all` places taken.
    #[must_use]
    pub const fn of(taken: usize, all: usize) -> Self {
        match taken {
            0 => Self::Idle,
            taken if taken < all => Self::Busy,
            _ => Self::Full,
        }
    }

    /// The value's code in frames, from 0.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Idle => 0,
            Self::Busy => 1,
            Self::Full => 2,
        }
    }

    /// The value with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|load| load.code() == code)
    }
}
