//! A host's store that lies about the model: whatever it does, the enclave has no weights, and says why with a code.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::sync::LazyLock;

use cleanroom_attestation::model::model_digest;
use cleanroom_link::store::{Description, Form, Question};
use cleanroom_sealing::{CHUNK_BYTES, HEADER_BYTES, Key, SEALED_CHUNK_BYTES, Sealer, WEIGHTS};
use cleanroom_tests::store::{Answer, Store};
use cleanroom_weights::{How, Limits, Weights, WeightsError, open};
use tokio::time::timeout;

/// A piece and a bit, so that ranges, pieces and the file all have an end that is not whole.
const LENGTH: usize = (2048 + 70) * CHUNK_BYTES + 5;
/// The last chunk.
const LAST: u64 = 2048 + 70;

static WEIGHTS_1: LazyLock<Vec<u8>> = LazyLock::new(|| weights(1, LENGTH));
static WEIGHTS_2: LazyLock<Vec<u8>> = LazyLock::new(|| weights(2, LENGTH));
static SEALED_1: LazyLock<Vec<u8>> = LazyLock::new(|| seal(1, 7, &WEIGHTS_1));
static SEALED_2: LazyLock<Vec<u8>> = LazyLock::new(|| seal(1, 8, &WEIGHTS_2));

fn weights(seed: u8, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let mut bytes = vec![0; length];
    for word in bytes.chunks_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        word.copy_from_slice(&state.to_be_bytes()[..word.len()]);
    }
    bytes
}

fn key(first: u8) -> Key {
    Key::from_bytes(&[first; 32])
}

fn seal(sealing: u8, salt: u8, weights: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::new();
    let mut sealer = Sealer::new(&key(sealing), &[salt; 24], WEIGHTS, &mut sealed).unwrap();
    sealer.update(weights, &mut sealed).unwrap();
    sealer.finish(&mut sealed).unwrap();
    sealed
}

async fn opened(mut store: Store) -> Result<Weights, WeightsError> {
    open(&mut store, How::Sealed(key(1)), &Limits::for_bytes(1 << 30)).await
}

/// What comes of a sealed file when the store decides so about each question.
async fn sealed_behind(
    decide: impl Fn(usize, Question) -> Answer + Send + Sync + 'static,
) -> Result<Weights, WeightsError> {
    opened(Store::new(Form::Sealed, SEALED_1.clone(), SEALED_2.clone(), decide)).await
}

fn code(result: Result<Weights, WeightsError>) -> &'static str {
    result.err().map_or("opened", |error| error.code())
}

/// Where chunk `number` begins in a sealed file.
fn chunk(number: u64) -> u64 {
    HEADER_BYTES as u64 + number * SEALED_CHUNK_BYTES as u64
}

#[tokio::test]
async fn every_length_comes_as_it_was_sealed() {
    let (range, piece) = (64 * CHUNK_BYTES, 2048 * CHUNK_BYTES);
    let edges = [0, 1, CHUNK_BYTES, range - 1, range, range + 1, piece, piece + range, LENGTH];
    for length in edges {
        let weights = weights(1, length);
        let sealed =
            opened(Store::new(Form::Sealed, seal(1, 7, &weights), Vec::new(), |_, _| Answer::Honest));
        let limits = Limits::for_bytes(length as u64);
        let mut plain = Store::plain(weights.clone());
        let plain = open(&mut plain, How::Plain, &limits);
        for result in [sealed.await, plain.await] {
            let result = result.unwrap();
            assert_eq!(result.digest(), model_digest(&weights), "{length} bytes");
            assert_eq!(result.length(), length as u64);
            let mut bytes = Vec::with_capacity(length);
            result.into_pieces().for_each(|piece| bytes.extend_from_slice(&piece));
            assert!(bytes == weights, "{length} bytes");
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_opens_nowhere() {
    for place in [0, 24, chunk(0), chunk(2047) + 5, chunk(2048), chunk(LAST) + 4] {
        let expected = if place < HEADER_BYTES as u64 { "sealed-wrong-key" } else { "sealed-damaged" };
        assert_eq!(code(sealed_behind(move |_, _| Answer::Flip(place)).await), expected, "byte {place}");
    }
}

#[tokio::test]
async fn damage_that_does_not_come_again_does_no_harm() {
    let result = sealed_behind(|number, _| match number {
        0 | 1 => Answer::Misplaced,
        3 => Answer::Flip(chunk(2)),
        5 => Answer::Half,
        7 => Answer::Misplaced,
        _ => Answer::Honest,
    });
    assert_eq!(result.await.unwrap().digest(), model_digest(&WEIGHTS_1));
}

#[tokio::test]
async fn a_file_that_was_cut_or_made_longer_does_not_open() {
    let sealed = SEALED_1.clone();
    let with = |bytes: Vec<u8>| Store::new(Form::Sealed, bytes, Vec::new(), |_, _| Answer::Honest);
    // Inside the last chunk, at its beginning, in the middle of a tag, before the header's end.
    let last = usize::try_from(chunk(LAST)).unwrap();
    for (length, expected) in [
        (sealed.len() - 1, "sealed-damaged"),
        (last, "sealed-truncated"),
        (last + 3, "sealed-length"),
        (40, "sealed-length"),
    ] {
        assert_eq!(code(opened(with(sealed[..length].to_vec())).await), expected, "{length} bytes");
    }
    // Whole chunks were left out at the end.
    let cut = [&sealed[..usize::try_from(chunk(2100)).unwrap()], &sealed[last..]].concat();
    assert_eq!(code(opened(with(cut)).await), "sealed-damaged");
    assert_eq!(code(opened(with([sealed.as_slice(), &[0; 40]].concat())).await), "sealed-damaged");
}

#[tokio::test]
async fn chunks_open_at_their_own_place_alone() {
    let swapped = |_: usize, question: Question| match question.offset {
        at if at == chunk(64) => Answer::From(chunk(128)),
        at if at == chunk(128) => Answer::From(chunk(64)),
        _ => Answer::Honest,
    };
    assert_eq!(code(sealed_behind(swapped).await), "sealed-damaged");
}

#[tokio::test]
async fn ranges_of_another_file_do_not_open() {
    // The same key sealed it, and it has the same length.
    let mixed = |_: usize, question: Question| {
        if question.offset > chunk(1000) { Answer::Other } else { Answer::Honest }
    };
    assert_eq!(code(sealed_behind(mixed).await), "sealed-damaged");
    // All of it opens, and shows that it is another model.
    let whole = sealed_behind(|_, _| Answer::Other).await.unwrap();
    assert_eq!(whole.digest(), model_digest(&WEIGHTS_2));
}

#[tokio::test]
async fn another_key_is_told_before_a_chunk_is_opened() {
    let mut store = Store::new(Form::Sealed, seal(2, 7, &WEIGHTS_1), Vec::new(), |_, _| Answer::Honest);
    let result = open(&mut store, How::Sealed(key(1)), &Limits::for_bytes(1 << 30)).await;
    assert_eq!(code(result), "sealed-wrong-key");
    assert_eq!(store.asked(), 1, "only the header was asked for");
}

#[tokio::test]
async fn sealed_is_not_plain_and_plain_is_not_sealed() {
    let sealed = seal(1, 7, b"weights");
    let mut store = Store::new(Form::Sealed, sealed.clone(), Vec::new(), |_, _| Answer::Honest);
    assert_eq!(code(open(&mut store, How::Plain, &Limits::for_bytes(100)).await), "not-plain");
    assert_eq!(code(opened(Store::plain(b"weights".to_vec())).await), "not-sealed");
    // Nor does it help to call a sealed file plain: it is then the model that its bytes are.
    let mut store = Store::plain(sealed.clone());
    let weights = open(&mut store, How::Plain, &Limits::for_bytes(1000)).await.unwrap();
    assert_eq!(weights.digest(), model_digest(&sealed));
}

#[tokio::test]
async fn a_model_that_is_too_large_is_refused_before_it_is_asked_for() {
    for form in [Form::Plain, Form::Sealed] {
        let mut store = Store::new(form, Vec::new(), Vec::new(), |_, _| Answer::Honest)
            .describing([Description { form, length: u64::MAX / 2 }]);
        let how = if form == Form::Plain { How::Plain } else { How::Sealed(key(1)) };
        let result = open(&mut store, how, &Limits::for_bytes(1 << 30)).await;
        assert!(["model-too-large", "sealed-too-long"].contains(&code(result)), "{form:?}");
        assert_eq!(store.asked(), 0);
    }
}

#[tokio::test]
async fn a_store_that_changes_its_file_is_refused() {
    let bytes = SEALED_1.clone();
    let truth = Description { form: Form::Sealed, length: bytes.len() as u64 };
    let other = Description { form: Form::Sealed, length: bytes.len() as u64 - 1 };
    let store = Store::new(Form::Sealed, bytes, Vec::new(), |_, _| Answer::Honest).describing([truth, other]);
    assert_eq!(code(opened(store).await), "store-changed");
}

#[tokio::test]
async fn answers_to_other_questions_are_refused() {
    for answer in [Answer::Longer, Answer::Misplaced, Answer::Half] {
        let result = sealed_behind(move |number, _| if number == 0 { Answer::Honest } else { answer });
        assert_eq!(code(result.await), "store-stalled", "{answer:?}");
        // The same where no tag would tell.
        let mut store = Store::new(Form::Plain, WEIGHTS_1.clone(), Vec::new(), move |_, _| answer);
        let result = open(&mut store, How::Plain, &Limits::for_bytes(1 << 30)).await;
        assert_eq!(code(result), "store-stalled", "{answer:?}");
    }
}

#[tokio::test]
async fn what_stands_behind_an_answer_gets_nowhere() {
    // The connection is given up, because its next answer is one to another question.
    let result = sealed_behind(|_, _| Answer::More).await;
    assert_eq!(result.unwrap().digest(), model_digest(&WEIGHTS_1));
    let mut store = Store::new(Form::Plain, WEIGHTS_1.clone(), Vec::new(), |_, _| Answer::More);
    let weights = open(&mut store, How::Plain, &Limits::for_bytes(1 << 30)).await.unwrap();
    assert_eq!(weights.digest(), model_digest(&WEIGHTS_1));
    assert!(store.asked() > 40, "{} questions for 34 ranges", store.asked());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stalls_once_is_asked_again_and_one_that_stalls_for_ever_is_given_up() {
    let result = sealed_behind(|number, _| if number == 9 { Answer::Stall } else { Answer::Honest });
    assert_eq!(result.await.unwrap().digest(), model_digest(&WEIGHTS_1));
    let begun = tokio::time::Instant::now();
    let result = sealed_behind(|number, _| if number > 9 { Answer::Stall } else { Answer::Honest });
    assert_eq!(code(result.await), "store-stalled");
    // Five times in a row, twenty seconds each.
    assert!(begun.elapsed().as_secs() <= 200, "{:?}", begun.elapsed());
    assert_eq!(code(sealed_behind(|_, _| Answer::Stall).await), "store-stalled");
}

#[tokio::test(start_paused = true)]
async fn connections_that_say_nothing_give_way_to_the_next() {
    let store = Store::plain(WEIGHTS_1.clone()).silent_at_first(3);
    let limits = Limits::for_bytes(1 << 30);
    let opened = timeout(limits.range_time * 4, open(&mut { store }, How::Plain, &limits)).await;
    assert_eq!(opened.expect("the silent ones are waited for").unwrap().digest(), model_digest(&WEIGHTS_1));
}
