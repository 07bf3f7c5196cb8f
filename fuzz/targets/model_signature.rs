//! Bytes as a signature of a model: reading never panics, and nothing that the publisher's key did not sign is believed.

#![no_main]

use cleanroom_attestation::model_signature::{PublisherKey, SignedModel};
use libfuzzer_sys::fuzz_target;

/// The base point of P-256, whose secret is 1, so anybody may sign with it. Its point is good, and no seed is signed by it.
const KEY: [u8; 91] = *b"0Y0\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\
\x04\x6b\x17\xd1\xf2\xe1\x2c\x42\x47\xf8\xbc\xe6\xe5\x63\xa4\x40\xf2\x77\x03\x7d\x81\x2d\xeb\x33\xa0\xf4\xa1\x39\x45\
\xd8\x98\xc2\x96\x4f\xe3\x42\xe2\xfe\x1a\x7f\x9b\x8e\xe7\xeb\x4a\x7c\x0f\x9e\x16\x2b\xce\x33\x57\x6b\x31\x5e\xce\
\xcb\xb6\x40\x68\x37\xbf\x51\xf5";

fuzz_target!(|bytes: &[u8]| {
    let key = PublisherKey::from_spki(&KEY).expect("a point of P-256");
    assert!(SignedModel::verify(bytes, &key).is_err());
    let _ = SignedModel::check_statement(bytes);
    let _ = PublisherKey::from_spki(bytes);
});
