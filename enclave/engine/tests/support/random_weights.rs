//! Random matrices in every format, with numbers of a given size.

use cleanroom_engine::gguf::TensorType;

/// Xorshift64*, enough to keep weights from being equal.
pub(crate) struct Random(u64);

impl Random {
    /// The seed must not be zero.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From -1 to 1.
    pub(crate) fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }

    /// A matrix of about this standard deviation and a mean of about zero, as the file has it.
    pub(crate) fn matrix(
        &mut self,
        kind: TensorType,
        columns: usize,
        rows: usize,
        deviation: f32,
    ) -> Vec<u8> {
        let blocks = columns * rows / kind.block_length();
        let mut bytes = Vec::with_capacity(blocks * kind.block_bytes());
        for _ in 0..blocks {
            self.block(kind, deviation, &mut bytes);
        }
        bytes
    }

    fn block(&mut self, kind: TensorType, deviation: f32, bytes: &mut Vec<u8>) {
        let number = self.signed() * deviation * 3.0_f32.sqrt();
        // Codes of n bits that are evenly distributed have a deviation of 2^n / sqrt(12).
        let scale = |codes: f32, part_scale: f32| half(deviation * 12.0_f32.sqrt() / codes / part_scale);
        match kind {
            TensorType::F32 => bytes.extend(number.to_le_bytes()),
            TensorType::F16 => bytes.extend(half(number).to_le_bytes()),
            TensorType::BF16 => bytes.extend(&number.to_le_bytes()[2..]),
            TensorType::Q8_0 => {
                bytes.extend(scale(256.0, 1.0).to_le_bytes());
                self.fill(32, bytes);
            }
            TensorType::Q4_0 => {
                bytes.extend(scale(16.0, 1.0).to_le_bytes());
                self.fill(16, bytes);
            }
            TensorType::Q4_1 | TensorType::Q5_1 => {
                let (codes, size) = if kind == TensorType::Q4_1 { (16.0, 16) } else { (32.0, 20) };
                // An offset of half the range gives a mean of zero.
                let step = deviation * 12.0_f32.sqrt() / codes;
                bytes.extend(half(step).to_le_bytes());
                bytes.extend(half(step * (1.0 - codes) / 2.0).to_le_bytes());
                self.fill(size, bytes);
            }
            TensorType::Q5_0 => {
                bytes.extend(scale(32.0, 1.0).to_le_bytes());
                self.fill(20, bytes);
            }
            TensorType::IQ4_NL => {
                // The root of the mean square of the table's numbers is 67.
                bytes.extend(half(deviation / 67.0).to_le_bytes());
                self.fill(16, bytes);
            }
            TensorType::IQ4_XS => {
                // Scales of 16 to 31 once 32 is taken off, as in Q3_K.
                bytes.extend(half(deviation / 67.0 / 24.0).to_le_bytes());
                bytes.extend([0xff; 2]);
                self.fill(4 + 128, bytes);
            }
            TensorType::MXFP4 => {
                // The root of the mean square of the sixteen numbers is 2.9. The scale is the next power of
                // two below.
                bytes.push(((deviation / 2.9).to_bits() >> 23) as u8);
                self.fill(16, bytes);
            }
            TensorType::Q2_K => {
                // Equal part scales and minima, and a minimum of half the range, give a mean of zero.
                let step = deviation * 12.0_f32.sqrt() / 4.0 / 12.0;
                bytes.extend((0..16).map(|_| (10 + (self.next() >> 62) as u8) * 0x11));
                self.fill(64, bytes);
                bytes.extend(half(step).to_le_bytes());
                bytes.extend(half(step * 1.5).to_le_bytes());
            }
            TensorType::Q3_K => {
                // The high two bits of each part scale are set, so it is from 48 to 63, less 32.
                self.fill(96 + 8, bytes);
                bytes.extend([0xff; 4]);
                bytes.extend(scale(8.0, 24.0).to_le_bytes());
            }
            TensorType::Q4_K | TensorType::Q5_K => {
                let (codes, size) = if kind == TensorType::Q4_K { (16.0, 128) } else { (32.0, 160) };
                let step = deviation * 12.0_f32.sqrt() / codes / 40.0;
                // Equal part scales and minima, and a minimum of half the range, give a mean of zero.
                bytes.extend(half(step).to_le_bytes());
                bytes.extend(half(step * (codes - 1.0) / 2.0).to_le_bytes());
                let parts: [u8; 8] = std::array::from_fn(|_| 30 + (self.next() >> 60) as u8);
                for _ in 0..2 {
                    bytes.extend((0..4).map(|part| parts[part] | parts[part + 4] >> 4 << 6));
                }
                bytes.extend((4..8).map(|part| parts[part] & 15 | parts[part] << 4));
                self.fill(size, bytes);
            }
            TensorType::Q6_K => {
                self.fill(192, bytes);
                bytes.extend((0..16).map(|_| 60 + (self.next() >> 59) as u8));
                bytes.extend(scale(64.0, 75.0).to_le_bytes());
            }
        }
    }

    fn fill(&mut self, count: usize, bytes: &mut Vec<u8>) {
        let length = bytes.len() + count;
        for _ in 0..count.div_ceil(8) {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(length);
    }
}

/// The number of a type in the file.
pub(crate) fn number(kind: TensorType) -> u32 {
    match kind {
        TensorType::F32 => 0,
        TensorType::F16 => 1,
        TensorType::Q4_0 => 2,
        TensorType::Q4_1 => 3,
        TensorType::Q5_0 => 6,
        TensorType::Q5_1 => 7,
        TensorType::Q8_0 => 8,
        TensorType::Q2_K => 10,
        TensorType::Q3_K => 11,
        TensorType::Q4_K => 12,
        TensorType::Q5_K => 13,
        TensorType::Q6_K => 14,
        TensorType::IQ4_NL => 20,
        TensorType::IQ4_XS => 23,
        TensorType::BF16 => 30,
        TensorType::MXFP4 => 39,
    }
}

/// Half-precision bits of a number that is far from the limits, cut off.
fn half(value: f32) -> u16 {
    let bits = value.to_bits();
    let exponent = (bits >> 23 & 0xff) as i32 - 127 + 15;
    let sign = (bits >> 16 & 0x8000) as u16;
    if exponent <= 0 {
        return sign | (value.abs() * 16_777_216.0) as u16;
    }
    sign | (exponent as u16) << 10 | (bits >> 13 & 0x3ff) as u16
}
