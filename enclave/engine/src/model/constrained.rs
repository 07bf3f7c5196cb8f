//! Answers of a stated form from a model.

use zeroize::Zeroizing;

use super::Model;
use crate::constraint::{Constraint, RandomAnswer, SchemaError};

impl Model {
    /// Answers that are JSON objects. Takes a while the first time, so not on a thread that others wait for.
    ///
    /// # Errors
    /// None that happens.
    pub fn constrained_to_objects(&self) -> Result<Constraint, SchemaError> {
        Constraint::objects(self.token_table())
    }

    /// Answers that are JSON and valid for a JSON Schema. Takes some milliseconds, so not on a thread that
    /// others wait for.
    ///
    /// # Errors
    /// [`SchemaError`] says what is not supported.
    pub fn constrained_to(&self, schema: &str) -> Result<Constraint, SchemaError> {
        Constraint::of_schema(schema, self.token_table())
    }

    /// What every token stands for, by their numbers, and whether it ends a turn. For measuring and for
    /// comparing with others.
    pub fn tokens(&self) -> impl ExactSizeIterator<Item = (&[u8], bool)> {
        let tokenizer = self.tokenizer();
        (0..tokenizer.len()).map(|token| {
            let token = token as u32;
            (tokenizer.bytes_of(token), tokenizer.ends_turn(token))
        })
    }

    /// An answer of at most `tokens` tokens, each drawn from those that the constraint permits, without
    /// asking the model. For measuring and for testing constraints.
    pub fn random_answer(&self, constraint: &Constraint, seed: u64, tokens: usize) -> RandomAnswer {
        let mut matcher = constraint.matcher();
        let mut scores = vec![0.0; self.tokenizer().len()];
        let mut answer = Zeroizing::default();
        let mut state = seed;
        for _ in 0..tokens {
            for score in &mut scores {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *score = (state >> 40) as f32;
            }
            matcher.mask(&mut scores);
            let best = scores.iter().zip(0..).max_by(|a, b| a.0.total_cmp(b.0)).map_or(0, |(_, token)| token);
            if !matcher.accept(best) {
                return RandomAnswer::CutOff;
            }
            if self.tokenizer().ends_turn(best) {
                return RandomAnswer::Ended(answer);
            }
            answer.extend_from_slice(self.tokenizer().bytes_of(best));
        }
        RandomAnswer::CutOff
    }
}
