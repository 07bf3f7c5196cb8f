use std::io::Read as _;
use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::*;
use crate::kernels::{BLOCK, f32_to_f16};

const ROWS: usize = 21;

/// The number of a weight in a block, written from the format's description and not from the tiles: the bytes
/// of a block and the column in it.
fn weight(tensor_type: TensorType, block: &[u8], column: usize) -> f32 {
    const TABLE: [f32; 16] = [
        -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0,
        113.0,
    ];
    let f16 = |at: usize| crate::kernels::f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]));
    let nibble = |at: usize, high: bool| f32::from(if high { block[at] >> 4 } else { block[at] & 15 });
    let fifth = |at: usize| f32::from(block[at + column / 8] >> (column % 8) & 1) * 16.0;
    // Part scale and minimum of the K types with minima.
    let six = |part: usize| {
        let s = &block[4..16];
        if part < 4 {
            (s[part] & 63, s[part + 4] & 63)
        } else {
            ((s[part + 4] & 15) | (s[part - 4] >> 6) << 4, (s[part + 4] >> 4) | (s[part] >> 6) << 4)
        }
    };
    let (part, in_pair) = (column / 32, column % 64);
    match tensor_type {
        TensorType::F32 => f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
        TensorType::F16 => f16(0),
        TensorType::BF16 => f32::from_le_bytes([0, 0, block[0], block[1]]),
        TensorType::Q8_0 => f16(0) * f32::from(block[2 + column] as i8),
        TensorType::Q4_0 => f16(0) * (nibble(2 + column % 16, column >= 16) - 8.0),
        TensorType::Q4_1 => f16(0) * nibble(4 + column % 16, column >= 16) + f16(2),
        TensorType::Q5_0 => f16(0) * (nibble(6 + column % 16, column >= 16) + fifth(2) - 16.0),
        TensorType::Q5_1 => f16(0) * (nibble(8 + column % 16, column >= 16) + fifth(4)) + f16(2),
        TensorType::IQ4_NL => f16(0) * TABLE[nibble(2 + column % 16, column >= 16) as usize],
        TensorType::IQ4_XS => {
            let high = u16::from_le_bytes([block[2], block[3]]) >> (2 * part) & 3;
            let scale = nibble(4 + part / 2, part % 2 == 1) + 16.0 * f32::from(high) - 32.0;
            f16(0) * scale * TABLE[nibble(8 + part * 16 + column % 16, column % 32 >= 16) as usize]
        }
        TensorType::MXFP4 => {
            let code = nibble(1 + column % 16, column >= 16) as usize;
            let size = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][code % 8];
            2.0_f32.powi(i32::from(block[0]) - 127) * if code < 8 { size } else { -size }
        }
        TensorType::Q2_K => {
            let (half, at) = (column / 128, column % 32);
            let code = f32::from(block[16 + half * 32 + at] >> (column % 128 / 32 * 2) & 3);
            let part = column / 16;
            f16(80) * nibble(part, false) * code - f16(82) * nibble(part, true)
        }
        TensorType::Q3_K => {
            let (half, quarter, at) = (column / 128, column % 128 / 32, column % 32);
            let low = f32::from(block[32 + half * 32 + at] >> (quarter * 2) & 3);
            let third = f32::from(block[at] >> (half * 4 + quarter) & 1);
            let part = column / 16;
            let scale = nibble(96 + part % 8, part >= 8)
                + 16.0 * f32::from(block[104 + part % 4] >> (part / 4 * 2) & 3);
            f16(108) * (scale - 32.0) * (low + 4.0 * third - 4.0)
        }
        TensorType::Q4_K => {
            let (scale, minimum) = six(part);
            let code = nibble(16 + column / 64 * 32 + in_pair % 32, in_pair >= 32);
            f16(0) * f32::from(scale) * code - f16(2) * f32::from(minimum)
        }
        TensorType::Q5_K => {
            let (scale, minimum) = six(part);
            let low = nibble(48 + column / 64 * 32 + in_pair % 32, in_pair >= 32);
            let code = low + 16.0 * f32::from(block[16 + column % 32] >> part & 1);
            f16(0) * f32::from(scale) * code - f16(2) * f32::from(minimum)
        }
        TensorType::Q6_K => {
            let (half, at) = (column / 128, column % 32);
            let quarter = column % 128 / 32;
            let low = nibble(half * 64 + quarter % 2 * 32 + at, quarter >= 2);
            let code = low + 16.0 * f32::from(block[128 + half * 32 + at] >> (2 * quarter) & 3);
            f16(208) * f32::from(block[192 + column / 16] as i8) * (code - 32.0)
        }
    }
}

/// Random blocks whose scales are small finite numbers.
fn bytes_of(tensor_type: TensorType, columns: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    let blocks = ROWS * columns / tensor_type.block_length();
    let mut bytes: Vec<u8> = (0..blocks * tensor_type.block_bytes()).map(|_| next()).collect();
    let mut scale = || f32::from(next()) / 4096.0 + 0.01;
    for block in bytes.chunks_exact_mut(tensor_type.block_bytes()) {
        let value = scale() - 0.04;
        match tensor_type {
            TensorType::F32 => block.copy_from_slice(&value.to_le_bytes()),
            TensorType::F16 => block.copy_from_slice(&f32_to_f16(value).to_le_bytes()),
            TensorType::BF16 => block.copy_from_slice(&value.to_le_bytes()[2..]),
            TensorType::Q8_0
            | TensorType::Q4_0
            | TensorType::Q5_0
            | TensorType::IQ4_NL
            | TensorType::IQ4_XS => {
                block[..2].copy_from_slice(&f32_to_f16(value).to_le_bytes());
            }
            TensorType::MXFP4 => block[0] = 110 + block[0] % 16,
            TensorType::Q2_K => {
                block[80..82].copy_from_slice(&f32_to_f16(scale()).to_le_bytes());
                block[82..].copy_from_slice(&f32_to_f16(scale()).to_le_bytes());
            }
            TensorType::Q3_K => block[108..].copy_from_slice(&f32_to_f16(scale()).to_le_bytes()),
            TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4_K | TensorType::Q5_K => {
                block[..2].copy_from_slice(&f32_to_f16(scale()).to_le_bytes());
                block[2..4].copy_from_slice(&f32_to_f16(scale()).to_le_bytes());
            }
            TensorType::Q6_K => block[208..].copy_from_slice(&f32_to_f16(scale()).to_le_bytes()),
        }
    }
    bytes
}

/// Blocks and what the package `gguf` makes of them; see `weight_vectors.py`.
const VECTORS: &str = include_str!("../../tests/data/weight_vectors.txt");

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

#[test]
fn blocks_read_as_the_package_gguf_reads_them() {
    let mut seen = Vec::new();
    for line in VECTORS.lines() {
        let [name, block, expected] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let tensor_type = TensorType::ALL.into_iter().find(|kind| kind.to_string() == name).unwrap();
        let (block, expected) = (unhex(block), unhex(expected));
        let columns = tensor_type.block_length();
        let dimensions = [columns, 1, 1, 1];
        let tensor = Tensor { tensor_type, dimensions, start: 0, length: block.len() as u64 };
        let mut rest = block.as_slice();
        let matrix = Matrix::read(&tensor, tensor.dimensions[1], |output| rest.read_exact(output)).unwrap();
        let mut row = vec![0.0; columns];
        matrix.read_row(0, &mut row);
        for (column, (found, bytes)) in row.iter().zip(expected.as_chunks::<4>().0).enumerate() {
            let expected = f32::from_le_bytes(*bytes);
            let same = found.to_bits() == expected.to_bits() || *found == 0.0 && expected == 0.0;
            assert!(same || found.is_nan() && expected.is_nan(), "{line} {column}: {found}, not {expected}");
        }
        seen.push(tensor_type);
    }
    seen.sort_unstable();
    seen.dedup();
    let blocks = TensorType::ALL.into_iter().filter(|kind| kind.block_length() > 1);
    assert_eq!(seen.len(), blocks.count(), "every type with blocks has vectors");
}

#[test]
fn a_scale_that_is_no_number_makes_every_weight_of_its_block_none() {
    let row = |exponent: u8| {
        let mut block = [0x21; 17];
        block[0] = exponent;
        let tensor =
            Tensor { tensor_type: TensorType::MXFP4, dimensions: [32, 1, 1, 1], start: 0, length: 17 };
        let mut rest = &block[..];
        let matrix = Matrix::read(&tensor, tensor.dimensions[1], |output| rest.read_exact(output)).unwrap();
        let mut row = [0.0; 32];
        matrix.read_row(0, &mut row);
        row
    };
    assert!(row(255).iter().all(|weight| weight.is_nan()));
    // The largest and the smallest scale are numbers: a half and one of 2^127, and of 2^-127.
    assert_eq!((row(254)[0], row(254)[16]), (2.0_f32.powi(126), 2.0_f32.powi(127)));
    assert_eq!((row(0)[0], row(0)[16]), (f32::from_bits(0x0020_0000), f32::from_bits(0x0040_0000)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// What the file says, what a row reads as and what a product is made of are the same numbers.
    #[test]
    fn every_type_reads_back_and_multiplies(seed: u64, super_blocks in 1..6_usize, inputs_rows in 1..8_usize) {
        let columns = super_blocks * 256;
        for tensor_type in TensorType::ALL {
            let bytes = bytes_of(tensor_type, columns, seed);
            let tensor = Tensor { tensor_type, dimensions: [columns, ROWS, 1, 1], start: 0, length: bytes.len() as u64 };
            let mut rest = bytes.as_slice();
            let matrix = Matrix::read(&tensor, tensor.dimensions[1], |output| rest.read_exact(output)).unwrap();
            let (length, size) = (tensor_type.block_length(), tensor_type.block_bytes());
            let expected = |row: usize, column: usize| {
                let block = (row * columns + column) / length;
                weight(tensor_type, &bytes[block * size..][..size], column % length)
            };
            let mut row = vec![0.0; columns];
            for index in 0..ROWS {
                matrix.read_row(index, &mut row);
                for (column, found) in row.iter().enumerate() {
                    let expected = expected(index, column);
                    prop_assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{tensor_type} {index} {column}: {found}, not {expected}");
                }
            }
            let kernels = Kernels::best();
            let pool = Pool::new(NonZeroUsize::new(2).unwrap()).unwrap();
            let mut inputs = Inputs::new(inputs_rows, columns, matrix.forms());
            // Whole numbers up to 127 are exact when quantised with a scale of one.
            let input = |row: usize, column: usize| {
                if column.is_multiple_of(BLOCK) { 127.0 } else { ((column * 7 + row * 3) % 200) as f32 - 100.0 }
            };
            inputs.fill(kernels, &pool, matrix.forms(), inputs_rows, |first, values| {
                for (at, value) in values.iter_mut().enumerate() {
                    *value = input(first + at / columns, at % columns);
                }
            });
            let mut product = Product::new(inputs_rows, ROWS);
            multiply(kernels, &pool, [&matrix], &inputs, [&mut product]);
            let mut output = [0.0; ROWS];
            for index in 0..inputs_rows {
                product.copy_row(index, &mut output);
                for (row, found) in output.iter().enumerate() {
                    let terms = (0..columns).map(|column| f64::from(expected(row, column)) * f64::from(input(index, column)));
                    let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                    prop_assert!((f64::from(*found) - sum).abs() <= 1e-5 * size + 1e-4, "{tensor_type} row {row}: {found}, not {sum}");
                }
            }
        }
    }
}
