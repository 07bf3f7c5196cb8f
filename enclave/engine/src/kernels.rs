//! The arithmetic that dominates the running time, chosen for the processor.
//!
//! The scalar kernels define every result, down to the last bit. A vector kernel performs the same operations
//! in the same order for each number: a fused multiply-add for each `mul_add`, eight lanes for each array of
//! eight. An answer therefore depends neither on the processor nor on the rest of the batch. Property tests
//! compare the kernels.
//!
//! A new instruction set needs a module and an arm in [`dispatch`]. A new weight format needs a tile, a
//! variant of [`crate::matrix::Matrix`]'s tiles, and a kernel; or a function that writes its blocks as those of
//! a format that has all three.

/// Compiles the plain Rust kernels for more instructions, so that the compiler uses wider vectors.
#[cfg(target_arch = "x86_64")]
macro_rules! widened {
    ($features:literal) => {
        #[target_feature(enable = $features)]
        fn quantise(values: &[f32], blocks: &mut [Block]) {
            scalar::quantise(values, blocks);
        }

        #[target_feature(enable = $features)]
        fn quantise_super(values: &[f32], blocks: &mut [SuperBlock]) {
            scalar::quantise_super(values, blocks);
        }

        #[target_feature(enable = $features)]
        fn rms_norm(values: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32]) {
            scalar::rms_norm(values, weight, epsilon, output);
        }

        #[target_feature(enable = $features)]
        fn rms_norm_in_place(values: &mut [f32], weight: &[f32], epsilon: f32) {
            scalar::rms_norm_in_place(values, weight, epsilon);
        }

        #[target_feature(enable = $features)]
        fn swiglu(gate: Results<'_>, up: Results<'_>, output: &mut [f32]) {
            scalar::swiglu(gate, up, output);
        }

        #[target_feature(enable = $features)]
        fn geglu(gate: Results<'_>, up: Results<'_>, output: &mut [f32]) {
            scalar::geglu(gate, up, output);
        }

        #[target_feature(enable = $features)]
        fn clamped_swiglu(gate: &[f32], up: &[f32], output: &mut [f32]) {
            scalar::clamped_swiglu(gate, up, output);
        }

        #[target_feature(enable = $features)]
        fn soften(values: &mut [f32], cap: f32) {
            scalar::soften(values, cap);
        }

        #[target_feature(enable = $features)]
        fn add(results: Results<'_>, output: &mut [f32]) {
            scalar::add(results, output);
        }

        #[target_feature(enable = $features)]
        fn softmax(values: &mut [f32]) {
            scalar::softmax(values);
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod check;
mod half;
mod scalar;
#[cfg(test)]
mod tests;
mod tile;

use std::{ops::Range, sync::OnceLock};

#[cfg(test)]
pub(crate) use half::{f16_to_f32, f32_to_f16};
pub(crate) use tile::{
    BLOCK, Bf16Column, Block, F16Column, F32Column, OffsetTile, Q2KTile, Q4KTile, Q4Tile, Q5KTile, Q6KTile,
    Q8Tile, Results, SUPER_BLOCK, SuperBlock, TILE_ROWS, TableTile, Tile, TileOutput, iq4_nl_as_table,
    iq4_xs_as_table, mxfp4_as_table, q3_k_as_q6_k, q4_1_as_offset, q5_0_as_q8_0, q5_1_as_offset,
};

use crate::scratch::Scratch;

/// Lanes of the canonical order of summation.
const LANES: usize = 8;

/// One query of [`Kernels::attend`].
pub(crate) struct Query<'a> {
    pub(crate) query: &'a [f32],
    /// The first position that the query sees, counted from the first of the pieces.
    pub(crate) first: usize,
    /// Scratch: one number for each position that the query sees. The pieces may hold later positions, too.
    pub(crate) scores: &'a mut [f32],
    /// The score of what is no position and has no value, if there is such. It takes its part of the weights.
    pub(crate) sink: Option<f32>,
    /// As long as the query.
    pub(crate) output: &'a mut [f32],
}

impl Query<'_> {
    /// Its scores of what it sees out of a piece of `positions` from `first` on, and how many of these come before.
    fn seen(&self, first: usize, positions: usize) -> (Range<usize>, usize) {
        let last = self.first + self.scores.len();
        let begin = first.clamp(self.first, last);
        let end = (first + positions).clamp(begin, last);
        (begin - self.first..end - self.first, begin.saturating_sub(first).min(positions))
    }
}

/// Instruction sets with kernels, the smallest first. All give the same answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instructions {
    /// The instructions that the program is compiled for.
    Compiled,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 (F, BW, VL) and its byte products (VNNI).
    Avx512Vnni,
}

/// The kernels for this processor, chosen once.
#[derive(Clone, Copy)]
pub(crate) enum Kernels {
    /// Plain Rust: the reference, and what other processors run.
    Scalar,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    /// AVX-512 with its byte products (VNNI); attention as AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
}

macro_rules! dispatch {
    ($kernels:expr, $name:ident ( $($argument:expr),* )) => {
        match $kernels {
            Kernels::Scalar => scalar::$name($($argument),*),
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2(available) => available.$name($($argument),*),
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx512(available) => available.$name($($argument),*),
        }
    };
}

/// The vector kernels that this processor runs, the fastest last.
#[cfg(target_arch = "x86_64")]
fn vector_kernels() -> Vec<Kernels> {
    let avx2 = avx2::Avx2::detect().map(Kernels::Avx2);
    let avx512 = avx512::Avx512::detect().map(Kernels::Avx512);
    avx2.into_iter().chain(avx512).collect()
}

/// No vector kernels exist for this processor.
#[cfg(not(target_arch = "x86_64"))]
fn vector_kernels() -> Vec<Kernels> {
    Vec::new()
}

impl Kernels {
    /// The fastest kernels that this processor runs and that give the results of the scalar ones; see
    /// `check`.
    pub(crate) fn best() -> Self {
        static BEST: OnceLock<Kernels> = OnceLock::new();
        *BEST.get_or_init(|| Self::within(Instructions::Avx512Vnni))
    }

    /// As [`Kernels::best`], of those that need no more than these instructions.
    pub(crate) fn within(most: Instructions) -> Self {
        let mut candidates =
            vector_kernels().into_iter().rev().filter(|kernels| kernels.instructions() <= most);
        candidates.find(|kernels| check::agrees(*kernels)).unwrap_or(Kernels::Scalar)
    }

    fn instructions(self) -> Instructions {
        match self {
            Kernels::Scalar => Instructions::Compiled,
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2(_) => Instructions::Avx2,
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx512(_) => Instructions::Avx512Vnni,
        }
    }

    /// `output[m] = tiles · activations[m]` for the 16 rows of one row of tiles; `activations` are rows of
    /// `tiles.len()` blocks. So for the other formats.
    pub(crate) fn q8_tile(self, tiles: &[Q8Tile], activations: &[Block], output: &mut [TileOutput]) {
        dispatch!(self, q8_tile(tiles, activations, output));
    }

    pub(crate) fn q4_tile(self, tiles: &[Q4Tile], activations: &[Block], output: &mut [TileOutput]) {
        dispatch!(self, q4_tile(tiles, activations, output));
    }

    pub(crate) fn table_tile(self, tiles: &[TableTile], activations: &[Block], output: &mut [TileOutput]) {
        dispatch!(self, table_tile(tiles, activations, output));
    }

    pub(crate) fn offset_tile(self, tiles: &[OffsetTile], activations: &[Block], output: &mut [TileOutput]) {
        dispatch!(self, offset_tile(tiles, activations, output));
    }

    pub(crate) fn q2_k_tile(self, tiles: &[Q2KTile], activations: &[SuperBlock], output: &mut [TileOutput]) {
        dispatch!(self, q2_k_tile(tiles, activations, output));
    }

    pub(crate) fn q4_k_tile(self, tiles: &[Q4KTile], activations: &[SuperBlock], output: &mut [TileOutput]) {
        dispatch!(self, q4_k_tile(tiles, activations, output));
    }

    pub(crate) fn q5_k_tile(self, tiles: &[Q5KTile], activations: &[SuperBlock], output: &mut [TileOutput]) {
        dispatch!(self, q5_k_tile(tiles, activations, output));
    }

    pub(crate) fn q6_k_tile(self, tiles: &[Q6KTile], activations: &[SuperBlock], output: &mut [TileOutput]) {
        dispatch!(self, q6_k_tile(tiles, activations, output));
    }

    pub(crate) fn f32_tile(self, columns: &[F32Column], activations: &[f32], output: &mut [TileOutput]) {
        dispatch!(self, f32_tile(columns, activations, output));
    }

    pub(crate) fn f16_tile(self, columns: &[F16Column], activations: &[f32], output: &mut [TileOutput]) {
        dispatch!(self, f16_tile(columns, activations, output));
    }

    pub(crate) fn bf16_tile(self, columns: &[Bf16Column], activations: &[f32], output: &mut [TileOutput]) {
        dispatch!(self, bf16_tile(columns, activations, output));
    }

    /// Rounds every 32 numbers to signed bytes with a common scale.
    pub(crate) fn quantise(self, values: &[f32], blocks: &mut [Block]) {
        dispatch!(self, quantise(values, blocks));
    }

    /// Rounds every 256 numbers to signed bytes with a common scale.
    pub(crate) fn quantise_super(self, values: &[f32], blocks: &mut [SuperBlock]) {
        dispatch!(self, quantise_super(values, blocks));
    }

    /// `output = values / √(mean(values²) + epsilon) · weight`.
    pub(crate) fn rms_norm(self, values: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32]) {
        dispatch!(self, rms_norm(values, weight, epsilon, output));
    }

    /// As [`Kernels::rms_norm`], over the values themselves.
    pub(crate) fn rms_norm_in_place(self, values: &mut [f32], weight: &[f32], epsilon: f32) {
        dispatch!(self, rms_norm_in_place(values, weight, epsilon));
    }

    /// `output = gate · σ(gate) · up`, for the same rows of activations.
    pub(crate) fn swiglu(self, gate: Results<'_>, up: Results<'_>, output: &mut [f32]) {
        dispatch!(self, swiglu(gate, up, output));
    }

    /// `output = gate · Φ(gate) · up`, with the tanh form of the Gaussian distribution's function Φ.
    pub(crate) fn geglu(self, gate: Results<'_>, up: Results<'_>, output: &mut [f32]) {
        dispatch!(self, geglu(gate, up, output));
    }

    /// `output = gate · σ(1.702 · gate) · (up + 1)`, where the gate is at most 7, and the other from -7 to 7.
    pub(crate) fn clamped_swiglu(self, gate: &[f32], up: &[f32], output: &mut [f32]) {
        dispatch!(self, clamped_swiglu(gate, up, output));
    }

    /// `values = cap · tanh(values / cap)`: no number is further from zero than the cap.
    pub(crate) fn soften(self, values: &mut [f32], cap: f32) {
        dispatch!(self, soften(values, cap));
    }

    /// `output += results`, for the same rows of activations.
    pub(crate) fn add(self, results: Results<'_>, output: &mut [f32]) {
        dispatch!(self, add(results, output));
    }

    /// Softmax in place.
    pub(crate) fn softmax(self, values: &mut [f32]) {
        dispatch!(self, softmax(values));
    }

    /// Softmax in place, as if there were one number more.
    fn softmax_with(self, values: &mut [f32], more: f32) {
        let mut all = Scratch::with_capacity(values.len() + 1);
        all.extend_from_slice(values);
        all.push(more);
        self.softmax(&mut all);
        values.iter_mut().zip(all.iter()).for_each(|(value, weight)| *value = *weight);
    }

    /// Attention of several queries to the keys and values of one head, which come in pieces of
    /// half-precision rows. Scores are softened with `cap` if there is one. The results depend neither on how the
    /// positions are cut nor on which queries come together.
    pub(crate) fn attend<'a>(
        self,
        queries: &mut [Query<'_>],
        cap: Option<f32>,
        pieces: impl Iterator<Item = (&'a [u16], &'a [u16])> + Clone,
    ) {
        let Some(width) = queries.first().map(|query| query.query.len()) else { return };
        let longest = pieces.clone().map(|(keys, _)| keys.len()).max().unwrap_or_default();
        // A piece is widened once for all queries, into memory that stays in the nearest cache.
        let mut widened = Scratch::filled(longest);
        let mut first = 0;
        for (keys, _) in pieces.clone() {
            dispatch!(self, widen(keys, &mut widened));
            let positions = keys.len() / width;
            for query in &mut *queries {
                let (seen, before) = query.seen(first, positions);
                dispatch!(self, score_keys(query.query, &widened[before * width..], &mut query.scores[seen]));
            }
            first += positions;
        }
        for query in &mut *queries {
            if let Some(cap) = cap {
                self.soften(query.scores, cap);
            }
            match query.sink {
                Some(sink) => self.softmax_with(query.scores, sink),
                None => self.softmax(query.scores),
            }
            query.output.fill(0.0);
        }
        let mut first = 0;
        for (_, values) in pieces {
            dispatch!(self, widen(values, &mut widened));
            let positions = values.len() / width;
            for query in &mut *queries {
                let (seen, before) = query.seen(first, positions);
                dispatch!(self, add_values(&query.scores[seen], &widened[before * width..], query.output));
            }
            first += positions;
        }
    }

    /// Half-precision copies of single-precision numbers, rounded to nearest even.
    pub(crate) fn halve(self, values: &[f32], output: &mut [u16]) {
        dispatch!(self, halve(values, output));
    }
}
