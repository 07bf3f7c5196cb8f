//! Probabilities of an answer's tokens and of their likeliest alternatives.

use crate::{scratch::Scratch, tokenizer::Tokenizer};

/// Most alternatives for one token.
pub const MAX_TOP_LOGPROBS: u8 = 20;

/// One token of an answer, with its alternatives.
pub struct ScoredToken {
    /// The token that was chosen.
    pub chosen: TokenScore,
    /// The likeliest tokens, the likeliest first.
    pub top: Vec<TokenScore>,
}

/// A token, and the natural logarithm of its probability in the model's own distribution. Temperature,
/// penalties, biases, constraints and sampling limits come later and do not enter.
pub struct TokenScore {
    /// The logarithm in four bytes, little-endian, followed by the text. Both are in one erased allocation,
    /// because a move of the structure leaves a copy of its fields behind.
    told: Scratch<u8>,
    is_text: bool,
}

/// Bytes of a logarithm.
const LOGPROB: usize = size_of::<f32>();

impl TokenScore {
    /// The token's bytes, which need not be whole characters. A control token has its name here.
    pub fn bytes(&self) -> &[u8] {
        self.told.get(LOGPROB..).unwrap_or_default()
    }

    /// Whether these bytes would appear in the answer.
    pub fn is_text(&self) -> bool {
        self.is_text
    }

    /// At most 0. Minus infinity or NaN if the model's scores are not finite.
    pub fn logprob(&self) -> f32 {
        self.told.first_chunk().map_or(f32::NEG_INFINITY, |bytes| f32::from_le_bytes(*bytes))
    }
}

impl ScoredToken {
    /// `scores` are the model's scores of all tokens.
    pub(crate) fn new(tokenizer: &Tokenizer, scores: &[f32], token: u32, count: u8) -> Self {
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = scores.iter().map(|score| f64::from(score - largest).exp()).sum();
        let scored = |token: u32, score: f32| {
            let (bytes, is_text) = match tokenizer.bytes_of(token) {
                [] => (tokenizer.text_of(token).as_bytes(), false),
                bytes => (bytes, true),
            };
            let logprob = (f64::from(score - largest) - sum.ln()) as f32;
            let mut told = Scratch::with_capacity(LOGPROB + bytes.len());
            told.extend_from_slice(&logprob.to_le_bytes());
            told.extend_from_slice(bytes);
            TokenScore { told, is_text }
        };
        let top = likeliest(scores, count.min(MAX_TOP_LOGPROBS).into());
        Self {
            chosen: scored(token, scores.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY)),
            top: top.iter().map(|(score, token)| scored(*token, *score)).collect(),
        }
    }
}

/// The tokens of the `count` largest scores, the largest first, of equals the first.
fn likeliest(scores: &[f32], count: usize) -> Scratch<(f32, u32)> {
    let mut best = Scratch::with_capacity(count + 1);
    for (score, token) in scores.iter().copied().zip(0..) {
        let beaten = best.len() == count && best.last().is_none_or(|(least, _)| score <= *least);
        if beaten || score.is_nan() {
            continue;
        }
        let place = best.partition_point(|(other, _)| *other >= score);
        best.insert(place, (score, token));
        best.truncate(count);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Model;

    #[test]
    fn the_likeliest_come_in_order_and_of_equals_the_first() {
        let scores = [1.0, f32::NAN, 3.0, 2.0, 3.0, -1.0];
        assert_eq!(*likeliest(&scores, 3), [(3.0, 2), (3.0, 4), (2.0, 3)]);
        assert_eq!(likeliest(&scores, 9).len(), 5);
        assert!(likeliest(&scores, 0).is_empty());
    }

    #[test]
    fn probabilities_are_those_of_the_whole_vocabulary() {
        let model = Model::from_gguf(include_bytes!("../../../models/demo.gguf")).unwrap();
        let count = model.tokenizer().len();
        let mut scores = vec![0.0; count];
        scores[300] = (count as f32 - 1.0).ln();
        let scored = ScoredToken::new(model.tokenizer(), &scores, 7, 2);
        // Half of all for one, and the other half for the rest.
        assert!((scored.top[0].logprob() - 0.5_f32.ln()).abs() < 1e-5);
        assert_eq!(scored.top[0].bytes(), model.tokenizer().bytes_of(300));
        let rest = (0.5 / (count as f32 - 1.0)).ln();
        assert!((scored.chosen.logprob() - rest).abs() < 1e-4 && scored.top.len() == 2);
        let control = ScoredToken::new(model.tokenizer(), &scores, 2, 0);
        assert!(!control.chosen.is_text() && !control.chosen.bytes().is_empty());
    }
}
