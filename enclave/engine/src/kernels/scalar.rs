//! The definition of every kernel's result.
//!
//! Functions marked `inline(always)` are also compiled into the vector modules, where the compiler widens
//! them.

mod tiles;

pub(super) use tiles::{
    bf16_tile, f16_tile, f32_tile, offset_tile, q2_k_tile, q4_k_tile, q4_tile, q5_k_tile, q6_k_tile, q8_tile,
    table_tile,
};

use super::{
    LANES,
    half::{f16_to_f32, f32_to_f16},
    tile::{BLOCK, Block, Results, SUPER_BLOCK, SuperBlock, TILE_ROWS, four, pair},
};

/// `scores = keys · query / √width`.
pub(super) fn score_keys(query: &[f32], keys: &[f32], scores: &mut [f32]) {
    let width = query.len();
    let scale = 1.0 / (width as f32).sqrt();
    for (key, score) in keys.chunks_exact(width).zip(scores) {
        let mut lanes = [0.0_f32; LANES];
        for (query, key) in query.as_chunks::<LANES>().0.iter().zip(key.as_chunks::<LANES>().0) {
            for ((lane, query), key) in lanes.iter_mut().zip(query).zip(key) {
                *lane = query.mul_add(*key, *lane);
            }
        }
        *score = sum_lanes(lanes) * scale;
    }
}

/// `output += weights · values`, a row of `output.len()` values for each weight.
pub(super) fn add_values(weights: &[f32], values: &[f32], output: &mut [f32]) {
    for (value, weight) in values.chunks_exact(output.len()).zip(weights) {
        for (out, value) in output.iter_mut().zip(value) {
            *out = weight.mul_add(*value, *out);
        }
    }
}

pub(super) fn widen(values: &[u16], output: &mut [f32]) {
    for (value, out) in values.iter().zip(output) {
        *out = f16_to_f32(*value);
    }
}

pub(super) fn halve(values: &[f32], output: &mut [u16]) {
    for (value, out) in values.iter().zip(output) {
        *out = f32_to_f16(*value);
    }
}

#[inline(always)]
pub(super) fn quantise(values: &[f32], blocks: &mut [Block]) {
    for (values, block) in values.as_chunks::<BLOCK>().0.iter().zip(blocks) {
        let factor = factor(values, &mut block.scale);
        let mut sum = 0_i32;
        for (quants, values) in block.quants.iter_mut().zip(values.as_chunks::<4>().0) {
            let rounded = values.map(|value| quant(value * factor));
            *quants = four(rounded);
            sum = rounded.iter().fold(sum, |sum, quant| sum.wrapping_add(i32::from(*quant)));
        }
        block.lift = sum.wrapping_mul(-128);
    }
}

#[inline(always)]
pub(super) fn quantise_super(values: &[f32], blocks: &mut [SuperBlock]) {
    for (values, block) in values.as_chunks::<SUPER_BLOCK>().0.iter().zip(blocks) {
        let factor = factor(values, &mut block.scale);
        let mut quants = [0_i8; SUPER_BLOCK];
        for (place, value) in quants.iter_mut().zip(values) {
            *place = quant(value * factor);
        }
        for (packed, quants) in block.quants.iter_mut().zip(quants.as_chunks::<4>().0) {
            *packed = four(*quants);
        }
        let mut sums = [0_i16; SUPER_BLOCK / 16];
        for (sum, quants) in sums.iter_mut().zip(quants.as_chunks::<16>().0) {
            *sum = quants.iter().fold(0_i16, |sum, quant| sum.wrapping_add(i16::from(*quant)));
        }
        for (packed, sums) in block.sums_of_16.iter_mut().zip(sums.as_chunks::<2>().0) {
            *packed = pair(*sums);
        }
        for (packed, [a, b, c, d]) in block.sums_of_32.iter_mut().zip(sums.as_chunks::<4>().0) {
            *packed = pair([a.wrapping_add(*b), c.wrapping_add(*d)]);
        }
    }
}

/// The factor that brings the largest value to 127; `scale` gets its inverse.
#[inline(always)]
fn factor(values: &[f32], scale: &mut f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    for chunk in values.as_chunks::<LANES>().0 {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if value.abs() > *lane { value.abs() } else { *lane };
        }
    }
    let largest = lanes.into_iter().fold(0.0_f32, |a, b| if b > a { b } else { a });
    *scale = largest / 127.0;
    if largest > 0.0 { 127.0 / largest } else { 0.0 }
}

#[inline(always)]
pub(super) fn rms_norm(values: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32]) {
    let factor = rms_factor(values, epsilon);
    for ((out, value), weight) in output.iter_mut().zip(values).zip(weight) {
        *out = value * factor * weight;
    }
}

#[inline(always)]
pub(super) fn rms_norm_in_place(values: &mut [f32], weight: &[f32], epsilon: f32) {
    let factor = rms_factor(values, epsilon);
    for (value, weight) in values.iter_mut().zip(weight) {
        *value = *value * factor * weight;
    }
}

#[inline(always)]
fn rms_factor(values: &[f32], epsilon: f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value * value;
        }
    }
    let squares = sum_lanes(lanes) + rest.iter().fold(0.0, |sum, value| sum + value * value);
    1.0 / (squares / values.len() as f32 + epsilon).sqrt()
}

#[inline(always)]
pub(super) fn swiglu(gate: Results<'_>, up: Results<'_>, output: &mut [f32]) {
    gated(gate, up, output, |gate| gate / (1.0 + exp(-gate)));
}

#[inline(always)]
pub(super) fn geglu(gate: Results<'_>, up: Results<'_>, output: &mut [f32]) {
    /// 2√(2/π): half of 1 + tanh(x) is the logistic function of 2x.
    const TWICE_ROOT: f32 = 1.595_769_2;
    gated(gate, up, output, |gate| {
        let x = TWICE_ROOT * (gate + 0.044_715 * gate * gate * gate);
        gate / (1.0 + exp(-x))
    });
}

#[inline(always)]
pub(super) fn clamped_swiglu(gate: &[f32], up: &[f32], output: &mut [f32]) {
    const STEEPNESS: f32 = 1.702;
    const LIMIT: f32 = 7.0;
    for ((output, gate), up) in output.iter_mut().zip(gate).zip(up) {
        let gate = if *gate < LIMIT { *gate } else { LIMIT };
        let up = if *up < LIMIT { *up } else { LIMIT };
        let up = if up > -LIMIT { up } else { -LIMIT };
        *output = gate / (1.0 + exp(-STEEPNESS * gate)) * (up + 1.0);
    }
}

#[inline(always)]
fn gated(gate: Results<'_>, up: Results<'_>, output: &mut [f32], of_gate: impl Fn(f32) -> f32) {
    let columns = gate.columns(output.len());
    // Tile by tile, since the results for one row of activations are far apart.
    for (tile, (gate, up)) in gate.tiles().zip(up.tiles()).enumerate() {
        for ((output, gate), up) in output.chunks_exact_mut(columns).zip(gate).zip(up) {
            of_tile(output, tile, |output| {
                for ((output, gate), up) in output.iter_mut().zip(gate).zip(up) {
                    *output = of_gate(*gate) * up;
                }
            });
        }
    }
}

#[inline(always)]
pub(super) fn add(results: Results<'_>, output: &mut [f32]) {
    let columns = results.columns(output.len());
    for (tile, results) in results.tiles().enumerate() {
        for (output, results) in output.chunks_exact_mut(columns).zip(results) {
            of_tile(output, tile, |output| {
                for (output, result) in output.iter_mut().zip(results) {
                    *output += result;
                }
            });
        }
    }
}

/// Gives `each` a tile's part of a row. Its length is a constant that the compiler sees, except at the end of
/// the row.
#[inline(always)]
fn of_tile(row: &mut [f32], tile: usize, each: impl Fn(&mut [f32])) {
    let part = &mut row[tile * TILE_ROWS..];
    match part.first_chunk_mut::<TILE_ROWS>() {
        Some(part) => each(part),
        None => each(part),
    }
}

#[inline(always)]
pub(super) fn softmax(values: &mut [f32]) {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    let largest = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a });
    for value in &mut *values {
        *value = exp(*value - largest);
    }
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    let sum = rest.iter().fold(sum_lanes(lanes), |sum, value| sum + value);
    let factor = 1.0 / sum;
    for value in values {
        *value *= factor;
    }
}

#[inline(always)]
pub(super) fn soften(values: &mut [f32], cap: f32) {
    // tanh(x) is 1 - 2 / (e^2x + 1).
    let factor = 2.0 / cap;
    for value in values {
        *value = cap * (1.0 - 2.0 / (exp(*value * factor) + 1.0));
    }
}

/// Halves, then quarters, then the last two: the order in which a vector is folded.
#[inline(always)]
fn sum_lanes([a, b, c, d, e, f, g, h]: [f32; LANES]) -> f32 {
    let [a, b, c, d] = [a + e, b + f, c + g, d + h];
    let [a, b] = [a + c, b + d];
    a + b
}

// Integer arithmetic here is written as wrapping: a check for overflow would keep the compiler from computing
// eight numbers at once.

/// Adding this to a number of at most 2^22 leaves the nearest integer, to even on a tie, in the low bits.
const ROUND: f32 = 12_582_912.0;

/// The nearest byte to a number of at most 127. Never -128, which has no positive counterpart. NaN gives
/// -127.
#[inline(always)]
fn quant(value: f32) -> i8 {
    nearest(if value > -127.0 { value } else { -127.0 }) as i8
}

#[inline(always)]
fn nearest(value: f32) -> i32 {
    (value + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32
}

/// e^x with a relative error below 2e-7, by the same few operations everywhere (a system's own `exp` may
/// differ in the last bit). Arguments outside -87 to 88 are taken as the nearer of the two.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = if x > -87.0 { x } else { -87.0 };
    let x = if x < 88.0 { x } else { 88.0 };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let power = shifted - ROUND;
    // ln 2 in two parts: the first has so few digits that its product with the power is exact.
    let rest = x - power * 0.693_359_4 - power * -2.121_944_4e-4;
    let sum = 1.0 / 5040.0 * rest + 1.0 / 720.0;
    let sum = sum * rest + 1.0 / 120.0;
    let sum = sum * rest + 1.0 / 24.0;
    let sum = sum * rest + 1.0 / 6.0;
    let sum = sum * rest + 0.5;
    let sum = (sum * rest + 1.0) * rest + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    sum * f32::from_bits(exponent.wrapping_add(127) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_function_is_accurate() {
        for step in -8700..8800_i32 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2e-7, "exp({x}): relative error {error}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), exp(-87.0));
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn quantising_keeps_the_largest_and_rounds_the_rest() {
        let mut values = [0.0_f32; BLOCK];
        values[3] = -12.7;
        values[4] = 6.36;
        let mut blocks = [Block::default()];
        quantise(&values, &mut blocks);
        assert_eq!(blocks[0].quants[0], four([0, 0, 0, -127]));
        assert_eq!(blocks[0].quants[1], four([64, 0, 0, 0]));
        assert_eq!(blocks[0].lift, -128 * (64 - 127));
        assert!((blocks[0].scale - 0.1).abs() < 1e-7);
        quantise(&[0.0; BLOCK], &mut blocks);
        assert_eq!((blocks[0].quants, blocks[0].scale), ([0; 8], 0.0));
    }

    #[test]
    fn no_value_becomes_a_byte_whose_sign_cannot_be_turned() {
        // The lowest byte of a NaN is free and arithmetic preserves it. Here it is that of -128.
        let values = [f32::from_bits(0x7fc0_0080); SUPER_BLOCK];
        let (mut blocks, mut super_blocks) = ([Block::default()], [SuperBlock::default()]);
        quantise(&values, &mut blocks);
        quantise_super(&values, &mut super_blocks);
        assert_eq!(blocks[0].quants, [four([-127; 4]); BLOCK / 4]);
        assert_eq!(super_blocks[0].quants, [four([-127; 4]); SUPER_BLOCK / 4]);
    }

    #[test]
    fn soft_caps_and_the_gaussian_gate_are_accurate() {
        for step in -2000..2000_i32 {
            let x = step as f32 / 10.0;
            let mut found = [x];
            soften(&mut found, 30.0);
            let exact = 30.0 * (f64::from(x) / 30.0).tanh();
            assert!((f64::from(found[0]) - exact).abs() < 1e-5, "{x}: {} {exact}", found[0]);

            let (tiles, mut gated) = ([[x / 10.0; TILE_ROWS]], [0.0; TILE_ROWS]);
            let results = || Results::new(&tiles, 1, 0, 1);
            geglu(results(), results(), &mut gated);
            let gate = f64::from(x / 10.0);
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044715 * gate.powi(3));
            let exact = 0.5 * gate * (1.0 + inner.tanh()) * gate;
            assert!(
                (f64::from(gated[0]) - exact).abs() < 1e-5 * (1.0 + exact.abs()),
                "{gate}: {} {exact}",
                gated[0]
            );
        }
        let mut extremes = [f32::MAX, f32::MIN, 0.0];
        soften(&mut extremes, 50.0);
        assert_eq!(extremes, [50.0, -50.0, 0.0]);
    }

    #[test]
    fn softmax_sums_to_one() {
        let mut values: Vec<f32> = (0..19).map(|index| index as f32 / 3.0).collect();
        softmax(&mut values);
        assert!((values.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((values[18] / values[15] - 1.0_f32.exp()).abs() < 1e-5);
    }
}
