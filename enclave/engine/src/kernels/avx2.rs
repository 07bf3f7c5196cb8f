//! The kernels for x86-64 processors with AVX2, FMA and F16C.
//!
//! The unsafe code here is of three kinds: vector loads and stores through references to arrays of exactly
//! the vector's size; calls of functions compiled for these features, whose presence [`Avx2`] proves; and an
//! empty assembly statement.

#![expect(unsafe_code, reason = "vector instructions; every block states why it is sound")]

mod tiles;

use std::arch::x86_64::{
    __m128, __m128i, __m256, __m256i, _MM_FROUND_TO_NEAREST_INT, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32,
    _mm_loadu_si128, _mm_movehl_ps, _mm_movelh_ps, _mm_mul_ps, _mm_set1_ps, _mm_setzero_ps, _mm_shuffle_ps,
    _mm_storeu_ps, _mm_storeu_si128, _mm_unpackhi_ps, _mm_unpacklo_ps, _mm256_castps256_ps128,
    _mm256_cvtph_ps, _mm256_cvtps_ph, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_loadu_si256, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

use tiles::{
    bf16_tile, f16_tile, f32_tile, offset_tile, q2_k_tile, q4_k_tile, q4_tile, q5_k_tile, q6_k_tile, q8_tile,
    table_tile,
};

use super::{
    LANES,
    half::f32_to_f16,
    scalar,
    tile::{
        Bf16Column, Block, F16Column, F32Column, OffsetTile, Q2KTile, Q4KTile, Q4Tile, Q5KTile, Q6KTile,
        Q8Tile, Results, SuperBlock, TableTile, TileOutput,
    },
};

/// Proof that this processor has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        let present = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        present.then_some(Self(()))
    }
}

/// Gives [`Avx2`] a safe method for each kernel below.
macro_rules! kernels {
    ($($name:ident ( $($argument:ident : $type:ty),* );)*) => {
        impl Avx2 {
            $(pub(super) fn $name(self, $($argument: $type),*) {
                // SAFETY: a value of this type exists only if the processor has the features the function is
                // compiled for.
                unsafe { $name($($argument),*) }
            })*
        }
    };
}

kernels! {
    q8_tile(tiles: &[Q8Tile], activations: &[Block], output: &mut [TileOutput]);
    q4_tile(tiles: &[Q4Tile], activations: &[Block], output: &mut [TileOutput]);
    table_tile(tiles: &[TableTile], activations: &[Block], output: &mut [TileOutput]);
    offset_tile(tiles: &[OffsetTile], activations: &[Block], output: &mut [TileOutput]);
    q2_k_tile(tiles: &[Q2KTile], activations: &[SuperBlock], output: &mut [TileOutput]);
    q4_k_tile(tiles: &[Q4KTile], activations: &[SuperBlock], output: &mut [TileOutput]);
    q5_k_tile(tiles: &[Q5KTile], activations: &[SuperBlock], output: &mut [TileOutput]);
    q6_k_tile(tiles: &[Q6KTile], activations: &[SuperBlock], output: &mut [TileOutput]);
    bf16_tile(columns: &[Bf16Column], activations: &[f32], output: &mut [TileOutput]);
    f16_tile(columns: &[F16Column], activations: &[f32], output: &mut [TileOutput]);
    f32_tile(columns: &[F32Column], activations: &[f32], output: &mut [TileOutput]);
    quantise(values: &[f32], blocks: &mut [Block]);
    quantise_super(values: &[f32], blocks: &mut [SuperBlock]);
    rms_norm(values: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32]);
    rms_norm_in_place(values: &mut [f32], weight: &[f32], epsilon: f32);
    swiglu(gate: Results<'_>, up: Results<'_>, output: &mut [f32]);
    geglu(gate: Results<'_>, up: Results<'_>, output: &mut [f32]);
    clamped_swiglu(gate: &[f32], up: &[f32], output: &mut [f32]);
    soften(values: &mut [f32], cap: f32);
    add(results: Results<'_>, output: &mut [f32]);
    softmax(values: &mut [f32]);
    score_keys(query: &[f32], keys: &[f32], scores: &mut [f32]);
    add_values(weights: &[f32], values: &[f32], output: &mut [f32]);
    widen(values: &[u16], output: &mut [f32]);
    halve(values: &[f32], output: &mut [u16]);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn score_keys(query: &[f32], keys: &[f32], scores: &mut [f32]) {
    let width = query.len();
    let scale = 1.0 / (width as f32).sqrt();
    let query = query.as_chunks::<LANES>().0;
    let (eights, rest) = scores.as_chunks_mut::<8>();
    let done = eights.len() * 8 * width;
    // One sum waits for the addition before; eight do not wait for each other.
    for (keys, scores) in keys.chunks_exact(8 * width).zip(eights) {
        let [a, b, c, d, e, f, g, h] = rows(keys);
        let keys = a.iter().zip(b).zip(c).zip(d).zip(e).zip(f).zip(g).zip(h);
        let mut lanes = [_mm256_setzero_ps(); 8];
        for (query, (((((((a, b), c), d), e), f), g), h)) in query.iter().zip(keys) {
            let query = load(query);
            for (lanes, key) in lanes.iter_mut().zip([a, b, c, d, e, f, g, h]) {
                *lanes = _mm256_fmadd_ps(query, load(key), *lanes);
            }
        }
        let scale = _mm_set1_ps(scale);
        for (scores, lanes) in scores.as_chunks_mut::<4>().0.iter_mut().zip(lanes.as_chunks::<4>().0) {
            store_four(scores, _mm_mul_ps(sum_four_lanes(lanes), scale));
        }
    }
    for (key, score) in keys[done..].chunks_exact(width).zip(rest) {
        let mut lanes = _mm256_setzero_ps();
        for (query, key) in query.iter().zip(key.as_chunks::<LANES>().0) {
            lanes = _mm256_fmadd_ps(load(query), load(key), lanes);
        }
        *score = sum_lanes(lanes) * scale;
    }
}

/// Eight rows of as many numbers each; a function of its own as `blocks_at` is.
#[inline(always)]
fn rows(numbers: &[f32]) -> [&[[f32; LANES]]; 8] {
    let width = numbers.len() / 8;
    std::array::from_fn(|row| numbers[row * width..][..width].as_chunks().0)
}

#[target_feature(enable = "avx2,fma,f16c")]
fn add_values(weights: &[f32], values: &[f32], output: &mut [f32]) {
    let first = add_columns::<8>(weights, values, 0, output);
    let first = add_columns::<4>(weights, values, first, output);
    add_columns::<1>(weights, values, first, output);
}

/// Adds the weighted sum of the values in the columns from `first` on, `C` times eight at once. Returns the
/// first remaining column.
#[target_feature(enable = "avx2,fma,f16c")]
fn add_columns<const C: usize>(weights: &[f32], values: &[f32], first: usize, output: &mut [f32]) -> usize {
    let width = output.len();
    let mut done = first;
    for out in output[first..].chunks_exact_mut(C * LANES) {
        let mut sums = [_mm256_setzero_ps(); C];
        for (sum, out) in sums.iter_mut().zip(out.as_chunks::<LANES>().0) {
            *sum = load(out);
        }
        for (value, weight) in values.chunks_exact(width).zip(weights) {
            let weight = _mm256_set1_ps(*weight);
            let columns = value[done..done + C * LANES].as_chunks::<LANES>().0;
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = _mm256_fmadd_ps(weight, load(column), *sum);
            }
        }
        for (out, sum) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
            store(out, sum);
        }
        done += C * LANES;
    }
    done
}

#[target_feature(enable = "avx2,fma,f16c")]
fn widen(values: &[u16], output: &mut [f32]) {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let (wide, narrow) = output[..values.len()].as_chunks_mut::<LANES>();
    for (out, chunk) in wide.iter_mut().zip(chunks) {
        store(out, widen_eight(chunk));
    }
    scalar::widen(rest, narrow);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn halve(values: &[f32], output: &mut [u16]) {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let (wide, narrow) = output.as_chunks_mut::<LANES>();
    for (out, chunk) in wide.iter_mut().zip(chunks) {
        let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(load(chunk));
        // SAFETY: `out` is 16 bytes; the store needs no alignment.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), halves) }
    }
    for (out, value) in narrow.iter_mut().zip(rest) {
        *out = f32_to_f16(*value);
    }
}

widened!("avx2,fma,f16c");

/// The sum in the order of `scalar::sum_lanes`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sum_lanes(lanes: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

/// As [`sum_lanes`], of four at once.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sum_four_lanes(lanes: &[__m256; 4]) -> __m128 {
    let mut fours = [_mm_setzero_ps(); 4];
    for (four, lanes) in fours.iter_mut().zip(lanes) {
        *four = _mm_add_ps(_mm256_castps256_ps128(*lanes), _mm256_extractf128_ps::<1>(*lanes));
    }
    let [a, b, c, d] = fours;
    let first = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
    let last = _mm_add_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
    _mm_add_ps(_mm_movelh_ps(first, last), _mm_movehl_ps(last, first))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load(values: &[f32; LANES]) -> __m256 {
    // SAFETY: the array is 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

/// The two halves of 64 bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_group(bytes: &[u8; 64]) -> [__m256i; 2] {
    let (first, last) = bytes.split_at(32);
    // SAFETY: both halves are 32 bytes; the load needs no alignment.
    unsafe { [_mm256_loadu_si256(first.as_ptr().cast()), _mm256_loadu_si256(last.as_ptr().cast())] }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_16(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the array is 16 bytes; the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_halves(values: &[u16; LANES]) -> __m128i {
    // SAFETY: the array is 16 bytes; the load needs no alignment.
    unsafe { _mm_loadu_si128(values.as_ptr().cast()) }
}

/// Eight half-precision numbers as single-precision ones.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn widen_eight(values: &[u16; LANES]) -> __m256 {
    _mm256_cvtph_ps(load_halves(values))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn store(values: &mut [f32; LANES], from: __m256) {
    // SAFETY: the array is 32 bytes; the store needs no alignment.
    unsafe { _mm256_storeu_ps(values.as_mut_ptr(), from) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn store_four(values: &mut [f32; 4], from: __m128) {
    // SAFETY: the array is 16 bytes; the store needs no alignment.
    unsafe { _mm_storeu_ps(values.as_mut_ptr(), from) }
}
