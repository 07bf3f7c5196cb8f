//! The layouts that kernels read and write.
//!
//! A tile is 16 rows of a weight matrix by as many columns as one block of the file's format holds. Inside
//! it, the rows are interleaved in groups of four columns, so that one vector load holds four products for
//! each of eight or sixteen rows and no sum ever runs across a vector.

mod float;
mod k_quants;
mod legacy;
mod recode;

pub(crate) use float::{Bf16Column, F16Column, F32Column};
pub(crate) use k_quants::{Affine, Q2KTile, Q4KTile, Q5KPart, Q5KTile, Q6KPart, Q6KTile};
pub(crate) use legacy::{OffsetTile, Q4Tile, Q8Tile, TableTile};
pub(crate) use recode::{
    iq4_nl_as_table, iq4_xs_as_table, mxfp4_as_table, q3_k_as_q6_k, q4_1_as_offset, q5_0_as_q8_0,
    q5_1_as_offset,
};
use zeroize::DefaultIsZeroes;

/// Matrix rows that one kernel call computes.
pub(crate) const TILE_ROWS: usize = 16;

/// Numbers that share one scale, in weights of the types that have no parts and in the activations for them.
pub(crate) const BLOCK: usize = 32;

/// Numbers of one block of the K types, and of the activations for them.
pub(crate) const SUPER_BLOCK: usize = 256;

/// Groups of four columns; a byte of each of 16 rows and four columns.
type Group = [u8; TILE_ROWS * 4];

/// A layout of weights. `BYTES` is the size of one row's share: a block of a file, or what `recode` makes of
/// it.
pub(crate) trait Tile<const BYTES: usize>: DefaultIsZeroes + Send + Sync {
    /// Columns of one tile.
    const COLUMNS: usize;

    /// Takes the block of one row (below [`TILE_ROWS`]).
    fn put(&mut self, row: usize, block: &[u8; BYTES]);

    /// Writes one row (below [`TILE_ROWS`]) as numbers.
    fn read(&self, row: usize, output: &mut [f32]);
}

/// The 16 results of one tile for one row of activations.
pub(crate) type TileOutput = [f32; TILE_ROWS];

/// The results for some of the rows of activations.
#[derive(Clone, Copy)]
pub(crate) struct Results<'a> {
    /// Tile after tile, in each one row of activations after the other.
    outputs: &'a [TileOutput],
    /// Rows of activations in each.
    rows: usize,
    first: usize,
    count: usize,
}

impl<'a> Results<'a> {
    /// Of `outputs` for `rows` rows, those of `count` from `first` on.
    pub(crate) fn new(outputs: &'a [TileOutput], rows: usize, first: usize, count: usize) -> Self {
        Self { outputs, rows, first, count }
    }

    /// How many numbers are of each row, if there are so many in all.
    #[inline(always)]
    pub(crate) fn columns(self, numbers: usize) -> usize {
        (numbers / self.count.max(1)).max(1)
    }

    /// Of each tile the results, a row after the other. The last tile may reach beyond the matrix.
    #[inline(always)]
    pub(crate) fn tiles(self) -> impl Iterator<Item = &'a [TileOutput]> {
        self.outputs.chunks_exact(self.rows.max(1)).map(move |rows| &rows[self.first..][..self.count])
    }
}

/// Four signed bytes, the first lowest. A kernel spreads them over a vector at once.
pub(crate) type Four = i32;

/// Two signed 16-bit numbers, the first lowest.
pub(crate) type Pair = i32;

/// One block of each row. It is a function because a closure would be compiled for the kernel's instructions,
/// and the library's code between the two could then not inline it.
#[inline(always)]
pub(crate) fn blocks_at<'a, T, const M: usize>(rows: &[&'a [T]; M], index: usize) -> [&'a T; M] {
    rows.map(|row| &row[index])
}

#[inline(always)]
pub(crate) fn four(numbers: [i8; 4]) -> Four {
    i32::from_le_bytes(numbers.map(i8::cast_unsigned))
}

pub(crate) fn of_four(four: Four) -> [i8; 4] {
    four.to_le_bytes().map(u8::cast_signed)
}

#[inline(always)]
pub(crate) fn pair([first, last]: [i16; 2]) -> Pair {
    i32::from(last) << 16 | i32::from(first.cast_unsigned())
}

/// 32 activations as signed bytes from -127 to 127 with a common scale.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Block {
    pub(crate) quants: [Four; BLOCK / 4],
    /// -128 times the sum of the quants. It compensates for the 128 that was added to each weight.
    pub(crate) lift: i32,
    pub(crate) scale: f32,
}

impl Default for Block {
    fn default() -> Self {
        Block { quants: [0; BLOCK / 4], lift: 0, scale: 0.0 }
    }
}

impl DefaultIsZeroes for Block {}

/// 256 activations as signed bytes from -127 to 127 with a common scale.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct SuperBlock {
    pub(crate) quants: [Four; SUPER_BLOCK / 4],
    /// Sums of every 16 quants.
    pub(crate) sums_of_16: [Pair; SUPER_BLOCK / 32],
    /// Sums of every 32 quants.
    pub(crate) sums_of_32: [Pair; SUPER_BLOCK / 64],
    pub(crate) scale: f32,
}

/// [`SuperBlock::sums_of_16`]; a function as [`blocks_at`] is.
#[inline(always)]
pub(crate) fn sums_of_16(block: &SuperBlock) -> &[Pair; SUPER_BLOCK / 32] {
    &block.sums_of_16
}

/// [`SuperBlock::sums_of_32`]; a function as [`blocks_at`] is.
#[inline(always)]
pub(crate) fn sums_of_32(block: &SuperBlock) -> &[Pair; SUPER_BLOCK / 64] {
    &block.sums_of_32
}

impl Default for SuperBlock {
    fn default() -> Self {
        SuperBlock {
            quants: [0; SUPER_BLOCK / 4],
            sums_of_16: [0; SUPER_BLOCK / 32],
            sums_of_32: [0; SUPER_BLOCK / 64],
            scale: 0.0,
        }
    }
}

impl DefaultIsZeroes for SuperBlock {}

/// Packs two codes into a byte. Of every eight columns, the first four are in the low halves, the last four
/// in the high halves.
fn pack_nibbles(groups: &mut [Group], row: usize, codes: &[u8]) {
    for (group, [low, high]) in groups.iter_mut().zip(codes.as_chunks::<4>().0.as_chunks::<2>().0) {
        let place = group.iter_mut().skip(4 * row);
        for (byte, (low, high)) in place.zip(low.iter().zip(high)) {
            *byte = (low & 15) | high << 4;
        }
    }
}

/// What [`pack_nibbles`] packed.
fn unpack_nibbles(groups: &[Group], row: usize, codes: &mut [u8]) {
    for (group, [low, high]) in groups.iter().zip(codes.as_chunks_mut::<4>().0.as_chunks_mut::<2>().0) {
        let bytes = group.iter().skip(4 * row);
        for (byte, (low, high)) in bytes.zip(low.iter_mut().zip(high)) {
            (*low, *high) = (byte & 15, byte >> 4);
        }
    }
}

fn half(bytes: [u8; 2]) -> u16 {
    u16::from_le_bytes(bytes)
}
