//! The same document before this verifier and two others: every disagreement must be one that is known and explained.
//!
//! Compared is whether the document is genuine under a trusted root at a time; the others judge nothing else. The explanations
//! are [`STRICTER`] and [`others_refuse`]; the input that shows another one is a finding.

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

/// Rules that this verifier has and another lacks: who lacks it, and the code under which this one refuses.
const STRICTER: &[(Other, &str)] = &[];

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
        (false, true) => STRICTER.contains(&(other, code)),
        _ => true,
    };
    assert!(explained, "unexplained: ours {ours} ({code}), {other:?} {theirs}");
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
