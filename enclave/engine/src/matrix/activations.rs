//! The inputs and outputs of matrix products.

use crate::{
    kernels::{BLOCK, Block, Kernels, Results, SUPER_BLOCK, SuperBlock, TILE_ROWS, TileOutput},
    pool::Pool,
    scratch::StepBuffer,
};

/// The quantised forms in which matrices want their inputs, besides plain numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Forms {
    /// Blocks of 32, for the types with blocks of that length.
    pub(crate) blocks: bool,
    /// Blocks of 256, for the K types.
    pub(crate) super_blocks: bool,
}

impl Forms {
    /// The forms that either of two matrices wants.
    pub(crate) fn and(self, other: Forms) -> Forms {
        Forms { blocks: self.blocks || other.blocks, super_blocks: self.super_blocks || other.super_blocks }
    }
}

/// Rows of activations, as numbers and quantised.
pub(crate) struct Inputs {
    rows: usize,
    columns: usize,
    values: StepBuffer<f32>,
    blocks: StepBuffer<Block>,
    super_blocks: StepBuffer<SuperBlock>,
}

impl Inputs {
    /// Capacity for `rows` rows of `columns` numbers, in the forms that any later call asks for.
    pub(crate) fn new(rows: usize, columns: usize, forms: Forms) -> Self {
        let blocks = if forms.blocks { rows * (columns / BLOCK) } else { 0 };
        let super_blocks = if forms.super_blocks { rows * (columns / SUPER_BLOCK) } else { 0 };
        Self {
            rows: 0,
            columns,
            values: StepBuffer::new(rows * columns),
            blocks: StepBuffer::new(blocks),
            super_blocks: StepBuffer::new(super_blocks),
        }
    }

    /// Calls `fill` for groups of rows, with the index of the first row, until `rows` rows are written.
    /// Quantises them in these forms.
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
        let values = self.values.first_mut(rows * columns).chunks_mut(ROWS_PER_TASK * columns);
        let quantised = pieces(self.blocks.first_mut(rows * blocks), ROWS_PER_TASK * blocks)
            .zip(pieces(self.super_blocks.first_mut(rows * super_blocks), ROWS_PER_TASK * super_blocks));
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

    /// As [`Inputs::fill`], in units of `width` numbers (a divisor of the columns) that `fill` writes on its
    /// own threads.
    pub(crate) fn fill_units(
        &mut self,
        kernels: Kernels,
        pool: &Pool,
        forms: Forms,
        rows: usize,
        width: usize,
        fill: impl FnOnce(Vec<&mut [f32]>),
    ) {
        fill(self.values.first_mut(rows * self.columns).chunks_exact_mut(width).collect());
        self.fill(kernels, pool, forms, rows, |_, _| {});
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn values(&self) -> &[f32] {
        &self.values[..self.rows * self.columns]
    }

    pub(super) fn blocks(&self) -> &[Block] {
        &self.blocks[..self.rows * (self.columns / BLOCK)]
    }

    pub(super) fn super_blocks(&self) -> &[SuperBlock] {
        &self.super_blocks[..self.rows * (self.columns / SUPER_BLOCK)]
    }

    /// Overwrites what was written since the last time.
    pub(crate) fn erase(&mut self) {
        let Self { rows: _, columns: _, values, blocks, super_blocks } = self;
        values.erase();
        blocks.erase();
        super_blocks.erase();
    }
}

/// Rows of elementwise work that are worth a task of their own.
const ROWS_PER_TASK: usize = 8;

/// Pieces of `length`, or empty ones without end when there is nothing to cut.
fn pieces<T>(slice: &mut [T], length: usize) -> impl Iterator<Item = &mut [T]> {
    let cut = if length == 0 { &mut [] } else { slice };
    cut.chunks_mut(length.max(1)).chain(std::iter::repeat_with(Default::default))
}

/// The product of a matrix with [`Inputs`], ordered by tile and within a tile by input row. Every task
/// therefore writes one contiguous piece.
pub(crate) struct Product {
    pub(super) rows: usize,
    /// Tiles of a row.
    width: usize,
    numbers: StepBuffer<f32>,
}

impl Product {
    /// Capacity for `rows` products with a matrix of `outputs` rows.
    pub(crate) fn new(rows: usize, outputs: usize) -> Self {
        let width = outputs.div_ceil(TILE_ROWS);
        Self { rows: 0, width, numbers: StepBuffer::new(rows * width * TILE_ROWS) }
    }

    /// The results for `count` rows of the inputs from `first` on.
    pub(crate) fn results(&self, first: usize, count: usize) -> Results<'_> {
        let tiles = self.numbers.as_chunks().0;
        Results::new(&tiles[..self.rows * self.width], self.rows, first, count)
    }

    /// The first `count` tiles, to be written.
    pub(super) fn tiles_mut(&mut self, count: usize) -> &mut [TileOutput] {
        self.numbers.first_mut(count * TILE_ROWS).as_chunks_mut().0
    }

    /// For searching memory: tiles of a row.
    #[cfg(test)]
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Copies the results for one row of the inputs.
    pub(crate) fn copy_row(&self, row: usize, output: &mut [f32]) {
        let mut tiles = self.results(row, 1).tiles().flatten();
        let (whole, rest) = output.as_chunks_mut::<TILE_ROWS>();
        whole.iter_mut().zip(&mut tiles).for_each(|(output, tile)| *output = *tile);
        rest.iter_mut().zip(tiles.flatten()).for_each(|(output, value)| *output = *value);
    }

    /// Overwrites what was written since the last time.
    pub(crate) fn erase(&mut self) {
        let Self { rows: _, width: _, numbers } = self;
        numbers.erase();
    }
}
