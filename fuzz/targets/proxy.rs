//! Bytes as the beginning of a balancer's connection, as they are and behind the signature that no fuzzer guesses.
//! Reading never panics, asks for no byte beyond the header or the limit, comes to the same end in steps as at once, and
//! reads back what it writes.

#![no_main]

use cleanroom_proxy_protocol::{FIXED_BYTES, FURTHER_BYTES_MAX, Progress, read, written};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&[b"\r\n\r\n\0\r\nQUIT\n", bytes].concat());
});

fn check(bytes: &[u8]) {
    let mut known = 0;
    let end = loop {
        match read(bytes.get(..known).expect("no more than there is")) {
            Ok(Progress::Missing(missing)) => {
                assert!(missing > 0);
                known += missing;
                assert!(known <= FIXED_BYTES + FURTHER_BYTES_MAX);
                if known > bytes.len() {
                    return;
                }
            }
            end => break end,
        }
    };
    assert_eq!(read(bytes), end);
    if let Ok(Progress::Complete { header, length }) = end {
        assert_eq!(length, known);
        let own = written(&header);
        let Ok(Progress::Complete { header: again, .. }) = read(&own) else { panic!("it is a header") };
        assert_eq!(read(&written(&again)), read(&own));
    }
}
