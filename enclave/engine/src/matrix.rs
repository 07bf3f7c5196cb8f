//! Weight matrices in the kernels' layout, and their products with many rows of activations at once.

mod activations;
#[cfg(test)]
mod tests;

use std::thread;

pub(crate) use activations::{Forms, Inputs, Product};
use zeroize::Zeroize;

use crate::{
    gguf::{Tensor, TensorType},
    kernels::{
        Bf16Column, F16Column, F32Column, Kernels, Q4KTile, Q4Tile, Q5KTile, Q6KTile, Q8Tile, TILE_ROWS,
        Tile, TileOutput,
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
            Tiles::Q4K($name) => $value,
            Tiles::Q5K($name) => $value,
            Tiles::Q6K($name) => $value,
        }
    };
}

impl Matrix {
    /// Repacks a two-dimensional tensor whose size the reader has checked.
    pub(crate) fn from_tensor(tensor: &Tensor<'_>) -> Self {
        let [columns, rows, ..] = tensor.dimensions;
        let tiles = match tensor.tensor_type {
            TensorType::F32 => Tiles::F32(repack(tensor.bytes, columns, rows)),
            TensorType::F16 => Tiles::F16(repack(tensor.bytes, columns, rows)),
            TensorType::BF16 => Tiles::Bf16(repack(tensor.bytes, columns, rows)),
            TensorType::Q8_0 => Tiles::Q8(repack(tensor.bytes, columns, rows)),
            TensorType::Q4_0 => Tiles::Q4(repack(tensor.bytes, columns, rows)),
            TensorType::Q4_K => Tiles::Q4K(repack(tensor.bytes, columns, rows)),
            TensorType::Q5_K => Tiles::Q5K(repack(tensor.bytes, columns, rows)),
            TensorType::Q6_K => Tiles::Q6K(repack(tensor.bytes, columns, rows)),
        };
        Self { rows, columns, tiles }
    }

    /// Writes one row as numbers. A row out of range leaves `output` unchanged.
    pub(crate) fn read_row(&self, row: usize, output: &mut [f32]) {
        on_tiles!(&self.tiles, tiles => read_row(tiles, self.columns, row, output));
    }

    /// The form in which this matrix wants its inputs.
    pub(crate) fn forms(&self) -> Forms {
        match self.tiles {
            Tiles::F32(_) | Tiles::F16(_) | Tiles::Bf16(_) => Forms::default(),
            Tiles::Q8(_) | Tiles::Q4(_) => Forms { blocks: true, super_blocks: false },
            Tiles::Q4K(_) | Tiles::Q5K(_) | Tiles::Q6K(_) => Forms { blocks: false, super_blocks: true },
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

/// Hands every block of a row-major tensor to the tile it belongs to, on all processors.
fn repack<const BYTES: usize, T: Tile<BYTES>>(bytes: &[u8], columns: usize, rows: usize) -> Vec<T> {
    let width = columns / T::COLUMNS;
    let tile_rows = rows.div_ceil(TILE_ROWS);
    let mut tiles = vec![T::default(); tile_rows * width];
    let threads = processors().get();
    let share = if bytes.len() < SERIAL_BYTES { tile_rows } else { tile_rows.div_ceil(threads) };
    let blocks = bytes.as_chunks::<BYTES>().0;
    thread::scope(|scope| {
        let mut shares = tiles.chunks_mut(share * width).zip(blocks.chunks(share * TILE_ROWS * width));
        let own = shares.next();
        for (tiles, blocks) in shares {
            scope.spawn(move || fill_tiles(tiles, blocks, width));
        }
        if let Some((tiles, blocks)) = own {
            fill_tiles(tiles, blocks, width);
        }
    });
    tiles
}

/// Tensors below this are repacked on one thread.
const SERIAL_BYTES: usize = 1 << 20;

fn fill_tiles<const BYTES: usize, T: Tile<BYTES>>(tiles: &mut [T], blocks: &[[u8; BYTES]], width: usize) {
    for (tiles, rows) in tiles.chunks_exact_mut(width).zip(blocks.chunks(width * TILE_ROWS)) {
        for (row, blocks) in rows.chunks_exact(width).enumerate() {
            for (tile, block) in tiles.iter_mut().zip(blocks) {
                tile.put(row, block);
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
