//! Formats without a tile of their own. Their blocks are written as blocks of a format that has one, when a
//! file is loaded. Every weight stays the same number: nothing is rounded. The weights take more memory than
//! the file says, because codes or scales get more bits.

use super::half;
use crate::kernels::half::f16_to_f32;

/// The numbers of the codes of `IQ4_NL` and `IQ4_XS` (`kvalues_iq4nl` in ggml).
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Twice the numbers of four bits with a sign, two bits of exponent and one of fraction (E2M1).
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `Q5_0`, the scale, 32 fifth bits, 16 bytes of low bits: a weight is the code less 16, times the scale.
pub(crate) fn q5_0_as_q8_0([low, high, rest @ ..]: &[u8; 22]) -> [u8; 34] {
    let mut block = [0; 34];
    block[..2].copy_from_slice(&[*low, *high]);
    block[2..].copy_from_slice(&five_bits(rest).map(|code| code.wrapping_sub(16)));
    block
}

/// `IQ4_NL`, the scale, 16 bytes of codes: a weight is the code's number in the table, times the scale.
pub(crate) fn iq4_nl_as_table([low, high, codes @ ..]: &[u8; 18]) -> [u8; 36] {
    with_table(f16_to_f32(half([*low, *high])), &IQ4, codes)
}

/// `Q4_1`, the scale, the offset, 16 bytes of codes: a weight is the code times the scale, plus the offset.
pub(crate) fn q4_1_as_offset([a, b, c, d, codes @ ..]: &[u8; 20]) -> [u8; 40] {
    with_offset(f16_to_f32(half([*a, *b])), f16_to_f32(half([*c, *d])), four_bits(codes))
}

/// `Q5_1`, the scale, the offset, 32 fifth bits, 16 bytes of low bits: as `Q4_1`.
pub(crate) fn q5_1_as_offset([a, b, c, d, rest @ ..]: &[u8; 24]) -> [u8; 40] {
    with_offset(f16_to_f32(half([*a, *b])), f16_to_f32(half([*c, *d])), five_bits(rest))
}

/// `MXFP4`, the exponent, 16 bytes of codes: a weight is the code's number times 2 to the exponent less 127.
/// The exponent 255 stands for no number, as in the OCP Microscaling Formats Specification (E8M0). ggml
/// takes it as 2^128.
pub(crate) fn mxfp4_as_table([exponent, codes @ ..]: &[u8; 17]) -> [u8; 36] {
    // Half of the scale, because the numbers of the table are twice what they stand for.
    let scale = match *exponent {
        255 => f32::NAN,
        // 2^-128 and 2^-127 are subnormal.
        0 => f32::from_bits(0x0020_0000),
        1 => f32::from_bits(0x0040_0000),
        exponent => f32::from_bits(u32::from(exponent - 1) << 23),
    };
    with_table(scale, &E2M1, codes)
}

/// `IQ4_XS`, the scale, 16 bits and 4 bytes of part scales, 8 parts of 16 bytes of codes: a weight is
/// `scale · (part scale - 32)` times the code's number in the table. The product of the scales has 17 bits at
/// most, so it is exact in single precision.
pub(crate) fn iq4_xs_as_table([a, b, c, d, rest @ ..]: &[u8; 136]) -> [[u8; 36]; 8] {
    let mut blocks = [[0; 36]; 8];
    let Some((lows, codes)) = rest.split_first_chunk::<4>() else { return blocks };
    let (scale, highs) = (f16_to_f32(half([*a, *b])), half([*c, *d]));
    for (part, (block, codes)) in blocks.iter_mut().zip(codes.as_chunks::<16>().0).enumerate() {
        let low = lows[part / 2] >> (part % 2 * 4) & 15;
        let part_scale = f32::from(low) + 16.0 * f32::from(highs >> (2 * part) & 3) - 32.0;
        *block = with_table(scale * part_scale, &IQ4, codes);
    }
    blocks
}

/// `Q3_K`, 32 bytes of third bits, 64 bytes of low bits, 12 bytes of part scales, the scale: a weight is
/// `scale · (part scale - 32) · (code - 4)`, in 16 parts of 16. `Q6_K` has the same parts, part scales of eight
/// bits and codes that stand 32 too high.
pub(crate) fn q3_k_as_q6_k(block: &[u8; 110]) -> [u8; 210] {
    let mut result = [0; 210];
    let Some((thirds, rest)) = block.split_first_chunk::<32>() else { return result };
    let Some((lows, rest)) = rest.split_first_chunk::<64>() else { return result };
    let Some((part_scales, scale)) = rest.split_first_chunk::<12>() else { return result };
    // Where `Q6_K` has its 128 bytes of low halves and 64 bytes of high bits, see `Q6KTile`.
    for column in 0..256 {
        let (part, at) = (column / 128, column % 32);
        let quarter = column % 128 / 32;
        let low = lows[part * 32 + at] >> (2 * quarter) & 3;
        let third = thirds[at] >> (part * 4 + quarter) & 1;
        let code = (low | third << 2) + 28;
        result[part * 64 + quarter % 2 * 32 + at] |= (code & 15) << (quarter / 2 * 4);
        result[128 + part * 32 + at] |= code >> 4 << (2 * quarter);
    }
    // The first eight bytes have the low four bits of the scales 0 to 7 in their low halves, and of the scales
    // 8 to 15 in their high halves. The last four bytes have the high two bits: of scale `4 k + l` at position
    // `2 k` of byte `l`.
    for part in 0..16 {
        let low = part_scales[part % 8] >> (part / 8 * 4) & 15;
        let high = part_scales[8 + part % 4] >> (part / 4 * 2) & 3;
        result[192 + part] = (low | high << 4).wrapping_sub(32);
    }
    result[208..].copy_from_slice(scale);
    result
}

/// A block for a `TableTile`.
fn with_table(scale: f32, numbers: &[i8; 16], codes: &[u8; 16]) -> [u8; 36] {
    let mut block = [0; 36];
    block[..4].copy_from_slice(&scale.to_le_bytes());
    block[4..20].copy_from_slice(&numbers.map(i8::cast_unsigned));
    block[20..].copy_from_slice(codes);
    block
}

/// A block for an `OffsetTile`.
fn with_offset(scale: f32, offset: f32, bytes: [u8; 32]) -> [u8; 40] {
    let mut block = [0; 40];
    block[..4].copy_from_slice(&scale.to_le_bytes());
    block[4..8].copy_from_slice(&offset.to_le_bytes());
    block[8..].copy_from_slice(&bytes);
    block
}

/// Columns 0 to 15 are in the low halves, 16 to 31 in the high ones.
fn four_bits(bytes: &[u8; 16]) -> [u8; 32] {
    std::array::from_fn(|column| bytes[column % 16] >> (column / 16 * 4) & 15)
}

/// Four bytes of fifth bits, column after column, then the low four bits as in [`four_bits`].
fn five_bits(bytes: &[u8; 20]) -> [u8; 32] {
    let Some((fifths, lows)) = bytes.split_first_chunk::<4>() else { return [0; 32] };
    let mut codes = lows.first_chunk().map_or([0; 32], four_bits);
    for (column, code) in codes.iter_mut().enumerate() {
        *code |= (fifths[column / 8] >> (column % 8) & 1) << 4;
    }
    codes
}
