use proptest::prelude::*;

use super::*;

fn key(first: u8) -> Key {
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(first..).for_each(|(byte, value)| *byte = value);
    Key::from_bytes(&bytes)
}

fn message(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 % 251) as u8).collect()
}

fn seal(salt: &Salt, message: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::new();
    let mut sealer = Sealer::new(&key(0), salt, WEIGHTS, &mut sealed).unwrap();
    sealer.update(message, &mut sealed).unwrap();
    sealer.finish(&mut sealed).unwrap();
    sealed
}

fn open(sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut opened = Vec::new();
    let mut opener = Opener::new(&key(0), &Header::parse(sealed)?, WEIGHTS)?;
    opener.update(&sealed[HEADER_BYTES..], |bytes| opened.extend_from_slice(bytes))?;
    opener.finish(|bytes| opened.extend_from_slice(bytes))?;
    Ok(opened)
}

/// What pyca/cryptography 50.0.2 wrote (`cryptography.cobblestone`): key 00 01 … 1f, context
/// `cleanroom/weights/1`, and messages of 0 and of 5 bytes. `authority/tests/program/interop.rs` does the
/// same with files, both ways.
#[test]
fn agrees_with_another_implementation() {
    for (length, expected) in [
        (
            0,
            "828b6b8070b4fe7d515e042e7d9ce4cd953f900ea613b115d5e1ef355ebeddf7f4d6a6f067188fad9d5e8f3403503f510f7d509c293b11\
             0d949c7af12e07c2c0826e9f171fd0b896",
        ),
        (
            5,
            "ef7cc9ec140add2df895cc397dc3064043c6f98c531f2a946c1bd78b5d600047ffeff1426d4a74c194b5f37d4d1aa86714b8943d280df2\
             65d2426f5d1ad8ee6f943c057d2ca414174704829d38",
        ),
    ] {
        let expected = hex::decode(expected).unwrap();
        let salt = Header::parse(&expected).unwrap().salt;
        assert_eq!(seal(&salt, &message(length)), expected);
        assert_eq!(open(&expected), Ok(message(length)));
    }
}

const EDGES: [usize; 8] =
    [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES - 1, 2 * CHUNK_BYTES, 40_000];

#[test]
fn every_length_has_one_layout_and_comes_back() {
    for length in EDGES {
        let sealed = seal(&[7; 24], &message(length));
        let layout = Layout::of_plain(length as u64).unwrap();
        assert_eq!(layout.sealed_length(), sealed.len() as u64);
        assert_eq!(Layout::of_sealed(sealed.len() as u64), Ok(layout));
        assert_eq!(layout.plain_length(), length as u64);
        assert_eq!(open(&sealed), Ok(message(length)));
        // The same by single chunks, from the last to the first.
        let header = Header::parse(&sealed).unwrap();
        assert_eq!(header.to_bytes(), sealed[..HEADER_BYTES]);
        let cipher = ChunkCipher::to_open(&key(0), &header, WEIGHTS).unwrap();
        let mut opened = vec![Vec::new(); layout.chunks() as usize];
        for number in (0..layout.chunks()).rev() {
            let range = layout.sealed_chunk(number).unwrap();
            let mut chunk = sealed[range.start as usize..range.end as usize].to_vec();
            let mut apart = vec![0; chunk.len() - TAG_BYTES];
            cipher.open_into(number, &chunk, &mut apart).unwrap();
            opened[number as usize] = cipher.open(number, &mut chunk).unwrap().to_vec();
            assert_eq!(opened[number as usize], apart);
        }
        assert_eq!(opened.concat(), message(length));
        assert_eq!(layout.sealed_chunk(layout.chunks()), None);
    }
}

#[test]
fn a_file_that_was_cut_anywhere_does_not_open() {
    let sealed = seal(&[7; 24], &message(2 * CHUNK_BYTES));
    for length in 0..sealed.len() {
        // Every length near an edge, and some between them.
        if length > 200 && length % SEALED_CHUNK_BYTES > 200 && length % 97 != 0 {
            continue;
        }
        let error = open(&sealed[..length]).unwrap_err();
        let by_length = Layout::of_sealed(length as u64).err();
        match by_length {
            Some(by_length) if length >= HEADER_BYTES => assert_eq!(error, by_length, "{length}"),
            Some(by_length) => assert_eq!(by_length.code(), "sealed-length"),
            None => assert_eq!(error.code(), "sealed-damaged", "{length}"),
        }
    }
    let longer = [sealed.as_slice(), &[0]].concat();
    assert_eq!(open(&longer), Err(SealError::Damaged { number: 2 }));
}

#[test]
fn a_chunk_is_sealed_behind_what_is_there_as_in_its_place() {
    let (cipher, _) = ChunkCipher::to_seal(&key(0), &[7; 24], WEIGHTS).unwrap();
    let mut out = b"before".to_vec();
    let mut expected = out.clone();
    for (number, length) in (3..).zip([0, 1, 100, CHUNK_BYTES]) {
        let mut chunk = message(length);
        cipher.seal_onto(number, &chunk, &mut out).unwrap();
        cipher.seal(number, &mut chunk).unwrap();
        expected.extend_from_slice(&chunk);
        assert!(out == expected, "{length} bytes");
    }
    let large = vec![0; CHUNK_BYTES + 1];
    assert_eq!(cipher.seal_onto(0, &large, &mut out).unwrap_err().code(), "sealed-length");
    assert_eq!(cipher.seal_onto(MAX_CHUNKS, &[1], &mut out), Err(SealError::TooLong));
    assert!(out == expected, "nothing was appended");
}

#[test]
fn a_chunk_opens_into_its_own_length_alone() {
    let sealed = seal(&[7; 24], &message(100));
    let cipher = ChunkCipher::to_open(&key(0), &Header::parse(&sealed).unwrap(), WEIGHTS).unwrap();
    let chunk = &sealed[HEADER_BYTES..];
    for length in [0, 99, 101] {
        assert_eq!(cipher.open_into(0, chunk, &mut vec![0; length]), Err(SealError::Damaged { number: 0 }));
    }
    assert_eq!(cipher.open_into(1, chunk, &mut [0; 100]), Err(SealError::Damaged { number: 1 }));
    assert_eq!(cipher.open_into(0, &chunk[..15], &mut []), Err(SealError::Damaged { number: 0 }));
    let long = vec![0; SEALED_CHUNK_BYTES + 1];
    assert_eq!(
        cipher.open_into(0, &long, &mut vec![0; CHUNK_BYTES + 1]),
        Err(SealError::Damaged { number: 0 })
    );
    assert_eq!(cipher.open_into(0, chunk, &mut [0; 100]), Ok(()));
}

#[test]
fn damage_exchange_and_other_files_are_noticed_where_they_are() {
    let sealed = seal(&[7; 24], &message(3 * CHUNK_BYTES + 5));
    let layout = Layout::of_sealed(sealed.len() as u64).unwrap();
    let range = |number| {
        let range = layout.sealed_chunk(number).unwrap();
        range.start as usize..range.end as usize
    };
    for number in 0..layout.chunks() {
        for position in [range(number).start, range(number).end - TAG_BYTES, range(number).end - 1] {
            let mut damaged = sealed.clone();
            damaged[position] ^= 1;
            assert_eq!(open(&damaged), Err(SealError::Damaged { number }));
        }
    }
    // Two chunks change places.
    let mut exchanged = sealed.clone();
    let (first, second) = (sealed[range(1)].to_vec(), sealed[range(2)].to_vec());
    exchanged[range(1)].copy_from_slice(&second);
    exchanged[range(2)].copy_from_slice(&first);
    assert_eq!(open(&exchanged), Err(SealError::Damaged { number: 1 }));
    // The same chunk of another file under the same key.
    let other = seal(&[8; 24], &message(3 * CHUNK_BYTES + 5));
    let mut mixed = sealed.clone();
    mixed[range(2)].copy_from_slice(&other[range(2)]);
    assert_eq!(open(&mixed), Err(SealError::Damaged { number: 2 }));
}

#[test]
fn only_the_key_and_the_context_open_a_file() {
    let sealed = seal(&[7; 24], &message(100));
    let header = Header::parse(&sealed).unwrap();
    let wrong = SealError::WrongKey;
    assert_eq!(ChunkCipher::to_open(&key(1), &header, WEIGHTS).unwrap_err(), wrong);
    assert_eq!(ChunkCipher::to_open(&key(0), &header, b"cleanroom/retention/1").unwrap_err(), wrong);
    for position in 0..HEADER_BYTES {
        let mut damaged = sealed.clone();
        damaged[position] ^= 0x80;
        assert_eq!(open(&damaged), Err(wrong), "{position}");
    }
    assert_eq!(format!("{:?}", key(0)), "Key(not shown)");
    let cipher = ChunkCipher::to_open(&key(0), &header, WEIGHTS).unwrap();
    assert_eq!(format!("{cipher:?}"), "ChunkCipher(not shown)");
}

#[test]
fn the_format_ends_before_its_numbers_repeat() {
    let (cipher, _) = ChunkCipher::to_seal(&key(0), &[7; 24], WEIGHTS).unwrap();
    for number in [MAX_CHUNKS, u64::MAX] {
        assert_eq!(cipher.seal(number, &mut Vec::new()), Err(SealError::TooLong));
        assert_eq!(cipher.open(number, &mut [0; TAG_BYTES]), Err(SealError::TooLong));
    }
    let mut last = vec![1; 5];
    cipher.seal(MAX_CHUNKS - 1, &mut last).unwrap();
    assert_eq!(cipher.open(MAX_CHUNKS - 1, &mut last.clone()).unwrap(), [1; 5]);
    assert_eq!(cipher.open(MAX_CHUNKS - 2, &mut last).unwrap_err().code(), "sealed-damaged");
    let most = MAX_CHUNKS * CHUNK_BYTES as u64 - 1;
    let layout = Layout::of_plain(most).unwrap();
    assert_eq!(Layout::of_sealed(layout.sealed_length()), Ok(layout));
    assert_eq!(Layout::of_plain(most + 1), Err(SealError::TooLong));
    assert_eq!(Layout::of_sealed(u64::MAX).unwrap_err(), SealError::TooLong);
    let mut large = vec![0; CHUNK_BYTES + 1];
    assert_eq!(cipher.seal(0, &mut large).unwrap_err().code(), "sealed-length");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn pieces_of_any_size_make_the_same_file(
        length in 0_usize..70_000, piece in 1_usize..40_000, salt in any::<[u8; 24]>(),
    ) {
        let message = message(length);
        let whole = seal(&salt, &message);
        let mut sealed = Vec::new();
        let mut sealer = Sealer::new(&key(0), &salt, WEIGHTS, &mut sealed).unwrap();
        message.chunks(piece).for_each(|piece| sealer.update(piece, &mut sealed).unwrap());
        sealer.finish(&mut sealed).unwrap();
        prop_assert_eq!(&sealed, &whole);
        let mut opener = Opener::new(&key(0), &Header::parse(&sealed).unwrap(), WEIGHTS).unwrap();
        let mut opened = Vec::new();
        for piece in sealed[HEADER_BYTES..].chunks(piece) {
            opener.update(piece, |bytes| opened.extend_from_slice(bytes)).unwrap();
        }
        opener.finish(|bytes| opened.extend_from_slice(bytes)).unwrap();
        prop_assert_eq!(opened, message);
    }
}
