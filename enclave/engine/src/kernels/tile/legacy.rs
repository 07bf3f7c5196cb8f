//! `Q8_0` and `Q4_0`: blocks of 32 with one half-precision scale.

use zeroize::DefaultIsZeroes;

use super::{BLOCK, Group, TILE_ROWS, Tile, half, pack_nibbles, unpack_nibbles};
use crate::kernels::half::f16_to_f32;

/// `Q8_0`: a weight is a signed byte times the scale. In the file: the scale, then 32 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Q8Tile {
    /// Groups of four columns.
    pub(crate) quants: [[i8; TILE_ROWS * 4]; BLOCK / 4],
    /// Half-precision scale of each row.
    pub(crate) scales: [u16; TILE_ROWS],
}

/// `Q4_0`: a weight is a code from 0 to 15, less 8, times the scale. In the file: the scale, then 16 bytes
/// with columns 0 to 15 in the low halves and 16 to 31 in the high ones.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Q4Tile {
    /// See `pack_nibbles`.
    pub(crate) nibbles: [Group; BLOCK / 8],
    /// Half-precision scale of each row.
    pub(crate) scales: [u16; TILE_ROWS],
}

impl Default for Q8Tile {
    fn default() -> Self {
        Self { quants: [[0; TILE_ROWS * 4]; BLOCK / 4], scales: [0; TILE_ROWS] }
    }
}

impl Default for Q4Tile {
    fn default() -> Self {
        Self { nibbles: [[0; TILE_ROWS * 4]; BLOCK / 8], scales: [0; TILE_ROWS] }
    }
}

impl DefaultIsZeroes for Q8Tile {}
impl DefaultIsZeroes for Q4Tile {}

impl Q8Tile {
    /// The bytes of one row.
    pub(crate) fn codes(&self, row: usize) -> [i8; BLOCK] {
        let mut codes = [0; BLOCK];
        for (group, codes) in self.quants.iter().zip(codes.as_chunks_mut::<4>().0) {
            codes.copy_from_slice(&group.as_chunks::<4>().0[row]);
        }
        codes
    }
}

impl Q4Tile {
    /// The codes of one row, less 8.
    pub(crate) fn codes(&self, row: usize) -> [i8; BLOCK] {
        let mut codes = [0; BLOCK];
        unpack_nibbles(&self.nibbles, row, &mut codes);
        codes.map(|code| code.cast_signed() - 8)
    }
}

impl Tile<34> for Q8Tile {
    const COLUMNS: usize = BLOCK;

    fn put(&mut self, row: usize, [low, high, quants @ ..]: &[u8; 34]) {
        self.scales[row] = half([*low, *high]);
        for (group, quants) in self.quants.iter_mut().zip(quants.as_chunks::<4>().0) {
            group.as_chunks_mut::<4>().0[row] = quants.map(u8::cast_signed);
        }
    }

    fn read(&self, row: usize, output: &mut [f32]) {
        scaled(self.scales[row], &self.codes(row), output);
    }
}

impl Tile<18> for Q4Tile {
    const COLUMNS: usize = BLOCK;

    fn put(&mut self, row: usize, [low, high, quants @ ..]: &[u8; 18]) {
        self.scales[row] = half([*low, *high]);
        let mut codes = [0; BLOCK];
        let (first, last) = codes.split_at_mut(BLOCK / 2);
        for (byte, (first, last)) in quants.iter().zip(first.iter_mut().zip(last)) {
            (*first, *last) = (byte & 15, byte >> 4);
        }
        pack_nibbles(&mut self.nibbles, row, &codes);
    }

    fn read(&self, row: usize, output: &mut [f32]) {
        scaled(self.scales[row], &self.codes(row), output);
    }
}

fn scaled(scale: u16, codes: &[i8], output: &mut [f32]) {
    let scale = f16_to_f32(scale);
    for (output, code) in output.iter_mut().zip(codes) {
        *output = scale * f32::from(*code);
    }
}
