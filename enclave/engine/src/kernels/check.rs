//! A known-answer test of the vector kernels, made once when a model is loaded.
//!
//! The property tests cover only the kernels of the processor that runs them. A processor with other
//! instructions must not be the first to meet a mistake. This check compares each kernel with the scalar one,
//! bit for bit, and a kernel that differs is not used.

use super::{
    Bf16Column, Block, F16Column, F32Column, Kernels, OffsetTile, Q2KTile, Q4KTile, Q4Tile, Q5KTile, Q6KTile,
    Q8Tile, Query, Results, SuperBlock, TILE_ROWS, TableTile, Tile, TileOutput,
};

/// Rows of activations: every number of rows at once that a kernel has.
const ROWS: usize = 15;
/// Columns, more than a kernel takes in one piece.
const COLUMNS: usize = 1280;

/// Whether these kernels give the results of the scalar ones on numbers that reach all codes and signs.
pub(super) fn agrees(kernels: Kernels) -> bool {
    let mut random = Random(0x5eed);
    let values: Vec<f32> = (0..ROWS * COLUMNS).map(|_| random.number()).collect();
    let mut blocks = vec![Block::default(); values.len() / super::BLOCK];
    let mut super_blocks = vec![SuperBlock::default(); values.len() / super::SUPER_BLOCK];
    Kernels::Scalar.quantise(&values, &mut blocks);
    Kernels::Scalar.quantise_super(&values, &mut super_blocks);
    let random = &mut random;
    same(kernels, &random.tiles::<34, Q8Tile>(&[0]), &blocks, Kernels::q8_tile)
        && same(kernels, &random.tiles::<18, Q4Tile>(&[0]), &blocks, Kernels::q4_tile)
        && same(kernels, &random.tiles::<36, TableTile>(&[2]), &blocks, Kernels::table_tile)
        && same(kernels, &random.tiles::<40, OffsetTile>(&[2, 6]), &blocks, Kernels::offset_tile)
        && same(kernels, &random.tiles::<84, Q2KTile>(&[80, 82]), &super_blocks, Kernels::q2_k_tile)
        && same(kernels, &random.tiles::<144, Q4KTile>(&[0, 2]), &super_blocks, Kernels::q4_k_tile)
        && same(kernels, &random.tiles::<176, Q5KTile>(&[0, 2]), &super_blocks, Kernels::q5_k_tile)
        && same(kernels, &random.tiles::<210, Q6KTile>(&[208]), &super_blocks, Kernels::q6_k_tile)
        && same(kernels, &random.tiles::<4, F32Column>(&[2]), &values, Kernels::f32_tile)
        && same(kernels, &random.tiles::<2, F16Column>(&[0]), &values, Kernels::f16_tile)
        && same(kernels, &random.tiles::<2, Bf16Column>(&[0]), &values, Kernels::bf16_tile)
        && others(kernels, &values) == others(Kernels::Scalar, &values)
}

/// The results of the kernels without weights, as bits.
fn others(kernels: Kernels, values: &[f32]) -> Vec<u32> {
    let mut blocks = vec![Block::default(); values.len() / super::BLOCK];
    let mut super_blocks = vec![SuperBlock::default(); values.len() / super::SUPER_BLOCK];
    kernels.quantise(values, &mut blocks);
    kernels.quantise_super(values, &mut super_blocks);
    let blocks = blocks.iter().flat_map(|block| {
        let scale = block.scale.to_bits().cast_signed();
        [&block.quants[..], &[block.lift, scale]].concat()
    });
    let super_blocks = super_blocks.iter().flat_map(|block| {
        let scale = block.scale.to_bits().cast_signed();
        [&block.quants[..], &block.sums_of_16, &block.sums_of_32, &[scale]].concat()
    });

    let (tiles, rest) = values.split_at(values.len() / 2);
    let [gate, up] = [tiles, rest].map(|tiles| Results::new(tiles.as_chunks().0, ROWS, 3, 7));
    // The last tile reaches beyond the row.
    let columns = tiles.len() / ROWS - 5;
    let mut gated = vec![0.0; 7 * columns];
    let mut by_gauss = gated.clone();
    kernels.geglu(gate, up, &mut by_gauss);
    kernels.swiglu(gate, up, &mut gated);
    kernels.add(up, &mut gated);
    let (mut normed, mut soft) = (values[..COLUMNS].to_vec(), values[..COLUMNS - 1].to_vec());
    kernels.rms_norm_in_place(&mut normed, rest, 1e-5);
    kernels.softmax(&mut soft);
    let mut softened = values[..COLUMNS].to_vec();
    kernels.soften(&mut softened, 0.5);
    kernels.clamped_swiglu(&values[..COLUMNS], rest, &mut softened[..COLUMNS / 2 + 3]);

    let mut halves = vec![0; values.len()];
    kernels.halve(values, &mut halves);
    let (width, positions) = (40, 29);
    let (keys, others) = halves.split_at(width * positions);
    let (first, mut scores, mut attended) = (2, vec![0.0; positions - 2], vec![0.0; width]);
    let query =
        Query { query: &rest[..width], first, scores: &mut scores, sink: Some(1.0), output: &mut attended };
    kernels.attend(&mut [query], Some(5.0), std::iter::once((keys, &others[..width * positions])));

    let floats = [gated, by_gauss, normed, soft, softened, scores, attended].concat();
    let bits = floats.iter().map(|value| value.to_bits()).chain(halves.iter().map(|half| u32::from(*half)));
    bits.chain(blocks.chain(super_blocks).map(i32::cast_unsigned)).collect()
}

fn same<T, A>(
    kernels: Kernels,
    tiles: &[T],
    activations: &[A],
    run: fn(Kernels, &[T], &[A], &mut [TileOutput]),
) -> bool {
    let (mut expected, mut found) = ([[0.0; TILE_ROWS]; ROWS], [[0.0; TILE_ROWS]; ROWS]);
    run(Kernels::Scalar, tiles, activations, &mut expected);
    run(kernels, tiles, activations, &mut found);
    let mut pairs = expected.as_flattened().iter().zip(found.as_flattened());
    pairs.all(|(expected, found)| expected.to_bits() == found.to_bits())
}

/// Xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }

    /// From -1 to 1.
    fn number(&mut self) -> f32 {
        self.next() as f32 / (1_u64 << 31) as f32 - 1.0
    }

    /// A row of tiles with codes of all kinds. The two bytes at each of `scales` in a block are made the upper
    /// ones of a scale of either sign below one, so that no sum is infinite.
    fn tiles<const BYTES: usize, T: Tile<BYTES>>(&mut self, scales: &[usize]) -> Vec<T> {
        let mut tiles = vec![T::default(); COLUMNS / T::COLUMNS];
        for tile in &mut tiles {
            for row in 0..TILE_ROWS {
                let mut block = [0_u8; BYTES];
                block.iter_mut().for_each(|byte| *byte = self.next() as u8);
                for place in scales {
                    if let Some(upper) = block.get_mut(place + 1) {
                        *upper = 0x30 | (*upper & 0x87);
                    }
                }
                tile.put(row, &block);
            }
        }
        tiles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_of_this_processor_agree() {
        assert!(agrees(Kernels::Scalar));
        #[cfg(target_arch = "x86_64")]
        for kernels in super::super::vector_kernels() {
            assert!(agrees(kernels));
        }
    }

    #[test]
    fn a_difference_is_found() {
        let tiles = Random(1).tiles::<4, F32Column>(&[2]);
        let values = vec![1.0; ROWS * COLUMNS];
        assert!(same(Kernels::Scalar, &tiles, &values, Kernels::f32_tile));
        let wrong = |kernels: Kernels, tiles: &[F32Column], values: &[f32], output: &mut [TileOutput]| {
            kernels.f32_tile(tiles, values, output);
            // One call of two, as only the second is of the kernels under test.
            use std::sync::atomic::{AtomicBool, Ordering};
            static SECOND: AtomicBool = AtomicBool::new(false);
            if SECOND.swap(true, Ordering::Relaxed) {
                output[ROWS - 1][TILE_ROWS - 1] *= 1.0 + f32::EPSILON;
            }
        };
        assert!(!same(Kernels::Scalar, &tiles, &values, wrong));
    }
}
