//! What policy and session ask, axis by axis, and what follows from the answers.

use crate::common::{AT, code, policy, policy_text, verdict_at, verdict_of};
use cleanroom_attestation::chain::Tier;
use cleanroom_attestation::channel::boot_measurement::Registers;
use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::{Axis, AxisStatus, Check, Expectation, Outcome, Verdict};
use cleanroom_forge::{Cbor, Document, Forge, MODULE_ID, NOW, pcr};

const NONCE: &[u8] = b"thirty-two bytes of a challenge!";
const TPM_MODULE_ID: &str = "i-0123456789abcdef0-tpm0000000000000000";

fn digest(index: u8) -> Sha384Digest {
    Sha384Digest::from_bytes(pcr(index))
}

/// A document with everything that a session asks about.
fn session_forge() -> Forge {
    let mut forge = Forge::new();
    forge.document.put("nonce", Cbor::bytes(NONCE));
    forge.document.put("user_data", Cbor::bytes(b"transcript"));
    forge.document.put("public_key", Cbor::bytes(b"receipt key"));
    forge.document.put_pcr(16, &pcr(16));
    forge.document.put_pcr(17, &pcr(17));
    forge
}

fn session_expectation() -> Expectation<'static> {
    Expectation {
        nonce: Some(NONCE),
        user_data: Some(b"transcript"),
        public_key: Some(b"receipt key"),
        pcr16: Some(digest(16)),
        pcr17: Some(digest(17)),
    }
}

fn deployment() -> String {
    let value = |index| hex::encode(pcr(index));
    format!("[deployment]\npcr3 = [\"{}\"]\npcr4 = [\"{}\"]\npcr8 = [\"{}\"]\n", value(3), value(4), value(8))
}

fn statuses(verdict: &Verdict) -> [AxisStatus; 6] {
    Axis::ALL.map(|axis| verdict.axis(axis))
}

/// The verdict after a change of the session document, with every question asked.
fn after(change: impl FnOnce(&mut Document)) -> Verdict {
    let mut forge = session_forge();
    change(&mut forge.document);
    verdict_of(&forge, &(deployment() + "[freshness]\nmax_age = \"5m\"\n"), &session_expectation())
}

/// The code and the only axis that failed.
fn failure(change: impl FnOnce(&mut Document)) -> (&'static str, Axis) {
    let verdict = after(change);
    let failed: Vec<_> =
        Axis::ALL.into_iter().filter(|axis| verdict.axis(*axis) == AxisStatus::Failed).collect();
    assert_eq!(failed.len(), 1, "{verdict}");
    assert_eq!(verdict.outcome(), Outcome::Fail);
    assert_eq!(verdict.accepted().unwrap_err().axis(), failed[0]);
    assert_eq!(verdict.accepted_session().unwrap_err(), verdict.accepted().unwrap_err());
    (code(&verdict), failed[0])
}

#[test]
fn everything_asked_and_answered_is_a_pass() {
    let verdict = after(|_| ());
    assert_eq!(verdict.outcome(), Outcome::Pass, "{verdict}");
    assert_eq!(statuses(&verdict), [AxisStatus::Passed; 6]);
    assert!(verdict.checks().iter().all(|check| check.passed() && check.rejection().is_none()));
    let session = verdict.accepted_session().unwrap();
    let evidence = session.evidence();
    assert_eq!(Ok(evidence), verdict.accepted());
    assert_eq!(evidence.module_id(), MODULE_ID);
    assert_eq!(evidence.timestamp(), AT);
    assert_eq!(evidence.anchor(), "forge");
    assert_eq!(evidence.image(), "forged image");
    assert_eq!(evidence.tier(), Tier::Development);
    assert!(!evidence.debug());
    assert_eq!(evidence.nonce(), Some(NONCE));
    assert_eq!(evidence.user_data(), Some(&b"transcript"[..]));
    assert_eq!(evidence.public_key(), Some(&b"receipt key"[..]));
    assert_eq!(evidence.pcrs().enclave().unwrap().get(17), Some(&digest(17)));
    // The leaf is the first certificate to expire.
    assert_eq!(evidence.not_after(), Timestamp::from_seconds(NOW + 7200));
    assert_eq!(verdict.clone().into_accepted_session().as_ref(), verdict.accepted_session());
}

#[test]
fn fingerprints_are_of_the_certificates() {
    let forge = Forge::new();
    let certificates = forge.certificates();
    let verdict = verdict_at(
        &forge.document_with(&certificates),
        &policy(&certificates[0], ""),
        &Expectation::default(),
        AT,
    );
    let evidence = verdict.accepted().unwrap();
    let fingerprint = |der: &Vec<u8>| cleanroom_attestation::digest::Sha256Digest::of(&[der]);
    assert_eq!(*evidence.root_sha256(), fingerprint(&certificates[0]));
    assert_eq!(*evidence.leaf_sha256(), fingerprint(&certificates[4]));
}

#[test]
fn an_axis_that_was_not_asked_about_makes_it_partial() {
    let none = Expectation::default();
    let verdict = verdict_of(&session_forge(), "", &none);
    assert_eq!(verdict.outcome(), Outcome::Partial);
    let [platform, image, others @ ..] = statuses(&verdict);
    assert_eq!((platform, image), (AxisStatus::Passed, AxisStatus::Passed));
    assert_eq!(others, [AxisStatus::NotAsked; 4]);
    assert!(verdict.accepted().is_ok());
    let rejection = verdict.accepted_session().unwrap_err();
    assert_eq!((rejection.code(), rejection.axis()), ("session-not-asked", Axis::Freshness));

    let all = session_expectation();
    let without_deployment = verdict_of(&session_forge(), "", &all);
    assert_eq!(without_deployment.outcome(), Outcome::Partial);
    assert_eq!(without_deployment.axis(Axis::Deployment), AxisStatus::NotAsked);
    // Whose account it runs in is for the policy to ask; a channel is bound without it.
    assert!(without_deployment.accepted_session().is_ok());
}

#[test]
fn a_channel_needs_every_question_of_a_session() {
    let all = session_expectation();
    for (expected, axis) in [
        (Expectation { nonce: None, ..all }, Axis::Freshness),
        (Expectation { pcr16: None, ..all }, Axis::Model),
        (Expectation { user_data: None, ..all }, Axis::Session),
        (Expectation { public_key: None, ..all }, Axis::Session),
        (Expectation { pcr17: None, ..all }, Axis::Session),
    ] {
        let verdict = verdict_of(&session_forge(), "", &expected);
        assert!(verdict.accepted().is_ok());
        let rejection = verdict.accepted_session().unwrap_err();
        assert_eq!((rejection.code(), rejection.axis()), ("session-not-asked", axis));
        assert_eq!(verdict.clone().into_accepted_session().as_ref().unwrap_err(), rejection);
    }
    for (length, accepted) in [(1, false), (15, false), (16, true)] {
        let mut forge = session_forge();
        forge.document.put("nonce", Cbor::bytes(&NONCE[..length]));
        let verdict = verdict_of(&forge, "", &Expectation { nonce: Some(&NONCE[..length]), ..all });
        assert!(verdict.accepted().is_ok());
        assert_eq!(verdict.accepted_session().is_ok(), accepted, "{length}");
    }
}

#[test]
fn image() {
    for (index, expected) in [(0, "pcr0-mismatch"), (1, "pcr1-mismatch"), (2, "pcr2-mismatch")] {
        assert_eq!(failure(|document| document.put_pcr(index, &pcr(99))), (expected, Axis::Image));
    }
    // Registers in each other's place.
    let swapped = |document: &mut Document| {
        document.put_pcr(1, &pcr(2));
        document.put_pcr(2, &pcr(1));
    };
    assert_eq!(failure(swapped), ("pcr1-mismatch", Axis::Image));
}

#[test]
fn images_are_a_set_and_each_is_whole() {
    let image = |name: &str, values: [u8; 3]| {
        let pcrs =
            [0, 1, 2].map(|index: usize| format!("pcr{index} = \"{}\"\n", hex::encode(pcr(values[index]))));
        format!("[[image]]\nname = \"{name}\"\n{}", pcrs.concat())
    };
    let verdict_with = |values: [u8; 3]| {
        let mut forge = Forge::new();
        for (index, value) in (0..).zip(values) {
            forge.document.put_pcr(index, &pcr(value));
        }
        verdict_of(&forge, &image("second", [10, 11, 12]), &Expectation::default())
    };
    assert_eq!(verdict_with([0, 1, 2]).accepted().unwrap().image(), "forged image");
    assert_eq!(verdict_with([10, 11, 12]).accepted().unwrap().image(), "second");
    // Parts of two images are no image, and the report compares with the closer one.
    let mixed = verdict_with([10, 1, 12]);
    assert_eq!(code(&mixed), "pcr1-mismatch");
    assert!(mixed.accepted().unwrap_err().to_string().contains("second"));
    assert_eq!(code(&verdict_with([0, 1, 12])), "pcr2-mismatch");
}

#[test]
fn debug_mode_is_any_of_three_registers_zero_or_absent() {
    for index in 0..3 {
        let zero = after(|document| document.put_pcr(index, &[0; 48]));
        assert_eq!(code(&zero), "debug-enclave", "{index}");
        assert!(zero.debug());
        assert_eq!(code(&after(|document| document.remove_pcr(index))), "debug-enclave", "{index}");
    }
    // Other registers may be zero or absent.
    for index in 5..8 {
        assert_eq!(code(&after(|document| document.remove_pcr(index))), "accepted", "{index}");
    }
    assert!(!after(|_| ()).debug());
}

#[test]
fn debug_mode_is_accepted_where_the_policy_says_so_and_is_loud() {
    let debug_image = "[[image]]\nname = \"bench\"\ndebug = true\n";
    let mut forge = session_forge();
    assert_eq!(code(&verdict_of(&forge, debug_image, &Expectation::default())), "accepted");
    for index in 0..3 {
        forge.document.put_pcr(index, &[0; 48]);
        let verdict = verdict_of(&forge, debug_image, &session_expectation());
        let evidence = verdict.accepted().unwrap();
        assert!(evidence.debug() && verdict.debug());
        assert_eq!(evidence.image(), "bench");
        assert!(verdict.to_string().lines().next().unwrap().contains("DEBUG"));
        assert_eq!(serde_json::to_value(&verdict).unwrap()["debug"], true);
    }
    // An entry for debug enclaves says nothing about others.
    let certificates = forge.certificates();
    let text = policy_text(&certificates[0], "");
    let (head, _) = text.split_once("[[image]]").unwrap();
    let only_debug =
        cleanroom_attestation::policy::Policy::from_toml(&format!("{head}{debug_image}")).unwrap();
    let measured = session_forge();
    let document = Forge { chain: forge.chain.clone(), ..measured }.document_with(&certificates);
    assert_eq!(code(&verdict_at(&document, &only_debug, &Expectation::default(), AT)), "image-platform");
}

#[test]
fn deployment_registers() {
    for (index, expected) in [(3, "pcr3-mismatch"), (4, "pcr4-mismatch"), (8, "pcr8-mismatch")] {
        assert_eq!(failure(|document| document.put_pcr(index, &pcr(99))), (expected, Axis::Deployment));
        assert_eq!(failure(|document| document.remove_pcr(index)), (expected, Axis::Deployment));
        assert_eq!(failure(|document| document.put_pcr(index, &[0; 48])), (expected, Axis::Deployment));
    }
    let set = format!("[deployment]\npcr4 = [\"{}\", \"{}\"]\n", hex::encode(pcr(70)), hex::encode(pcr(4)));
    let verdict = verdict_of(&Forge::new(), &set, &Expectation::default());
    assert_eq!(verdict.axis(Axis::Deployment), AxisStatus::Passed);
    let mut forge = Forge::new();
    forge.document.put_pcr(4, &pcr(71));
    let verdict = verdict_of(&forge, &set, &Expectation::default());
    assert_eq!(code(&verdict), "pcr4-mismatch");
    assert!(verdict.accepted().unwrap_err().to_string().contains("one of 2 values"));
    // Registers that the policy does not ask about may be anything.
    forge.document.put_pcr(4, &pcr(70));
    forge.document.put_pcr(3, &pcr(99));
    assert_eq!(code(&verdict_of(&forge, &set, &Expectation::default())), "accepted");
}

#[test]
fn model_and_session_registers() {
    for (index, expected) in [(16, ("pcr16-mismatch", Axis::Model)), (17, ("pcr17-mismatch", Axis::Session))]
    {
        assert_eq!(failure(|document| document.put_pcr(index, &pcr(99))), expected);
        assert_eq!(failure(|document| document.remove_pcr(index)), expected);
    }
}

#[test]
fn session_fields() {
    for (field, expected) in [
        ("user_data", ("user-data-mismatch", Axis::Session)),
        ("public_key", ("public-key-mismatch", Axis::Session)),
        ("nonce", ("nonce-mismatch", Axis::Freshness)),
    ] {
        assert_eq!(failure(|document| document.put(field, Cbor::bytes(b"another"))), expected);
        assert_eq!(failure(|document| document.put(field, Cbor::bytes(b""))), expected);
        assert_eq!(failure(|document| document.put(field, Cbor::Null)), expected);
        assert_eq!(failure(|document| document.remove(field)), expected);
    }
    assert_eq!(failure(|document| document.put("nonce", Cbor::bytes(&NONCE[..31]))).0, "nonce-mismatch");
    let longer = [NONCE, b"!"].concat();
    assert_eq!(failure(|document| document.put("nonce", Cbor::bytes(&longer))).0, "nonce-mismatch");
    // Nobody's challenge is not answered by nobody's answer.
    let mut forge = Forge::new();
    forge.document.put("nonce", Cbor::bytes(b""));
    let empty = Expectation { nonce: Some(b""), ..Expectation::default() };
    assert_eq!(code(&verdict_of(&forge, "", &empty)), "nonce-mismatch");
}

#[test]
fn a_report_names_everything_that_is_wrong() {
    let verdict = after(|document| {
        document.put_pcr(0, &pcr(90));
        document.put_pcr(3, &pcr(93));
        document.put_pcr(16, &pcr(96));
        document.put("nonce", Cbor::Null);
        document.put("user_data", Cbor::bytes(&[0xab; 200]));
    });
    let failed: Vec<_> = verdict.checks().iter().filter_map(Check::rejection).collect();
    let expected =
        ["pcr0-mismatch", "pcr3-mismatch", "pcr16-mismatch", "nonce-mismatch", "user-data-mismatch"];
    assert_eq!(failed, expected);
    assert_eq!(code(&verdict), "pcr0-mismatch");
    let text = verdict.to_string();
    assert!(text.starts_with("FAIL  DEVELOPMENT"), "{text}");
    for expected in expected {
        assert!(text.contains(expected), "{text}");
    }
    assert!(text.contains(&format!("{}… (200 bytes)", "ab".repeat(64))), "{text}");
    assert!(text.contains("(absent)"), "{text}");
    assert!(text.contains("root `forge` (development), valid at 2026-03-01T12:00:00.000Z"), "{text}");
    let rejection = verdict.accepted().unwrap_err();
    assert_eq!(
        rejection.to_string(),
        format!(
            "pcr0-mismatch: PCR 0: expected {} (image `forged image`), got {}",
            hex::encode(pcr(0)),
            hex::encode(pcr(90))
        )
    );
}

#[test]
fn bytes_in_a_report() {
    let report = |user_data: &[u8]| {
        let verdict = after(|document| document.put("user_data", Cbor::bytes(user_data)));
        verdict.accepted().unwrap_err().to_string()
    };
    let expected = format!("user-data-mismatch: user data: expected {}, got ", hex::encode(b"transcript"));
    assert_eq!(report(b""), format!("{expected}(empty)"));
    assert_eq!(report(b"\x01"), format!("{expected}01"));
    assert_eq!(report(&[1; 64]), format!("{expected}{}", "01".repeat(64)));
    assert_eq!(report(&[1; 65]), format!("{expected}{}… (65 bytes)", "01".repeat(64)));
}

#[test]
fn names_of_axes() {
    for axis in Axis::ALL {
        assert_eq!(serde_json::to_value(axis).unwrap(), axis.as_str());
        assert_eq!(axis.to_string(), axis.as_str());
    }
}

#[test]
fn age() {
    let at = |seconds: u64, freshness: &str| {
        let forge = session_forge();
        let certificates = forge.certificates();
        let policy = policy(&certificates[0], freshness);
        let at = Timestamp::from_millis(seconds * 1000 + 500);
        code(&verdict_at(&forge.document_with(&certificates), &policy, &Expectation::default(), at))
    };
    let five_minutes = "[freshness]\nmax_age = \"5m\"\n";
    assert_eq!(at(NOW, five_minutes), "accepted");
    assert_eq!(at(NOW + 299, five_minutes), "accepted");
    assert_eq!(at(NOW + 300, five_minutes), "evidence-too-old");
    assert_eq!(at(NOW + 300, ""), "accepted");
    // A clock that is slow: a minute is forgiven unless the policy says otherwise.
    assert_eq!(at(NOW - 60, five_minutes), "accepted");
    assert_eq!(at(NOW - 61, five_minutes), "timestamp-in-future");
    let strict = "[freshness]\nmax_age = \"5m\"\nmax_skew = \"10s\"\n";
    assert_eq!(at(NOW - 10, strict), "accepted");
    assert_eq!(at(NOW - 11, strict), "timestamp-in-future");
}

/// The same words whichever rule about time is broken: they are in the rejection, which every command prints.
#[test]
fn a_wrong_clock_is_told_by_the_documents_own_time_stamp() {
    let told = |at_ms: u64, freshness: &str| {
        let mut forge = session_forge();
        // Four seconds after its leaf began, as AWS has it.
        forge.document.put("timestamp", Cbor::Unsigned((NOW - 3596) * 1000));
        let certificates = forge.certificates();
        let policy = policy(&certificates[0], freshness);
        let document = forge.document_with(&certificates);
        let verdict = verdict_at(&document, &policy, &Expectation::default(), Timestamp::from_millis(at_ms));
        let rejection = verdict.accepted().unwrap_err();
        let text = rejection.to_string();
        assert!(verdict.to_string().contains(text.split_once("; ").unwrap().1), "{verdict}");
        (rejection.code(), text.split_once("your clock looks ").unwrap().1.to_owned())
    };
    let made = (NOW - 3596) * 1000;
    let five_minutes = "[freshness]\nmax_age = \"5m\"\n";
    let old = ", unless the document is that old";
    assert_eq!(told(made - 64_001, ""), ("certificate-not-yet-valid", "slow by 1m 4s 1ms".to_owned()));
    assert_eq!(told(made - 61_000, five_minutes), ("timestamp-in-future", "slow by 1m 1s".to_owned()));
    assert_eq!(told(made + 301_000, five_minutes), ("evidence-too-old", format!("fast by 5m 1s{old}")));
    assert_eq!(told(made + 10_800_000, ""), ("certificate-expired", format!("fast by 3h{old}")));
    // A rule about something else says nothing about clocks.
    let verdict = after(|document| document.put_pcr(0, &pcr(99)));
    assert_eq!(verdict.accepted().unwrap_err().clock(), None);
}

#[test]
fn machines_with_a_tpm_are_another_platform() {
    let mut forge = Forge::new();
    forge.document.become_tpm(TPM_MODULE_ID);
    forge.leaf().subject = cleanroom_forge::Name::of(&format!("{TPM_MODULE_ID}.eu-forge-1.forged"));
    let none = Expectation::default();
    // The same values in the same registers, but an enclave was asked for.
    assert_eq!(code(&verdict_of(&forge, "", &none)), "image-platform");
    let image = |four: u8, seven: u8| {
        let [four, seven, zero] = [pcr(four), pcr(seven), [0; 48]].map(hex::encode);
        format!(
            "[[nitrotpm_image]]\nname = \"ami\"\npcrs = {{ 4 = \"{four}\", 7 = \"{seven}\", 12 = \"{zero}\" }}\n"
        )
    };
    let verdict = verdict_of(&forge, &image(4, 7), &none);
    assert_eq!(verdict.accepted().unwrap().image(), "ami");
    assert!(!verdict.debug());
    assert_eq!(code(&verdict_of(&forge, &image(5, 7), &none)), "nitrotpm-pcr-mismatch");
    assert_eq!(code(&verdict_of(&forge, &image(4, 8), &none)), "nitrotpm-pcr-mismatch");
    // Its registers 3, 4, 8, 16 and 17 have other meanings, and never stand in for an enclave's. Its commitments are in 14 and 15.
    assert_eq!(code(&verdict_of(&forge, &(image(4, 7) + &deployment()), &none)), "pcr3-mismatch");
    let sixteen = Expectation { pcr16: Some(digest(16)), ..none };
    assert_eq!(code(&verdict_of(&forge, &image(4, 7), &sixteen)), "nitrotpm-pcr-mismatch");
    let seventeen = Expectation { pcr17: Some(digest(17)), ..none };
    assert_eq!(code(&verdict_of(&forge, &image(4, 7), &seventeen)), "nitrotpm-pcr-mismatch");
    let mut closed = forge.clone();
    for (register, value) in [(14, digest(16)), (15, digest(17))] {
        closed.document.put_pcr(register, Registers::NitroTpm.closed(&value).as_bytes());
    }
    let both = Expectation { pcr17: Some(digest(17)), ..sixteen };
    let verdict = verdict_of(&closed, &image(4, 7), &both);
    assert!(verdict.accepted().is_ok(), "{verdict}");
    // Something was added to the image at boot.
    let mut added = forge.clone();
    added.document.put_pcr(12, &pcr(12));
    assert_eq!(code(&verdict_of(&added, &image(4, 7), &none)), "nitrotpm-pcr-mismatch");
    added.document.remove_pcr(12);
    assert_eq!(code(&verdict_of(&added, &image(4, 7), &none)), "nitrotpm-pcr-mismatch");
    // Zero registers are not debug mode there.
    forge.document.put_pcr(0, &[0; 48]);
    let verdict = verdict_of(&forge, &image(4, 7), &none);
    assert!(verdict.accepted().is_ok() && !verdict.debug());
}

#[test]
fn a_document_that_is_not_genuine_has_one_failing_check_and_no_tier() {
    let mut forge = session_forge();
    forge.sign_with(5, &cleanroom_forge::Key::generate());
    let verdict = verdict_of(&forge, &deployment(), &session_expectation());
    assert_eq!(code(&verdict), "document-signature");
    assert_eq!(verdict.checks().iter().filter(|check| !check.passed()).count(), 1);
    assert_eq!(verdict.tier(), None);
    assert!(!verdict.debug());
    let [platform, others @ ..] = statuses(&verdict);
    assert_eq!(platform, AxisStatus::Failed);
    assert_eq!(others, [AxisStatus::NotAsked; 5]);
    let verdict = verdict_at(b"nonsense", &policy(b"", ""), &session_expectation(), AT);
    assert_eq!(verdict.outcome(), Outcome::Fail);
    assert_eq!(verdict.checks().len(), 1);
    assert_eq!(verdict.checks()[0].axis(), Axis::Platform);
    assert_eq!(verdict.checks()[0].what(), "document");
    assert_eq!(verdict.checks()[0].expected(), "a well-formed attestation document");
    assert!(verdict.checks()[0].actual().contains("expected"));
}

#[test]
fn the_verdict_as_an_object() {
    let verdict = after(|_| ());
    let object = serde_json::to_value(&verdict).unwrap();
    assert_eq!(object["outcome"], "pass");
    assert_eq!(object["judged_at"], "2026-03-01T12:00:00.000Z");
    assert_eq!(object["policy_sha256"], verdict.policy_sha256().to_string());
    assert_eq!(object["axes"]["platform"], "passed");
    assert_eq!(object["tier"], "development");
    assert_eq!(object["debug"], false);
    assert_eq!(object["rejection"], serde_json::Value::Null);
    assert_eq!(object["evidence"]["module_id"], MODULE_ID);
    assert_eq!(object["evidence"]["timestamp"], "2026-03-01T12:00:00.000Z");
    assert_eq!(object["evidence"]["nonce"], hex::encode(NONCE));
    assert_eq!(object["evidence"]["pcrs"]["nitro-enclave"]["16"], hex::encode(pcr(16)));
    assert_eq!(object["checks"][0]["axis"], "platform");
    let failed = serde_json::to_value(after(|document| document.put("nonce", Cbor::Null))).unwrap();
    assert_eq!(failed["outcome"], "fail");
    assert_eq!(failed["axes"]["freshness"], "failed");
    assert_eq!(failed["evidence"], serde_json::Value::Null);
    assert_eq!(failed["rejection"]["code"], "nonce-mismatch");
    let partial = serde_json::to_value(verdict_of(&Forge::new(), "", &Expectation::default())).unwrap();
    assert_eq!(partial["outcome"], "partial");
    assert_eq!(partial["axes"]["session"], "not-asked");
}

#[test]
fn the_verdict_as_text() {
    let text = after(|_| ()).to_string();
    assert!(text.starts_with("PASS  DEVELOPMENT root"), "{text}");
    assert!(!text.contains("DEBUG") && !text.contains("FAIL"), "{text}");
    assert!(text.contains("platform    passed\n  ok   document"), "{text}");
    let text = verdict_of(&Forge::new(), "", &Expectation::default()).to_string();
    assert!(text.starts_with("PARTIAL  DEVELOPMENT root"), "{text}");
    assert!(text.contains("session     not asked\n"), "{text}");
}
