//! Every vector kernel against the scalar one: the same bits, not nearly the same numbers.

#![cfg(target_arch = "x86_64")]

use proptest::prelude::*;

use super::*;

/// The vector kernels that run here; says which do not.
fn vector_kernels() -> Vec<Kernels> {
    let found = super::vector_kernels();
    if !matches!(found.last(), Some(Kernels::Avx512(_))) {
        eprintln!("this processor has no AVX-512 VNNI: those kernels are not tested here");
    }
    found
}

#[test]
fn kernels_need_no_more_instructions_than_they_may() {
    use Instructions::{Avx2, Avx512Vnni, Compiled};
    assert_eq!(Kernels::within(Compiled).instructions(), Compiled);
    let found = super::vector_kernels();
    for most in [Avx2, Avx512Vnni] {
        let expected =
            found.iter().map(|kernels| kernels.instructions()).filter(|needed| *needed <= most).max();
        assert_eq!(Kernels::within(most).instructions(), expected.unwrap_or(Compiled));
    }
    assert_eq!(Kernels::best().instructions(), Kernels::within(Avx512Vnni).instructions());
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn floats(count: usize) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(prop_oneof![8 => -4.0_f32..4.0, 1 => -1000.0_f32..1000.0, 1 => Just(0.0)], count)
}

/// Half-precision bits of finite numbers.
fn halves(count: usize) -> impl Strategy<Value = Vec<u16>> {
    prop::collection::vec(
        (0..0x7c00_u16, any::<bool>()).prop_map(|(bits, sign)| bits | u16::from(sign) << 15),
        count,
    )
}

/// Bytes of 16 blocks of a format and bits for its scales.
type RawTile = (Vec<u8>, [u16; 2]);

fn raw_tiles(count: usize, block: usize) -> impl Strategy<Value = Vec<RawTile>> {
    let blocks = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), block * TILE_ROWS),
        // The largest codes and part scales at once.
        1 => prop::sample::select(vec![0xff_u8, 0x7f, 0x80, 0]).prop_map(move |byte| vec![byte; block * TILE_ROWS]),
    ];
    prop::collection::vec((blocks, any::<[u16; 2]>()), count)
}

/// Tiles of random codes, and of finite scales that differ from row to row and stand at these places of a
/// block.
fn tiles<const BYTES: usize, T: Tile<BYTES>>(raw: &[RawTile], scale_places: &[usize]) -> Vec<T> {
    let tile = |(blocks, scales): &RawTile| {
        let mut tile = T::default();
        for (row, block) in blocks.as_chunks::<BYTES>().0.iter().enumerate() {
            let mut block = *block;
            for (at, bits) in scale_places.iter().zip(scales) {
                let bits = bits.wrapping_add(row as u16 * 77) & 0xbfff;
                block[*at..at + 2].copy_from_slice(&bits.to_le_bytes());
            }
            tile.put(row, &block);
        }
        tile
    };
    raw.iter().map(tile).collect()
}

/// Activations among which are some that are the largest possible all along.
fn activations(count: usize) -> impl Strategy<Value = Vec<f32>> {
    prop_oneof![3 => floats(count), 1 => Just(vec![1.0; count]), 1 => Just(vec![-1.0; count])]
}

/// Checks one kernel: every vector version against the scalar one, and every row alone against all rows
/// together.
fn check_tile_kernel<T, A: Clone>(
    tiles: &[T],
    activations: &[A],
    run: impl Fn(Kernels, &[T], &[A], &mut [TileOutput]),
) -> Result<(), TestCaseError> {
    let rows = activations.len() / tiles.len();
    let mut expected = vec![[0.0; TILE_ROWS]; rows];
    run(Kernels::Scalar, tiles, activations, &mut expected);
    for kernels in vector_kernels() {
        // What was in the output before must not matter.
        let mut found = vec![[f32::NAN; TILE_ROWS]; rows];
        run(kernels, tiles, activations, &mut found);
        prop_assert_eq!(bits(expected.as_flattened()), bits(found.as_flattened()));
        for (row, expected) in activations.chunks_exact(tiles.len()).zip(&expected) {
            let mut alone = [[0.0; TILE_ROWS]];
            run(kernels, tiles, row, &mut alone);
            prop_assert_eq!(bits(&alone[0]), bits(expected));
        }
    }
    Ok(())
}

fn quantised(values: &[f32]) -> Vec<Block> {
    let mut blocks = vec![Block::default(); values.len() / BLOCK];
    Kernels::best().quantise(values, &mut blocks);
    blocks
}

fn quantised_super(values: &[f32]) -> Vec<SuperBlock> {
    let mut blocks = vec![SuperBlock::default(); values.len() / SUPER_BLOCK];
    Kernels::best().quantise_super(values, &mut blocks);
    blocks
}

/// Tiles and activations for 1 to 13 rows; up to six tiles, so that more than one piece of columns is met.
fn case(block: usize, columns: usize) -> impl Strategy<Value = (Vec<RawTile>, Vec<f32>)> {
    (1..6_usize, 1..14_usize)
        .prop_flat_map(move |(width, rows)| (raw_tiles(width, block), activations(rows * width * columns)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn q8_tiles_agree((raw, values) in case(34, BLOCK)) {
        check_tile_kernel(&tiles::<_, Q8Tile>(&raw, &[0]), &quantised(&values), Kernels::q8_tile)?;
    }

    #[test]
    fn q4_tiles_agree((raw, values) in case(18, BLOCK)) {
        check_tile_kernel(&tiles::<_, Q4Tile>(&raw, &[0]), &quantised(&values), Kernels::q4_tile)?;
    }

    #[test]
    fn table_tiles_agree((raw, values) in case(36, BLOCK)) {
        // The upper half of a single-precision scale.
        check_tile_kernel(&tiles::<_, TableTile>(&raw, &[2]), &quantised(&values), Kernels::table_tile)?;
    }

    #[test]
    fn offset_tiles_agree((raw, values) in case(40, BLOCK)) {
        // The upper halves of single-precision scales and offsets.
        check_tile_kernel(&tiles::<_, OffsetTile>(&raw, &[2, 6]), &quantised(&values), Kernels::offset_tile)?;
    }

    #[test]
    fn q2_k_tiles_agree((raw, values) in case(84, SUPER_BLOCK)) {
        check_tile_kernel(&tiles::<_, Q2KTile>(&raw, &[80, 82]), &quantised_super(&values), Kernels::q2_k_tile)?;
    }

    #[test]
    fn q4_k_tiles_agree((raw, values) in case(144, SUPER_BLOCK)) {
        check_tile_kernel(&tiles::<_, Q4KTile>(&raw, &[0, 2]), &quantised_super(&values), Kernels::q4_k_tile)?;
    }

    #[test]
    fn q5_k_tiles_agree((raw, values) in case(176, SUPER_BLOCK)) {
        check_tile_kernel(&tiles::<_, Q5KTile>(&raw, &[0, 2]), &quantised_super(&values), Kernels::q5_k_tile)?;
    }

    #[test]
    fn q6_k_tiles_agree((raw, values) in case(210, SUPER_BLOCK)) {
        check_tile_kernel(&tiles::<_, Q6KTile>(&raw, &[208]), &quantised_super(&values), Kernels::q6_k_tile)?;
    }

    #[test]
    fn float_tiles_agree(columns in halves(16 * 9), values in floats(9 * 7)) {
        let halves: Vec<F16Column> = columns.as_chunks().0.iter().copied().map(F16Column).collect();
        let briefs: Vec<Bf16Column> = columns.as_chunks().0.iter().copied().map(Bf16Column).collect();
        let singles: Vec<F32Column> = halves.iter().map(|column| F32Column(column.0.map(f16_to_f32))).collect();
        check_tile_kernel(&halves, &values, Kernels::f16_tile)?;
        check_tile_kernel(&briefs, &values, Kernels::bf16_tile)?;
        check_tile_kernel(&singles, &values, Kernels::f32_tile)?;
        let mut outputs = vec![vec![[0.0; TILE_ROWS]; 7]; 2];
        Kernels::best().f16_tile(&halves, &values, &mut outputs[0]);
        Kernels::best().f32_tile(&singles, &values, &mut outputs[1]);
        prop_assert_eq!(bits(outputs[0].as_flattened()), bits(outputs[1].as_flattened()));
    }

    /// Against one query that attends to everything in one piece: whatever else is asked, whatever comes
    /// before and after what a query sees, and however the positions are cut.
    #[test]
    fn attention_agrees(
        (width, queries, keys, values) in (1..18_usize, 1..5_usize, 1..40_usize).prop_flat_map(|(eights, queries, positions)| {
            let width = eights * 8;
            let query = (floats(width), 1..=positions, any::<prop::sample::Index>(), prop::option::of(-9.0_f32..9.0));
            let queries = prop::collection::vec(query, queries);
            (Just(width), queries, floats(width * positions), floats(width * positions))
        }),
        piece in 1..40_usize,
        cap in prop::option::of(1.0_f32..50.0),
    ) {
        let queries: Vec<_> =
            queries.into_iter().map(|(query, end, begin, sink)| (query, begin.index(end)..end, sink)).collect();
        let halve = |values: &[f32]| values.iter().map(|value| f32_to_f16(value / 8.0)).collect::<Vec<_>>();
        let (keys, values) = (halve(&keys), halve(&values));
        let mut expected = vec![vec![0.0; width]; queries.len()];
        for ((query, seen, sink), output) in queries.iter().zip(&mut expected) {
            let numbers = seen.start * width..seen.end * width;
            let pieces = [(&keys[numbers.clone()], &values[numbers])].into_iter();
            let mut query = Query { query, first: 0, scores: &mut vec![0.0; seen.len()], sink: *sink, output };
            Kernels::Scalar.attend(std::slice::from_mut(&mut query), cap, pieces);
        }
        for kernels in [Kernels::Scalar].into_iter().chain(vector_kernels()) {
            // What was there before must not matter.
            let mut scores: Vec<_> = queries.iter().map(|(_, seen, _)| vec![f32::NAN; seen.len()]).collect();
            let mut found = vec![vec![f32::NAN; width]; queries.len()];
            let outputs = scores.iter_mut().zip(&mut found);
            let mut asked: Vec<_> = queries
                .iter()
                .zip(outputs)
                .map(|((query, seen, sink), (scores, output))| {
                    Query { query, first: seen.start, scores, sink: *sink, output }
                })
                .collect();
            kernels.attend(&mut asked, cap, keys.chunks(piece * width).zip(values.chunks(piece * width)));
            for (expected, found) in expected.iter().zip(&found) {
                prop_assert_eq!(bits(expected), bits(found));
            }
        }
    }

    #[test]
    fn elementwise_kernels_agree(a in floats(101), b in floats(101), blocks in floats(2 * SUPER_BLOCK), first in 0..3_usize) {
        let run = |kernels: Kernels| {
            let mut norm = vec![0.0; a.len()];
            kernels.rms_norm(&a, &b, 1e-5, &mut norm);
            let mut soft = a.clone();
            let mut normed = a.clone();
            kernels.rms_norm_in_place(&mut normed, &b, 1e-5);
            assert_eq!(bits(&normed), bits(&norm));
            // Two rows of five; of each two whole tiles and a part of a third.
            let (tiles, others) = blocks.as_chunks().0.split_at(TILE_ROWS);
            let mut gate = [0.0; 2 * (2 * TILE_ROWS + 5)];
            let [gates, ups] = [tiles, others].map(|tiles| Results::new(&tiles[..3 * 5], 5, first, 2));
            kernels.swiglu(gates, ups, &mut gate);
            let mut by_gauss = gate;
            kernels.geglu(gates, ups, &mut by_gauss);
            kernels.add(ups, &mut gate);
            let mut softened = a.clone();
            kernels.soften(&mut softened, 3.0);
            kernels.clamped_swiglu(&a, &b, &mut softened[..50]);
            kernels.softmax(&mut soft);
            let mut quantised = [Block::default(); 16];
            kernels.quantise(&blocks, &mut quantised);
            let mut quantised_super = [SuperBlock::default(); 2];
            kernels.quantise_super(&blocks, &mut quantised_super);
            let mut halves = vec![0; a.len()];
            kernels.halve(&a, &mut halves);
            let quants: Vec<_> = quantised
                .iter()
                .map(|block| (block.quants, block.lift, block.scale.to_bits()))
                .collect();
            let quants_super: Vec<_> = quantised_super
                .iter()
                .map(|block| (block.quants, block.sums_of_16, block.sums_of_32, block.scale.to_bits()))
                .collect();
            let gates = [bits(&gate), bits(&by_gauss), bits(&softened)];
            (bits(&norm), gates, bits(&soft), quants, quants_super, halves)
        };
        for kernels in vector_kernels() {
            prop_assert_eq!(run(Kernels::Scalar), run(kernels));
        }
    }

    #[test]
    fn halving_agrees_for_every_kind_of_number(value: u32) {
        for kernels in vector_kernels() {
            let mut found = [0_u16; 8];
            kernels.halve(&[f32::from_bits(value); 8], &mut found);
            prop_assert_eq!(found[0], f32_to_f16(f32::from_bits(value)));
        }
    }
}
