//! Bytes as a request for a share, as what a broker says, and as a sealed share, and the same of
//! retention with its records: a typed error, never a panic, and what is read is
//! written back byte for byte.

#![no_main]

use std::sync::LazyLock;

use cleanroom_attestation::record::RecordHead;
use cleanroom_key_release::{Recipient, RetentionAnswer, RetentionRequest, SealedShare, ShareRequest};
use cleanroom_link::control::{CONTROL_HEADER_BYTES, ControlAnswer, ShareMessage};
use libfuzzer_sys::fuzz_target;

static RECIPIENT: LazyLock<Recipient> = LazyLock::new(Recipient::generate);

// The first byte says who reads the rest: a broker, an enclave, or a host.
fuzz_target!(|input: &[u8]| {
    let Some((reader, rest)) = input.split_first() else { return };
    match reader % 5 {
        0 => {
            if let Ok(request) = ShareRequest::decode(rest) {
                assert_eq!(request.encode(), rest);
                assert!(rest.len() <= ShareRequest::LIMIT);
                assert!(request.evidence().evidence_request().user_data().len() <= 128);
            }
        }
        1 => {
            if let Some(message) = ShareMessage::decode(rest) {
                assert_eq!(message.encode(), rest);
            }
            // Nobody seals for this process.
            let request = || ShareRequest::decode(rest).ok();
            if let Some((sealed, request)) = SealedShare::read(rest).zip(request()) {
                assert!(RECIPIENT.open(&sealed, &request).is_none());
            }
        }
        2 => {
            if let Ok(request) = RetentionRequest::decode(rest) {
                assert_eq!(request.encode(), rest);
                assert!(rest.len() <= RetentionRequest::LIMIT);
                assert!(request.evidence_request().user_data().len() <= 128);
            }
            if let Some(answer) = RetentionAnswer::decode(rest) {
                assert_eq!(answer.encode(), rest);
            }
        }
        3 => {
            if let Ok(head) = RecordHead::parse(rest) {
                assert_eq!(head.to_bytes(), rest);
            }
            if let Ok((head, body)) = RecordHead::split(rest) {
                assert_eq!(head.record(body), rest);
            }
        }
        _ => {
            let Some((header, body)) = rest.split_first_chunk::<CONTROL_HEADER_BYTES>() else { return };
            if let Ok((code, length)) = ControlAnswer::parse_header(*header)
                && body.len() == length
            {
                let _ = ControlAnswer::parse(code, body);
            }
        }
    }
});
