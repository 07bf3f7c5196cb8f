//! Bytes as the two halves of the control connection. Reading never panics, a body is within its limit before it is read,
//! and an accepted answer is read back from its own encoding.

#![no_main]

use cleanroom_link::control::{CONTROL_HEADER_BYTES, ControlAnswer, ControlKind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((header, body)) = bytes.split_first_chunk::<CONTROL_HEADER_BYTES>() else { return };
    request(*header, body);
    answer(*header, body);
});

fn request(header: [u8; CONTROL_HEADER_BYTES], body: &[u8]) {
    let Ok((kind, length)) = ControlKind::parse(header) else { return };
    assert!(length <= kind.limit());
    if let Some(body) = body.get(..length) {
        assert!(kind.frame(body).strip_prefix(&header) == Some(body));
    }
}

fn answer(header: [u8; CONTROL_HEADER_BYTES], body: &[u8]) {
    let Ok((code, length)) = ControlAnswer::parse_header(header) else { return };
    let Some(answer) = body.get(..length).and_then(|body| ControlAnswer::parse(code, body).ok()) else {
        return;
    };
    let frame = answer.frame();
    let (header, body) = frame.split_first_chunk().expect("a frame has a header");
    let (code, length) = ControlAnswer::parse_header(*header).expect("its length is within the limit");
    assert_eq!((length, ControlAnswer::parse(code, body)), (body.len(), Ok(answer)));
}
