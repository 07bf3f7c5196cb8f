//! Weights that are not quantised: one column of 16 rows.

use zeroize::DefaultIsZeroes;

use super::{TILE_ROWS, Tile};
use crate::kernels::half::{bf16_to_f32, f16_to_f32};

/// One column of single-precision weights.
#[derive(Clone, Copy, Default)]
pub(crate) struct F32Column(pub(crate) [f32; TILE_ROWS]);

/// One column of half-precision weights.
#[derive(Clone, Copy, Default)]
pub(crate) struct F16Column(pub(crate) [u16; TILE_ROWS]);

/// One column of weights that are the upper halves of single-precision numbers.
#[derive(Clone, Copy, Default)]
pub(crate) struct Bf16Column(pub(crate) [u16; TILE_ROWS]);

impl DefaultIsZeroes for F32Column {}
impl DefaultIsZeroes for F16Column {}
impl DefaultIsZeroes for Bf16Column {}

impl Tile<4> for F32Column {
    const COLUMNS: usize = 1;

    fn put(&mut self, row: usize, block: &[u8; 4]) {
        self.0[row] = f32::from_le_bytes(*block);
    }

    fn read(&self, row: usize, output: &mut [f32]) {
        output.fill(self.0[row]);
    }
}

impl Tile<2> for F16Column {
    const COLUMNS: usize = 1;

    fn put(&mut self, row: usize, block: &[u8; 2]) {
        self.0[row] = u16::from_le_bytes(*block);
    }

    fn read(&self, row: usize, output: &mut [f32]) {
        output.fill(f16_to_f32(self.0[row]));
    }
}

impl Tile<2> for Bf16Column {
    const COLUMNS: usize = 1;

    fn put(&mut self, row: usize, block: &[u8; 2]) {
        self.0[row] = u16::from_le_bytes(*block);
    }

    fn read(&self, row: usize, output: &mut [f32]) {
        output.fill(bf16_to_f32(self.0[row]));
    }
}
