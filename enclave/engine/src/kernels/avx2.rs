//! The kernels for x86-64 processors with AVX2, FMA and F16C.
//!
//! The only unsafe code of the engine. It is of two kinds: vector loads and stores through references to arrays of
//! exactly the vector's size, and calls into functions compiled for these features, which [`Avx2`] proves present.

#![expect(unsafe_code, reason = "vector instructions; every block states why it is sound")]

use std::arch::x86_64::{
    __m256, __m256i, _MM_FROUND_TO_NEAREST_INT, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_loadu_si128,
    _mm_movehl_ps, _mm_shuffle_ps, _mm_storeu_si128, _mm256_abs_epi8, _mm256_add_epi32,
    _mm256_castps256_ps128, _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_cvtps_ph, _mm256_extractf128_ps,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16,
    _mm256_mul_ps, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_setzero_si256, _mm256_sign_epi8, _mm256_storeu_ps,
};

use super::{
    LANES,
    half::f32_to_f16,
    scalar,
    tile::{Block, F16Column, F32Column, Q8Tile, TileOutput},
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
                // SAFETY: a value of this type exists only if the processor has the features the function is compiled for.
                unsafe { $name($($argument),*) }
            })*
        }
    };
}

kernels! {
    q8_tile(tiles: &[Q8Tile], activations: &[Block], output: &mut [TileOutput]);
    f16_tile(columns: &[F16Column], activations: &[f32], output: &mut [TileOutput]);
    f32_tile(columns: &[F32Column], activations: &[f32], output: &mut [TileOutput]);
    quantise(values: &[f32], blocks: &mut [Block]);
    rms_norm(values: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32]);
    swiglu(gate: &mut [f32], up: &[f32]);
    softmax(values: &mut [f32]);
    attend(query: &[f32], keys: &[u16], values: &[u16], scores: &mut [f32], output: &mut [f32]);
    halve(values: &[f32], output: &mut [u16]);
}

/// Calls a kernel for four rows of activations at a time, then two, then one: each weight that is loaded serves them all.
macro_rules! by_rows {
    ($kernel:ident, $weights:expr, $activations:expr, $output:expr) => {{
        let (weights, width) = ($weights, $weights.len());
        let (mut inputs, mut outputs) = ($activations, $output);
        macro_rules! rows {
            ($count:literal) => {
                while let (Some((now, later)), Some(_)) =
                    (inputs.split_at_checked($count * width), outputs.get($count - 1))
                {
                    let (out, rest) = outputs.split_at_mut($count);
                    $kernel::<$count>(weights, now, out);
                    (inputs, outputs) = (later, rest);
                }
            };
        }
        rows!(4);
        rows!(2);
        rows!(1);
    }};
}

#[target_feature(enable = "avx2,fma,f16c")]
fn q8_tile(tiles: &[Q8Tile], activations: &[Block], output: &mut [TileOutput]) {
    by_rows!(q8_rows, tiles, activations, output);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn f16_tile(columns: &[F16Column], activations: &[f32], output: &mut [TileOutput]) {
    by_rows!(f16_rows, columns, activations, output);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn f32_tile(columns: &[F32Column], activations: &[f32], output: &mut [TileOutput]) {
    by_rows!(f32_rows, columns, activations, output);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn q8_rows<const M: usize>(tiles: &[Q8Tile], activations: &[Block], output: &mut [TileOutput]) {
    let rows: [&[Block]; M] = rows(activations, tiles.len());
    let ones = _mm256_set1_epi16(1);
    for half in 0..2 {
        let mut sums = [_mm256_setzero_ps(); M];
        for (index, tile) in tiles.iter().enumerate() {
            let mut dots = [_mm256_setzero_si256(); M];
            for (group, weights) in tile.quants.iter().enumerate() {
                let weights = load_bytes(&weights.as_chunks::<32>().0[half]);
                // Unsigned times signed bytes is what there is: the weight's sign moves to the activation. At most
                // 2 · 128 · 127 = 32512, so the sums of two never saturate.
                let magnitudes = _mm256_abs_epi8(weights);
                for m in 0..M {
                    let inputs = _mm256_set1_epi32(i32::from_le_bytes(
                        rows[m][index].quants[group].map(i8::cast_unsigned),
                    ));
                    let products = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(inputs, weights));
                    dots[m] = _mm256_add_epi32(dots[m], _mm256_madd_epi16(products, ones));
                }
            }
            let scales = widen(&tile.scales.as_chunks::<LANES>().0[half]);
            for m in 0..M {
                let scale = _mm256_mul_ps(scales, _mm256_set1_ps(rows[m][index].scale));
                sums[m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[m]), scale, sums[m]);
            }
        }
        for (out, sum) in output.iter_mut().zip(sums) {
            store(&mut out.as_chunks_mut::<LANES>().0[half], sum);
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn f16_rows<const M: usize>(columns: &[F16Column], activations: &[f32], output: &mut [TileOutput]) {
    let rows: [&[f32]; M] = rows(activations, columns.len());
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    for (index, column) in columns.iter().enumerate() {
        let halves = column.as_chunks::<LANES>().0;
        let weights = [widen(&halves[0]), widen(&halves[1])];
        for m in 0..M {
            let input = _mm256_set1_ps(rows[m][index]);
            sums[m] = [
                _mm256_fmadd_ps(weights[0], input, sums[m][0]),
                _mm256_fmadd_ps(weights[1], input, sums[m][1]),
            ];
        }
    }
    store_rows(&sums, output);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn f32_rows<const M: usize>(columns: &[F32Column], activations: &[f32], output: &mut [TileOutput]) {
    let rows: [&[f32]; M] = rows(activations, columns.len());
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    for (index, column) in columns.iter().enumerate() {
        let halves = column.as_chunks::<LANES>().0;
        let weights = [load(&halves[0]), load(&halves[1])];
        for m in 0..M {
            let input = _mm256_set1_ps(rows[m][index]);
            sums[m] = [
                _mm256_fmadd_ps(weights[0], input, sums[m][0]),
                _mm256_fmadd_ps(weights[1], input, sums[m][1]),
            ];
        }
    }
    store_rows(&sums, output);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn attend(query: &[f32], keys: &[u16], values: &[u16], scores: &mut [f32], output: &mut [f32]) {
    let width = query.len();
    let scale = 1.0 / (width as f32).sqrt();
    let query = query.as_chunks::<LANES>().0;
    for (key, score) in keys.chunks_exact(width).zip(&mut *scores) {
        let mut lanes = _mm256_setzero_ps();
        for (query, key) in query.iter().zip(key.as_chunks::<LANES>().0) {
            lanes = _mm256_fmadd_ps(load(query), widen(key), lanes);
        }
        *score = sum_lanes(lanes) * scale;
    }
    scalar::softmax(scores);
    let (wide, rest) = output.as_chunks_mut::<{ 4 * LANES }>();
    for (index, out) in wide.iter_mut().enumerate() {
        weighted_values::<4>(values, width, index * 4 * LANES, scores, out);
    }
    let done = wide.len() * 4 * LANES;
    for (index, out) in rest.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        weighted_values::<1>(values, width, done + index * LANES, scores, out);
    }
}

/// `C` times eight columns, from `first` on, of the sum of the values weighted by the scores.
#[target_feature(enable = "avx2,fma,f16c")]
fn weighted_values<const C: usize>(
    values: &[u16],
    width: usize,
    first: usize,
    scores: &[f32],
    output: &mut [f32],
) {
    let mut sums = [_mm256_setzero_ps(); C];
    for (value, score) in values.chunks_exact(width).zip(scores) {
        let weight = _mm256_set1_ps(*score);
        let columns = value[first..first + C * LANES].as_chunks::<LANES>().0;
        for (sum, column) in sums.iter_mut().zip(columns) {
            *sum = _mm256_fmadd_ps(weight, widen(column), *sum);
        }
    }
    for (out, sum) in output.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
        store(out, sum);
    }
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

#[target_feature(enable = "avx2,fma,f16c")]
fn quantise(values: &[f32], blocks: &mut [Block]) {
    scalar::quantise(values, blocks);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rms_norm(values: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32]) {
    scalar::rms_norm(values, weight, epsilon, output);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn swiglu(gate: &mut [f32], up: &[f32]) {
    scalar::swiglu(gate, up);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn softmax(values: &mut [f32]) {
    scalar::softmax(values);
}

/// The first `M` rows of `width` elements; cut to the width, so that the compiler sees one bound for all.
#[inline(always)]
fn rows<T, const M: usize>(all: &[T], width: usize) -> [&[T]; M] {
    std::array::from_fn(|m| &all[m * width..][..width])
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn store_rows<const M: usize>(sums: &[[__m256; 2]; M], output: &mut [TileOutput]) {
    for (out, sum) in output.iter_mut().zip(sums) {
        for (out, sum) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(sum) {
            store(out, *sum);
        }
    }
}

/// The sum in the order of `scalar::sum_lanes`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sum_lanes(lanes: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load(values: &[f32; LANES]) -> __m256 {
    // SAFETY: the array is 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_bytes(values: &[i8; 32]) -> __m256i {
    // SAFETY: the array is 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

/// Eight half-precision numbers as single-precision ones.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn widen(values: &[u16; LANES]) -> __m256 {
    // SAFETY: the array is 16 bytes; the load needs no alignment.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(values.as_ptr().cast()) })
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn store(values: &mut [f32; LANES], from: __m256) {
    // SAFETY: the array is 32 bytes; the store needs no alignment.
    unsafe { _mm256_storeu_ps(values.as_mut_ptr(), from) }
}
