//! What matrices are multiplied with, and what comes of it.

use zeroize::Zeroize;

use crate::{
    kernels::{BLOCK, Block, Kernels, Results, SUPER_BLOCK, SuperBlock, TILE_ROWS, TileOutput},
    pool::Pool,
};

/// The quantised forms in which matrices want their inputs, besides plain numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Forms {
    /// Blocks of 32, for `Q8_0` and `Q4_0`.
    pub(crate) blocks: bool,
    /// Blocks of 256, for the K types.
    pub(crate) super_blocks: bool,
}

impl Forms {
    /// What either of two matrices wants.
    pub(crate) fn and(self, other: Forms) -> Forms {
        Forms { blocks: self.blocks || other.blocks, super_blocks: self.super_blocks || other.super_blocks }
    }
}

/// Rows of activations, as numbers and quantised. Its buffers never move; they are zeroised on drop.
pub(crate) struct Inputs {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
    blocks: Vec<Block>,
    super_blocks: Vec<SuperBlock>,
}

impl Inputs {
    /// Room for `rows` rows of `columns` numbers, in the forms that any later call asks for.
    pub(crate) fn new(rows: usize, columns: usize, forms: Forms) -> Self {
        let blocks = if forms.blocks { rows * (columns / BLOCK) } else { 0 };
        let super_blocks = if forms.super_blocks { rows * (columns / SUPER_BLOCK) } else { 0 };
        Self {
            rows: 0,
            columns,
            values: vec![0.0; rows * columns],
            blocks: vec![Block::default(); blocks],
            super_blocks: vec![SuperBlock::default(); super_blocks],
        }
    }

    /// Lets `fill` write `rows` rows, some at a time, of which it is told the first, and quantises them in these forms.
    pub(crate) fn fill(
        &mut self,
        kernels: Kernels,
        pool: &Pool,
        forms: Forms,
        rows: usize,
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        self.rows = rows;
        let columns = self.columns;
        let blocks = if forms.blocks { columns / BLOCK } else { 0 };
        let super_blocks = if forms.super_blocks { columns / SUPER_BLOCK } else { 0 };
        let mut tasks = Vec::with_capacity(rows.div_ceil(ROWS_PER_TASK));
        let values = self.values[..rows * columns].chunks_mut(ROWS_PER_TASK * columns);
        let quantised = pieces(&mut self.blocks, ROWS_PER_TASK * blocks)
            .zip(pieces(&mut self.super_blocks, ROWS_PER_TASK * super_blocks));
        tasks.extend(values.zip(quantised).enumerate());
        pool.for_each(tasks, |(task, (values, (blocks, super_blocks)))| {
            fill(task * ROWS_PER_TASK, values);
            if forms.blocks {
                kernels.quantise(values, blocks);
            }
            if forms.super_blocks {
                kernels.quantise_super(values, super_blocks);
            }
        });
    }

    /// As [`Inputs::fill`], in units of `width` numbers (a divisor of the columns) that `fill` writes on its own threads.
    pub(crate) fn fill_units(
        &mut self,
        kernels: Kernels,
        pool: &Pool,
        forms: Forms,
        rows: usize,
        width: usize,
        fill: impl FnOnce(Vec<&mut [f32]>),
    ) {
        fill(self.values[..rows * self.columns].chunks_exact_mut(width).collect());
        self.fill(kernels, pool, forms, rows, |_, _| {});
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn values(&self) -> &[f32] {
        &self.values[..self.rows * self.columns]
    }

    pub(super) fn blocks(&self) -> &[Block] {
        &self.blocks[..self.rows * (self.columns / BLOCK)]
    }

    pub(super) fn super_blocks(&self) -> &[SuperBlock] {
        &self.super_blocks[..self.rows * (self.columns / SUPER_BLOCK)]
    }

    pub(crate) fn wipe(&mut self) {
        self.values.as_mut_slice().zeroize();
        self.blocks.as_mut_slice().zeroize();
        self.super_blocks.as_mut_slice().zeroize();
    }
}

impl Drop for Inputs {
    fn drop(&mut self) {
        self.wipe();
    }
}

/// Rows of elementwise work that are worth a task of their own.
const ROWS_PER_TASK: usize = 8;

/// Pieces of `length`, or empty ones without end when there is nothing to cut.
fn pieces<T>(slice: &mut [T], length: usize) -> impl Iterator<Item = &mut [T]> {
    let cut = if length == 0 { &mut [] } else { slice };
    cut.chunks_mut(length.max(1)).chain(std::iter::repeat_with(Default::default))
}

/// The product of a matrix with [`Inputs`]: tile after tile, in a tile row after row of the inputs, so that every task
/// writes one piece of its own. Its buffer never moves; it is zeroised on drop.
pub(crate) struct Product {
    pub(super) rows: usize,
    /// Tiles of a row.
    width: usize,
    pub(super) tiles: Vec<TileOutput>,
}

impl Product {
    /// Room for `rows` products with a matrix of `outputs` rows.
    pub(crate) fn new(rows: usize, outputs: usize) -> Self {
        let width = outputs.div_ceil(TILE_ROWS);
        Self { rows: 0, width, tiles: vec![[0.0; TILE_ROWS]; rows * width] }
    }

    /// The results for `count` rows of the inputs from `first` on.
    pub(crate) fn results(&self, first: usize, count: usize) -> Results<'_> {
        Results::new(&self.tiles[..self.rows * self.width], self.rows, first, count)
    }

    /// Copies the results for one row of the inputs.
    pub(crate) fn copy_row(&self, row: usize, output: &mut [f32]) {
        let mut tiles = self.results(row, 1).tiles().flatten();
        let (whole, rest) = output.as_chunks_mut::<TILE_ROWS>();
        whole.iter_mut().zip(&mut tiles).for_each(|(output, tile)| *output = *tile);
        rest.iter_mut().zip(tiles.flatten()).for_each(|(output, value)| *output = *value);
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
