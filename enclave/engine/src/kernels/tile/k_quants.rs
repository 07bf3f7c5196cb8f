//! `Q2_K`, `Q4_K`, `Q5_K` and `Q6_K`: blocks of 256 whose parts have scales of their own, quantised in turn.

use zeroize::DefaultIsZeroes;

use super::{Group, SUPER_BLOCK, TILE_ROWS, Tile, half, pack_nibbles, unpack_nibbles};
use crate::kernels::half::f16_to_f32;

/// Parts of 32 with a scale and a minimum, in `Q4_K` and `Q5_K`.
const PARTS: usize = SUPER_BLOCK / 32;
/// Parts of 16 with a scale, in `Q6_K`, or with a scale and a minimum, in `Q2_K`.
const SMALL_PARTS: usize = SUPER_BLOCK / 16;

/// Scales and minima of the types that have both: a weight is
/// `scale · part scale · code - minimum · part minimum`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Affine<const PARTS: usize, const PAIRS: usize> {
    /// Scale of each part and row, from 0 to 63 (in `Q2_K` to 15).
    pub(crate) part_scales: [[u8; TILE_ROWS]; PARTS],
    /// Minima in the same range: of each two parts the two of one row, row after row.
    pub(crate) part_minima: [[[u8; 2]; TILE_ROWS]; PAIRS],
    /// Half-precision scale of each row.
    pub(crate) scales: [u16; TILE_ROWS],
    /// Half-precision minimum of each row.
    pub(crate) minima: [u16; TILE_ROWS],
}

/// Of parts of 32.
type LargeParts = Affine<PARTS, { PARTS / 2 }>;
/// Of parts of 16.
type SmallParts = Affine<SMALL_PARTS, { SMALL_PARTS / 2 }>;

/// `Q2_K`: codes from 0 to 3. In the file: 16 bytes with a part's scale in the low half and its minimum in the
/// high one, 64 bytes of codes, scale, minimum.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Q2KTile {
    /// For each part of 16 columns: bits `2i` and `2i + 1` of a byte belong to the group `i` of four columns.
    pub(crate) parts: [Group; SMALL_PARTS],
    pub(crate) affine: SmallParts,
}

/// `Q4_K`: codes from 0 to 15. In the file: scale, minimum, 12 bytes of part scales and minima, 128 bytes of
/// codes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Q4KTile {
    /// See `pack_nibbles`.
    pub(crate) nibbles: [Group; SUPER_BLOCK / 8],
    pub(crate) affine: LargeParts,
}

/// `Q5_K`: codes from 0 to 31. In the file: as [`Q4KTile`], with 32 bytes of fifth bits before the codes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Q5KTile {
    pub(crate) parts: [Q5KPart; PARTS],
    pub(crate) affine: LargeParts,
}

/// Parts that are read together are adjacent, because two streams through one page of memory are slower.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Q5KPart {
    /// The fifth bits: bit `i` of a byte belongs to the part's group `i` of four columns.
    pub(crate) fifths: Group,
    /// The low four bits; see `pack_nibbles`.
    pub(crate) nibbles: [Group; 32 / 8],
}

/// `Q6_K`: codes from 0 to 63; a weight is `scale · part scale · (code - 32)`. In the file: 128 bytes of low
/// halves, 64 bytes of high bits, 16 signed part scales, the scale.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Q6KTile {
    pub(crate) parts: [Q6KPart; SMALL_PARTS],
    pub(crate) part_scales: [[i8; TILE_ROWS]; SMALL_PARTS],
    /// Half-precision scale of each row.
    pub(crate) scales: [u16; TILE_ROWS],
}

/// Side by side as in [`Q5KPart`].
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Q6KPart {
    /// The high two bits: bits `2i` and `2i + 1` of a byte belong to the part's group `i` of four columns.
    pub(crate) highs: Group,
    /// The low four bits; see `pack_nibbles`.
    pub(crate) nibbles: [Group; 16 / 8],
}

impl<const PARTS: usize, const PAIRS: usize> Default for Affine<PARTS, PAIRS> {
    fn default() -> Self {
        Self {
            part_scales: [[0; TILE_ROWS]; PARTS],
            part_minima: [[[0; 2]; TILE_ROWS]; PAIRS],
            scales: [0; TILE_ROWS],
            minima: [0; TILE_ROWS],
        }
    }
}

impl Default for Q2KTile {
    fn default() -> Self {
        Self { parts: [[0; TILE_ROWS * 4]; SMALL_PARTS], affine: SmallParts::default() }
    }
}

impl Default for Q4KTile {
    fn default() -> Self {
        Self { nibbles: [[0; TILE_ROWS * 4]; SUPER_BLOCK / 8], affine: LargeParts::default() }
    }
}

impl Default for Q5KTile {
    fn default() -> Self {
        const NONE: Group = [0; TILE_ROWS * 4];
        let part = Q5KPart { fifths: NONE, nibbles: [NONE; 32 / 8] };
        Self { parts: [part; PARTS], affine: LargeParts::default() }
    }
}

impl Default for Q6KTile {
    fn default() -> Self {
        const NONE: Group = [0; TILE_ROWS * 4];
        let part = Q6KPart { highs: NONE, nibbles: [NONE; 16 / 8] };
        Self {
            parts: [part; SMALL_PARTS],
            part_scales: [[0; TILE_ROWS]; SMALL_PARTS],
            scales: [0; TILE_ROWS],
        }
    }
}

impl DefaultIsZeroes for Q2KTile {}
impl DefaultIsZeroes for Q4KTile {}
impl DefaultIsZeroes for Q5KTile {}
impl DefaultIsZeroes for Q6KTile {}

impl<const PARTS: usize, const PAIRS: usize> Affine<PARTS, PAIRS> {
    /// Takes the scale and minimum of one row, and the scale and minimum of each of its parts.
    fn put(&mut self, row: usize, scale: [u8; 2], minimum: [u8; 2], parts: [(u8, u8); PARTS]) {
        self.scales[row] = half(scale);
        self.minima[row] = half(minimum);
        for (part, (scale, minimum)) in parts.into_iter().enumerate() {
            self.part_scales[part][row] = scale;
            self.part_minima[part / 2][row][part % 2] = minimum;
        }
    }

    fn read(&self, row: usize, codes: &[u8; SUPER_BLOCK], output: &mut [f32]) {
        let length = SUPER_BLOCK / PARTS;
        let (scale, minimum) = (f16_to_f32(self.scales[row]), f16_to_f32(self.minima[row]));
        for (part, (codes, output)) in codes.chunks(length).zip(output.chunks_mut(length)).enumerate() {
            let scale = scale * f32::from(self.part_scales[part][row]);
            let minimum = minimum * f32::from(self.part_minima[part / 2][row][part % 2]);
            for (code, output) in codes.iter().zip(output) {
                *output = scale * f32::from(*code) - minimum;
            }
        }
    }
}

impl LargeParts {
    fn put_head(&mut self, row: usize, head: &[u8; 16]) {
        let [scale_low, scale_high, minimum_low, minimum_high, packed @ ..] = head;
        let (scale, minimum) = ([*scale_low, *scale_high], [*minimum_low, *minimum_high]);
        self.put(row, scale, minimum, part_scales_and_minima(packed));
    }
}

/// Unpacks eight scales and eight minima of six bits from twelve bytes. The first four scales are the low six
/// bits of bytes 0 to 3, the first four minima those of bytes 4 to 7. The last four of each have their low
/// four bits in bytes 8 to 11, and their high two bits at the top of bytes 0 to 7.
fn part_scales_and_minima(packed: &[u8; 12]) -> [(u8, u8); PARTS] {
    std::array::from_fn(|part| match part.checked_sub(4) {
        None => (packed[part] & 63, packed[part + 4] & 63),
        Some(last) => {
            let shared = packed[last + 8];
            (shared & 15 | packed[last] >> 6 << 4, shared >> 4 | packed[last + 4] >> 6 << 4)
        }
    })
}

impl Q2KTile {
    pub(crate) fn codes(&self, row: usize) -> [u8; SUPER_BLOCK] {
        let mut codes = [0; SUPER_BLOCK];
        for (part, codes) in self.parts.iter().zip(codes.as_chunks_mut::<16>().0) {
            for (column, code) in codes.iter_mut().enumerate() {
                *code = part[row * 4 + column % 4] >> (column / 4 * 2) & 3;
            }
        }
        codes
    }
}

impl Q4KTile {
    pub(crate) fn codes(&self, row: usize) -> [u8; SUPER_BLOCK] {
        let mut codes = [0; SUPER_BLOCK];
        unpack_nibbles(&self.nibbles, row, &mut codes);
        codes
    }
}

impl Q5KTile {
    pub(crate) fn codes(&self, row: usize) -> [u8; SUPER_BLOCK] {
        let mut codes = [0; SUPER_BLOCK];
        for (part, codes) in self.parts.iter().zip(codes.as_chunks_mut::<32>().0) {
            unpack_nibbles(&part.nibbles, row, codes);
            for (column, code) in codes.iter_mut().enumerate() {
                let bits = part.fifths[row * 4 + column % 4];
                *code |= (bits >> (column / 4) & 1) << 4;
            }
        }
        codes
    }
}

impl Q6KTile {
    /// The codes of one row, from 0 to 63.
    pub(crate) fn codes(&self, row: usize) -> [u8; SUPER_BLOCK] {
        let mut codes = [0; SUPER_BLOCK];
        for (part, codes) in self.parts.iter().zip(codes.as_chunks_mut::<16>().0) {
            unpack_nibbles(&part.nibbles, row, codes);
            for (column, code) in codes.iter_mut().enumerate() {
                let bits = part.highs[row * 4 + column % 4];
                *code |= (bits >> (column / 4 * 2) & 3) << 4;
            }
        }
        codes
    }
}

/// Each 32 bytes hold 64 columns: the first 32 in the low halves, the last in the high ones.
fn nibble_codes(bytes: &[u8], codes: &mut [u8; SUPER_BLOCK]) {
    for (bytes, codes) in bytes.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<64>().0) {
        let (first, last) = codes.split_at_mut(32);
        for (byte, (first, last)) in bytes.iter().zip(first.iter_mut().zip(last)) {
            (*first, *last) = (byte & 15, byte >> 4);
        }
    }
}

impl Tile<84> for Q2KTile {
    const COLUMNS: usize = SUPER_BLOCK;

    fn put(&mut self, row: usize, block: &[u8; 84]) {
        let Some((parts, rest)) = block.split_first_chunk::<SMALL_PARTS>() else { return };
        let Some((bytes, [scale_low, scale_high, minimum_low, minimum_high])) =
            rest.split_first_chunk::<64>()
        else {
            return;
        };
        let (scale, minimum) = ([*scale_low, *scale_high], [*minimum_low, *minimum_high]);
        self.affine.put(row, scale, minimum, parts.map(|part| (part & 15, part >> 4)));
        // Each 32 bytes hold 128 columns. Column `32 k + l` has its code at position `2 k` of byte `l`.
        let halves = bytes.as_chunks::<32>().0.iter().zip(self.parts.as_chunks_mut::<8>().0);
        for (bytes, parts) in halves {
            for (index, part) in parts.iter_mut().enumerate() {
                let (quarter, side) = (index / 2, index % 2);
                for (column, byte) in bytes[side * 16..][..16].iter().enumerate() {
                    part[row * 4 + column % 4] |= (byte >> (2 * quarter) & 3) << (column / 4 * 2);
                }
            }
        }
    }

    fn read(&self, row: usize, output: &mut [f32]) {
        self.affine.read(row, &self.codes(row), output);
    }
}

impl Tile<144> for Q4KTile {
    const COLUMNS: usize = SUPER_BLOCK;

    fn put(&mut self, row: usize, block: &[u8; 144]) {
        let Some((head, bytes)) = block.split_first_chunk() else { return };
        self.affine.put_head(row, head);
        let mut codes = [0; SUPER_BLOCK];
        nibble_codes(bytes, &mut codes);
        pack_nibbles(&mut self.nibbles, row, &codes);
    }

    fn read(&self, row: usize, output: &mut [f32]) {
        self.affine.read(row, &self.codes(row), output);
    }
}

impl Tile<176> for Q5KTile {
    const COLUMNS: usize = SUPER_BLOCK;

    fn put(&mut self, row: usize, block: &[u8; 176]) {
        let Some((head, rest)) = block.split_first_chunk() else { return };
        let Some((fifths, bytes)) = rest.split_first_chunk::<32>() else { return };
        self.affine.put_head(row, head);
        let mut codes = [0; SUPER_BLOCK];
        nibble_codes(bytes, &mut codes);
        for (index, (part, codes)) in self.parts.iter_mut().zip(codes.as_chunks::<32>().0).enumerate() {
            pack_nibbles(&mut part.nibbles, row, codes);
            // Bit `index` of byte `column`, as the file has it.
            for (column, bits) in fifths.iter().enumerate() {
                part.fifths[row * 4 + column % 4] |= (bits >> index & 1) << (column / 4);
            }
        }
    }

    fn read(&self, row: usize, output: &mut [f32]) {
        self.affine.read(row, &self.codes(row), output);
    }
}

impl Tile<210> for Q6KTile {
    const COLUMNS: usize = SUPER_BLOCK;

    fn put(&mut self, row: usize, block: &[u8; 210]) {
        let Some((lows, rest)) = block.split_first_chunk::<128>() else { return };
        let Some((highs, rest)) = rest.split_first_chunk::<64>() else { return };
        let Some((part_scales, scale)) = rest.split_first_chunk::<SMALL_PARTS>() else { return };
        self.scales[row] = scale.first_chunk().copied().map_or(0, half);
        for (place, scale) in self.part_scales.iter_mut().zip(part_scales) {
            place[row] = scale.cast_signed();
        }
        // Each half of 128 columns has 64 bytes of low bits and 32 bytes of high bits. Column `32 k + l` has
        // its low bits in byte `l` (k = 0, 2) or byte `32 + l` (k = 1, 3). Its high bits are at position `2
        // k` of byte `l`.
        let mut codes = [0; SUPER_BLOCK];
        let halves = lows.as_chunks::<64>().0.iter().zip(highs.as_chunks::<32>().0);
        for ((lows, highs), codes) in halves.zip(codes.as_chunks_mut::<128>().0) {
            for (column, code) in codes.iter_mut().enumerate() {
                let (quarter, at) = (column / 32, column % 32);
                let low = lows[quarter % 2 * 32 + at] >> (quarter / 2 * 4) & 15;
                *code = low | (highs[at] >> (2 * quarter) & 3) << 4;
            }
        }
        for (part, codes) in self.parts.iter_mut().zip(codes.as_chunks::<16>().0) {
            pack_nibbles(&mut part.nibbles, row, &codes.map(|code| code & 15));
            for (column, code) in codes.iter().enumerate() {
                part.highs[row * 4 + column % 4] |= code >> 4 << (column / 4 * 2);
            }
        }
    }

    fn read(&self, row: usize, output: &mut [f32]) {
        let scale = f16_to_f32(self.scales[row]);
        let codes = self.codes(row);
        for (part, (codes, output)) in codes.chunks(16).zip(output.chunks_mut(16)).enumerate() {
            let scale = scale * f32::from(self.part_scales[part][row]);
            for (code, output) in codes.iter().zip(output) {
                *output = scale * (f32::from(*code) - 32.0);
            }
        }
    }
}
