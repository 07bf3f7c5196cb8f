//! Products of weights and activations.
//!
//! Sums of products of codes are integers, so their order does not matter. The scales are applied in the same
//! order on every processor, block by block.

use crate::kernels::{
    half::{bf16_to_f32, f16_to_f32},
    tile::{
        Affine, BLOCK, Bf16Column, Block, F16Column, F32Column, OffsetTile, Q2KTile, Q4KTile, Q4Tile,
        Q5KTile, Q6KTile, Q8Tile, SUPER_BLOCK, SuperBlock, TILE_ROWS, TableTile, TileOutput, of_four,
    },
};

pub(in crate::kernels) fn q8_tile(tiles: &[Q8Tile], activations: &[Block], output: &mut [TileOutput]) {
    blocks(tiles, activations, output, |tile, row| (tile.codes(row), f16_to_f32(tile.scales[row])), scaled);
}

pub(in crate::kernels) fn q4_tile(tiles: &[Q4Tile], activations: &[Block], output: &mut [TileOutput]) {
    blocks(tiles, activations, output, |tile, row| (tile.codes(row), f16_to_f32(tile.scales[row])), scaled);
}

pub(in crate::kernels) fn table_tile(tiles: &[TableTile], activations: &[Block], output: &mut [TileOutput]) {
    blocks(tiles, activations, output, |tile, row| (tile.codes(row), tile.scales[row]), scaled);
}

pub(in crate::kernels) fn offset_tile(
    tiles: &[OffsetTile],
    activations: &[Block],
    output: &mut [TileOutput],
) {
    let row_of = |tile: &OffsetTile, row: usize| (tile.codes(row), (tile.scales[row], tile.offsets[row]));
    blocks(tiles, activations, output, row_of, |(scale, offset), dot, block, sum| {
        let inputs = (block.lift / -128) as f32;
        offset.mul_add(inputs, scale * dot).mul_add(block.scale, sum)
    });
}

/// `sum + dot · (scale · activation scale)`.
fn scaled(scale: f32, dot: f32, block: &Block, sum: f32) -> f32 {
    dot.mul_add(scale * block.scale, sum)
}

/// Adds up the products of the blocks. `add` is given a row's scales, the sum of the products of codes, the
/// activations, and the sum to which it adds.
fn blocks<T, S: Copy>(
    tiles: &[T],
    activations: &[Block],
    output: &mut [TileOutput],
    row_of: impl Fn(&T, usize) -> ([i8; BLOCK], S),
    add: impl Fn(S, f32, &Block, f32) -> f32,
) {
    output.fill([0.0; TILE_ROWS]);
    for (index, tile) in tiles.iter().enumerate() {
        for row in 0..TILE_ROWS {
            let (codes, scales) = row_of(tile, row);
            for (blocks, output) in activations.chunks_exact(tiles.len()).zip(&mut *output) {
                let block = &blocks[index];
                let inputs = block.quants.map(of_four);
                let products = codes.iter().zip(inputs.as_flattened());
                let dot: i32 = products.map(|(w, a)| i32::from(*w) * i32::from(*a)).sum();
                output[row] = add(scales, dot as f32, block, output[row]);
            }
        }
    }
}

pub(in crate::kernels) fn q2_k_tile(
    tiles: &[Q2KTile],
    activations: &[SuperBlock],
    output: &mut [TileOutput],
) {
    super_blocks(tiles, activations, output, |tile, row, block| {
        affine::<16, _, _>(&tile.codes(row), &tile.affine, row, block)
    });
}

pub(in crate::kernels) fn q4_k_tile(
    tiles: &[Q4KTile],
    activations: &[SuperBlock],
    output: &mut [TileOutput],
) {
    super_blocks(tiles, activations, output, |tile, row, block| {
        affine::<32, _, _>(&tile.codes(row), &tile.affine, row, block)
    });
}

pub(in crate::kernels) fn q5_k_tile(
    tiles: &[Q5KTile],
    activations: &[SuperBlock],
    output: &mut [TileOutput],
) {
    super_blocks(tiles, activations, output, |tile, row, block| {
        affine::<32, _, _>(&tile.codes(row), &tile.affine, row, block)
    });
}

pub(in crate::kernels) fn q6_k_tile(
    tiles: &[Q6KTile],
    activations: &[SuperBlock],
    output: &mut [TileOutput],
) {
    super_blocks(tiles, activations, output, |tile, row, block| {
        let codes = tile.codes(row);
        let inputs = block.quants.map(of_four);
        let parts = codes.as_chunks::<16>().0.iter().zip(inputs.as_flattened().as_chunks::<16>().0);
        let dots = parts.map(|(codes, inputs)| {
            let products = codes.iter().zip(inputs).map(|(w, a)| (i32::from(*w) - 32) * i32::from(*a));
            products.sum::<i32>()
        });
        let scaled = dots.zip(&tile.part_scales).map(|(dot, scales)| dot * i32::from(scales[row]));
        f16_to_f32(tile.scales[row]) * scaled.sum::<i32>() as f32
    });
}

/// `Σ block result · activation scale`.
fn super_blocks<T>(
    tiles: &[T],
    activations: &[SuperBlock],
    output: &mut [TileOutput],
    result: impl Fn(&T, usize, &SuperBlock) -> f32,
) {
    output.fill([0.0; TILE_ROWS]);
    for (blocks, output) in activations.chunks_exact(tiles.len()).zip(output) {
        for (tile, block) in tiles.iter().zip(blocks) {
            for (row, sum) in output.iter_mut().enumerate() {
                *sum = result(tile, row, block).mul_add(block.scale, *sum);
            }
        }
    }
}

/// `scale · dot - minimum · sum`, of the products with the part scales and of the activations with the part
/// minima. A part has `LENGTH` columns.
fn affine<const LENGTH: usize, const PARTS: usize, const PAIRS: usize>(
    codes: &[u8; SUPER_BLOCK],
    affine: &Affine<PARTS, PAIRS>,
    row: usize,
    block: &SuperBlock,
) -> f32 {
    let (mut dots, mut minima) = (0, 0);
    let inputs = block.quants.map(of_four);
    let parts = codes.as_chunks::<LENGTH>().0.iter().zip(inputs.as_flattened().as_chunks::<LENGTH>().0);
    for (part, (codes, inputs)) in parts.enumerate() {
        let dot: i32 = codes.iter().zip(inputs).map(|(w, a)| i32::from(*w) * i32::from(*a)).sum();
        let sum: i32 = inputs.iter().map(|a| i32::from(*a)).sum();
        dots += dot * i32::from(affine.part_scales[part][row]);
        minima += sum * i32::from(affine.part_minima[part / 2][row][part % 2]);
    }
    let dot = f16_to_f32(affine.scales[row]) * dots as f32;
    (-f16_to_f32(affine.minima[row])).mul_add(minima as f32, dot)
}

pub(in crate::kernels) fn f32_tile(columns: &[F32Column], activations: &[f32], output: &mut [TileOutput]) {
    float(columns, activations, output, |column| column.0);
}

pub(in crate::kernels) fn f16_tile(columns: &[F16Column], activations: &[f32], output: &mut [TileOutput]) {
    float(columns, activations, output, |column| column.0.map(f16_to_f32));
}

pub(in crate::kernels) fn bf16_tile(columns: &[Bf16Column], activations: &[f32], output: &mut [TileOutput]) {
    float(columns, activations, output, |column| column.0.map(bf16_to_f32));
}

fn float<T>(
    columns: &[T],
    activations: &[f32],
    output: &mut [TileOutput],
    weights: impl Fn(&T) -> [f32; TILE_ROWS],
) {
    for (inputs, output) in activations.chunks_exact(columns.len()).zip(output) {
        *output = [0.0; TILE_ROWS];
        for (column, input) in columns.iter().zip(inputs) {
            for (sum, weight) in output.iter_mut().zip(weights(column)) {
                *sum = weight.mul_add(*input, *sum);
            }
        }
    }
}
