//! How the next token is chosen.

/// Greedy, or random with a temperature, a nucleus and a seed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    temperature: f32,
    top_p: f32,
    seed: u64,
}

/// A sampling parameter out of its range.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// Temperature outside 0 to 2.
    #[error("temperature must be between 0 and 2, got {0}")]
    Temperature(f32),
    /// Nucleus outside 0 (exclusive) to 1.
    #[error("top_p must be above 0 and at most 1, got {0}")]
    TopP(f32),
}

impl Sampling {
    /// Always the most likely token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, top_p: 1.0, seed: 0 }
    }

    /// `temperature` 0 is greedy. The same seed gives the same answer, whatever else runs.
    ///
    /// # Errors
    /// [`SamplingError`] when a value is out of range or not a number.
    pub fn new(temperature: f32, top_p: f32, seed: u64) -> Result<Self, SamplingError> {
        if !(0.0..=2.0).contains(&temperature) {
            return Err(SamplingError::Temperature(temperature));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(SamplingError::TopP(top_p));
        }
        Ok(Self { temperature, top_p, seed })
    }
}
