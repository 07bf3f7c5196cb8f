//! Bytes as a document: reading never panics, and what a verdict accepts has every property that acceptance promises.

#![no_main]

use std::sync::LazyLock;

use cleanroom_attestation::chain;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::document::{Document, MAX_DOCUMENT_LENGTH, Survey};
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::verdict::{Expectation, Outcome, appraise};
use cleanroom_fuzz::{AUTHORITY, NOW};
use libfuzzer_sys::fuzz_target;

static POLICY: LazyLock<Policy> =
    LazyLock::new(|| cleanroom_fuzz::policy(&Sha256Digest::of(&[AUTHORITY.root()])));

// The first byte says whether the rest is a document or a payload to be signed.
fuzz_target!(|input: &[u8]| {
    let Some((mode, rest)) = input.split_first() else { return };
    let signed = mode & 1 == 1;
    let bytes = if signed { AUTHORITY.sign(&AUTHORITY.expand(rest)) } else { rest.to_vec() };
    let verdict = appraise(&bytes, &POLICY, &Expectation::default(), NOW, None);
    serde_json::to_string(&verdict).expect("every verdict can be written");
    let _ = verdict.to_string();
    assert!(verdict.accepted_session().is_err(), "nothing was asked that a session needs");

    let survey = Survey::of(&bytes);
    let _ = chain::describe_certificates(&survey.cabundle, survey.certificate);
    let Ok(document) = Document::parse(&bytes) else {
        assert_eq!(verdict.outcome(), Outcome::Fail);
        assert!(survey.refusal.is_some());
        return;
    };
    assert!(survey.refusal.is_none() && survey.unread.is_empty());
    assert!(bytes.len() <= MAX_DOCUMENT_LENGTH);
    assert_eq!(chain::describe(&document).len(), document.cabundle().len() + 1);
    assert!(document.signed_bytes().starts_with(b"\x84\x6aSignature1\x44\xa1\x01\x38\x22\x40"));
    if let Ok(evidence) = verdict.accepted() {
        assert!(signed, "nobody else has the key");
        assert_eq!(document.certificate(), AUTHORITY.leaf());
        assert_eq!(evidence.anchor(), "fuzz");
        assert!(evidence.debug() || evidence.image() == "one");
        assert_eq!(evidence.module_id(), cleanroom_fuzz::MODULE_ID);
        // What is accepted has no second encoding: its payload's strings stand in it as they are reported.
        for field in [evidence.nonce(), evidence.user_data(), evidence.public_key()].into_iter().flatten() {
            assert!(field.is_empty() || bytes.windows(field.len()).any(|window| window == field));
        }
    }
});
