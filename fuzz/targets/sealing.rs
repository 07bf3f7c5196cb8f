//! Bytes as a sealed file: a typed error, never a panic, and nothing opens that was not sealed like this.

#![no_main]

use cleanroom_sealing::{
    CHUNK_BYTES, ChunkCipher, HEADER_BYTES, Header, Key, Layout, Opener, SealError, Sealer, WEIGHTS,
};
use libfuzzer_sys::fuzz_target;

/// The key and the salt of the seeds.
const KEY: [u8; 32] = [7; 32];
const SALT: [u8; 24] = [9; 24];

fn open(sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut opened = Vec::new();
    let mut opener = Opener::new(&Key::from_bytes(&KEY), &Header::parse(sealed)?, WEIGHTS)?;
    // Pieces that fit no chunk.
    for piece in sealed[HEADER_BYTES..].chunks(5000) {
        opener.update(piece, |bytes| opened.extend_from_slice(bytes))?;
    }
    opener.finish(|bytes| opened.extend_from_slice(bytes))?;
    Ok(opened)
}

fn seal(message: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::new();
    let key = Key::from_bytes(&KEY);
    let mut sealer = Sealer::new(&key, &SALT, WEIGHTS, &mut sealed).expect("the library derives keys");
    sealer.update(message, &mut sealed).expect("a short message");
    sealer.finish(&mut sealed).expect("a short message");
    sealed
}

// The first byte says whether the rest is a sealed file, or a message, and then how its sealed file is changed.
fuzz_target!(|input: &[u8]| {
    let Some((mode, rest)) = input.split_first() else { return };
    if mode & 1 == 0 {
        let by_length = Layout::of_sealed(rest.len() as u64);
        match open(rest) {
            Ok(message) => {
                // Only the holder of the key makes such a file, and of each message only one with this salt.
                assert_eq!(by_length.expect("it opened").plain_length(), message.len() as u64);
                if rest.starts_with(&SALT) {
                    assert_eq!(seal(&message), rest);
                }
            }
            Err(error) => assert!(!error.code().is_empty() && !error.to_string().is_empty()),
        }
        // A single chunk, at a place of its own choice.
        if let Some((number, chunk)) = rest.split_first_chunk::<8>() {
            let (cipher, _) = ChunkCipher::to_seal(&Key::from_bytes(&KEY), &SALT, WEIGHTS)
                .expect("the library derives keys");
            let _ = cipher.open(u64::from_be_bytes(*number), &mut chunk.to_vec());
            if let Ok(layout) = by_length {
                let range = layout.sealed_chunk(u64::from_be_bytes(*number));
                assert!(range.is_none_or(|range| range.start < range.end && range.end <= rest.len() as u64));
            }
        }
        return;
    }
    let Some(([place @ .., change], message)) = rest.split_first_chunk::<5>() else { return };
    let mut sealed = seal(message);
    assert_eq!(open(&sealed).as_deref(), Ok(message));
    assert_eq!(sealed.len() as u64, Layout::of_plain(message.len() as u64).expect("short").sealed_length());
    let place = u32::from_be_bytes(*place) as usize % sealed.len();
    if *change == 0 {
        sealed.truncate(place);
    } else {
        sealed[place] ^= change;
    }
    let error = open(&sealed).expect_err("it was changed");
    let chunk = (place.saturating_sub(HEADER_BYTES) / (CHUNK_BYTES + 16)) as u64;
    if *change != 0 && place >= HEADER_BYTES {
        assert_eq!(error, SealError::Damaged { number: chunk });
    }
});
