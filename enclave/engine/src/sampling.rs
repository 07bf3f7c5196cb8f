//! Sampling: the choice of the next token.

use zeroize::Zeroizing;

use crate::{
    constraint::{Constraint, Matcher},
    kernels::Kernels,
    scratch::Scratch,
};

/// Greedy, or random with temperature, limits and a seed. Either can have penalties for repetition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    temperature: f32,
    top_p: f32,
    /// 0 for no limit.
    top_k: u32,
    min_p: f32,
    presence: f32,
    frequency: f32,
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
    /// Least relative probability outside 0 to 1.
    #[error("min_p must be between 0 and 1, got {0}")]
    MinP(f32),
    /// A penalty outside -2 to 2.
    #[error("penalties must be between -2 and 2, got {0}")]
    Penalty(f32),
}

impl Sampling {
    /// Always the most likely token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0, presence: 0.0, frequency: 0.0, seed: 0 }
    }

    /// `temperature` 0 is greedy. The same seed gives the same answer, regardless of other jobs.
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
        Ok(Self { temperature, top_p, seed, ..Self::greedy() })
    }

    /// The same with a separate generator for each choice of a request. The first choice has the request's
    /// own.
    #[must_use]
    pub fn for_choice(self, index: u32) -> Self {
        // Far apart in the generator's sequence, and no multiple of its step.
        Self { seed: self.seed.wrapping_add(u64::from(index).wrapping_mul(0xd134_2543_de82_ef95)), ..self }
    }

    /// Chooses from the `top_k` most likely tokens only; 0 is no limit. Applied before the nucleus.
    #[must_use]
    pub fn with_top_k(self, top_k: u32) -> Self {
        Self { top_k, ..self }
    }

    /// Leaves out tokens less likely than `min_p` times the most likely one. Applied after the nucleus.
    ///
    /// # Errors
    /// [`SamplingError::MinP`] outside 0 to 1.
    pub fn with_min_p(self, min_p: f32) -> Result<Self, SamplingError> {
        if !(0.0..=1.0).contains(&min_p) {
            return Err(SamplingError::MinP(min_p));
        }
        Ok(Self { min_p, ..self })
    }

    /// Lowers the score of each token that the answer has already: once by `presence`, and by `frequency` for
    /// each time. The prompt does not count.
    ///
    /// # Errors
    /// [`SamplingError::Penalty`] outside -2 to 2.
    pub fn with_penalties(self, presence: f32, frequency: f32) -> Result<Self, SamplingError> {
        match [presence, frequency].into_iter().find(|penalty| !(-2.0..=2.0).contains(penalty)) {
            Some(penalty) => Err(SamplingError::Penalty(penalty)),
            None => Ok(Self { presence, frequency, ..self }),
        }
    }

    fn has_penalties(&self) -> bool {
        self.presence != 0.0 || self.frequency != 0.0
    }

    fn limits_candidates(&self) -> bool {
        self.top_p < 1.0 || self.top_k > 0 || self.min_p > 0.0
    }
}

/// Chooses the tokens of one answer.
pub(crate) struct Sampler {
    sampling: Sampling,
    /// Tokens, and what is added to their scores.
    bias: Scratch<(u32, f32)>,
    random: SplitMix,
    /// The probabilities of the whole vocabulary, with the candidates first. Empty until first used.
    candidates: Scratch<(f32, u32)>,
    /// How often the answer has each token; empty while there is no penalty.
    counts: Scratch<u32>,
    /// The form that the answer must have.
    matcher: Option<Matcher>,
}

/// Number of likeliest tokens that are tried first. Each further try takes four times as many.
const FIRST_CANDIDATES: usize = 64;

impl Sampler {
    pub(crate) fn new(sampling: Sampling, bias: Zeroizing<Vec<(u32, f32)>>) -> Self {
        Self {
            sampling,
            bias: Scratch::from(bias),
            random: SplitMix(sampling.seed),
            candidates: Scratch::new(),
            counts: Scratch::new(),
            matcher: None,
        }
    }

    /// The same, for answers of a form.
    pub(crate) fn constrained(self, constraint: Option<&Constraint>) -> Self {
        Self { matcher: constraint.map(Constraint::matcher), ..self }
    }

    /// The next token, given the scores of all. Leaves the scores changed.
    pub(crate) fn choose(&mut self, kernels: Kernels, scores: &mut [f32]) -> u32 {
        for (token, bias) in self.bias.iter() {
            if let Some(score) = scores.get_mut(*token as usize) {
                *score += bias;
            }
        }
        if self.sampling.has_penalties() && self.counts.is_empty() {
            self.counts = Scratch::filled(scores.len());
        }
        for (score, count) in scores.iter_mut().zip(&*self.counts).filter(|(_, count)| **count > 0) {
            *score -= self.sampling.presence + self.sampling.frequency * *count as f32;
        }
        if let Some(matcher) = &mut self.matcher {
            matcher.mask(scores);
        }
        let mut token = self.draw(kernels, scores);
        if let Some(matcher) = &mut self.matcher
            && !matcher.accept(token)
        {
            // NaN scores, or a draw at the very edge, led to a token that is not permitted.
            token = matcher.any_token();
            matcher.accept(token);
        }
        if let Some(count) = self.counts.get_mut(token as usize) {
            *count += 1;
        }
        token
    }

    fn draw(&mut self, kernels: Kernels, scores: &mut [f32]) -> u32 {
        if self.sampling.temperature == 0.0 {
            return largest(scores);
        }
        for score in &mut *scores {
            *score /= self.sampling.temperature;
        }
        kernels.softmax(scores);
        let point = self.random.unit();
        if self.sampling.limits_candidates() {
            let count = self.gather_candidates(scores);
            let candidates = self.candidates.get(..count).unwrap_or_default();
            let mass: f32 = candidates.iter().map(|(probability, _)| probability).sum();
            pick(candidates.iter().copied(), point * mass)
        } else {
            pick(scores.iter().copied().zip(0..), point)
        }
    }

    /// Applies the three limits in turn and brings the remaining candidates to the front: the `top_k`
    /// likeliest tokens, then the smallest set that reaches `top_p` of their probability, then those above
    /// `min_p`. Returns their number.
    fn gather_candidates(&mut self, probabilities: &[f32]) -> usize {
        self.candidates.replace(probabilities.len(), probabilities.iter().copied().zip(0..));
        let limit = match self.sampling.top_k {
            0 => probabilities.len(),
            top_k => probabilities.len().min(top_k as usize),
        };
        let mut count = if self.sampling.top_k == 0 { FIRST_CANDIDATES.min(limit) } else { limit };
        loop {
            self.sort_first(count);
            let best = self.candidates.get(..count).unwrap_or_default();
            // Without a limit the probabilities of all are one.
            let all: f32 = match self.sampling.top_k {
                0 => 1.0,
                _ => best.iter().map(|(probability, _)| probability).sum(),
            };
            let least = best.first().map_or(0.0, |(probability, _)| probability * self.sampling.min_p);
            let mut mass = 0.0;
            let end = best.iter().position(|(probability, _)| {
                let enough = mass >= self.sampling.top_p * all && mass > 0.0;
                mass += probability;
                enough || *probability < least
            });
            match end {
                Some(end) => return end,
                None if count == limit => return count,
                None => count = limit.min(4 * count),
            }
        }
    }

    /// Brings the `count` most likely candidates to the front, by falling probability, then by rising token:
    /// one order for every processor.
    fn sort_first(&mut self, count: usize) {
        let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let candidates = &mut *self.candidates;
        if count < candidates.len() {
            candidates.select_nth_unstable_by(count, order);
        }
        if let Some(best) = candidates.get_mut(..count) {
            best.sort_unstable_by(order);
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

/// `SplitMix64` (Steele, Lea and Flood, 2014): small, and good enough to draw from a distribution. Not for
/// keys.
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
        let mut sampler = Sampler::new(sampling, Zeroizing::default());
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
        let mut sampler = Sampler::new(Sampling::greedy(), Zeroizing::default());
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
    fn choices_draw_differently_and_the_first_as_if_it_were_alone() {
        let sampling = Sampling::new(1.0, 1.0, 7).unwrap();
        assert_eq!(sampling.for_choice(0), sampling);
        let drawn = |index| draws(sampling.for_choice(index), &[0.25; 4], 64);
        let all: std::collections::BTreeSet<Vec<u32>> = (0..8).map(drawn).collect();
        assert_eq!(all.len(), 8);
        // Nor is one the other begun later.
        assert!((1..32).all(|skip| drawn(0)[skip..] != drawn(1)[..64 - skip]));
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
    fn limits_out_of_range_are_refused() {
        let sampling = Sampling::greedy();
        assert_eq!(sampling.with_min_p(1.1), Err(SamplingError::MinP(1.1)));
        assert!(sampling.with_min_p(f32::NAN).is_err());
        assert_eq!(sampling.with_penalties(0.0, -2.1), Err(SamplingError::Penalty(-2.1)));
        assert!(sampling.with_penalties(f32::NAN, 0.0).is_err());
    }

    #[test]
    fn only_the_most_likely_few_are_drawn() {
        let probabilities = [0.05, 0.4, 0.15, 0.3, 0.1];
        let base = Sampling::new(1.0, 1.0, 7).unwrap();
        let of = |sampling| shares(&draws(sampling, &probabilities, 4000), 5);
        let two = of(base.with_top_k(2));
        assert_eq!((two[0], two[2], two[4]), (0.0, 0.0, 0.0));
        assert!((two[1] - 4.0 / 7.0).abs() < 0.03);
        assert_eq!(of(base.with_top_k(100)), of(base.with_top_k(5)));
        // The nucleus is of what the first limit left: 0.4 of 0.7 is above one half.
        assert_eq!(of(Sampling::new(1.0, 0.5, 7).unwrap().with_top_k(2))[1], 1.0);
        // A quarter of the largest is 0.1, and what is as likely stays.
        let least = of(base.with_min_p(0.24).unwrap());
        assert_eq!(least[0], 0.0);
        assert!(least[4] > 0.05 && least[2] > 0.1);
        assert_eq!(of(base.with_min_p(1.0).unwrap())[1], 1.0);
    }

    #[test]
    fn penalties_count_what_was_chosen() {
        let choose = |presence, frequency, count| {
            let mut sampler = Sampler::new(
                Sampling::greedy().with_penalties(presence, frequency).unwrap(),
                Zeroizing::default(),
            );
            let scores = [1.0, 2.5, 2.0];
            (0..count).map(|_| sampler.choose(Kernels::best(), &mut scores.clone())).collect::<Vec<_>>()
        };
        assert_eq!(choose(0.0, 0.0, 3), [1, 1, 1]);
        // 2.5 - 1 < 2.0, then 2.0 - 1 < 1.5, and once is all that presence counts.
        assert_eq!(choose(1.0, 0.0, 4), [1, 2, 1, 1]);
        assert_eq!(choose(0.0, 1.0, 5), [1, 2, 1, 0, 2]);
        assert_eq!(choose(-2.0, 0.0, 2), [1, 1]);
    }

    #[test]
    fn a_bias_is_added_each_time() {
        let bias = Zeroizing::new(vec![(1, -1.0), (0, 0.75), (9, 100.0)]);
        let mut sampler = Sampler::new(Sampling::greedy(), bias);
        let scores = [1.0, 2.5, 1.7];
        // 1.75, 1.5 and 1.7; there is no token 9.
        assert_eq!([0, 0].map(|_| sampler.choose(Kernels::best(), &mut scores.clone())), [0, 0]);
        let mut unbiased = Sampler::new(Sampling::greedy(), Zeroizing::default());
        assert_eq!(unbiased.choose(Kernels::best(), &mut scores.clone()), 1);
    }

    #[test]
    fn scores_that_are_no_numbers_do_not_panic() {
        for top_p in [0.5, 1.0] {
            let mut sampler = Sampler::new(Sampling::new(1.0, top_p, 7).unwrap(), Zeroizing::default());
            assert!(sampler.choose(Kernels::best(), &mut [f32::NAN; 100]) < 100);
        }
    }
}
