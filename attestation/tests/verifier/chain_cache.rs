//! The cache saves work and never changes an answer.

use crate::common::{AT, code, policy};
use cleanroom_attestation::chain::ChainCache;
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::{Expectation, appraise};
use cleanroom_forge::{Cbor, Extension, Forge, Key, NOW, Time};

const NONE: Expectation<'static> =
    Expectation { nonce: None, user_data: None, public_key: None, pcr16: None, pcr17: None };

#[test]
fn each_level_is_filled_once() {
    let forge = Forge::new();
    let certificates = forge.certificates();
    let document = forge.document_with(&certificates);
    let policy = policy(&certificates[0], "");
    let mut cache = ChainCache::new();
    assert!(cache.is_empty());
    for hits in 0..3 {
        assert_eq!(code(&appraise(&document, &policy, &NONE, AT, Some(&mut cache))), "accepted");
        assert_eq!(cache.len(), (1, 1));
        assert_eq!(cache.hits(), (0, hits));
        assert!(!cache.is_empty());
    }
    // Another leaf under the same authorities.
    let mut sibling = forge.clone();
    sibling.leaf().not_after = Time::utc("260301133000Z");
    let mut others = certificates.clone();
    others[4] = sibling.certificates()[4].clone();
    let document = sibling.document_with(&others);
    assert_eq!(code(&appraise(&document, &policy, &NONE, AT, Some(&mut cache))), "accepted");
    assert_eq!(cache.len(), (1, 2));
    assert_eq!(cache.hits(), (1, 2));
    cache.forget_leaves();
    assert_eq!(cache.len(), (1, 0));
}

#[test]
fn a_hit_is_judged_by_its_window_again() {
    let mut forge = Forge::new();
    forge.certificate(2).not_after = Time::utc("260301123000Z");
    let certificates = forge.certificates();
    let document = forge.document_with(&certificates);
    let policy = policy(&certificates[0], "");
    let mut cache = ChainCache::new();
    let mut at = |seconds: u64| {
        code(&appraise(&document, &policy, &NONE, Timestamp::from_seconds(seconds), Some(&mut cache)))
    };
    assert_eq!(at(NOW), "accepted");
    // The zone's certificate ends before the leaf's does, and the leaf's begins after all others.
    assert_eq!(at(NOW + 1800), "accepted");
    assert_eq!(at(NOW + 1801), "certificate-expired");
    assert_eq!(at(NOW - 3600), "accepted");
    // The tolerance of a minute holds for what is known as well.
    assert_eq!(at(NOW - 3660), "accepted");
    assert_eq!(at(NOW - 3661), "certificate-not-yet-valid");
    assert_eq!(at(NOW), "accepted");
}

#[test]
fn a_hit_needs_a_policy_that_trusts_its_root() {
    let (forge, other) = (Forge::new(), Forge::new());
    let certificates = forge.certificates();
    let document = forge.document_with(&certificates);
    let mut cache = ChainCache::new();
    let (ours, theirs) = (policy(&certificates[0], ""), policy(&other.certificates()[0], ""));
    assert_eq!(code(&appraise(&document, &ours, &NONE, AT, Some(&mut cache))), "accepted");
    assert_eq!(code(&appraise(&document, &theirs, &NONE, AT, Some(&mut cache))), "root-not-trusted");
    cache.forget_leaves();
    assert_eq!(code(&appraise(&document, &theirs, &NONE, AT, Some(&mut cache))), "root-not-trusted");
    assert_eq!(cache.len(), (1, 0));
}

#[test]
fn known_authorities_do_not_vouch_for_every_leaf() {
    let forge = Forge::new();
    let certificates = forge.certificates();
    let policy = policy(&certificates[0], "");
    let mut cache = ChainCache::new();
    let document = forge.document_with(&certificates);
    assert_eq!(code(&appraise(&document, &policy, &NONE, AT, Some(&mut cache))), "accepted");

    let mut judged = |change: &dyn Fn(&mut Forge)| {
        let mut stranger = forge.clone();
        change(&mut stranger);
        let mut others = certificates.clone();
        others[4] = stranger.certificates()[4].clone();
        code(&appraise(&stranger.document_with(&others), &policy, &NONE, AT, Some(&mut cache)))
    };
    assert_eq!(judged(&|forge| forge.sign_with(4, &Key::generate())), "certificate-signature");
    assert_eq!(judged(&|forge| forge.leaf().extensions.clear()), "leaf-key-usage");
    assert_eq!(judged(&|forge| forge.leaf().issuer = forge.chain[0].0.subject.clone()), "certificate-issuer");
    assert_eq!(judged(&|forge| forge.leaf().not_after = Time::utc("260301115959Z")), "certificate-expired");
    assert_eq!(judged(&|_| ()), "accepted");
    assert_eq!(cache.len().0, 1);
}

/// Authorities that became known by a leaf without alternative names: the constraints of a certificate above them would not
/// be asked about again.
#[test]
fn name_constraints_are_refused_whatever_is_known() {
    let mut forge = Forge::new();
    let excluded = b"\x30\x0c\xa1\x0a\x30\x08\x82\x06forged".to_vec();
    forge.certificate(1).extensions.push(Extension::standard(30, false, excluded));
    let certificates = forge.certificates();
    let policy = policy(&certificates[0], "");
    let mut named = forge.clone();
    named.leaf().extensions.push(Extension::standard(17, false, b"\x30\x0a\x82\x08x.forged".to_vec()));
    let mut others = certificates.clone();
    others[4] = named.certificates()[4].clone();
    let mut cache = ChainCache::new();
    let (plain, other) = (forge.document_with(&certificates), named.document_with(&others));
    for document in [&plain, &other] {
        let alone = appraise(document, &policy, &NONE, AT, None);
        assert_eq!(code(&alone), "certificate-name-constraints");
        assert_eq!(appraise(document, &policy, &NONE, AT, Some(&mut cache)), alone);
    }
}

#[test]
fn a_document_is_verified_on_every_hit() {
    let forge = Forge::new();
    let certificates = forge.certificates();
    let policy = policy(&certificates[0], "");
    let mut cache = ChainCache::new();
    let mut judged = |change: &dyn Fn(&mut Forge)| {
        let mut changed = forge.clone();
        change(&mut changed);
        code(&appraise(&changed.document_with(&certificates), &policy, &NONE, AT, Some(&mut cache)))
    };
    assert_eq!(judged(&|_| ()), "accepted");
    assert_eq!(judged(&|forge| forge.sign_with(5, &Key::generate())), "document-signature");
    let early = Cbor::Unsigned((NOW - 3601) * 1000);
    assert_eq!(judged(&|forge| forge.document.put("timestamp", early.clone())), "timestamp-outside-leaf");
    let other = Cbor::text("i-0123456789abcdef0-enc0fedcba987654322");
    assert_eq!(judged(&|forge| forge.document.put("module_id", other.clone())), "module-id-leaf");
}

#[test]
fn refused_chains_are_not_kept() {
    let mut cache = ChainCache::new();
    for index in 1..5 {
        let mut forge = Forge::new();
        forge.sign_with(index, &Key::generate());
        let certificates = forge.certificates();
        let document = forge.document_with(&certificates);
        let verdict = appraise(&document, &policy(&certificates[0], ""), &NONE, AT, Some(&mut cache));
        assert_eq!(code(&verdict), "certificate-signature");
    }
    assert!(cache.is_empty());
}

#[test]
fn lists_of_certificates_with_the_same_bytes_are_different() {
    // One bundle that is another with the border between two certificates moved.
    let forge = Forge::new();
    let certificates = forge.certificates();
    let policy = policy(&certificates[0], "");
    let mut cache = ChainCache::new();
    let document = forge.document_with(&certificates);
    assert_eq!(code(&appraise(&document, &policy, &NONE, AT, Some(&mut cache))), "accepted");
    let mut moved = certificates.clone();
    let byte = moved[2].remove(0);
    moved[1].push(byte);
    let document = forge.document_with(&moved);
    assert_eq!(code(&appraise(&document, &policy, &NONE, AT, Some(&mut cache))), "certificate-syntax");
    let mut moved = certificates.clone();
    let byte = moved[4].remove(0);
    moved[3].push(byte);
    let document = forge.document_with(&moved);
    assert_eq!(code(&appraise(&document, &policy, &NONE, AT, Some(&mut cache))), "certificate-syntax");
}

#[test]
fn it_is_bounded() {
    let forges = [(); 3].map(|()| Forge::new());
    let mut cache = ChainCache::with_capacity(2);
    let mut judge = |forge: &Forge| {
        let certificates = forge.certificates();
        let document = forge.document_with(&certificates);
        let policy = policy(&certificates[0], "");
        let before = cache.len();
        // The certificates are signed anew each time, so the chain is only known by what this very call put in.
        assert_eq!(code(&appraise(&document, &policy, &NONE, AT, Some(&mut cache))), "accepted");
        let between = cache.len();
        assert_eq!(code(&appraise(&document, &policy, &NONE, AT, Some(&mut cache))), "accepted");
        assert_eq!(cache.len(), between);
        (before, between)
    };
    assert_eq!(judge(&forges[0]), ((0, 0), (1, 1)));
    assert_eq!(judge(&forges[1]), ((1, 1), (2, 2)));
    assert_eq!(judge(&forges[2]), ((2, 2), (2, 2)));
    assert_eq!(judge(&forges[2]), ((2, 2), (2, 2)));

    let mut nothing = ChainCache::with_capacity(0);
    let certificates = forges[0].certificates();
    let document = forges[0].document_with(&certificates);
    let policy = policy(&certificates[0], "");
    assert_eq!(code(&appraise(&document, &policy, &NONE, AT, Some(&mut nothing))), "accepted");
    assert!(nothing.is_empty());
}

#[test]
fn capacity_unless_the_caller_says_otherwise() {
    assert_eq!(format!("{:?}", ChainCache::default()), format!("{:?}", ChainCache::new()));
    let explicit = ChainCache::with_capacity(ChainCache::DEFAULT_CAPACITY);
    assert_eq!(format!("{:?}", ChainCache::new()), format!("{explicit:?}"));
}
