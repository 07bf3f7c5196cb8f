//! Bytes that differ at every position and between streams, so that each lost, doubled or swapped one shows.

/// A stream of pseudo-random bytes (`SplitMix64`).
#[derive(Debug, Clone)]
pub struct Pattern {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Pattern {
    /// The stream with this number.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed, word: [0; 8], used: 8 }
    }

    /// The next bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.used == self.word.len() {
                self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut word = self.state;
                word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                self.word = (word ^ (word >> 31)).to_le_bytes();
                self.used = 0;
            }
            *byte = self.word.get(self.used).copied().unwrap_or_default();
            self.used += 1;
        }
    }

    /// Whether `bytes` are the next ones.
    pub fn matches(&mut self, bytes: &[u8]) -> bool {
        let mut expected = vec![0; bytes.len()];
        self.fill(&mut expected);
        expected == bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_however_it_is_cut_and_no_byte_goes_unnoticed() {
        let mut whole = vec![0; 1000];
        Pattern::new(7).fill(&mut whole);
        let mut reader = Pattern::new(7);
        assert!(whole.chunks(13).all(|chunk| reader.matches(chunk)));
        assert!(!Pattern::new(8).matches(&whole));
        whole.remove(500);
        assert!(!Pattern::new(7).matches(&whole));
    }
}
