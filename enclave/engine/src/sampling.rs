//! How the next token is chosen.

use zeroize::Zeroizing;

use crate::kernels::Kernels;

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

/// Chooses the tokens of one answer.
pub(crate) struct Sampler {
    sampling: Sampling,
    random: SplitMix,
    /// Room for the whole vocabulary once it is used, so that it moves only while empty.
    candidates: Zeroizing<Vec<(f32, u32)>>,
}

/// Most likely tokens that are looked at first; four times as many each time they are not enough.
const FIRST_CANDIDATES: usize = 64;

impl Sampler {
    pub(crate) fn new(sampling: Sampling) -> Self {
        Self { sampling, random: SplitMix(sampling.seed), candidates: Zeroizing::default() }
    }

    /// The next token, given the scores of all. Leaves the scores changed.
    pub(crate) fn choose(&mut self, kernels: Kernels, scores: &mut [f32]) -> u32 {
        if self.sampling.temperature == 0.0 {
            return largest(scores);
        }
        for score in &mut *scores {
            *score /= self.sampling.temperature;
        }
        kernels.softmax(scores);
        let point = self.random.unit();
        if self.sampling.top_p < 1.0 {
            self.gather_nucleus(scores);
            let mass: f32 = self.candidates.iter().map(|(probability, _)| probability).sum();
            pick(self.candidates.iter().copied(), point * mass)
        } else {
            pick(scores.iter().copied().zip(0..), point)
        }
    }

    /// Keeps the most likely tokens whose probabilities just reach `top_p`.
    fn gather_nucleus(&mut self, probabilities: &[f32]) {
        self.candidates.clear();
        self.candidates.reserve_exact(probabilities.len());
        self.candidates.extend(probabilities.iter().copied().zip(0..));
        // By falling probability, then by rising token: one order for every processor.
        let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let mut count = FIRST_CANDIDATES;
        loop {
            let candidates = self.candidates.as_mut_slice();
            count = count.min(candidates.len());
            if count < candidates.len() {
                candidates.select_nth_unstable_by(count, order);
            }
            let best = candidates.get_mut(..count).unwrap_or_default();
            best.sort_unstable_by(order);
            let mut mass = 0.0;
            let reached = best.iter().position(|(probability, _)| {
                mass += probability;
                mass >= self.sampling.top_p
            });
            match reached {
                Some(last) => return self.candidates.truncate(last + 1),
                None if count == self.candidates.len() => return,
                None => count *= 4,
            }
        }
    }
}

/// The token of the largest score, the first of equals. Scores that are not numbers are never the largest.
fn largest(scores: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (score, token) in scores.iter().zip(0..) {
        if *score > best.0 {
            best = (*score, token);
        }
    }
    best.1
}

/// The token at which the running sum of probabilities passes `point`.
fn pick(candidates: impl Iterator<Item = (f32, u32)>, point: f32) -> u32 {
    let mut sum = 0.0;
    let mut last = 0;
    for (probability, token) in candidates {
        sum += probability;
        if probability > 0.0 {
            last = token;
        }
        if sum > point {
            break;
        }
    }
    last
}

/// `SplitMix64` (Steele, Lea and Flood, 2014): small, and good enough to draw from a distribution. Not for keys.
struct SplitMix(u64);

impl SplitMix {
    /// A number from 0 (inclusive) to 1 (exclusive).
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (bits >> 40) as f32 / (1_u64 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(sampling: Sampling, probabilities: &[f32], count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling);
        let logarithms: Vec<f32> = probabilities.iter().map(|probability| probability.ln()).collect();
        (0..count).map(|_| sampler.choose(Kernels::best(), &mut logarithms.clone())).collect()
    }

    fn shares(drawn: &[u32], tokens: usize) -> Vec<f32> {
        (0..tokens as u32)
            .map(|token| drawn.iter().filter(|drawn| **drawn == token).count() as f32 / drawn.len() as f32)
            .collect()
    }

    #[test]
    fn parameters_out_of_range_are_refused() {
        assert_eq!(Sampling::new(-0.1, 1.0, 0), Err(SamplingError::Temperature(-0.1)));
        assert_eq!(Sampling::new(2.1, 1.0, 0), Err(SamplingError::Temperature(2.1)));
        assert!(Sampling::new(f32::NAN, 1.0, 0).is_err());
        assert_eq!(Sampling::new(1.0, 0.0, 0), Err(SamplingError::TopP(0.0)));
        assert_eq!(Sampling::new(1.0, 1.1, 0), Err(SamplingError::TopP(1.1)));
        assert!(Sampling::new(1.0, f32::NAN, 0).is_err());
        assert_eq!(Sampling::new(0.0, 1.0, 0), Ok(Sampling::greedy()));
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest_and_ignores_what_is_no_number() {
        let mut sampler = Sampler::new(Sampling::greedy());
        assert_eq!(sampler.choose(Kernels::best(), &mut [f32::NAN, 1.0, 3.0, 3.0, 2.0]), 2);
        assert_eq!(sampler.choose(Kernels::best(), &mut [f32::NAN; 3]), 0);
    }

    #[test]
    fn draws_follow_the_distribution_and_the_seed() {
        let sampling = Sampling::new(1.0, 1.0, 7).unwrap();
        let drawn = draws(sampling, &[0.5, 0.3, 0.15, 0.05], 4000);
        for (share, expected) in shares(&drawn, 4).iter().zip([0.5, 0.3, 0.15, 0.05]) {
            assert!((share - expected).abs() < 0.03, "{share} is not near {expected}");
        }
        assert_eq!(drawn, draws(sampling, &[0.5, 0.3, 0.15, 0.05], 4000));
        let other = Sampling::new(1.0, 1.0, 8).unwrap();
        assert_ne!(drawn, draws(other, &[0.5, 0.3, 0.15, 0.05], 4000));
    }

    #[test]
    fn a_low_temperature_sharpens() {
        let drawn = draws(Sampling::new(0.5, 1.0, 7).unwrap(), &[0.6, 0.4], 4000);
        let expected = 0.36 / (0.36 + 0.16);
        assert!((shares(&drawn, 2)[0] - expected).abs() < 0.03);
    }

    #[test]
    fn a_nucleus_leaves_out_the_tail() {
        let drawn = draws(Sampling::new(1.0, 0.7, 7).unwrap(), &[0.05, 0.5, 0.15, 0.3], 4000);
        let shares = shares(&drawn, 4);
        assert_eq!((shares[0], shares[2]), (0.0, 0.0));
        assert!((shares[1] - 0.625).abs() < 0.03);
    }

    #[test]
    fn a_nucleus_wider_than_the_first_candidates_is_found() {
        let drawn = draws(Sampling::new(1.0, 0.9, 7).unwrap(), &[1.0 / 1000.0; 1000], 3000);
        let most = drawn.iter().max().unwrap();
        assert!((850..=905).contains(most), "the nucleus ends at {most}");
    }

    #[test]
    fn scores_that_are_no_numbers_do_not_panic() {
        for top_p in [0.5, 1.0] {
            let mut sampler = Sampler::new(Sampling::new(1.0, top_p, 7).unwrap());
            assert!(sampler.choose(Kernels::best(), &mut [f32::NAN; 100]) < 100);
        }
    }
}
