//! The same document before this verifier and two others: every disagreement must be one that is known and explained.
//!
//! Compared is whether the document is genuine under a trusted root at a time; the others judge nothing else. The known
//! disagreements are the rules that the others lack ([`READING`], [`JUDGING`], [`is_pool_of_path`]) and the genuine documents that they
//! cannot read ([`others_refuse`]). The input that shows another one is a finding, and so is every document that another verifier
//! accepts while this one finds a wrong signature: neither `document-signature` nor a chain without a genuine path is explained.

#![no_main]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{LazyLock, Once};

use cleanroom_attestation::chain::Tier;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::document::{Document, Pcrs};
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::{Expectation, appraise};
use cleanroom_fuzz::{AUTHORITY, NOW};
use libfuzzer_sys::fuzz_target;
use nitro_attest::UnparsedAttestationDoc;
use nsm_nitro_enclave_utils::api::nsm::AttestationDoc;
use nsm_nitro_enclave_utils::time::Time;
use nsm_nitro_enclave_utils::verify::AttestationDocVerifierExt as _;

static POLICY: LazyLock<Policy> =
    LazyLock::new(|| cleanroom_fuzz::policy(&Sha256Digest::of(&[AUTHORITY.root()])));

/// Rules of reading that the others lack. They read with libraries for any CBOR into structures that ignore what they do not
/// know, and check no limits: a document with another encoding, unknown fields, repeated or odd registers or fields over AWS's
/// limits is genuine to them, as long as it is signed. A security module signs no such document.
const READING: &[&str] = &[
    "document-too-long",
    "cbor-non-shortest-head",
    "cbor-chunked-string",
    "cbor-indefinite-length",
    "cbor-unexpected-type",
    "protected-header",
    "unprotected-header",
    "field-unknown",
    "pcrs-ambiguous",
    "module-id",
    "module-id-kind",
    "digest",
    "pcr-count",
    "pcr-index",
    "pcr-duplicate",
    "pcr-length",
    "certificate-length",
    "bundle-count",
    "bundle-certificate-length",
    "public-key-length",
    "user-data-length",
    "nonce-length",
];

/// Rules of judging that the others lack: the document's module is the one that the leaf names, and the document was made while
/// the leaf was in force.
const JUDGING: &[&str] = &["module-id-leaf", "timestamp-outside-leaf"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Other {
    /// `nitro_attest` 0.2.0.
    NitroAttest,
    /// `nsm-nitro-enclave-utils` 0.1.3.
    NsmUtils,
}

// The first byte is 0 for a document, 1 for a payload to be signed. What begins like a document is one, so that a folder of
// documents is a corpus.
fuzz_target!(|input: &[u8]| {
    quiet_panics();
    let bytes = match input {
        [0x84 | 0xd2, ..] => input.to_vec(),
        [mode, rest @ ..] if mode & 1 == 0 => rest.to_vec(),
        [_, rest @ ..] => AUTHORITY.sign(&AUTHORITY.expand(rest)),
        [] => return,
    };
    let document = Document::parse(&bytes);
    // Documents of AWS are judged at their own time, everything else when the chain of this process is in force.
    let at = match &document {
        Ok(document) if document.cabundle()[0] != AUTHORITY.root() => document.timestamp(),
        _ => NOW,
    };
    let verdict = appraise(&bytes, &POLICY, &Expectation::default(), at, None);
    let genuine = verdict.tier();
    let code = verdict.accepted().err().map_or("accepted", |rejection| rejection.code());

    let root = match &document {
        Ok(document) if genuine == Some(Tier::Production) => document.cabundle()[0],
        _ => AUTHORITY.root(),
    };
    // Only AWS's own root is built into nitro_attest.
    if genuine != Some(Tier::Development) {
        let theirs = accepts(|| nitro_attest(&bytes, at));
        compare(Other::NitroAttest, genuine.is_some(), theirs, code, &bytes, document.as_ref().ok());
    }
    let theirs = accepts(|| nsm_utils(&bytes, root, at));
    compare(Other::NsmUtils, genuine.is_some(), theirs, code, &bytes, document.as_ref().ok());
});

fn compare(
    other: Other,
    ours: bool,
    theirs: bool,
    code: &str,
    bytes: &[u8],
    document: Option<&Document<'_>>,
) {
    let explained = match (ours, theirs) {
        (true, false) => document.is_some_and(|document| others_refuse(other, bytes, document)),
        (false, true) => {
            READING.contains(&code) || JUDGING.contains(&code) || is_pool_of_path(other, code, bytes)
        }
        _ => true,
    };
    assert!(explained, "unexplained: ours {ours} ({code}), {other:?} {theirs}");
}

/// `nsm-nitro-enclave-utils` takes the bundle for a pool in which it looks for a path: the certificates may come in any order, with
/// others among them that no path needs. This verifier demands the path itself, root first. Explained is that only where the
/// pool has a genuine path, so where every certificate between root and leaf is in it unchanged.
fn is_pool_of_path(other: Other, code: &str, bytes: &[u8]) -> bool {
    let of_chain = ["certificate-", "chain-", "root-"].iter().any(|prefix| code.starts_with(prefix));
    let mut path = AUTHORITY.certificates.iter().skip(1);
    let has = |certificate: &Vec<u8>| {
        bytes.windows(certificate.len()).any(|window| window == certificate.as_slice())
    };
    other == Other::NsmUtils && of_chain && path.all(has)
}

/// Genuine documents that another verifier cannot read.
fn others_refuse(_other: Other, bytes: &[u8], document: &Document<'_>) -> bool {
    // Neither reads the tag that COSE allows, nor the registers of NitroTPM.
    bytes.first() == Some(&0xd2) || matches!(document.pcrs(), Pcrs::NitroTpm(_))
}

fn nitro_attest(bytes: &[u8], at: Timestamp) -> bool {
    let seconds = i64::try_from(at.as_seconds()).unwrap_or(i64::MAX);
    let Ok(at) = time::OffsetDateTime::from_unix_timestamp(seconds) else { return false };
    UnparsedAttestationDoc::from(bytes).parse_and_verify(at).is_ok()
}

fn nsm_utils(bytes: &[u8], root: &[u8], at: Timestamp) -> bool {
    AttestationDoc::from_cose(bytes, root, Time::new(Box::new(move || at.as_millis()))).is_ok()
}

/// A panic of another verifier counts as a refusal; it is not ours to find.
fn accepts(verify: impl FnOnce() -> bool) -> bool {
    catch_unwind(AssertUnwindSafe(verify)).unwrap_or(false)
}

/// The fuzzing engine ends the process in its panic hook, before a panic can be caught. Without that hook a panic of this
/// target or of our own code still ends it, because the engine catches what leaves the target.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            let ours = panic.location().is_none_or(|location| !location.file().contains(".cargo"));
            if ours {
                eprintln!("{panic}");
            }
        }));
    });
}
