//! Certificates: any list of them, some of them genuine or genuine with changed bytes, in a document whose root is trusted.

#![no_main]

use cleanroom_attestation::chain::{self, ChainCache};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::document::Document;
use cleanroom_attestation::verdict::{Expectation, Outcome, appraise};
use cleanroom_fuzz::{AUTHORITY, MODULE_ID, NOW, byte_string};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let certificates = certificates(input);
    let Some((leaf, bundle)) = certificates.split_last() else { return };
    let Some(root) = bundle.first() else { return };
    let policy = cleanroom_fuzz::policy(&Sha256Digest::of(&[root]));
    let bytes = AUTHORITY.sign(&payload(bundle, leaf));

    let mut cache = ChainCache::with_capacity(4);
    let expected = Expectation::default();
    let first = appraise(&bytes, &policy, &expected, NOW, None);
    let filling = appraise(&bytes, &policy, &expected, NOW, Some(&mut cache));
    let cached = appraise(&bytes, &policy, &expected, NOW, Some(&mut cache));
    assert_eq!(first, filling);
    assert_eq!(first, cached, "a cache changes no verdict");

    if first.outcome() == Outcome::Fail {
        return;
    }
    let document = Document::parse(&bytes).expect("an accepted document is well formed");
    let views = chain::describe(&document);
    let (leaf, authorities) = views.split_last().expect("a chain has a leaf");
    for view in &views {
        let contents = view.contents.as_ref().expect("an accepted certificate can be read");
        assert!(contents.not_before <= NOW && NOW <= contents.not_after);
    }
    assert!(authorities.iter().all(|view| view.contents.as_ref().is_ok_and(|contents| contents.ca)));
    assert!(leaf.contents.as_ref().is_ok_and(|contents| !contents.ca));
    assert_eq!(document.certificate(), AUTHORITY.leaf(), "nobody else has the key");
});

/// Each certificate is a length of two bytes and its contents: DER, or `@`, the number of a genuine certificate, and changes
/// to it of three bytes each: where (two bytes), and the bits to flip.
fn certificates(mut input: &[u8]) -> Vec<Vec<u8>> {
    let mut certificates = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (entry, rest) = rest.split_at(length);
        input = rest;
        certificates.push(match entry {
            [b'@', number, changes @ ..] => {
                changed(&AUTHORITY.certificates[usize::from(*number) % AUTHORITY.certificates.len()], changes)
            }
            der => der.to_vec(),
        });
    }
    certificates
}

fn changed(certificate: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut certificate = certificate.to_vec();
    for change in changes.chunks_exact(3) {
        let place = usize::from(u16::from_be_bytes([change[0], change[1]])) % certificate.len();
        certificate[place] ^= change[2];
    }
    certificate
}

/// The payload of an enclave in debug mode.
fn payload(bundle: &[Vec<u8>], leaf: &[u8]) -> Vec<u8> {
    let text = |payload: &mut Vec<u8>, text: &str| {
        payload.extend_from_slice(&[0x78, text.len() as u8]);
        if text.len() < 24 {
            payload.truncate(payload.len() - 2);
            payload.push(0x60 | text.len() as u8);
        }
        payload.extend_from_slice(text.as_bytes());
    };
    let mut payload = vec![0xbf];
    text(&mut payload, "module_id");
    text(&mut payload, MODULE_ID);
    text(&mut payload, "digest");
    text(&mut payload, "SHA384");
    text(&mut payload, "timestamp");
    payload.push(0x1b);
    payload.extend_from_slice(&NOW.as_millis().to_be_bytes());
    text(&mut payload, "pcrs");
    payload.extend_from_slice(&[0xa1, 0]);
    byte_string(&mut payload, &[0; 48]);
    text(&mut payload, "certificate");
    byte_string(&mut payload, leaf);
    text(&mut payload, "cabundle");
    payload.push(0x80 | bundle.len().min(23) as u8);
    bundle.iter().take(23).for_each(|certificate| byte_string(&mut payload, certificate));
    payload.push(0xff);
    payload
}
