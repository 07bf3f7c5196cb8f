//! How queries and keys are rotated by their positions (`RoPE`).

use std::f64::consts::PI;

/// The rotation of one kind of layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rope {
    pub(crate) base: f32,
    pub(crate) scaling: Scaling,
    /// What queries and keys are multiplied by as they are rotated; 1 changes nothing.
    pub(crate) magnitude: f32,
}

/// How a longer context was made of a shorter one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scaling {
    /// A position counts for this much: below 1 where the context was made longer.
    Linear(f32),
    Yarn(Yarn),
}

/// `YaRN` (Peng et al., 2023): pairs that turn often within the original context turn as before, pairs that turn
/// seldom are slowed down by a factor, and those between by a part of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Yarn {
    /// How many times as long the context is.
    pub(crate) factor: f32,
    /// Positions of the original context.
    pub(crate) original: usize,
    /// Turns within the original context from which on a pair turns as before.
    pub(crate) fast: f32,
    /// Turns below which a pair is slowed down by the whole factor.
    pub(crate) slow: f32,
    /// Whether the two bounds are rounded to whole pairs.
    pub(crate) is_cut_between_pairs: bool,
}

impl Rope {
    /// The angle of one position for each of the pairs of a head of which `width` numbers are rotated, in radians.
    /// `factors` are divisors of these, one for each pair, if the model has them.
    pub(crate) fn frequencies(&self, width: usize, factors: Option<&[f32]>) -> Vec<f64> {
        let factor = |pair: usize| factors.and_then(|factors| factors.get(pair)).copied().unwrap_or(1.0);
        let frequency = |pair| f64::from(self.base).powf(-2.0 * pair as f64 / width as f64);
        let scaled = |pair| frequency(pair) * self.scaling.step(pair, width, self.base);
        (0..width / 2).map(|pair| scaled(pair) / f64::from(factor(pair))).collect()
    }
}

impl Scaling {
    /// What a position counts for in the rotation of a pair.
    fn step(self, pair: usize, width: usize, base: f32) -> f64 {
        match self {
            Scaling::Linear(step) => f64::from(step),
            Scaling::Yarn(yarn) => {
                let kept = yarn.kept(pair, width, base);
                kept + (1.0 - kept) / f64::from(yarn.factor)
            }
        }
    }
}

impl Yarn {
    /// How much of its old speed a pair keeps: 1 for one that turns often, 0 for one that turns seldom.
    fn kept(self, pair: usize, width: usize, base: f32) -> f64 {
        // The pair that turns so often within the original context, as a number with a fraction.
        let pair_of = |turns: f32| {
            let length = self.original as f64 / (f64::from(turns) * 2.0 * PI);
            width as f64 * length.ln() / (2.0 * f64::from(base).ln())
        };
        let (mut first, mut last) = (pair_of(self.fast), pair_of(self.slow));
        if self.is_cut_between_pairs {
            (first, last) = (first.floor(), last.ceil());
        }
        let (first, last) = (first.max(0.0), last.min(width as f64 - 1.0));
        let way = (pair as f64 - first) / (last - first).max(0.001);
        1.0 - way.clamp(0.0, 1.0)
    }

    /// What queries and keys are multiplied by: more positions make attention less sharp. `log_multiplier` is the
    /// part of this that the model does without.
    pub(crate) fn magnitude(self, log_multiplier: f32) -> f32 {
        let magnitude = |part: f32| 1.0 + 0.1 * part * self.factor.max(1.0).ln();
        magnitude(1.0) / magnitude(log_multiplier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found / expected - 1.0).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn linear_scaling_slows_every_pair_down() {
        let rope = |step| Rope { base: 10_000.0, scaling: Scaling::Linear(step), magnitude: 1.0 };
        close(&rope(1.0).frequencies(4, None), &[1.0, 0.01]);
        close(&rope(0.25).frequencies(4, None), &[0.25, 0.0025]);
        close(&rope(1.0).frequencies(4, Some(&[2.0, 4.0])), &[0.5, 0.0025]);
    }

    #[test]
    fn yarn_slows_down_what_turns_seldom() {
        let yarn = Yarn { factor: 4.0, original: 4096, fast: 32.0, slow: 1.0, is_cut_between_pairs: true };
        let rope = Rope { base: 10_000.0, scaling: Scaling::Yarn(yarn), magnitude: 1.0 };
        let plain = Rope { scaling: Scaling::Linear(1.0), ..rope }.frequencies(64, None);
        let ratios: Vec<f64> =
            rope.frequencies(64, None).iter().zip(&plain).map(|(found, plain)| found / plain).collect();
        // Pairs 10 and 23 turn about 32 times and once within 4096 positions.
        assert!(ratios[..=10].iter().all(|ratio| (ratio - 1.0).abs() < 1e-9), "{ratios:?}");
        assert!(ratios[23..].iter().all(|ratio| (ratio - 0.25).abs() < 1e-9), "{ratios:?}");
        assert!(ratios[10..=23].windows(2).all(|pair| pair[0] > pair[1]), "{ratios:?}");
        assert!((yarn.magnitude(0.0) - (1.0 + 0.1 * 4.0_f32.ln())).abs() < 1e-6);
        assert_eq!(yarn.magnitude(1.0), 1.0);
    }
}
