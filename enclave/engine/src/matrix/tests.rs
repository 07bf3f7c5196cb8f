use std::io::Read as _;
use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::*;
use crate::kernels::{BLOCK, f32_to_f16};

const ROWS: usize = 21;

const TYPES: [TensorType; 8] = [
    TensorType::F32,
    TensorType::F16,
    TensorType::BF16,
    TensorType::Q8_0,
    TensorType::Q4_0,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
];

/// The number of a weight in a block, written from the format's description and not from the tiles: the bytes
/// of a block and the column in it.
fn weight(tensor_type: TensorType, block: &[u8], column: usize) -> f32 {
    let f16 = |at: usize| crate::kernels::f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]));
    let nibble = |at: usize, high: bool| f32::from(if high { block[at] >> 4 } else { block[at] & 15 });
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
            TensorType::Q8_0 | TensorType::Q4_0 => {
                block[..2].copy_from_slice(&f32_to_f16(value).to_le_bytes());
            }
            TensorType::Q4_K | TensorType::Q5_K => {
                block[..2].copy_from_slice(&f32_to_f16(scale()).to_le_bytes());
                block[2..4].copy_from_slice(&f32_to_f16(scale()).to_le_bytes());
            }
            TensorType::Q6_K => block[208..].copy_from_slice(&f32_to_f16(scale()).to_le_bytes()),
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// What the file says, what a row reads as and what a product is made of are the same numbers.
    #[test]
    fn every_type_reads_back_and_multiplies(seed: u64, super_blocks in 1..6_usize, inputs_rows in 1..8_usize) {
        let columns = super_blocks * 256;
        for tensor_type in TYPES {
            let bytes = bytes_of(tensor_type, columns, seed);
            let tensor = Tensor { tensor_type, dimensions: [columns, ROWS, 1, 1], start: 0, length: bytes.len() as u64 };
            let mut rest = bytes.as_slice();
            let matrix = Matrix::read(&tensor, |output| rest.read_exact(output)).unwrap();
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
