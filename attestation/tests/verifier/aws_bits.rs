//! No document that AWS signed survives the change of a single bit, or a certificate taken out or moved.

use std::thread;

use crate::aws::{AwsDocument, documents};
use crate::common::code;
use cleanroom_attestation::chain::ChainCache;
use cleanroom_attestation::document::Document;
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::{Expectation, appraise};

/// Whether a document is accepted. The cache knows the chain of the unchanged document, which makes an attack on it no
/// harder and the test several times faster.
fn accepted(document: &[u8], policy: &Policy, at: Timestamp, cache: &mut ChainCache) -> bool {
    appraise(document, policy, &Expectation::default(), at, Some(cache)).accepted().is_ok()
}

/// Every bit of one part of a document, flipped alone.
fn flip_every_bit(document: &AwsDocument, bytes: core::ops::Range<usize>) {
    let (policy, at) = (document.policy(), document.timestamp());
    let mut cache = ChainCache::new();
    let mut changed = document.bytes.clone();
    assert!(accepted(&changed, &policy, at, &mut cache), "{}", document.name);
    for byte in bytes {
        for bit in 0..8 {
            changed[byte] ^= 1 << bit;
            let survived = accepted(&changed, &policy, at, &mut cache);
            assert!(!survived, "{}: bit {bit} of byte {byte}", document.name);
            changed[byte] ^= 1 << bit;
        }
    }
    assert_eq!(cache.len(), (1, 1), "a changed chain was kept");
}

#[test]
fn no_bit_can_be_flipped() {
    let Some(documents) = documents() else { return };
    // The shortest of each kind: definite and indefinite maps, and a NitroTPM.
    let shortest = |kind: &dyn Fn(&AwsDocument) -> bool| {
        let of_kind = documents.iter().filter(|document| kind(document));
        of_kind.min_by_key(|document| document.bytes.len()).unwrap()
    };
    let is_open = |document: &AwsDocument| document.facts["payload_map"] == "indefinite";
    let chosen = [
        shortest(&|document| !document.is_tpm() && !is_open(document)),
        shortest(&|document| !document.is_tpm() && is_open(document)),
        shortest(&AwsDocument::is_tpm),
    ];
    let workers = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for document in chosen {
            let part = document.bytes.len().div_ceil(workers);
            for worker in 0..workers {
                let end = (part * (worker + 1)).min(document.bytes.len());
                scope.spawn(move || flip_every_bit(document, part * worker..end));
            }
        }
    });
}

#[test]
fn some_bits_of_every_document() {
    let Some(documents) = documents() else { return };
    for document in &documents {
        let (policy, at) = (document.policy(), document.timestamp());
        let mut cache = ChainCache::new();
        for byte in (0..document.bytes.len()).step_by(61) {
            let mut changed = document.bytes.clone();
            changed[byte] ^= 1 << (byte % 8);
            assert!(!accepted(&changed, &policy, at, &mut cache), "{}: byte {byte}", document.name);
        }
    }
}

/// The document with its certificates, root first and the leaf last, put together anew. Nothing is signed anew: what
/// fails first is the chain.
fn with_certificates(document: &AwsDocument, certificates: &[&[u8]]) -> Vec<u8> {
    let parsed = Document::parse(&document.bytes).unwrap();
    let (leaf, bundle) = certificates.split_last().unwrap();
    let string = |bytes: &[u8]| cleanroom_forge::Cbor::bytes(bytes).encode();
    let replace = |whole: Vec<u8>, old: &[u8], new: &[u8]| {
        let at = whole.windows(old.len()).position(|window| window == old).unwrap();
        [&whole[..at], new, &whole[at + old.len()..]].concat()
    };
    let array = |bundle: &[&[u8]]| {
        let bundle = bundle.iter().map(|der| cleanroom_forge::Cbor::bytes(der)).collect();
        cleanroom_forge::Cbor::Array(bundle).encode()
    };
    let old_payload = payload(&document.bytes);
    let new_payload = replace(old_payload.to_vec(), &array(parsed.cabundle()), &array(bundle));
    let new_payload = replace(new_payload, &string(parsed.certificate()), &string(leaf));
    replace(document.bytes.clone(), &string(old_payload), &string(&new_payload))
}

/// The payload: after the protected header and the empty unprotected one, with a head of three bytes.
fn payload(bytes: &[u8]) -> &[u8] {
    let length = usize::from(u16::from_be_bytes([bytes[8], bytes[9]]));
    &bytes[10..10 + length]
}

#[test]
fn no_certificate_can_be_removed_or_swapped() {
    let Some(documents) = documents() else { return };
    for document in &documents {
        let parsed = Document::parse(&document.bytes).unwrap();
        let right: Vec<_> = parsed.cabundle().iter().copied().chain([parsed.certificate()]).collect();
        let policy = document.policy();
        let judged = |certificates: &[&[u8]]| {
            let changed = with_certificates(document, certificates);
            code(&appraise(&changed, &policy, &Expectation::default(), document.timestamp(), None))
        };
        assert_eq!(judged(&right), "accepted", "{}", document.name);
        for removed in 0..right.len() {
            let mut certificates = right.clone();
            certificates.remove(removed);
            let expected = match removed {
                0 => "root-not-trusted",
                4 => "leaf-is-ca",
                _ => "certificate-issuer",
            };
            assert_eq!(judged(&certificates), expected, "{}: without {removed}", document.name);
        }
        for first in 0..right.len() {
            for second in first + 1..right.len() {
                let mut certificates = right.clone();
                certificates.swap(first, second);
                let code = judged(&certificates);
                assert_ne!(code, "accepted", "{}: {first} and {second}", document.name);
                assert_eq!(code == "root-not-trusted", first == 0, "{first} and {second}: {code}");
            }
        }
    }
}

#[test]
fn no_certificate_can_come_from_another_document() {
    let Some(documents) = documents() else { return };
    for (document, other) in documents.iter().zip(documents.iter().cycle().skip(1)) {
        let (parsed, others) =
            (Document::parse(&document.bytes).unwrap(), Document::parse(&other.bytes).unwrap());
        let right: Vec<_> = parsed.cabundle().iter().copied().chain([parsed.certificate()]).collect();
        let foreign: Vec<_> = others.cabundle().iter().copied().chain([others.certificate()]).collect();
        for index in 0..right.len() {
            if right[index] == foreign[index] {
                continue;
            }
            let mut certificates = right.clone();
            certificates[index] = foreign[index];
            let changed = with_certificates(document, &certificates);
            let verdict =
                appraise(&changed, &document.policy(), &Expectation::default(), document.timestamp(), None);
            assert!(verdict.accepted().is_err(), "{}: {index}", document.name);
        }
    }
}
