//! Weight matrices in the kernels' layout, and their products with many rows of activations at once.

use rayon::prelude::*;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    gguf::{Tensor, TensorType},
    kernels::{BLOCK, Block, F16Column, F32Column, Kernels, Q8Tile, TILE_ROWS, TileOutput, f16_to_f32},
};

/// A weight matrix, cut into tiles of 16 rows; zeroised on drop.
pub(crate) struct Matrix {
    rows: usize,
    columns: usize,
    tiles: Tiles,
}

/// Tile after tile; in a tile, block after block or column after column. Missing rows of the last tile are zero.
enum Tiles {
    Q8(Vec<Q8Tile>),
    F16(Vec<F16Column>),
    F32(Vec<F32Column>),
}

impl Matrix {
    /// Repacks a two-dimensional tensor whose size the reader has checked.
    pub(crate) fn from_tensor(tensor: &Tensor<'_>) -> Self {
        let [columns, rows, ..] = tensor.dimensions;
        let tile_count = rows.div_ceil(TILE_ROWS);
        let tiles = match tensor.tensor_type {
            TensorType::Q8_0 => {
                let mut tiles = vec![Q8Tile::default(); tile_count * (columns / BLOCK)];
                repack::<34, _>(tensor.bytes, columns / BLOCK, &mut tiles, put_q8);
                Tiles::Q8(tiles)
            }
            TensorType::F16 => {
                let mut tiles = vec![[0; TILE_ROWS]; tile_count * columns];
                repack(tensor.bytes, columns, &mut tiles, |column, row, bytes| {
                    put(column, row, u16::from_le_bytes(*bytes));
                });
                Tiles::F16(tiles)
            }
            TensorType::F32 => {
                let mut tiles = vec![[0.0; TILE_ROWS]; tile_count * columns];
                repack(tensor.bytes, columns, &mut tiles, |column, row, bytes| {
                    put(column, row, f32::from_le_bytes(*bytes));
                });
                Tiles::F32(tiles)
            }
        };
        Self { rows, columns, tiles }
    }

    /// Writes one row as numbers; a row that is not there leaves `output` as it is.
    pub(crate) fn read_row(&self, row: usize, output: &mut [f32]) {
        let (tile, row) = (row / TILE_ROWS, row % TILE_ROWS);
        match &self.tiles {
            Tiles::Q8(tiles) => {
                let blocks = tiles.chunks_exact(self.columns / BLOCK).nth(tile).unwrap_or_default();
                for (block, output) in blocks.iter().zip(output.as_chunks_mut::<BLOCK>().0) {
                    let scale = f16_to_f32(block.scales.get(row).copied().unwrap_or_default());
                    for (group, output) in block.quants.iter().zip(output.as_chunks_mut::<4>().0) {
                        for (quant, output) in group.iter().skip(4 * row).zip(output) {
                            *output = scale * f32::from(*quant);
                        }
                    }
                }
            }
            Tiles::F16(tiles) => {
                let columns = tiles.chunks_exact(self.columns).nth(tile).unwrap_or_default();
                for (output, column) in output.iter_mut().zip(columns) {
                    *output = column.get(row).copied().map(f16_to_f32).unwrap_or_default();
                }
            }
            Tiles::F32(tiles) => {
                let columns = tiles.chunks_exact(self.columns).nth(tile).unwrap_or_default();
                for (output, column) in output.iter_mut().zip(columns) {
                    *output = column.get(row).copied().unwrap_or_default();
                }
            }
        }
    }

    fn tile_count(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// The tiles from `first` on, times all rows of activations.
    fn multiply_tiles(&self, kernels: Kernels, first: usize, inputs: &Inputs, output: &mut [TileOutput]) {
        let width = match self.tiles {
            Tiles::Q8(_) => self.columns / BLOCK,
            Tiles::F16(_) | Tiles::F32(_) => self.columns,
        };
        let skipped = first * width;
        for (index, output) in output.chunks_exact_mut(inputs.rows).enumerate() {
            let range = skipped + index * width..skipped + (index + 1) * width;
            match &self.tiles {
                Tiles::Q8(tiles) => kernels.q8_tile(&tiles[range], inputs.blocks(), output),
                Tiles::F16(tiles) => kernels.f16_tile(&tiles[range], inputs.values(), output),
                Tiles::F32(tiles) => kernels.f32_tile(&tiles[range], inputs.values(), output),
            }
        }
    }
}

impl Drop for Matrix {
    fn drop(&mut self) {
        match &mut self.tiles {
            Tiles::Q8(tiles) => tiles.zeroize(),
            Tiles::F16(tiles) => tiles.as_flattened_mut().zeroize(),
            Tiles::F32(tiles) => tiles.as_flattened_mut().zeroize(),
        }
    }
}

/// Hands every unit of `N` bytes of a row-major tensor, with its row inside the tile, to the tile it belongs to.
fn repack<const N: usize, T>(
    bytes: &[u8],
    units: usize,
    tiles: &mut [T],
    put: impl Fn(&mut T, usize, &[u8; N]),
) {
    for (row, units_of_row) in bytes.as_chunks::<N>().0.chunks_exact(units).enumerate() {
        let tile = tiles.iter_mut().skip(row / TILE_ROWS * units);
        for (target, unit) in tile.zip(units_of_row) {
            put(target, row % TILE_ROWS, unit);
        }
    }
}

fn put<T>(column: &mut [T; TILE_ROWS], row: usize, value: T) {
    if let Some(place) = column.get_mut(row) {
        *place = value;
    }
}

fn put_q8(tile: &mut Q8Tile, row: usize, [low, high, quants @ ..]: &[u8; 34]) {
    put(&mut tile.scales, row, u16::from_le_bytes([*low, *high]));
    for (group, quants) in tile.quants.iter_mut().zip(quants.as_chunks::<4>().0) {
        for (place, quant) in group.iter_mut().skip(4 * row).zip(quants) {
            *place = quant.cast_signed();
        }
    }
}

/// Memory of one task, zeroised when the task is done.
pub(crate) type Scratch = Zeroizing<Vec<f32>>;

/// Rows of activations, as numbers and quantised. Its buffers never move; they are zeroised on drop.
pub(crate) struct Inputs {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
    blocks: Vec<Block>,
}

impl Inputs {
    /// Room for `rows` rows of `columns` numbers.
    pub(crate) fn new(rows: usize, columns: usize) -> Self {
        Self {
            rows: 0,
            columns,
            values: vec![0.0; rows * columns],
            blocks: vec![Block::default(); rows * (columns / BLOCK)],
        }
    }

    /// Lets `fill` write `rows` rows, and quantises them.
    pub(crate) fn fill(&mut self, kernels: Kernels, rows: usize, fill: impl Fn(usize, &mut [f32]) + Sync) {
        self.rows = rows;
        let whole_blocks = self.columns.is_multiple_of(BLOCK);
        let per_row = (self.columns / BLOCK).max(1);
        let values = self.values.par_chunks_exact_mut(self.columns).take(rows);
        if !whole_blocks {
            values.enumerate().with_min_len(ROWS_PER_TASK).for_each(|(row, values)| fill(row, values));
            return;
        }
        let blocks = self.blocks.par_chunks_exact_mut(per_row);
        values.zip(blocks).enumerate().with_min_len(ROWS_PER_TASK).for_each(|(row, (values, blocks))| {
            fill(row, values);
            kernels.quantise(values, blocks);
        });
    }

    /// As [`Inputs::fill`], in units of `width` numbers (a divisor of the columns), `per_task` or more units to a task,
    /// each with scratch memory.
    pub(crate) fn fill_units(
        &mut self,
        kernels: Kernels,
        rows: usize,
        width: usize,
        per_task: usize,
        fill: impl Fn(usize, &mut [f32], &mut Scratch) + Sync,
    ) {
        let units = self.values[..rows * self.columns].par_chunks_exact_mut(width).enumerate();
        units
            .with_min_len(per_task)
            .for_each_init(Scratch::default, |scratch, (unit, values)| fill(unit, values, scratch));
        self.rows = rows;
        if self.columns.is_multiple_of(BLOCK) {
            kernels.quantise(&self.values[..rows * self.columns], &mut self.blocks);
        }
    }

    fn values(&self) -> &[f32] {
        &self.values[..self.rows * self.columns]
    }

    fn blocks(&self) -> &[Block] {
        &self.blocks[..self.rows * (self.columns / BLOCK)]
    }

    pub(crate) fn wipe(&mut self) {
        self.values.as_mut_slice().zeroize();
        self.blocks.as_mut_slice().zeroize();
    }
}

impl Drop for Inputs {
    fn drop(&mut self) {
        self.wipe();
    }
}

/// The product of a matrix with [`Inputs`]: tile after tile, in a tile row after row of the inputs, so that every task
/// writes one piece of its own. Its buffer never moves; it is zeroised on drop.
pub(crate) struct Product {
    rows: usize,
    tiles: Vec<TileOutput>,
}

impl Product {
    /// Room for `rows` products with a matrix of `outputs` rows.
    pub(crate) fn new(rows: usize, outputs: usize) -> Self {
        Self { rows: 0, tiles: vec![[0.0; TILE_ROWS]; rows * outputs.div_ceil(TILE_ROWS)] }
    }

    /// The results for one row of the inputs, sixteen at a time. The last sixteen may reach beyond the matrix.
    pub(crate) fn row(&self, row: usize) -> impl Iterator<Item = &TileOutput> {
        self.tiles.iter().skip(row).step_by(self.rows.max(1))
    }

    /// Copies the results for one row of the inputs.
    pub(crate) fn copy_row(&self, row: usize, output: &mut [f32]) {
        for (output, tile) in output.chunks_mut(TILE_ROWS).zip(self.row(row)) {
            output.copy_from_slice(&tile[..output.len()]);
        }
    }

    pub(crate) fn wipe(&mut self) {
        self.tiles.as_flattened_mut().zeroize();
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        self.wipe();
    }
}

/// Rows of elementwise work that are worth a task of their own.
const ROWS_PER_TASK: usize = 8;
/// Multiplications below which the other threads are not woken: about 20 µs of one thread.
const SERIAL_WORK: usize = 1 << 20;
/// Tasks per thread and product: more balance better, fewer cost less.
const TASKS_PER_THREAD: usize = 4;

/// Multiplies the same inputs with several matrices, in parallel over their tiles.
pub(crate) fn multiply<const N: usize>(
    kernels: Kernels,
    matrices: [&Matrix; N],
    inputs: &Inputs,
    products: [&mut Product; N],
) {
    let rows = inputs.rows;
    let tile_count: usize = matrices.iter().map(|matrix| matrix.tile_count()).sum();
    let work = tile_count * TILE_ROWS * inputs.columns * rows;
    let threads = rayon::current_num_threads();
    let tiles_per_task = if work < SERIAL_WORK || threads == 1 {
        tile_count
    } else {
        tile_count.div_ceil(threads * TASKS_PER_THREAD)
    };
    let mut tasks = Vec::with_capacity(N + threads * TASKS_PER_THREAD);
    for (matrix, product) in matrices.into_iter().zip(products) {
        product.rows = rows;
        let output = &mut product.tiles[..matrix.tile_count() * rows];
        let pieces = output.chunks_mut((tiles_per_task * rows).max(1)).enumerate();
        tasks.extend(pieces.map(|(index, piece)| (matrix, index * tiles_per_task, piece)));
    }
    let run = |(matrix, first, output): (&Matrix, usize, &mut [TileOutput])| {
        matrix.multiply_tiles(kernels, first, inputs, output);
    };
    if tasks.len() <= N {
        tasks.into_iter().for_each(run);
    } else {
        tasks.into_par_iter().with_max_len(1).for_each(run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::f32_to_f16;

    const ROWS: usize = 21;
    const COLUMNS: usize = 64;

    fn weight(row: usize, column: usize) -> f32 {
        ((row * 31 + column * 17) % 61) as f32 - 30.0
    }

    fn bytes_of(tensor_type: TensorType) -> Vec<u8> {
        let mut bytes = Vec::new();
        for row in 0..ROWS {
            let values: Vec<f32> = (0..COLUMNS).map(|column| weight(row, column)).collect();
            match tensor_type {
                TensorType::F32 => values.iter().for_each(|value| bytes.extend(value.to_le_bytes())),
                TensorType::F16 => {
                    bytes.extend(values.iter().flat_map(|value| f32_to_f16(*value).to_le_bytes()));
                }
                TensorType::Q8_0 => values.chunks(BLOCK).for_each(|block| {
                    bytes.extend(f32_to_f16(0.5).to_le_bytes());
                    bytes.extend(block.iter().map(|value| (value * 2.0) as i8 as u8));
                }),
            }
        }
        bytes
    }

    #[test]
    fn every_type_reads_back_and_multiplies() {
        for tensor_type in [TensorType::F32, TensorType::F16, TensorType::Q8_0] {
            let bytes = bytes_of(tensor_type);
            let matrix = Matrix::from_tensor(&Tensor {
                tensor_type,
                dimensions: [COLUMNS, ROWS, 1, 1],
                bytes: &bytes,
            });
            let mut row = [0.0; COLUMNS];
            for index in 0..ROWS {
                matrix.read_row(index, &mut row);
                assert!(row.iter().enumerate().all(|(column, value)| *value == weight(index, column)));
            }
            let kernels = Kernels::best();
            let mut inputs = Inputs::new(3, COLUMNS);
            // Whole numbers up to 127 are exact when quantised with a scale of one.
            let input = |row: usize, column: usize| {
                if column.is_multiple_of(BLOCK) { 127.0 } else { (column % 7 + row) as f32 }
            };
            inputs.fill(kernels, 3, |row, values| {
                values.iter_mut().enumerate().for_each(|(column, value)| *value = input(row, column));
            });
            let mut product = Product::new(3, ROWS);
            multiply(kernels, [&matrix], &inputs, [&mut product]);
            let mut output = [0.0; ROWS];
            for index in 0..3 {
                product.copy_row(index, &mut output);
                for (row, found) in output.iter().enumerate() {
                    let expected: f32 =
                        (0..COLUMNS).map(|column| weight(row, column) * input(index, column)).sum();
                    assert!(
                        (found - expected).abs() < 0.05,
                        "{tensor_type} row {row}: {found}, not {expected}"
                    );
                }
            }
        }
    }
}
