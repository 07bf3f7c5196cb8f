//! The layouts that kernels read and write.

use zeroize::DefaultIsZeroes;

use super::BLOCK;

/// Matrix rows that one kernel call computes.
pub(crate) const TILE_ROWS: usize = 16;

/// 16 rows by 32 columns of `Q8_0` weights: `quants[group][row][column of the group]`, groups of four columns, so that one
/// vector load holds four products for each of eight rows.
#[cfg_attr(test, derive(Debug))]
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Q8Tile {
    pub(crate) quants: [[i8; TILE_ROWS * 4]; BLOCK / 4],
    /// Half-precision scale of each row.
    pub(crate) scales: [u16; TILE_ROWS],
}

impl Default for Q8Tile {
    fn default() -> Self {
        Q8Tile { quants: [[0; TILE_ROWS * 4]; BLOCK / 4], scales: [0; TILE_ROWS] }
    }
}

impl DefaultIsZeroes for Q8Tile {}

/// One column of 16 rows of half-precision weights.
pub(crate) type F16Column = [u16; TILE_ROWS];

/// One column of 16 rows of single-precision weights.
pub(crate) type F32Column = [f32; TILE_ROWS];

/// The 16 results of one tile for one row of activations.
pub(crate) type TileOutput = [f32; TILE_ROWS];

/// 32 activations as signed bytes from -127 to 127 with a common scale.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Block {
    pub(crate) quants: [[i8; 4]; BLOCK / 4],
    pub(crate) scale: f32,
}

impl Default for Block {
    fn default() -> Self {
        Block { quants: [[0; 4]; BLOCK / 4], scale: 0.0 }
    }
}

impl DefaultIsZeroes for Block {}
