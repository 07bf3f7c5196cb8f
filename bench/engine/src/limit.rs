//! What the machine could do at best: reading memory, multiplying bytes.

use std::{hint::black_box, thread, time::Instant};

/// Gigabytes per second that so many threads read from memory, each in four places at once: the best of several passes over far more than
/// the caches.
pub fn bandwidth(threads: usize) -> f64 {
    const WORDS: usize = 1 << 25;
    let memory: Vec<Vec<u64>> = (0..threads).map(|thread| vec![thread as u64 + 1; WORDS / threads]).collect();
    let best = least_seconds(8, || {
        thread::scope(|scope| {
            for part in &memory {
                scope.spawn(|| {
                    let (first, last) = part.split_at(part.len() / 2);
                    let [(a, b), (c, d)] = [first, last].map(|half| half.split_at(half.len() / 2));
                    let words = a.iter().zip(b).zip(c).zip(d);
                    black_box(words.fold([0_u64; 4], |[p, q, r, s], (((a, b), c), d)| {
                        [p.wrapping_add(*a), q.wrapping_add(*b), r.wrapping_add(*c), s.wrapping_add(*d)]
                    }));
                });
            }
        });
    });
    (WORDS * 8) as f64 / best / 1e9
}

/// Billions of products of bytes that so many threads add up in a second when everything is in registers, with the fewest instructions that
/// this program may use; `None` where no instruction multiplies bytes.
pub fn products(threads: usize) -> Option<f64> {
    const ROUNDS: usize = 20_000_000;
    let per_round = PRODUCTS?;
    let best = least_seconds(3, || {
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| multiply(ROUNDS));
            }
        });
    });
    Some((ROUNDS * per_round * threads) as f64 / best / 1e9)
}

fn least_seconds(times: usize, what: impl Fn()) -> f64 {
    let seconds = (0..times).map(|_| {
        let start = Instant::now();
        what();
        start.elapsed().as_secs_f64()
    });
    seconds.fold(f64::INFINITY, f64::min)
}

/// Sums that do not wait for each other: enough for two multipliers that take six cycles.
const SUMS: usize = 12;

/// Products of a round of [`multiply`].
const PRODUCTS: Option<usize> = if cfg!(target_feature = "avx512vnni") {
    Some(64 * SUMS)
} else if cfg!(target_feature = "avx2") {
    Some(32 * SUMS)
} else {
    None
};

#[cfg(target_feature = "avx512vnni")]
fn multiply(rounds: usize) {
    use std::arch::x86_64::{_mm512_dpbusd_epi32, _mm512_set1_epi8};

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn multiply(rounds: usize) {
        let (weights, inputs) = black_box((_mm512_set1_epi8(3), _mm512_set1_epi8(5)));
        let mut sums = [black_box(weights); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, weights, inputs);
            }
        }
        black_box(sums);
    }
    // SAFETY: the whole program is compiled for processors with these instructions.
    unsafe { multiply(rounds) }
}

#[cfg(all(target_feature = "avx2", not(target_feature = "avx512vnni")))]
fn multiply(rounds: usize) {
    use std::arch::x86_64::{_mm256_add_epi16, _mm256_maddubs_epi16, _mm256_set1_epi8};

    #[target_feature(enable = "avx2")]
    fn multiply(rounds: usize) {
        let weights = black_box(_mm256_set1_epi8(3));
        let mut sums = [black_box(weights); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                // The second factor is the sum before, or the compiler would take the product out of the loop.
                *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(weights, *sum));
            }
        }
        black_box(sums);
    }
    // SAFETY: the whole program is compiled for processors with these instructions.
    unsafe { multiply(rounds) }
}

#[cfg(not(target_feature = "avx2"))]
fn multiply(_: usize) {}
