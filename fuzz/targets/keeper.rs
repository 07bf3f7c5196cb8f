//! Bytes as what a worker says to its keeper: reading never panics, and what is accepted is the one encoding of what it means.

#![no_main]

use cleanroom_protocol::{FromWorker, HEADER_BYTES, Header, Kind as _, WorkerKind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Some((header, after)) = rest.split_first_chunk::<HEADER_BYTES>() {
        let header = match Header::<WorkerKind>::parse(*header) {
            Ok(header) => header,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return;
            }
        };
        assert!(header.body_bytes() <= header.kind().limit());
        let Some((body, after)) = after.split_at_checked(header.body_bytes()) else { return };
        let Ok(said) = FromWorker::decode(header.kind(), body) else { return };
        assert_eq!(said.kind(), header.kind());
        let whole = HEADER_BYTES + header.body_bytes();
        assert_eq!(Some(said.frame(header.id()).as_slice()), rest.get(..whole));
        rest = after;
    }
});
