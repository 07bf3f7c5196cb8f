//! Bytes as an answer of AWS KMS, as the message in it, as the file of a share that KMS holds, and as what a
//! host hands in of an answer: a typed error, never a panic, and nothing opens that was not encrypted for
//! this process.

#![no_main]

use std::sync::{LazyLock, Mutex};

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{Broker, Brokers, List};
use cleanroom_key_release::{Collector, KmsAnswer};
use cleanroom_kms::{CONTENT_LIMIT, Envelope, SealedForKms, read_answer};
use libfuzzer_sys::fuzz_target;

static COLLECTOR: LazyLock<Mutex<Collector>> = LazyLock::new(|| {
    let name = "aws".parse().expect("a name");
    let broker = Broker { name, sha256: Sha256Digest::of(&[b"a share"]) };
    let brokers = Brokers { needed: 1, of: List::new(vec![broker]).expect("one broker") };
    let mut collector = Collector::new(Sha256Digest::of(&[b"model"]), &brokers);
    collector.kms_recipient(&"aws".parse().expect("a name")).expect("a key");
    Mutex::new(collector)
});

// The first byte says what the rest is.
fuzz_target!(|input: &[u8]| {
    let Some((reader, rest)) = input.split_first() else { return };
    match reader % 4 {
        0 => check(&read_answer(rest).ok()),
        1 => check(&Envelope::read(rest).ok()),
        2 => {
            if let Ok(share) = SealedForKms::read(rest) {
                assert_eq!(SealedForKms::read(&share.to_bytes()).as_ref(), Ok(&share));
                assert!(share.request(rest).len() > rest.len());
            }
        }
        _ => {
            if let Some(answer) = KmsAnswer::read(rest) {
                let mut collector = COLLECTOR.lock().expect("nobody panicked");
                assert!(collector.take_kms(&"aws".parse().expect("a name"), &answer).is_err());
            }
        }
    }
});

fn check(envelope: &Option<Envelope>) {
    if let Some(envelope) = envelope {
        assert!(envelope.content.len() <= CONTENT_LIMIT);
        assert_eq!(envelope.fields().len(), 256 + 16 + envelope.content.len());
    }
}
