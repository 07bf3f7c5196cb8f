//! SHA-256 (FIPS 180-4) of two messages side by side, on one core.
//!
//! The SHA instructions of x86-64 wait for one another: each needs the result of the one before. A processor
//! that hashes one message is idle for about half of the time. Here a second message of the same length fills
//! the pauses. The leaves of a model's identity do not depend on one another, so they are hashed in pairs.
//!
//! [`pair`] gives no digests on a processor without these instructions. The caller then hashes one message
//! after the other with its cryptographic library. The tests compare both for every length up to some blocks,
//! and for the lengths of chunks.

#![deny(clippy::indexing_slicing)]

/// The bytes of a SHA-256 digest.
pub type Digest = [u8; 32];

/// Whether this processor hashes two messages side by side.
#[must_use]
pub fn is_supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    return x86_64::Sha::detect().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// The SHA-256 digests of `prefix ‖ first` and `prefix ‖ second`.
///
/// `None` if the messages differ in length, or this processor does not have the instructions.
#[must_use]
pub fn pair(prefix: u8, first: &[u8], second: &[u8]) -> Option<[Digest; 2]> {
    if first.len() != second.len() {
        return None;
    }
    #[cfg(target_arch = "x86_64")]
    return x86_64::Sha::detect().map(|sha| x86_64::pair(sha, prefix, [first, second]));
    #[cfg(not(target_arch = "x86_64"))]
    return {
        let _ = prefix;
        None
    };
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use core::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x,
        _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8,
        _mm_shuffle_epi32,
    };
    use zeroize::Zeroizing;

    use super::Digest;

    /// The bytes of a block (FIPS 180-4 section 1).
    const BLOCK: usize = 64;
    /// The bytes of a message's length behind its padding (FIPS 180-4 section 5.1.1).
    const LENGTH: usize = 8;

    type Block = [u8; BLOCK];

    /// The eight words of the hash value, `a` to `h`.
    type State = [u32; 8];

    /// The initial hash value (FIPS 180-4 section 5.3.3).
    const INITIAL: State = [
        0x6a09_e667,
        0xbb67_ae85,
        0x3c6e_f372,
        0xa54f_f53a,
        0x510e_527f,
        0x9b05_688c,
        0x1f83_d9ab,
        0x5be0_cd19,
    ];

    /// The constants of the rounds, four rounds in a row (FIPS 180-4 section 4.2.2).
    const ROUNDS: [[u32; 4]; 16] = [
        [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5],
        [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
        [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3],
        [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
        [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc],
        [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
        [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7],
        [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
        [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13],
        [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
        [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3],
        [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
        [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5],
        [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
        [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208],
        [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
    ];

    /// Proof that this processor has the SHA instructions, and the older ones that go with them.
    #[derive(Clone, Copy)]
    pub(super) struct Sha(());

    impl Sha {
        pub(super) fn detect() -> Option<Self> {
            let present = std::arch::is_x86_feature_detected!("sha")
                && std::arch::is_x86_feature_detected!("ssse3")
                && std::arch::is_x86_feature_detected!("sse4.1");
            present.then_some(Self(()))
        }

        #[expect(unsafe_code, reason = "calls a function that is compiled for the SHA instructions")]
        fn compress(self, states: &mut [State; 2], blocks: [&[Block]; 2]) {
            // SAFETY: a value of this type exists only if the processor has the instructions that the function is
            // compiled for. The function itself is safe code.
            unsafe { compress(states, blocks) }
        }
    }

    /// The digests of both messages, which have the same length, each with `prefix` before it.
    pub(super) fn pair(sha: Sha, prefix: u8, messages: [&[u8]; 2]) -> [Digest; 2] {
        let mut states = [INITIAL; 2];
        let [first, second] = messages;
        let (carried, rests) = match (first.split_first_chunk(), second.split_first_chunk()) {
            (Some((head, rest)), Some((other_head, other_rest))) => {
                let heads = [with_prefix(prefix, head), with_prefix(prefix, other_head)];
                sha.compress(&mut states, heads.each_ref().map(|head| core::slice::from_ref(&**head)));
                (None, [rest, other_rest])
            }
            _ => (Some(prefix), messages),
        };
        let [(whole, tail), (other_whole, other_tail)] = rests.map(<[u8]>::as_chunks);
        sha.compress(&mut states, [whole, other_whole]);
        let bits = (first.len() as u64).wrapping_add(1).wrapping_mul(8);
        let ends = [End::new(carried, tail, bits), End::new(carried, other_tail, bits)];
        sha.compress(&mut states, ends.each_ref().map(End::blocks));
        states.map(digest)
    }

    /// The first block: the prefix and the first bytes of the message.
    fn with_prefix(prefix: u8, head: &[u8; BLOCK - 1]) -> Zeroizing<Block> {
        let mut block = Zeroizing::new([prefix; BLOCK]);
        block.iter_mut().skip(1).zip(head).for_each(|(to, from)| *to = *from);
        block
    }

    /// The end of a message with its padding (FIPS 180-4 section 5.1.1): one block or two.
    struct End {
        bytes: Zeroizing<[u8; 2 * BLOCK]>,
        blocks: usize,
    }

    impl End {
        /// The end of a message of `bits` bits, whose last bytes are `carried` and `tail`: less than a block.
        fn new(carried: Option<u8>, tail: &[u8], bits: u64) -> Self {
            let length = tail.len() + usize::from(carried.is_some());
            let blocks = if length + 1 + LENGTH <= BLOCK { 1 } else { 2 };
            let mut bytes = Zeroizing::new([0; 2 * BLOCK]);
            let content = carried.into_iter().chain(tail.iter().copied()).chain([0x80]);
            bytes.iter_mut().zip(content).for_each(|(to, from)| *to = from);
            let last = bytes.iter_mut().take(blocks * BLOCK).rev();
            last.zip(bits.to_le_bytes()).for_each(|(to, from)| *to = from);
            Self { bytes, blocks }
        }

        fn blocks(&self) -> &[Block] {
            let (blocks, _) = self.bytes.as_chunks();
            blocks.get(..self.blocks).unwrap_or_default()
        }
    }

    /// The digest that a hash value is.
    fn digest(state: State) -> Digest {
        let mut digest = [0; 32];
        let words = digest.as_chunks_mut().0.iter_mut().zip(state);
        words.for_each(|(bytes, word)| *bytes = word.to_be_bytes());
        digest
    }

    /// A hash value as the instructions have it: the words `a`, `b`, `e`, `f`, and the words `c`, `d`, `g`, `h`, each from the
    /// highest place down.
    #[derive(Clone, Copy)]
    struct Registers {
        abef: __m128i,
        cdgh: __m128i,
    }

    /// Hashes as many blocks of both messages as both have (FIPS 180-4 section 6.2.2).
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn compress(states: &mut [State; 2], blocks: [&[Block]; 2]) {
        let mut registers = states.map(|state| load(state));
        let [first, second] = blocks;
        for (first, second) in first.iter().zip(second) {
            let before = registers;
            let mut words = [message(first), message(second)];
            // The compiler unrolls this: all that varies is known.
            for constants in &ROUNDS[..4] {
                rounds(&mut registers, words.map(|[now, ..]| now), constants);
                words = words.map(|[now, one, two, three]| [one, two, three, now]);
            }
            for constants in &ROUNDS[4..] {
                words = words.map(|words| schedule(words));
                rounds(&mut registers, words.map(|[.., now]| now), constants);
            }
            for (now, before) in registers.iter_mut().zip(before) {
                now.abef = _mm_add_epi32(now.abef, before.abef);
                now.cdgh = _mm_add_epi32(now.cdgh, before.cdgh);
            }
        }
        *states = registers.map(|registers| store(registers));
    }

    /// Four rounds of both messages, with the next four words of each one's schedule.
    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn rounds(registers: &mut [Registers; 2], words: [__m128i; 2], constants: &[u32; 4]) {
        let constants = vector(*constants);
        for (Registers { abef, cdgh }, words) in registers.iter_mut().zip(words) {
            let sums = _mm_add_epi32(words, constants);
            *cdgh = _mm_sha256rnds2_epu32(*cdgh, *abef, sums);
            *abef = _mm_sha256rnds2_epu32(*abef, *cdgh, _mm_shuffle_epi32(sums, 0x0E));
        }
    }

    /// The last sixteen words of the schedule, four further on.
    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn schedule([a, b, c, d]: [__m128i; 4]) -> [__m128i; 4] {
        let sums = _mm_add_epi32(_mm_sha256msg1_epu32(a, b), _mm_alignr_epi8(d, c, 4));
        [b, c, d, _mm_sha256msg2_epu32(sums, d)]
    }

    /// The sixteen words of a block.
    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn message(block: &Block) -> [__m128i; 4] {
        // The words are big-endian.
        let order = _mm_set_epi64x(0x0C0D_0E0F_0809_0A0B, 0x0405_0607_0001_0203);
        let (quarters, _) = block.as_chunks::<16>();
        let mut words = [order; 4];
        for (words, quarter) in words.iter_mut().zip(quarters) {
            let bytes = u128::from_le_bytes(*quarter);
            let (high, low) = ((bytes >> 64) as u64, bytes as u64);
            *words = _mm_shuffle_epi8(_mm_set_epi64x(high.cast_signed(), low.cast_signed()), order);
        }
        words
    }

    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn load([a, b, c, d, e, f, g, h]: State) -> Registers {
        Registers { abef: vector([f, e, b, a]), cdgh: vector([h, g, d, c]) }
    }

    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn store(Registers { abef, cdgh }: Registers) -> State {
        let ([f, e, b, a], [h, g, d, c]) = (words(abef), words(cdgh));
        [a, b, c, d, e, f, g, h]
    }

    /// Four words, the first one in the lowest place.
    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn vector(words: [u32; 4]) -> __m128i {
        let [a, b, c, d] = words.map(u32::cast_signed);
        _mm_set_epi32(d, c, b, a)
    }

    /// The four words of a vector.
    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn words(vector: __m128i) -> [u32; 4] {
        let words = [
            _mm_extract_epi32(vector, 0),
            _mm_extract_epi32(vector, 1),
            _mm_extract_epi32(vector, 2),
            _mm_extract_epi32(vector, 3),
        ];
        words.map(i32::cast_unsigned)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::{SHA256, digest};
    use proptest::prelude::*;

    use super::*;

    /// What another library says.
    fn one_by_one(prefix: u8, messages: [&[u8]; 2]) -> [Digest; 2] {
        messages.map(|message| {
            let whole = [&[prefix], message].concat();
            digest(&SHA256, &whole).as_ref().try_into().unwrap()
        })
    }

    fn agrees(prefix: u8, first: &[u8], second: &[u8]) {
        let expected = is_supported().then(|| one_by_one(prefix, [first, second]));
        assert_eq!(pair(prefix, first, second), expected, "{} bytes", first.len());
    }

    fn bytes(seed: u32, length: usize) -> Vec<u8> {
        (0..length as u32)
            .map(|index| (index.wrapping_add(seed).wrapping_mul(0x9E37_79B1) >> 21) as u8)
            .collect()
    }

    /// The gate runs on processors of both kinds. Where the instructions are missing, the other tests show that
    /// there are no digests, and this one says so.
    #[test]
    fn this_processor_is_one_of_the_two_kinds() {
        let have = is_supported();
        if !have {
            eprintln!("this processor has no SHA instructions: pairs were not hashed");
        }
        assert_eq!(pair(0, b"", b"").is_some(), have);
    }

    #[test]
    fn known_answers() {
        // FIPS 180-4's example: SHA-256 of "abc".
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let Some(digests) = pair(b'a', b"bc", b"bd") else { return };
        let hex = |digest: &Digest| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(digests.each_ref().map(hex)[0], abc);
        assert_eq!(pair(b'a', b"bd", b"bc").map(|[_, second]| hex(&second)).as_deref(), Some(abc));
    }

    #[test]
    fn every_length_of_up_to_twenty_blocks_is_as_the_library_has_it() {
        for length in 0..=20 * 64 {
            agrees(0, &bytes(1, length), &bytes(2, length));
        }
    }

    #[test]
    fn chunks_of_models_are_as_the_library_has_them() {
        let chunk = 16 * 1024;
        for length in [chunk - 1, chunk, chunk + 1, 4 * chunk, (1 << 20) + 7] {
            agrees(0, &bytes(3, length), &bytes(4, length));
        }
    }

    #[test]
    fn a_lane_does_not_see_the_other() {
        let (zeros, ones) = (vec![0; 16 * 1024], vec![0xFF; 16 * 1024]);
        for first in [&zeros, &ones] {
            for second in [&zeros, &ones] {
                agrees(0, first, second);
            }
        }
    }

    #[test]
    fn bytes_that_stand_anywhere_in_memory_are_hashed_alike() {
        let all = bytes(5, 4096);
        for (first, second) in (0..64).zip((0..64).rev()) {
            agrees(0xA5, &all[first..first + 3000], &all[second..second + 3000]);
        }
    }

    #[test]
    fn messages_of_two_lengths_are_no_pair() {
        assert_eq!(pair(0, &[1; 64], &[1; 65]), None);
        assert_eq!(pair(0, &[1; 64], &[]), None);
    }

    proptest! {
        #[test]
        fn any_two_messages_are_as_the_library_has_them(
            prefix in any::<u8>(),
            both in proptest::collection::vec(any::<[u8; 2]>(), 0..5000),
        ) {
            let (first, second): (Vec<u8>, Vec<u8>) = both.into_iter().map(|[first, second]| (first, second)).unzip();
            agrees(prefix, &first, &second);
        }
    }
}
