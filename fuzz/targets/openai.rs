//! Bytes as the stream of an engine: reading never panics, never keeps more than its limit, and is the same however the
//! bytes are cut.

#![no_main]

use std::ops::ControlFlow;

use cleanroom_openai::{Chunk, EventReader, Failure, MAX_EVENT};
use libfuzzer_sys::fuzz_target;

/// The events in some bytes that come in pieces, up to a failure.
fn events<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, Option<Failure>) {
    let (mut reader, mut found) = (EventReader::default(), Vec::new());
    for piece in pieces {
        let pushed = reader.push(piece, |data| {
            assert!(data.len() <= MAX_EVENT);
            found.push(data.to_vec());
            ControlFlow::Continue(())
        });
        if let Err(failure) = pushed {
            return (found, Some(failure));
        }
    }
    (found, None)
}

fuzz_target!(|bytes: &[u8]| {
    let whole = events(std::iter::once(bytes));
    assert_eq!(events(bytes.chunks(1)), whole);
    assert_eq!(events(bytes.chunks(7)), whole);
    for data in &whole.0 {
        let _ = Chunk::parse(data);
    }
    let _ = Chunk::parse(bytes);
});
