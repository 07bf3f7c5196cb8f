//! Every vector kernel against the scalar one: the same bits, not nearly the same numbers.

#![cfg(target_arch = "x86_64")]

use proptest::prelude::*;

use super::*;

fn avx2() -> Option<Kernels> {
    let found = avx2::Avx2::detect().map(Kernels::Avx2);
    if found.is_none() {
        eprintln!("this processor has no AVX2: the vector kernels are not tested here");
    }
    found
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

fn q8_tiles(count: usize) -> impl Strategy<Value = Vec<Q8Tile>> {
    let tile = (prop::collection::vec(any::<i8>(), 512), halves(16)).prop_map(|(quants, scales)| {
        let mut tile = Q8Tile::default();
        for (group, chunk) in tile.quants.iter_mut().zip(quants.chunks_exact(64)) {
            group.copy_from_slice(chunk);
        }
        tile.scales.copy_from_slice(&scales);
        tile
    });
    prop::collection::vec(tile, count)
}

fn q8_case() -> impl Strategy<Value = (Vec<Q8Tile>, Vec<f32>, usize)> {
    (1..5_usize, 1..12_usize)
        .prop_flat_map(|(blocks, rows)| (q8_tiles(blocks), floats(rows * blocks * BLOCK), Just(rows)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn q8_tiles_agree((tiles, values, rows) in q8_case()) {
        let Some(avx2) = avx2() else { return Ok(()) };
        let mut blocks = vec![Block::default(); rows * tiles.len()];
        avx2.quantise(&values, &mut blocks);
        let mut expected = vec![[0.0; TILE_ROWS]; rows];
        let mut found = expected.clone();
        Kernels::Scalar.q8_tile(&tiles, &blocks, &mut expected);
        avx2.q8_tile(&tiles, &blocks, &mut found);
        prop_assert_eq!(bits(expected.as_flattened()), bits(found.as_flattened()));
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch((tiles, values, rows) in q8_case()) {
        let kernels = Kernels::best();
        let mut blocks = vec![Block::default(); rows * tiles.len()];
        kernels.quantise(&values, &mut blocks);
        let mut together = vec![[0.0; TILE_ROWS]; rows];
        kernels.q8_tile(&tiles, &blocks, &mut together);
        for (row, expected) in blocks.chunks_exact(tiles.len()).zip(&together) {
            let mut alone = [[0.0; TILE_ROWS]];
            kernels.q8_tile(&tiles, row, &mut alone);
            prop_assert_eq!(bits(&alone[0]), bits(expected));
        }
    }

    #[test]
    fn float_tiles_agree(columns in halves(16 * 9), values in floats(9 * 7)) {
        let Some(avx2) = avx2() else { return Ok(()) };
        let columns = columns.as_chunks::<TILE_ROWS>().0;
        let singles: Vec<F32Column> = columns.iter().map(|column| column.map(f16_to_f32)).collect();
        let mut outputs = vec![vec![[0.0; TILE_ROWS]; 7]; 4];
        Kernels::Scalar.f16_tile(columns, &values, &mut outputs[0]);
        avx2.f16_tile(columns, &values, &mut outputs[1]);
        Kernels::Scalar.f32_tile(&singles, &values, &mut outputs[2]);
        avx2.f32_tile(&singles, &values, &mut outputs[3]);
        for output in &outputs {
            prop_assert_eq!(bits(outputs[0].as_flattened()), bits(output.as_flattened()));
        }
    }

    #[test]
    fn attention_agrees(
        (width, query, keys, values) in (1..12_usize, 1..40_usize).prop_flat_map(|(eights, positions)| {
            let width = eights * 8;
            (Just(width), floats(width), floats(width * positions), floats(width * positions))
        })
    ) {
        let Some(avx2) = avx2() else { return Ok(()) };
        let halve = |values: &[f32]| values.iter().map(|value| f32_to_f16(value / 8.0)).collect::<Vec<_>>();
        let (keys, values) = (halve(&keys), halve(&values));
        let mut scores = vec![0.0; keys.len() / width];
        let (mut expected, mut found) = (vec![0.0; width], vec![0.0; width]);
        Kernels::Scalar.attend(&query, &keys, &values, &mut scores, &mut expected);
        avx2.attend(&query, &keys, &values, &mut scores, &mut found);
        prop_assert_eq!(bits(&expected), bits(&found));
    }

    #[test]
    fn elementwise_kernels_agree(a in floats(101), b in floats(101), blocks in floats(4 * BLOCK)) {
        let Some(avx2) = avx2() else { return Ok(()) };
        let run = |kernels: Kernels| {
            let mut norm = vec![0.0; a.len()];
            kernels.rms_norm(&a, &b, 1e-5, &mut norm);
            let (mut gate, mut soft) = (a.clone(), a.clone());
            kernels.swiglu(&mut gate, &b);
            kernels.softmax(&mut soft);
            let mut quantised = [Block::default(); 4];
            kernels.quantise(&blocks, &mut quantised);
            let mut halves = vec![0; a.len()];
            kernels.halve(&a, &mut halves);
            let quants: Vec<_> = quantised.iter().map(|block| (block.quants, block.scale.to_bits())).collect();
            (bits(&norm), bits(&gate), bits(&soft), quants, halves)
        };
        prop_assert_eq!(run(Kernels::Scalar), run(avx2));
    }

    #[test]
    fn halving_agrees_for_every_kind_of_number(value: u32) {
        let Some(avx2) = avx2() else { return Ok(()) };
        let mut found = [0_u16; 8];
        avx2.halve(&[f32::from_bits(value); 8], &mut found);
        prop_assert_eq!(found[0], f32_to_f16(f32::from_bits(value)));
    }
}
