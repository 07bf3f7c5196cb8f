//! Weight matrices in the kernels' layout, and their products with many rows of activations at once.

mod activations;
#[cfg(test)]
mod tests;

use std::thread;

pub(crate) use activations::{Forms, Inputs, Product};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    gguf::{Tensor, TensorType},
    kernels::{
        Bf16Column, F16Column, F32Column, Kernels, OffsetTile, Q2KTile, Q4KTile, Q4Tile, Q5KTile, Q6KTile,
        Q8Tile, TILE_ROWS, TableTile, Tile, TileOutput, iq4_nl_as_table, iq4_xs_as_table, mxfp4_as_table,
        q3_k_as_q6_k, q4_1_as_offset, q5_0_as_q8_0, q5_1_as_offset,
    },
    pool::Pool,
    processors,
};

/// A weight matrix, cut into tiles of 16 rows; zeroised on drop.
pub(crate) struct Matrix {
    rows: usize,
    columns: usize,
    tiles: Tiles,
}

/// Tile after tile along the columns, then the next 16 rows. Missing rows of the last tiles are zero.
enum Tiles {
    F32(Vec<F32Column>),
    F16(Vec<F16Column>),
    Bf16(Vec<Bf16Column>),
    Q8(Vec<Q8Tile>),
    Q4(Vec<Q4Tile>),
    Table(Vec<TableTile>),
    Offset(Vec<OffsetTile>),
    Q2K(Vec<Q2KTile>),
    Q4K(Vec<Q4KTile>),
    Q5K(Vec<Q5KTile>),
    Q6K(Vec<Q6KTile>),
}

/// Evaluates an expression on the tiles, whatever their format.
macro_rules! on_tiles {
    ($tiles:expr, $name:ident => $value:expr) => {
        match $tiles {
            Tiles::F32($name) => $value,
            Tiles::F16($name) => $value,
            Tiles::Bf16($name) => $value,
            Tiles::Q8($name) => $value,
            Tiles::Q4($name) => $value,
            Tiles::Table($name) => $value,
            Tiles::Offset($name) => $value,
            Tiles::Q2K($name) => $value,
            Tiles::Q4K($name) => $value,
            Tiles::Q5K($name) => $value,
            Tiles::Q6K($name) => $value,
        }
    };
}

impl Matrix {
    /// A matrix without rows.
    pub(crate) fn empty() -> Self {
        Self { rows: 0, columns: 0, tiles: Tiles::F32(Vec::new()) }
    }

    /// Reads so many rows of a two-dimensional tensor whose size the reader has checked. `fill` is asked for their
    /// bytes in order, some rows at a time.
    ///
    /// # Errors
    /// Those of `fill`.
    pub(crate) fn read<E>(
        tensor: &Tensor,
        rows: usize,
        fill: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let [columns, ..] = tensor.dimensions;
        let tiles = match tensor.tensor_type {
            TensorType::F32 => Tiles::F32(read(columns, rows, one(Clone::clone), fill)?),
            TensorType::F16 => Tiles::F16(read(columns, rows, one(Clone::clone), fill)?),
            TensorType::BF16 => Tiles::Bf16(read(columns, rows, one(Clone::clone), fill)?),
            TensorType::Q8_0 => Tiles::Q8(read(columns, rows, one(Clone::clone), fill)?),
            TensorType::Q4_0 => Tiles::Q4(read(columns, rows, one(Clone::clone), fill)?),
            TensorType::Q2_K => Tiles::Q2K(read(columns, rows, one(Clone::clone), fill)?),
            TensorType::Q4_K => Tiles::Q4K(read(columns, rows, one(Clone::clone), fill)?),
            TensorType::Q5_K => Tiles::Q5K(read(columns, rows, one(Clone::clone), fill)?),
            TensorType::Q6_K => Tiles::Q6K(read(columns, rows, one(Clone::clone), fill)?),
            TensorType::Q5_0 => Tiles::Q8(read(columns, rows, one(q5_0_as_q8_0), fill)?),
            TensorType::IQ4_NL => Tiles::Table(read(columns, rows, one(iq4_nl_as_table), fill)?),
            TensorType::Q4_1 => Tiles::Offset(read(columns, rows, one(q4_1_as_offset), fill)?),
            TensorType::Q5_1 => Tiles::Offset(read(columns, rows, one(q5_1_as_offset), fill)?),
            TensorType::MXFP4 => Tiles::Table(read(columns, rows, one(mxfp4_as_table), fill)?),
            TensorType::IQ4_XS => Tiles::Table(read(columns, rows, iq4_xs_as_table, fill)?),
            TensorType::Q3_K => Tiles::Q6K(read(columns, rows, one(q3_k_as_q6_k), fill)?),
        };
        Ok(Self { rows, columns, tiles })
    }

    /// Writes one row as numbers. A row out of range leaves `output` unchanged.
    pub(crate) fn read_row(&self, row: usize, output: &mut [f32]) {
        on_tiles!(&self.tiles, tiles => read_row(tiles, self.columns, row, output));
    }

    /// The form in which this matrix wants its inputs.
    pub(crate) fn forms(&self) -> Forms {
        match self.tiles {
            Tiles::F32(_) | Tiles::F16(_) | Tiles::Bf16(_) => Forms::default(),
            Tiles::Q8(_) | Tiles::Q4(_) | Tiles::Table(_) | Tiles::Offset(_) => {
                Forms { blocks: true, super_blocks: false }
            }
            Tiles::Q2K(_) | Tiles::Q4K(_) | Tiles::Q5K(_) | Tiles::Q6K(_) => {
                Forms { blocks: false, super_blocks: true }
            }
        }
    }

    fn tile_count(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// The tiles from row of tiles `first` on, times all rows of activations.
    fn multiply_tiles(&self, kernels: Kernels, first: usize, inputs: &Inputs, output: &mut [TileOutput]) {
        let rows = output.chunks_exact_mut(inputs.rows()).enumerate();
        for (index, output) in rows {
            let row = first + index;
            match &self.tiles {
                Tiles::F32(tiles) => kernels.f32_tile(self.row_of_tiles(tiles, row), inputs.values(), output),
                Tiles::F16(tiles) => kernels.f16_tile(self.row_of_tiles(tiles, row), inputs.values(), output),
                Tiles::Bf16(tiles) => {
                    kernels.bf16_tile(self.row_of_tiles(tiles, row), inputs.values(), output);
                }
                Tiles::Q8(tiles) => kernels.q8_tile(self.row_of_tiles(tiles, row), inputs.blocks(), output),
                Tiles::Q4(tiles) => kernels.q4_tile(self.row_of_tiles(tiles, row), inputs.blocks(), output),
                Tiles::Table(tiles) => {
                    kernels.table_tile(self.row_of_tiles(tiles, row), inputs.blocks(), output);
                }
                Tiles::Offset(tiles) => {
                    kernels.offset_tile(self.row_of_tiles(tiles, row), inputs.blocks(), output);
                }
                Tiles::Q2K(tiles) => {
                    kernels.q2_k_tile(self.row_of_tiles(tiles, row), inputs.super_blocks(), output);
                }
                Tiles::Q4K(tiles) => {
                    kernels.q4_k_tile(self.row_of_tiles(tiles, row), inputs.super_blocks(), output);
                }
                Tiles::Q5K(tiles) => {
                    kernels.q5_k_tile(self.row_of_tiles(tiles, row), inputs.super_blocks(), output);
                }
                Tiles::Q6K(tiles) => {
                    kernels.q6_k_tile(self.row_of_tiles(tiles, row), inputs.super_blocks(), output);
                }
            }
        }
    }

    fn row_of_tiles<'a, const BYTES: usize, T: Tile<BYTES>>(&self, tiles: &'a [T], row: usize) -> &'a [T] {
        let width = self.columns / T::COLUMNS;
        &tiles[row * width..][..width]
    }
}

impl Drop for Matrix {
    fn drop(&mut self) {
        on_tiles!(&mut self.tiles, tiles => tiles.zeroize());
    }
}

/// Bytes of a tensor that are in memory beside its tiles, or as many as 16 rows have.
const BATCH_BYTES: usize = 4 << 20;
/// Batches below this are laid out on one thread, in bytes.
const SERIAL_BYTES: usize = 1 << 20;

/// For a block of the file that becomes one block of the layout.
fn one<const FILE_BYTES: usize, const BYTES: usize>(
    recode: impl Fn(&[u8; FILE_BYTES]) -> [u8; BYTES] + Sync,
) -> impl Fn(&[u8; FILE_BYTES]) -> [[u8; BYTES]; 1] + Sync {
    move |block| [recode(block)]
}

/// Reads a row-major tensor in batches of whole tiles, and lays each out as it comes: the blocks that
/// `recode` makes of each block of the file. The memory of the tiles grows with what was read.
fn read<const FILE_BYTES: usize, const BYTES: usize, const N: usize, T: Tile<BYTES>, E>(
    columns: usize,
    rows: usize,
    recode: impl Fn(&[u8; FILE_BYTES]) -> [[u8; BYTES]; N] + Sync,
    mut fill: impl FnMut(&mut [u8]) -> Result<(), E>,
) -> Result<Vec<T>, E> {
    let width = columns / T::COLUMNS;
    let row_bytes = width / N * FILE_BYTES;
    let batch = (BATCH_BYTES / (row_bytes * TILE_ROWS).max(1)).max(1) * TILE_ROWS;
    let mut bytes = Zeroizing::new(vec![0; batch.min(rows) * row_bytes]);
    let mut tiles = Zeroizing::new(Vec::new());
    tiles.reserve_exact(rows.div_ceil(TILE_ROWS) * width);
    let mut left = rows;
    while left > 0 {
        let count = batch.min(left);
        let bytes = &mut bytes[..count * row_bytes];
        fill(bytes)?;
        let first = tiles.len();
        tiles.resize(first + count.div_ceil(TILE_ROWS) * width, T::default());
        lay_out(&mut tiles[first..], bytes, width, &recode);
        left -= count;
    }
    Ok(std::mem::take(&mut tiles))
}

/// Hands every block of some rows to the tile it belongs to, on all processors.
fn lay_out<const FILE_BYTES: usize, const BYTES: usize, const N: usize, T: Tile<BYTES>>(
    tiles: &mut [T],
    bytes: &[u8],
    width: usize,
    recode: &(impl Fn(&[u8; FILE_BYTES]) -> [[u8; BYTES]; N] + Sync),
) {
    let tile_rows = tiles.len() / width.max(1);
    let threads = if bytes.len() < SERIAL_BYTES { 1 } else { processors().get() };
    let share = tile_rows.div_ceil(threads).max(1) * width.max(1);
    let blocks = bytes.as_chunks::<FILE_BYTES>().0;
    thread::scope(|scope| {
        let mut shares = tiles.chunks_mut(share).zip(blocks.chunks(share / N * TILE_ROWS));
        let own = shares.next();
        for (tiles, blocks) in shares {
            scope.spawn(move || fill_tiles(tiles, blocks, width, recode));
        }
        if let Some((tiles, blocks)) = own {
            fill_tiles(tiles, blocks, width, recode);
        }
    });
}

fn fill_tiles<const FILE_BYTES: usize, const BYTES: usize, const N: usize, T: Tile<BYTES>>(
    tiles: &mut [T],
    blocks: &[[u8; FILE_BYTES]],
    width: usize,
    recode: &impl Fn(&[u8; FILE_BYTES]) -> [[u8; BYTES]; N],
) {
    for (tiles, rows) in tiles.chunks_exact_mut(width).zip(blocks.chunks(width / N * TILE_ROWS)) {
        for (row, blocks) in rows.chunks_exact(width / N).enumerate() {
            for (tiles, block) in tiles.as_chunks_mut::<N>().0.iter_mut().zip(blocks) {
                for (tile, block) in tiles.iter_mut().zip(recode(block)) {
                    tile.put(row, &block);
                }
            }
        }
    }
}

fn read_row<const BYTES: usize, T: Tile<BYTES>>(tiles: &[T], columns: usize, row: usize, output: &mut [f32]) {
    let tiles = tiles.chunks_exact(columns / T::COLUMNS).nth(row / TILE_ROWS).unwrap_or_default();
    for (tile, output) in tiles.iter().zip(output.chunks_exact_mut(T::COLUMNS)) {
        tile.read(row % TILE_ROWS, output);
    }
}

/// With fewer multiplications than this, one thread does all: a few microseconds.
const SERIAL_WORK: usize = 1 << 17;
/// Tasks per thread and product: more balance better, fewer cost less.
const TASKS_PER_THREAD: usize = 4;

/// Multiplies the same inputs with several matrices, in parallel over their tiles.
pub(crate) fn multiply<const N: usize>(
    kernels: Kernels,
    pool: &Pool,
    matrices: [&Matrix; N],
    inputs: &Inputs,
    products: [&mut Product; N],
) {
    let rows = inputs.rows();
    let tile_count: usize = matrices.iter().map(|matrix| matrix.tile_count()).sum();
    let work = tile_count * TILE_ROWS * inputs.columns() * rows;
    let threads = pool.threads();
    let parallel = work >= SERIAL_WORK && threads > 1;
    let tiles_per_task = if parallel { tile_count.div_ceil(threads * TASKS_PER_THREAD) } else { tile_count };
    let mut tasks = Vec::with_capacity(N + threads * TASKS_PER_THREAD);
    for (matrix, product) in matrices.into_iter().zip(products) {
        product.rows = rows;
        let output = product.tiles_mut(matrix.tile_count() * rows);
        let pieces = output.chunks_mut((tiles_per_task * rows).max(1)).enumerate();
        tasks.extend(pieces.map(|(index, piece)| (matrix, index * tiles_per_task, piece)));
    }
    let run = |(matrix, first, output): (&Matrix, usize, &mut [TileOutput])| {
        matrix.multiply_tiles(kernels, first, inputs, output);
    };
    if parallel { pool.for_each(tasks, run) } else { tasks.into_iter().for_each(run) }
}
