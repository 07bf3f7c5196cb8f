//! Blocks of 32: `Q8_0` and `Q4_0` with one half-precision scale, and layouts for types whose codes stand for
//! numbers of a table, or that have an offset.

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

/// A weight is a signed byte times a scale, plus an offset, both of single precision. No file has this: see
/// `recode`, whose blocks are the scale, the offset, then 32 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct OffsetTile {
    /// Groups of four columns.
    pub(crate) quants: [[i8; TILE_ROWS * 4]; BLOCK / 4],
    /// Scale of each row.
    pub(crate) scales: [f32; TILE_ROWS],
    /// Offset of each row.
    pub(crate) offsets: [f32; TILE_ROWS],
}

/// A weight is the number that its code of four bits stands for, times a scale of single precision. No file
/// has this: see `recode`, whose blocks are the scale, the 16 numbers, then 16 bytes as in `Q4_0`.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub(crate) struct TableTile {
    /// See `pack_nibbles`.
    pub(crate) nibbles: [Group; BLOCK / 8],
    /// Scale of each row.
    pub(crate) scales: [f32; TILE_ROWS],
    /// What the codes stand for, in all rows.
    pub(crate) numbers: [i8; 16],
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

impl Default for TableTile {
    fn default() -> Self {
        Self { nibbles: [[0; TILE_ROWS * 4]; BLOCK / 8], scales: [0.0; TILE_ROWS], numbers: [0; 16] }
    }
}

impl Default for OffsetTile {
    fn default() -> Self {
        let none = [0.0; TILE_ROWS];
        Self { quants: [[0; TILE_ROWS * 4]; BLOCK / 4], scales: none, offsets: none }
    }
}

impl DefaultIsZeroes for Q8Tile {}
impl DefaultIsZeroes for Q4Tile {}
impl DefaultIsZeroes for OffsetTile {}
impl DefaultIsZeroes for TableTile {}

impl Q8Tile {
    /// The bytes of one row.
    pub(crate) fn codes(&self, row: usize) -> [i8; BLOCK] {
        bytes_of(&self.quants, row)
    }
}

impl TableTile {
    /// The numbers of one row, before they are scaled.
    pub(crate) fn codes(&self, row: usize) -> [i8; BLOCK] {
        let mut codes = [0; BLOCK];
        unpack_nibbles(&self.nibbles, row, &mut codes);
        codes.map(|code| self.numbers[usize::from(code & 15)])
    }
}

impl OffsetTile {
    /// The bytes of one row.
    pub(crate) fn codes(&self, row: usize) -> [i8; BLOCK] {
        bytes_of(&self.quants, row)
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
        put_bytes(&mut self.quants, row, quants);
    }

    fn read(&self, row: usize, output: &mut [f32]) {
        scaled(self.scales[row], &self.codes(row), output);
    }
}

impl Tile<18> for Q4Tile {
    const COLUMNS: usize = BLOCK;

    fn put(&mut self, row: usize, [low, high, quants @ ..]: &[u8; 18]) {
        self.scales[row] = half([*low, *high]);
        put_nibbles(&mut self.nibbles, row, quants);
    }

    fn read(&self, row: usize, output: &mut [f32]) {
        scaled(self.scales[row], &self.codes(row), output);
    }
}

impl Tile<36> for TableTile {
    const COLUMNS: usize = BLOCK;

    fn put(&mut self, row: usize, block: &[u8; 36]) {
        let Some((scale, rest)) = block.split_first_chunk() else { return };
        let Some((numbers, nibbles)) = rest.split_first_chunk::<16>() else { return };
        self.scales[row] = f32::from_le_bytes(*scale);
        self.numbers = numbers.map(u8::cast_signed);
        put_nibbles(&mut self.nibbles, row, nibbles);
    }

    fn read(&self, row: usize, output: &mut [f32]) {
        for (output, code) in output.iter_mut().zip(self.codes(row)) {
            *output = self.scales[row] * f32::from(code);
        }
    }
}

impl Tile<40> for OffsetTile {
    const COLUMNS: usize = BLOCK;

    fn put(&mut self, row: usize, block: &[u8; 40]) {
        let ([scale, offset, ..], _) = block.as_chunks::<4>() else { return };
        self.scales[row] = f32::from_le_bytes(*scale);
        self.offsets[row] = f32::from_le_bytes(*offset);
        put_bytes(&mut self.quants, row, &block[8..]);
    }

    fn read(&self, row: usize, output: &mut [f32]) {
        let (scale, offset) = (self.scales[row], self.offsets[row]);
        for (output, code) in output.iter_mut().zip(self.codes(row)) {
            *output = scale * f32::from(code) + offset;
        }
    }
}

/// Takes the codes of one row: columns 0 to 15 in the low halves of the bytes, 16 to 31 in the high ones.
fn put_nibbles(groups: &mut [Group; BLOCK / 8], row: usize, bytes: &[u8]) {
    let mut codes = [0; BLOCK];
    let (first, last) = codes.split_at_mut(BLOCK / 2);
    for (byte, (first, last)) in bytes.iter().zip(first.iter_mut().zip(last)) {
        (*first, *last) = (byte & 15, byte >> 4);
    }
    pack_nibbles(groups, row, &codes);
}

/// The bytes of one row, out of groups of four columns.
fn bytes_of(groups: &[[i8; TILE_ROWS * 4]; BLOCK / 4], row: usize) -> [i8; BLOCK] {
    let mut bytes = [0; BLOCK];
    for (group, bytes) in groups.iter().zip(bytes.as_chunks_mut::<4>().0) {
        bytes.copy_from_slice(&group.as_chunks::<4>().0[row]);
    }
    bytes
}

/// Takes the bytes of one row.
fn put_bytes(groups: &mut [[i8; TILE_ROWS * 4]; BLOCK / 4], row: usize, bytes: &[u8]) {
    for (group, bytes) in groups.iter_mut().zip(bytes.as_chunks::<4>().0) {
        group.as_chunks_mut::<4>().0[row] = bytes.map(u8::cast_signed);
    }
}

fn scaled(scale: u16, codes: &[i8], output: &mut [f32]) {
    let scale = f16_to_f32(scale);
    for (output, code) in output.iter_mut().zip(codes) {
        *output = scale * f32::from(*code);
    }
}
