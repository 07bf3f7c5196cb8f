//! Bytes as a receipt, as it is delivered, and as a stream: reading never panics, and nothing unsigned is believed.

#![no_main]

use cleanroom_attestation::receipt::{AnswerText, Delivered, Receipt, SignedReceipt};
use libfuzzer_sys::fuzz_target;

/// The SubjectPublicKeyInfo of an Ed25519 key that nobody holds.
const KEY: [u8; 44] = {
    let mut key = [7; 44];
    let prefix = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let mut at = 0;
    while at < prefix.len() {
        key[at] = prefix[at];
        at += 1;
    }
    key
};

fuzz_target!(|bytes: &[u8]| {
    assert!(SignedReceipt::verify(bytes, &KEY).is_err());
    if let Some(receipt) = Receipt::from_payload(bytes) {
        assert_eq!(Receipt::from_payload(&receipt.to_payload()), Some(receipt));
    }
    if let Ok(delivered) = Delivered::parse(bytes) {
        let again = Delivered::parse(delivered.to_json().as_bytes()).expect("what was written is read");
        assert_eq!((again.envelope, again.salt), (delivered.envelope, delivered.salt));
    }
    // However a stream comes, its events are the same, and finding them twice changes nothing.
    let events = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut text, mut found) = (AnswerText::default(), Vec::new());
        pieces.for_each(|piece| text.update(piece, |part| found.extend_from_slice(part)));
        found
    };
    let whole = events(&mut std::iter::once(bytes));
    assert_eq!(events(&mut bytes.chunks(3)), whole);
    assert_eq!(events(&mut std::iter::once(whole.as_slice())), whole);
});
