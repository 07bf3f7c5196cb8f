//! One vector for a whole text, from models that are made for it.

use crate::{model::Pooling, scratch::Scratch};

/// The direction of a text: as many numbers as the model is wide, of length 1. It tells much of the text, so
/// it is erased like it.
pub struct Embedding(Scratch<f32>);

impl Embedding {
    /// The numbers.
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }
}

/// Makes an embedding of states as they come.
pub(crate) struct Pooler {
    pooling: Pooling,
    sum: Scratch<f32>,
    state: Scratch<f32>,
}

impl Pooler {
    pub(crate) fn new(pooling: Pooling, width: usize) -> Self {
        Self { pooling, sum: Scratch::filled(width), state: Scratch::filled(width) }
    }

    /// Takes the state of the next token, which `fill` writes.
    pub(crate) fn add(&mut self, fill: impl FnOnce(&mut [f32])) {
        fill(&mut self.state);
        match self.pooling {
            Pooling::Mean => self.sum.iter_mut().zip(&*self.state).for_each(|(sum, number)| *sum += number),
            Pooling::Last => self.sum.copy_from_slice(&self.state),
        }
    }

    /// Normalised, so that it does not matter that a sum is no mean. What has no direction stays as it is.
    pub(crate) fn finish(mut self) -> Embedding {
        let length = self.sum.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
        if length.is_normal() {
            self.sum.iter_mut().for_each(|number| *number = (f64::from(*number) / length) as f32);
        }
        Embedding(std::mem::take(&mut self.sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_summed_or_the_last_is_taken_and_the_length_is_one() {
        let pooled = |pooling| {
            let mut pooler = Pooler::new(pooling, 2);
            for state in [[1.0, 0.0], [2.0, 4.0]] {
                pooler.add(|place| place.copy_from_slice(&state));
            }
            pooler.finish().as_slice().to_vec()
        };
        assert_eq!(pooled(Pooling::Mean), [0.6, 0.8]);
        let last = pooled(Pooling::Last);
        assert!((last[0] - 0.2_f32.sqrt()).abs() < 1e-6 && (last[1] - 0.8_f32.sqrt()).abs() < 1e-6);
        assert_eq!(Pooler::new(Pooling::Mean, 3).finish().as_slice(), [0.0; 3]);
    }
}
