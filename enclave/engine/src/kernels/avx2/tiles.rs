//! Products of weights and activations.
//!
//! Each kernel computes 16 results for up to four rows of activations. One unpacked weight then serves all
//! rows, and one spread activation serves two vectors of weights. Sums of products of codes stay in 16 bits
//! while they provably fit.

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _mm_unpackhi_epi8, _mm_unpacklo_epi8, _mm256_abs_epi8, _mm256_add_epi16,
    _mm256_add_epi32, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_castsi256_ps,
    _mm256_cvtepi8_epi16, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi16, _mm256_cvtepu16_epi32, _mm256_fmadd_ps,
    _mm256_fnmadd_ps, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_or_si256,
    _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi8,
    _mm256_setzero_ps, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_sign_epi8, _mm256_slli_epi16,
    _mm256_slli_epi32, _mm256_srai_epi16, _mm256_srli_epi16, _mm256_sub_epi32,
};

use super::{load, load_16, load_group, store, widen_eight};
use crate::kernels::{
    LANES,
    tile::{
        Affine, Bf16Column, Block, F16Column, F32Column, Four, OffsetTile, Pair, Q2KTile, Q4KTile, Q4Tile,
        Q5KPart, Q5KTile, Q6KPart, Q6KTile, Q8Tile, SUPER_BLOCK, SuperBlock, TILE_ROWS, TableTile,
        TileOutput, blocks_at, sums_of_16, sums_of_32,
    },
};

/// Columns whose weights stay in the nearest cache while all rows of activations pass by.
const COLUMNS_AT_ONCE: usize = 1024;

/// Defines a tile kernel. It takes the columns in pieces, and the activations in groups of four rows, then
/// two, then one.
macro_rules! tile_kernel {
    ($name:ident, $kernel:ident, $tile:ty, $activation:ty, $columns:expr) => {
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(super) fn $name(tiles: &[$tile], activations: &[$activation], output: &mut [TileOutput]) {
            output.fill([0.0; TILE_ROWS]);
            let width = tiles.len();
            for (piece, tiles) in tiles.chunks(COLUMNS_AT_ONCE / $columns).enumerate() {
                let start = piece * (COLUMNS_AT_ONCE / $columns);
                let (mut inputs, mut outputs) = (activations, &mut *output);
                macro_rules! rows {
                    ($count:literal) => {
                        while let (Some((now, later)), Some(_)) =
                            (inputs.split_at_checked($count * width), outputs.get($count - 1))
                        {
                            let (out, rest) = outputs.split_at_mut($count);
                            let rows: [&[$activation]; $count] =
                                std::array::from_fn(|m| &now[m * width + start..][..tiles.len()]);
                            $kernel::<$count>(tiles, rows, out);
                            (inputs, outputs) = (later, rest);
                        }
                    };
                }
                rows!(4);
                rows!(2);
                rows!(1);
            }
        }
    };
}

tile_kernel!(q8_tile, q8_rows, Q8Tile, Block, 32);
tile_kernel!(q4_tile, q4_rows, Q4Tile, Block, 32);
tile_kernel!(table_tile, table_rows, TableTile, Block, 32);
tile_kernel!(offset_tile, offset_rows, OffsetTile, Block, 32);
tile_kernel!(q2_k_tile, q2_k_rows, Q2KTile, SuperBlock, SUPER_BLOCK);
tile_kernel!(q4_k_tile, q4_k_rows, Q4KTile, SuperBlock, SUPER_BLOCK);
tile_kernel!(q5_k_tile, q5_k_rows, Q5KTile, SuperBlock, SUPER_BLOCK);
tile_kernel!(q6_k_tile, q6_k_rows, Q6KTile, SuperBlock, SUPER_BLOCK);
tile_kernel!(f32_tile, f32_rows, F32Column, f32, 1);
tile_kernel!(f16_tile, f16_rows, F16Column, f32, 1);
tile_kernel!(bf16_tile, bf16_rows, Bf16Column, f32, 1);

/// A sum for each row of activations and each half of the tile's rows.
type Sums<T, const M: usize> = [[T; 2]; M];

#[target_feature(enable = "avx2,fma,f16c")]
fn q8_rows<const M: usize>(tiles: &[Q8Tile], rows: [&[Block]; M], output: &mut [TileOutput]) {
    let mut sums: Sums<__m256, M> = load_sums(output);
    for (index, tile) in tiles.iter().enumerate() {
        let blocks = blocks_at(&rows, index);
        let mut dots: Sums<__m256i, M> = [[_mm256_setzero_si256(); 2]; M];
        for (group, quants) in tile.quants.iter().enumerate() {
            add_bytes(&mut dots, load_group(&quants.map(i8::cast_unsigned)), blocks, group);
        }
        add_scaled(&mut sums, &dots, widen_row(&tile.scales), blocks);
    }
    store_sums(&sums, output);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn q4_rows<const M: usize>(tiles: &[Q4Tile], rows: [&[Block]; M], output: &mut [TileOutput]) {
    let ones = _mm256_set1_epi16(1);
    let mut sums: Sums<__m256, M> = load_sums(output);
    for (index, tile) in tiles.iter().enumerate() {
        let blocks = blocks_at(&rows, index);
        let mut partial: Sums<__m256i, M> = [[_mm256_setzero_si256(); 2]; M];
        for (group, nibbles) in tile.nibbles.iter().enumerate() {
            // 32 products of at most 15 · 127, two to a sum in each of eight additions: at most 30480.
            let quants = blocks.map(|block| &block.quants.as_chunks::<2>().0[group]);
            add_nibbles(&mut partial, nibbles, quants);
        }
        let scales = widen_row(&tile.scales);
        for m in 0..M {
            let scale = _mm256_set1_ps(blocks[m].scale);
            // The codes stand eight too high, a sixteenth of what the lift takes back.
            let lift = _mm256_set1_epi32(blocks[m].lift / 16);
            for half in 0..2 {
                let dot = _mm256_add_epi32(_mm256_madd_epi16(partial[m][half], ones), lift);
                let scale = _mm256_mul_ps(scales[half], scale);
                sums[m][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, sums[m][half]);
            }
        }
    }
    store_sums(&sums, output);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn table_rows<const M: usize>(tiles: &[TableTile], rows: [&[Block]; M], output: &mut [TileOutput]) {
    let mask = _mm256_set1_epi8(15);
    let mut sums: Sums<__m256, M> = load_sums(output);
    for (index, tile) in tiles.iter().enumerate() {
        let blocks = blocks_at(&rows, index);
        let numbers = _mm256_broadcastsi128_si256(load_16(&tile.numbers.map(i8::cast_unsigned)));
        let mut dots: Sums<__m256i, M> = [[_mm256_setzero_si256(); 2]; M];
        for (group, nibbles) in tile.nibbles.iter().enumerate() {
            let [first, last] = load_group(nibbles);
            let low = [_mm256_and_si256(first, mask), _mm256_and_si256(last, mask)];
            let high = [
                _mm256_and_si256(_mm256_srli_epi16::<4>(first), mask),
                _mm256_and_si256(_mm256_srli_epi16::<4>(last), mask),
            ];
            for (side, codes) in [low, high].into_iter().enumerate() {
                let weights =
                    [_mm256_shuffle_epi8(numbers, codes[0]), _mm256_shuffle_epi8(numbers, codes[1])];
                add_bytes(&mut dots, weights, blocks, 2 * group + side);
            }
        }
        add_scaled(&mut sums, &dots, load_row(&tile.scales), blocks);
    }
    store_sums(&sums, output);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn offset_rows<const M: usize>(tiles: &[OffsetTile], rows: [&[Block]; M], output: &mut [TileOutput]) {
    let mut sums: Sums<__m256, M> = load_sums(output);
    for (index, tile) in tiles.iter().enumerate() {
        let blocks = blocks_at(&rows, index);
        let mut dots: Sums<__m256i, M> = [[_mm256_setzero_si256(); 2]; M];
        for (group, quants) in tile.quants.iter().enumerate() {
            add_bytes(&mut dots, load_group(&quants.map(i8::cast_unsigned)), blocks, group);
        }
        let (scales, offsets) = (load_row(&tile.scales), load_row(&tile.offsets));
        for m in 0..M {
            let scale = _mm256_set1_ps(blocks[m].scale);
            let inputs = _mm256_set1_ps((blocks[m].lift / -128) as f32);
            for half in 0..2 {
                let dot = _mm256_mul_ps(scales[half], _mm256_cvtepi32_ps(dots[m][half]));
                let dot = _mm256_fmadd_ps(offsets[half], inputs, dot);
                sums[m][half] = _mm256_fmadd_ps(dot, scale, sums[m][half]);
            }
        }
    }
    store_sums(&sums, output);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn q2_k_rows<const M: usize>(tiles: &[Q2KTile], rows: [&[SuperBlock]; M], output: &mut [TileOutput]) {
    let low = _mm256_set1_epi8(3);
    let mut sums: Sums<__m256, M> = load_sums(output);
    for (index, tile) in tiles.iter().enumerate() {
        let blocks = blocks_at(&rows, index);
        let mut dots: Sums<__m256i, M> = [[_mm256_setzero_si256(); 2]; M];
        for (part, codes) in tile.parts.iter().enumerate() {
            let [first, last] = load_group(codes);
            let groups = [
                [first, last],
                [_mm256_srli_epi16::<2>(first), _mm256_srli_epi16::<2>(last)],
                [_mm256_srli_epi16::<4>(first), _mm256_srli_epi16::<4>(last)],
                [_mm256_srli_epi16::<6>(first), _mm256_srli_epi16::<6>(last)],
            ];
            let scales = part_scales(&tile.affine.part_scales[part]);
            // Four additions of two products of at most 3 · 127: at most 3048.
            let mut partial: Sums<__m256i, M> = [[_mm256_setzero_si256(); 2]; M];
            for (group, [first, last]) in groups.into_iter().enumerate() {
                let codes = [_mm256_and_si256(first, low), _mm256_and_si256(last, low)];
                for m in 0..M {
                    add_products(&mut partial[m], codes, blocks[m].quants[part * 4 + group]);
                }
            }
            for m in 0..M {
                for half in 0..2 {
                    let scaled = _mm256_madd_epi16(partial[m][half], scales[half]);
                    dots[m][half] = _mm256_add_epi32(dots[m][half], scaled);
                }
            }
        }
        add_affine(&mut sums, &dots, &tile.affine, blocks, blocks.map(sums_of_16));
    }
    store_sums(&sums, output);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn q4_k_rows<const M: usize>(tiles: &[Q4KTile], rows: [&[SuperBlock]; M], output: &mut [TileOutput]) {
    let mut sums: Sums<__m256, M> = load_sums(output);
    for (index, tile) in tiles.iter().enumerate() {
        let blocks = blocks_at(&rows, index);
        let mut dots: Sums<__m256i, M> = [[_mm256_setzero_si256(); 2]; M];
        for (part, nibbles) in tile.nibbles.as_chunks::<4>().0.iter().enumerate() {
            let mut partial: Sums<__m256i, M> = [[_mm256_setzero_si256(); 2]; M];
            for (group, nibbles) in nibbles.iter().enumerate() {
                // As in `q4_rows`, at most 30480.
                let quants = blocks.map(|block| &block.quants.as_chunks::<2>().0[part * 4 + group]);
                add_nibbles(&mut partial, nibbles, quants);
            }
            let scales = part_scales(&tile.affine.part_scales[part]);
            for m in 0..M {
                for half in 0..2 {
                    let scaled = _mm256_madd_epi16(partial[m][half], scales[half]);
                    dots[m][half] = _mm256_add_epi32(dots[m][half], scaled);
                }
            }
        }
        add_affine(&mut sums, &dots, &tile.affine, blocks, blocks.map(sums_of_32));
    }
    store_sums(&sums, output);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn q5_k_rows<const M: usize>(tiles: &[Q5KTile], rows: [&[SuperBlock]; M], output: &mut [TileOutput]) {
    let (low, fifth) = (_mm256_set1_epi8(15), _mm256_set1_epi8(16));
    let mut sums: Sums<__m256, M> = load_sums(output);
    for (index, tile) in tiles.iter().enumerate() {
        let blocks = blocks_at(&rows, index);
        let mut dots: Sums<__m256i, M> = [[_mm256_setzero_si256(); 2]; M];
        for (part, Q5KPart { fifths, nibbles }) in tile.parts.iter().enumerate() {
            let scales = part_scales(&tile.affine.part_scales[part]);
            let fifths = load_group(fifths);
            for (side, nibbles) in nibbles.as_chunks::<2>().0.iter().enumerate() {
                // Four additions of two products of at most 31 · 127: at most 31496.
                let mut partial: Sums<__m256i, M> = [[_mm256_setzero_si256(); 2]; M];
                // Groups 0 to 3 of the part have their bits below the fifth place, 4 to 7 at it and above.
                let mut bits = fifths;
                if side == 1 {
                    bits = [_mm256_srli_epi16::<4>(fifths[0]), _mm256_srli_epi16::<4>(fifths[1])];
                }
                for (group, nibbles) in nibbles.iter().enumerate() {
                    let packed = load_group(nibbles);
                    let mut codes = [[_mm256_setzero_si256(); 2]; 2];
                    for half in 0..2 {
                        let (first, last) = if group == 0 {
                            (_mm256_slli_epi16::<4>(bits[half]), _mm256_slli_epi16::<3>(bits[half]))
                        } else {
                            (_mm256_slli_epi16::<2>(bits[half]), _mm256_slli_epi16::<1>(bits[half]))
                        };
                        let lows = _mm256_and_si256(packed[half], low);
                        let highs = _mm256_and_si256(_mm256_srli_epi16::<4>(packed[half]), low);
                        codes[0][half] = _mm256_or_si256(lows, _mm256_and_si256(first, fifth));
                        codes[1][half] = _mm256_or_si256(highs, _mm256_and_si256(last, fifth));
                    }
                    let at = part * 8 + side * 4 + group * 2;
                    for m in 0..M {
                        add_products(&mut partial[m], codes[0], blocks[m].quants[at]);
                        add_products(&mut partial[m], codes[1], blocks[m].quants[at + 1]);
                    }
                }
                for m in 0..M {
                    for half in 0..2 {
                        let scaled = _mm256_madd_epi16(partial[m][half], scales[half]);
                        dots[m][half] = _mm256_add_epi32(dots[m][half], scaled);
                    }
                }
            }
        }
        add_affine(&mut sums, &dots, &tile.affine, blocks, blocks.map(sums_of_32));
    }
    store_sums(&sums, output);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn q6_k_rows<const M: usize>(tiles: &[Q6KTile], rows: [&[SuperBlock]; M], output: &mut [TileOutput]) {
    let (low, high) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
    let mut sums: Sums<__m256, M> = load_sums(output);
    for (index, tile) in tiles.iter().enumerate() {
        let blocks = blocks_at(&rows, index);
        let mut dots: Sums<__m256i, M> = [[_mm256_setzero_si256(); 2]; M];
        for (part, Q6KPart { highs, nibbles }) in tile.parts.iter().enumerate() {
            let scales = signed_part_scales(&tile.part_scales[part]);
            let highs = load_group(highs);
            for (side, nibbles) in nibbles.iter().enumerate() {
                let packed = load_group(nibbles);
                let mut codes = [[_mm256_setzero_si256(); 2]; 2];
                for half in 0..2 {
                    let (first, last) = if side == 0 {
                        (_mm256_slli_epi16::<4>(highs[half]), _mm256_slli_epi16::<2>(highs[half]))
                    } else {
                        (highs[half], _mm256_srli_epi16::<2>(highs[half]))
                    };
                    let lows = _mm256_and_si256(packed[half], low);
                    let uppers = _mm256_and_si256(_mm256_srli_epi16::<4>(packed[half]), low);
                    codes[0][half] = _mm256_or_si256(lows, _mm256_and_si256(first, high));
                    codes[1][half] = _mm256_or_si256(uppers, _mm256_and_si256(last, high));
                }
                let at = part * 4 + side * 2;
                for m in 0..M {
                    // Two additions of two products of at most 63 · 127: at most 32004.
                    let mut partial = [_mm256_setzero_si256(); 2];
                    add_products(&mut partial, codes[0], blocks[m].quants[at]);
                    add_products(&mut partial, codes[1], blocks[m].quants[at + 1]);
                    for half in 0..2 {
                        let scaled = _mm256_madd_epi16(partial[half], scales[half]);
                        dots[m][half] = _mm256_add_epi32(dots[m][half], scaled);
                    }
                }
            }
        }
        // The codes are 32 too high. The excess is the sum of each part's activations times its scale.
        let mut excess: Sums<__m256i, M> = [[_mm256_setzero_si256(); 2]; M];
        for (pair, scales) in tile.part_scales.as_chunks::<2>().0.iter().enumerate() {
            let [first, last] = scales.map(|scales| load_16(&scales.map(i8::cast_unsigned)));
            let scales = [
                _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(first, last)),
                _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(first, last)),
            ];
            for m in 0..M {
                let inputs = _mm256_set1_epi32(blocks[m].sums_of_16[pair]);
                for half in 0..2 {
                    let scaled = _mm256_madd_epi16(scales[half], inputs);
                    excess[m][half] = _mm256_add_epi32(excess[m][half], scaled);
                }
            }
        }
        let scales = widen_row(&tile.scales);
        for m in 0..M {
            let scale = _mm256_set1_ps(blocks[m].scale);
            for half in 0..2 {
                let dot = _mm256_sub_epi32(dots[m][half], _mm256_slli_epi32::<5>(excess[m][half]));
                let dot = _mm256_mul_ps(scales[half], _mm256_cvtepi32_ps(dot));
                sums[m][half] = _mm256_fmadd_ps(dot, scale, sums[m][half]);
            }
        }
    }
    store_sums(&sums, output);
}

macro_rules! float_rows {
    ($name:ident, $column:ty, $widen:ident) => {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn $name<const M: usize>(columns: &[$column], rows: [&[f32]; M], output: &mut [TileOutput]) {
            let mut sums: Sums<__m256, M> = load_sums(output);
            for (index, column) in columns.iter().enumerate() {
                let weights = $widen(&column.0);
                for m in 0..M {
                    let input = _mm256_set1_ps(rows[m][index]);
                    for half in 0..2 {
                        sums[m][half] = _mm256_fmadd_ps(weights[half], input, sums[m][half]);
                    }
                }
            }
            store_sums(&sums, output);
        }
    };
}

float_rows!(f32_rows, F32Column, load_row);
float_rows!(f16_rows, F16Column, widen_row);
float_rows!(bf16_rows, Bf16Column, widen_brief_row);

/// `sums += dots · (scale · activation scale)`
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add_scaled<const M: usize>(
    sums: &mut Sums<__m256, M>,
    dots: &Sums<__m256i, M>,
    scales: [__m256; 2],
    blocks: [&Block; M],
) {
    for m in 0..M {
        let scale = _mm256_set1_ps(blocks[m].scale);
        for half in 0..2 {
            let scale = _mm256_mul_ps(scales[half], scale);
            sums[m][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[m][half]), scale, sums[m][half]);
        }
    }
}

/// Adds the products of four columns of signed bytes with the activations of this group.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add_bytes<const M: usize>(
    dots: &mut Sums<__m256i, M>,
    weights: [__m256i; 2],
    blocks: [&Block; M],
    group: usize,
) {
    // The instruction for products of bytes takes the first without a sign, so the second takes it over. Two
    // products are at most 2 · 128 · 127, which fits.
    let ones = _mm256_set1_epi16(1);
    let sizes = weights.map(|weights| _mm256_abs_epi8(weights));
    for m in 0..M {
        let inputs = _mm256_set1_epi32(blocks[m].quants[group]);
        for half in 0..2 {
            let pairs = _mm256_maddubs_epi16(sizes[half], _mm256_sign_epi8(inputs, weights[half]));
            dots[m][half] = pinned(_mm256_add_epi32(dots[m][half], _mm256_madd_epi16(pairs, ones)));
        }
    }
}

/// Adds the products of eight columns: the low halves of the bytes with the first four activations, the high
/// halves with the last four.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add_nibbles<const M: usize>(sums: &mut Sums<__m256i, M>, nibbles: &[u8; 64], quants: [&[Four; 2]; M]) {
    let mask = _mm256_set1_epi8(15);
    let [first, last] = load_group(nibbles);
    let low = [_mm256_and_si256(first, mask), _mm256_and_si256(last, mask)];
    let high = [
        _mm256_and_si256(_mm256_srli_epi16::<4>(first), mask),
        _mm256_and_si256(_mm256_srli_epi16::<4>(last), mask),
    ];
    for m in 0..M {
        add_products(&mut sums[m], low, quants[m][0]);
        add_products(&mut sums[m], high, quants[m][1]);
    }
}

/// Adds the products of four columns, two to each sum of 16 bits.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add_products(sums: &mut [__m256i; 2], codes: [__m256i; 2], quants: Four) {
    let inputs = _mm256_set1_epi32(quants);
    for half in 0..2 {
        sums[half] = pinned(_mm256_add_epi16(sums[half], _mm256_maddubs_epi16(codes[half], inputs)));
    }
}

/// `sums += (scale · dots - minimum · Σ part minimum · activations) · activation scale`. The
/// sums of each part's activations are `inputs`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn add_affine<const M: usize, const PARTS: usize, const PAIRS: usize>(
    sums: &mut Sums<__m256, M>,
    dots: &Sums<__m256i, M>,
    affine: &Affine<PARTS, PAIRS>,
    blocks: [&SuperBlock; M],
    inputs: [&[Pair; PAIRS]; M],
) {
    let mut lows: Sums<__m256i, M> = [[_mm256_setzero_si256(); 2]; M];
    for (pair, minima) in affine.part_minima.iter().enumerate() {
        let [first, last] = minima.as_chunks::<LANES>().0 else { continue };
        let minima = [byte_pairs(first), byte_pairs(last)];
        for m in 0..M {
            let inputs = _mm256_set1_epi32(inputs[m][pair]);
            for half in 0..2 {
                let scaled = _mm256_madd_epi16(minima[half], inputs);
                lows[m][half] = _mm256_add_epi32(lows[m][half], scaled);
            }
        }
    }
    let (scales, minima) = (widen_row(&affine.scales), widen_row(&affine.minima));
    for m in 0..M {
        let scale = _mm256_set1_ps(blocks[m].scale);
        for half in 0..2 {
            let dot = _mm256_mul_ps(scales[half], _mm256_cvtepi32_ps(dots[m][half]));
            let dot = _mm256_fnmadd_ps(minima[half], _mm256_cvtepi32_ps(lows[m][half]), dot);
            sums[m][half] = _mm256_fmadd_ps(dot, scale, sums[m][half]);
        }
    }
}

/// Eight pairs of bytes as pairs of 16-bit numbers.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn byte_pairs(pairs: &[[u8; 2]; LANES]) -> __m256i {
    let Some(bytes) = pairs.as_flattened().first_chunk() else { return _mm256_setzero_si256() };
    _mm256_cvtepu8_epi16(load_16(bytes))
}

/// The scale of each row twice, as 16-bit numbers.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn part_scales(scales: &[u8; TILE_ROWS]) -> [__m256i; 2] {
    const Z: i8 = -1;
    let scales = _mm256_broadcastsi128_si256(load_16(scales));
    let first = _mm256_setr_epi8(
        0, Z, 0, Z, 1, Z, 1, Z, 2, Z, 2, Z, 3, Z, 3, Z, 4, Z, 4, Z, 5, Z, 5, Z, 6, Z, 6, Z, 7, Z, 7, Z,
    );
    let last = _mm256_setr_epi8(
        8, Z, 8, Z, 9, Z, 9, Z, 10, Z, 10, Z, 11, Z, 11, Z, 12, Z, 12, Z, 13, Z, 13, Z, 14, Z, 14, Z, 15, Z,
        15, Z,
    );
    [_mm256_shuffle_epi8(scales, first), _mm256_shuffle_epi8(scales, last)]
}

/// As [`part_scales`], for signed ones.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn signed_part_scales(scales: &[i8; TILE_ROWS]) -> [__m256i; 2] {
    let [first, last] = part_scales(&scales.map(i8::cast_unsigned));
    [
        _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(first)),
        _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(last)),
    ]
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_row(row: &[f32; TILE_ROWS]) -> [__m256; 2] {
    match row.as_chunks::<LANES>().0 {
        [first, last] => [load(first), load(last)],
        _ => [_mm256_setzero_ps(); 2],
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn widen_row(row: &[u16; TILE_ROWS]) -> [__m256; 2] {
    match row.as_chunks::<LANES>().0 {
        [first, last] => [widen_eight(first), widen_eight(last)],
        _ => [_mm256_setzero_ps(); 2],
    }
}

/// As [`widen_row`], for numbers that are the upper halves of single-precision ones.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn widen_brief_row(row: &[u16; TILE_ROWS]) -> [__m256; 2] {
    let widen = |half: __m128i| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)));
    match row.as_chunks::<LANES>().0 {
        [first, last] => [widen(super::load_halves(first)), widen(super::load_halves(last))],
        _ => [_mm256_setzero_ps(); 2],
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_sums<const M: usize>(output: &[TileOutput]) -> Sums<__m256, M> {
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    for (sums, output) in sums.iter_mut().zip(output) {
        *sums = load_row(output);
    }
    sums
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn store_sums<const M: usize>(sums: &Sums<__m256, M>, output: &mut [TileOutput]) {
    for (output, sums) in output.iter_mut().zip(sums) {
        for (output, sum) in output.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
            store(output, *sum);
        }
    }
}

/// Hides a number from the optimiser. Otherwise the compiler would first add products to each other, and hold
/// more of them than there are registers.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
#[expect(unsafe_code, reason = "an empty piece of assembly")]
fn pinned(mut number: __m256i) -> __m256i {
    // SAFETY: there is no instruction; nothing is read, written or changed.
    unsafe {
        std::arch::asm!("/* {0} */", inout(ymm_reg) number, options(pure, nomem, nostack, preserves_flags));
    }
    number
}
