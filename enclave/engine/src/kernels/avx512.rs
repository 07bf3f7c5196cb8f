//! The tile kernels for x86-64 processors with AVX-512 and its byte products (VNNI), and plain kernels that
//! the compiler widens. Attention uses the AVX2 kernels, because its result is defined by a sum over eight
//! lanes.
//!
//! All 16 rows of a tile fit one vector. As in the AVX2 kernels, a weight that is unpacked serves several
//! rows of activations, here up to eight.

#![expect(unsafe_code, reason = "vector instructions; every block states why it is sound")]

use std::arch::x86_64::{
    __m128i, __m256i, __m512, __m512i, _mm_loadu_si128, _mm_unpackhi_epi8, _mm_unpacklo_epi8,
    _mm256_loadu_si256, _mm256_set_m128i, _mm512_add_epi32, _mm512_and_si512, _mm512_broadcast_i32x4,
    _mm512_castsi512_ps, _mm512_cvtepi8_epi16, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps,
    _mm512_cvtepu8_epi16, _mm512_cvtepu8_epi32, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_dpbusd_epi32,
    _mm512_dpwssd_epi32, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_mul_ps, _mm512_mullo_epi32, _mm512_or_si512, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_slli_epi16, _mm512_slli_epi32,
    _mm512_srli_epi16, _mm512_storeu_ps, _mm512_sub_epi32, _mm512_xor_si512,
};

use super::{
    avx2::Avx2,
    scalar,
    tile::{
        Affine, Bf16Column, Block, F16Column, F32Column, OffsetTile, Pair, Q2KTile, Q4KTile, Q4Tile, Q5KPart,
        Q5KTile, Q6KPart, Q6KTile, Q8Tile, Results, SUPER_BLOCK, SuperBlock, TILE_ROWS, TableTile,
        TileOutput, blocks_at, sums_of_16, sums_of_32,
    },
};

/// Proof that this processor has AVX-512 (F, BW, VL) with VNNI, besides what [`Avx2`] proves.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(Avx2);

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        let present = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        Avx2::detect().filter(|_| present).map(Self)
    }
}

/// Gives [`Avx512`] a safe method for each kernel below, and those of [`Avx2`] for the rest.
macro_rules! kernels {
    (
        here { $($name:ident ( $($argument:ident : $type:ty),* );)* }
        lent { $($lent:ident ( $($given:ident : $of:ty),* );)* }
    ) => {
        impl Avx512 {
            $(pub(super) fn $name(self, $($argument: $type),*) {
                // SAFETY: a value of this type exists only if the processor has the features the function is
                // compiled for.
                unsafe { $name($($argument),*) }
            })*
            $(pub(super) fn $lent(self, $($given: $of),*) {
                self.0.$lent($($given),*);
            })*
        }
    };
}

kernels! {
    here {
        q8_tile(tiles: &[Q8Tile], activations: &[Block], output: &mut [TileOutput]);
        q4_tile(tiles: &[Q4Tile], activations: &[Block], output: &mut [TileOutput]);
        table_tile(tiles: &[TableTile], activations: &[Block], output: &mut [TileOutput]);
        offset_tile(tiles: &[OffsetTile], activations: &[Block], output: &mut [TileOutput]);
        q2_k_tile(tiles: &[Q2KTile], activations: &[SuperBlock], output: &mut [TileOutput]);
        q4_k_tile(tiles: &[Q4KTile], activations: &[SuperBlock], output: &mut [TileOutput]);
        q5_k_tile(tiles: &[Q5KTile], activations: &[SuperBlock], output: &mut [TileOutput]);
        q6_k_tile(tiles: &[Q6KTile], activations: &[SuperBlock], output: &mut [TileOutput]);
        f32_tile(columns: &[F32Column], activations: &[f32], output: &mut [TileOutput]);
        f16_tile(columns: &[F16Column], activations: &[f32], output: &mut [TileOutput]);
        bf16_tile(columns: &[Bf16Column], activations: &[f32], output: &mut [TileOutput]);
        quantise(values: &[f32], blocks: &mut [Block]);
        quantise_super(values: &[f32], blocks: &mut [SuperBlock]);
        rms_norm(values: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32]);
        rms_norm_in_place(values: &mut [f32], weight: &[f32], epsilon: f32);
        swiglu(gate: Results<'_>, up: Results<'_>, output: &mut [f32]);
        geglu(gate: Results<'_>, up: Results<'_>, output: &mut [f32]);
        clamped_swiglu(gate: &[f32], up: &[f32], output: &mut [f32]);
        soften(values: &mut [f32], cap: f32);
        add(results: Results<'_>, output: &mut [f32]);
        softmax(values: &mut [f32]);
    }
    lent {
        score_keys(query: &[f32], keys: &[f32], scores: &mut [f32]);
        add_values(weights: &[f32], values: &[f32], output: &mut [f32]);
        widen(values: &[u16], output: &mut [f32]);
        halve(values: &[f32], output: &mut [u16]);
    }
}

/// Columns whose weights stay in the nearest cache while all rows of activations pass by.
const COLUMNS_AT_ONCE: usize = 1024;

/// Defines a tile kernel. It takes the columns in pieces, and the activations in groups of eight rows, then
/// four, two, one.
macro_rules! tile_kernel {
    ($name:ident, $kernel:ident, $tile:ty, $activation:ty, $columns:expr) => {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
        fn $name(tiles: &[$tile], activations: &[$activation], output: &mut [TileOutput]) {
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
                rows!(8);
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

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn q8_rows<const M: usize>(tiles: &[Q8Tile], rows: [&[Block]; M], output: &mut [TileOutput]) {
    let mut sums: [__m512; M] = load_sums(output);
    for (index, tile) in tiles.iter().enumerate() {
        let blocks = blocks_at(&rows, index);
        let dots = byte_products(&tile.quants, blocks);
        add_scaled(&mut sums, dots, widen_row(&tile.scales), blocks);
    }
    store_sums(&sums, output);
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn q4_rows<const M: usize>(tiles: &[Q4Tile], rows: [&[Block]; M], output: &mut [TileOutput]) {
    let mut sums: [__m512; M] = load_sums(output);
    for (index, tile) in tiles.iter().enumerate() {
        let blocks = blocks_at(&rows, index);
        let mut dots = [_mm512_setzero_si512(); M];
        for m in 0..M {
            // The codes stand eight too high, a sixteenth of what the lift takes back.
            dots[m] = _mm512_set1_epi32(blocks[m].lift / 16);
        }
        for (group, nibbles) in tile.nibbles.iter().enumerate() {
            let [low, high] = nibble_codes(nibbles);
            for m in 0..M {
                dots[m] = _mm512_dpbusd_epi32(dots[m], low, _mm512_set1_epi32(blocks[m].quants[2 * group]));
                dots[m] =
                    _mm512_dpbusd_epi32(dots[m], high, _mm512_set1_epi32(blocks[m].quants[2 * group + 1]));
            }
        }
        add_scaled(&mut sums, dots, widen_row(&tile.scales), blocks);
    }
    store_sums(&sums, output);
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn table_rows<const M: usize>(tiles: &[TableTile], rows: [&[Block]; M], output: &mut [TileOutput]) {
    let sign = _mm512_set1_epi8(i8::MIN);
    let mut sums: [__m512; M] = load_sums(output);
    for (index, tile) in tiles.iter().enumerate() {
        let blocks = blocks_at(&rows, index);
        let numbers = _mm512_broadcast_i32x4(load_16(&tile.numbers.map(i8::cast_unsigned)));
        let numbers = _mm512_xor_si512(numbers, sign);
        let mut dots = lifts(blocks);
        for (group, nibbles) in tile.nibbles.iter().enumerate() {
            for (side, codes) in nibble_codes(nibbles).into_iter().enumerate() {
                let weights = _mm512_shuffle_epi8(numbers, codes);
                for m in 0..M {
                    let inputs = _mm512_set1_epi32(blocks[m].quants[2 * group + side]);
                    dots[m] = _mm512_dpbusd_epi32(dots[m], weights, inputs);
                }
            }
        }
        add_scaled(&mut sums, dots, load_row(&tile.scales), blocks);
    }
    store_sums(&sums, output);
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn offset_rows<const M: usize>(tiles: &[OffsetTile], rows: [&[Block]; M], output: &mut [TileOutput]) {
    let mut sums: [__m512; M] = load_sums(output);
    for (index, tile) in tiles.iter().enumerate() {
        let blocks = blocks_at(&rows, index);
        let dots = byte_products(&tile.quants, blocks);
        let (scales, offsets) = (load_row(&tile.scales), load_row(&tile.offsets));
        for m in 0..M {
            let inputs = _mm512_set1_ps((blocks[m].lift / -128) as f32);
            let dot = _mm512_mul_ps(scales, _mm512_cvtepi32_ps(dots[m]));
            let dot = _mm512_fmadd_ps(offsets, inputs, dot);
            sums[m] = _mm512_fmadd_ps(dot, _mm512_set1_ps(blocks[m].scale), sums[m]);
        }
    }
    store_sums(&sums, output);
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn q2_k_rows<const M: usize>(tiles: &[Q2KTile], rows: [&[SuperBlock]; M], output: &mut [TileOutput]) {
    let low = _mm512_set1_epi8(3);
    let mut sums: [__m512; M] = load_sums(output);
    for (index, tile) in tiles.iter().enumerate() {
        let blocks = blocks_at(&rows, index);
        let mut dots = [_mm512_setzero_si512(); M];
        for (part, codes) in tile.parts.iter().enumerate() {
            let codes = load_group(codes);
            let mut partial = [_mm512_setzero_si512(); M];
            let pairs = [
                [codes, _mm512_srli_epi16::<2>(codes)],
                [_mm512_srli_epi16::<4>(codes), _mm512_srli_epi16::<6>(codes)],
            ];
            for (pair, [first, last]) in pairs.into_iter().enumerate() {
                let codes = [_mm512_and_si512(first, low), _mm512_and_si512(last, low)];
                add_products(&mut partial, codes, blocks, part * 4 + pair * 2);
            }
            add_parts(&mut dots, partial, &tile.affine.part_scales[part]);
        }
        add_affine(&mut sums, dots, &tile.affine, blocks, blocks.map(sums_of_16));
    }
    store_sums(&sums, output);
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn q4_k_rows<const M: usize>(tiles: &[Q4KTile], rows: [&[SuperBlock]; M], output: &mut [TileOutput]) {
    let mut sums: [__m512; M] = load_sums(output);
    for (index, tile) in tiles.iter().enumerate() {
        let blocks = blocks_at(&rows, index);
        let mut dots = [_mm512_setzero_si512(); M];
        for (part, nibbles) in tile.nibbles.as_chunks::<4>().0.iter().enumerate() {
            let mut partial = [_mm512_setzero_si512(); M];
            for (group, nibbles) in nibbles.iter().enumerate() {
                let codes = nibble_codes(nibbles);
                add_products(&mut partial, codes, blocks, part * 8 + group * 2);
            }
            add_parts(&mut dots, partial, &tile.affine.part_scales[part]);
        }
        add_affine(&mut sums, dots, &tile.affine, blocks, blocks.map(sums_of_32));
    }
    store_sums(&sums, output);
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn q5_k_rows<const M: usize>(tiles: &[Q5KTile], rows: [&[SuperBlock]; M], output: &mut [TileOutput]) {
    let fifth = _mm512_set1_epi8(16);
    let mut sums: [__m512; M] = load_sums(output);
    for (index, tile) in tiles.iter().enumerate() {
        let blocks = blocks_at(&rows, index);
        let mut dots = [_mm512_setzero_si512(); M];
        for (part, Q5KPart { fifths, nibbles }) in tile.parts.iter().enumerate() {
            let bits = load_group(fifths);
            // The bits of the groups, each brought to the fifth place.
            let fifths = [
                [_mm512_slli_epi16::<4>(bits), _mm512_slli_epi16::<3>(bits)],
                [_mm512_slli_epi16::<2>(bits), _mm512_slli_epi16::<1>(bits)],
                [bits, _mm512_srli_epi16::<1>(bits)],
                [_mm512_srli_epi16::<2>(bits), _mm512_srli_epi16::<3>(bits)],
            ];
            let mut partial = [_mm512_setzero_si512(); M];
            for (group, (nibbles, fifths)) in nibbles.iter().zip(fifths).enumerate() {
                let [low, high] = nibble_codes(nibbles);
                let low = _mm512_or_si512(low, _mm512_and_si512(fifths[0], fifth));
                let high = _mm512_or_si512(high, _mm512_and_si512(fifths[1], fifth));
                add_products(&mut partial, [low, high], blocks, part * 8 + group * 2);
            }
            add_parts(&mut dots, partial, &tile.affine.part_scales[part]);
        }
        add_affine(&mut sums, dots, &tile.affine, blocks, blocks.map(sums_of_32));
    }
    store_sums(&sums, output);
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn q6_k_rows<const M: usize>(tiles: &[Q6KTile], rows: [&[SuperBlock]; M], output: &mut [TileOutput]) {
    let top = _mm512_set1_epi8(0x30);
    let mut sums: [__m512; M] = load_sums(output);
    for (index, tile) in tiles.iter().enumerate() {
        let blocks = blocks_at(&rows, index);
        let mut dots = [_mm512_setzero_si512(); M];
        for (part, Q6KPart { highs, nibbles }) in tile.parts.iter().enumerate() {
            let bits = load_group(highs);
            let highs = [
                [_mm512_slli_epi16::<4>(bits), _mm512_slli_epi16::<2>(bits)],
                [bits, _mm512_srli_epi16::<2>(bits)],
            ];
            let mut partial = [_mm512_setzero_si512(); M];
            for (group, (nibbles, highs)) in nibbles.iter().zip(highs).enumerate() {
                let [low, high] = nibble_codes(nibbles);
                let low = _mm512_or_si512(low, _mm512_and_si512(highs[0], top));
                let high = _mm512_or_si512(high, _mm512_and_si512(highs[1], top));
                add_products(&mut partial, [low, high], blocks, part * 4 + group * 2);
            }
            let scales = _mm512_cvtepi8_epi32(load_16(&tile.part_scales[part].map(i8::cast_unsigned)));
            for m in 0..M {
                dots[m] = _mm512_add_epi32(dots[m], _mm512_mullo_epi32(partial[m], scales));
            }
        }
        // The codes are 32 too high. The excess is the sum of each part's activations times its scale.
        let mut excess = [_mm512_setzero_si512(); M];
        for (pair, scales) in tile.part_scales.as_chunks::<2>().0.iter().enumerate() {
            let [first, last] = scales.map(|scales| load_16(&scales.map(i8::cast_unsigned)));
            let scales = _mm512_cvtepi8_epi16(_mm256_set_m128i(
                _mm_unpackhi_epi8(first, last),
                _mm_unpacklo_epi8(first, last),
            ));
            for m in 0..M {
                let inputs = _mm512_set1_epi32(blocks[m].sums_of_16[pair]);
                excess[m] = _mm512_dpwssd_epi32(excess[m], scales, inputs);
            }
        }
        let scales = widen_row(&tile.scales);
        for m in 0..M {
            let dot = _mm512_sub_epi32(dots[m], _mm512_slli_epi32::<5>(excess[m]));
            let dot = _mm512_mul_ps(scales, _mm512_cvtepi32_ps(dot));
            sums[m] = _mm512_fmadd_ps(dot, _mm512_set1_ps(blocks[m].scale), sums[m]);
        }
    }
    store_sums(&sums, output);
}

macro_rules! float_rows {
    ($name:ident, $column:ty, $widen:ident) => {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
        fn $name<const M: usize>(columns: &[$column], rows: [&[f32]; M], output: &mut [TileOutput]) {
            let mut sums: [__m512; M] = load_sums(output);
            for (index, column) in columns.iter().enumerate() {
                let weights = $widen(&column.0);
                for m in 0..M {
                    sums[m] = _mm512_fmadd_ps(weights, _mm512_set1_ps(rows[m][index]), sums[m]);
                }
            }
            store_sums(&sums, output);
        }
    };
}

float_rows!(f32_rows, F32Column, load_row);
float_rows!(f16_rows, F16Column, widen_row);
float_rows!(bf16_rows, Bf16Column, widen_brief_row);

widened!("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni");

/// Sums of products of signed bytes.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn byte_products<const M: usize>(quants: &[[i8; 64]; 8], blocks: [&Block; M]) -> [__m512i; M] {
    let sign = _mm512_set1_epi8(i8::MIN);
    let mut dots = lifts(blocks);
    for (group, quants) in quants.iter().enumerate() {
        let weights = _mm512_xor_si512(load_group(&quants.map(i8::cast_unsigned)), sign);
        for m in 0..M {
            dots[m] = _mm512_dpbusd_epi32(dots[m], weights, _mm512_set1_epi32(blocks[m].quants[group]));
        }
    }
    dots
}

/// What takes 128 out of the products where it was added to the weights to make them unsigned.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn lifts<const M: usize>(blocks: [&Block; M]) -> [__m512i; M] {
    let mut dots = [_mm512_setzero_si512(); M];
    for m in 0..M {
        dots[m] = _mm512_set1_epi32(blocks[m].lift);
    }
    dots
}

/// `sums += dots · (scale · activation scale)`
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn add_scaled<const M: usize>(
    sums: &mut [__m512; M],
    dots: [__m512i; M],
    scales: __m512,
    blocks: [&Block; M],
) {
    for m in 0..M {
        let scale = _mm512_mul_ps(scales, _mm512_set1_ps(blocks[m].scale));
        sums[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[m]), scale, sums[m]);
    }
}

/// Adds the products of eight columns whose activations begin at group `at`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn add_products<const M: usize>(
    sums: &mut [__m512i; M],
    [low, high]: [__m512i; 2],
    blocks: [&SuperBlock; M],
    at: usize,
) {
    for m in 0..M {
        sums[m] = _mm512_dpbusd_epi32(sums[m], low, _mm512_set1_epi32(blocks[m].quants[at]));
        sums[m] = _mm512_dpbusd_epi32(sums[m], high, _mm512_set1_epi32(blocks[m].quants[at + 1]));
    }
}

/// `dots += partial · part scale`
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn add_parts<const M: usize>(dots: &mut [__m512i; M], partial: [__m512i; M], scales: &[u8; TILE_ROWS]) {
    // A sum of 32 products of at most 31 · 127 needs 17 bits, so the products with the scales are of 32 bits.
    let scales = _mm512_cvtepu8_epi32(load_16(scales));
    for m in 0..M {
        dots[m] = _mm512_add_epi32(dots[m], _mm512_mullo_epi32(partial[m], scales));
    }
}

/// `sums += (scale · dots - minimum · Σ part minimum · activations) · activation scale`. The
/// sums of each part's activations are `inputs`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn add_affine<const M: usize, const PARTS: usize, const PAIRS: usize>(
    sums: &mut [__m512; M],
    dots: [__m512i; M],
    affine: &Affine<PARTS, PAIRS>,
    blocks: [&SuperBlock; M],
    inputs: [&[Pair; PAIRS]; M],
) {
    let mut lows = [_mm512_setzero_si512(); M];
    for (pair, minima) in affine.part_minima.iter().enumerate() {
        let minima = _mm512_cvtepu8_epi16(load_pairs(minima));
        for m in 0..M {
            lows[m] = _mm512_dpwssd_epi32(lows[m], minima, _mm512_set1_epi32(inputs[m][pair]));
        }
    }
    let (scales, minima) = (widen_row(&affine.scales), widen_row(&affine.minima));
    for m in 0..M {
        let dot = _mm512_mul_ps(scales, _mm512_cvtepi32_ps(dots[m]));
        let dot = _mm512_fnmadd_ps(minima, _mm512_cvtepi32_ps(lows[m]), dot);
        sums[m] = _mm512_fmadd_ps(dot, _mm512_set1_ps(blocks[m].scale), sums[m]);
    }
}

/// Low and high halves of 64 bytes.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn nibble_codes(nibbles: &[u8; 64]) -> [__m512i; 2] {
    let (packed, mask) = (load_group(nibbles), _mm512_set1_epi8(15));
    [_mm512_and_si512(packed, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(packed), mask)]
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn load_group(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the array is 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn load_16(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the array is 16 bytes; the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn load_pairs(pairs: &[[u8; 2]; TILE_ROWS]) -> __m256i {
    // SAFETY: the array is 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(pairs.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn load_halves(row: &[u16; TILE_ROWS]) -> __m256i {
    // SAFETY: the array is 32 bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(row.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn load_row(row: &[f32; TILE_ROWS]) -> __m512 {
    // SAFETY: the array is 64 bytes; the load needs no alignment.
    unsafe { _mm512_loadu_ps(row.as_ptr()) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn widen_row(row: &[u16; TILE_ROWS]) -> __m512 {
    _mm512_cvtph_ps(load_halves(row))
}

/// As [`widen_row`], for numbers that are the upper halves of single-precision ones.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn widen_brief_row(row: &[u16; TILE_ROWS]) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(load_halves(row))))
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn load_sums<const M: usize>(output: &[TileOutput]) -> [__m512; M] {
    let mut sums = [_mm512_setzero_ps(); M];
    for (sum, output) in sums.iter_mut().zip(output) {
        *sum = load_row(output);
    }
    sums
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn store_sums<const M: usize>(sums: &[__m512; M], output: &mut [TileOutput]) {
    for (output, sum) in output.iter_mut().zip(sums) {
        // SAFETY: the array is 64 bytes; the store needs no alignment.
        unsafe { _mm512_storeu_ps(output.as_mut_ptr(), *sum) }
    }
}
