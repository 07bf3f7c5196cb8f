//! Every document that AWS signed verifies at its own time, and nothing next to it does.

use crate::aws::{AwsDocument, documents, negative_documents};
use crate::common::code;
use cleanroom_attestation::chain::{ChainCache, Tier, describe};
use cleanroom_attestation::document::{Document, Pcrs};
use cleanroom_attestation::measurement::of_name;
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::{Axis, AxisStatus, Expectation, Outcome, Verdict, appraise};

fn at_own_time(document: &AwsDocument) -> Verdict {
    appraise(&document.bytes, &document.policy(), &Expectation::default(), document.timestamp(), None)
}

#[test]
fn each_verifies_at_its_own_time_with_the_expected_facts() {
    let Some(documents) = documents() else { return };
    for document in &documents {
        let verdict = at_own_time(document);
        let name = &document.name;
        let evidence =
            verdict.accepted().unwrap_or_else(|rejection| panic!("{name}: {rejection}\n{verdict}"));
        assert_eq!(verdict.outcome(), Outcome::Partial, "{name}");
        assert_eq!(verdict.axis(Axis::Platform), AxisStatus::Passed, "{name}");
        assert_eq!(verdict.axis(Axis::Image), AxisStatus::Passed, "{name}");
        assert_eq!(verdict.axis(Axis::Freshness), AxisStatus::NotAsked, "{name}");
        assert_eq!(verdict.tier(), Some(Tier::Production), "{name}");
        assert_eq!(evidence.anchor(), "aws");
        assert_eq!(evidence.module_id(), document.facts["module_id"], "{name}");
        assert_eq!(evidence.timestamp(), document.timestamp(), "{name}");
        assert_eq!(evidence.debug(), document.is_debug(), "{name}");
        assert_eq!(verdict.debug(), document.is_debug(), "{name}");
        assert_eq!(matches!(evidence.pcrs(), Pcrs::NitroTpm(_)), document.is_tpm(), "{name}");
        check_registers(document, evidence.pcrs());
        let fields = [
            ("nonce", evidence.nonce()),
            ("user_data", evidence.user_data()),
            ("public_key", evidence.public_key()),
        ];
        for (field, value) in fields {
            let value = value.map_or("null".to_owned(), |bytes| format!("{} bytes", bytes.len()));
            assert_eq!(value, document.facts["fields"][field], "{name}: {field}");
        }
    }
}

fn check_registers(document: &AwsDocument, pcrs: &Pcrs) {
    let values: Vec<_> = match pcrs {
        Pcrs::NitroEnclave(pcrs) => pcrs.iter().map(|(index, value)| (index, *value)).collect(),
        Pcrs::NitroTpm(pcrs) => pcrs.iter().map(|(index, value)| (index, *value)).collect(),
    };
    assert_eq!(values.len() as u64, document.facts["pcr_count"].as_u64().unwrap(), "{}", document.name);
    for (index, value) in values {
        let expected = document.pcr(usize::from(index)).map_or("0".repeat(96), str::to_owned);
        assert_eq!(value.to_string(), expected, "{}: PCR {index}", document.name);
    }
}

#[test]
fn the_view_of_the_chain_shows_what_is_in_it() {
    let Some(documents) = documents() else { return };
    for document in &documents {
        let parsed = Document::parse(&document.bytes).unwrap();
        let views = describe(&parsed);
        let (leaf, authorities) = views.split_last().unwrap();
        let facts = document.facts["cas"].as_array().unwrap();
        assert_eq!(authorities.len(), facts.len());
        let seconds = |time: Timestamp| time.to_string().replace(".000Z", "+00:00");
        for (view, facts) in authorities.iter().zip(facts) {
            assert_eq!(view.sha256.to_string(), facts["sha256"], "{}", document.name);
            let contents = view.contents.as_ref().unwrap();
            assert_eq!(seconds(contents.not_before), facts["not_before"]);
            assert_eq!(seconds(contents.not_after), facts["not_after"]);
            assert!(contents.ca);
            // index.json writes the attributes from the last to the first.
            let mut attributes: Vec<_> = contents.subject.split(", ").collect();
            attributes.reverse();
            assert_eq!(attributes.join(","), facts["subject"]);
        }
        let contents = leaf.contents.as_ref().unwrap();
        assert_eq!(seconds(contents.not_before), document.facts["leaf"]["not_before"]);
        assert_eq!(seconds(contents.not_after), document.facts["leaf"]["not_after"]);
        assert!(!contents.ca);
    }
}

#[test]
fn none_verifies_one_second_outside_its_window_and_tolerance() {
    let Some(documents) = documents() else { return };
    for document in &documents {
        let parsed = Document::parse(&document.bytes).unwrap();
        let contents: Vec<_> = describe(&parsed).into_iter().map(|view| view.contents.unwrap()).collect();
        let not_before = contents.iter().map(|contents| contents.not_before).max().unwrap();
        let not_after = contents.iter().map(|contents| contents.not_after).min().unwrap();
        let policy = document.policy();
        let mut cache = ChainCache::new();
        let mut code_at = |seconds: u64| {
            let at = Timestamp::from_seconds(seconds);
            let plain = appraise(&document.bytes, &policy, &Expectation::default(), at, None);
            let cached = appraise(&document.bytes, &policy, &Expectation::default(), at, Some(&mut cache));
            assert_eq!(plain, cached, "{}", document.name);
            code(&plain)
        };
        assert_eq!(code_at(not_before.as_seconds()), "accepted", "{}", document.name);
        assert_eq!(code_at(not_after.as_seconds()), "accepted", "{}", document.name);
        // The policy says nothing about clocks, so one that is a minute slow is forgiven.
        assert_eq!(code_at(not_before.as_seconds() - 60), "accepted", "{}", document.name);
        assert_eq!(code_at(not_before.as_seconds() - 61), "certificate-not-yet-valid", "{}", document.name);
        assert_eq!(code_at(not_after.as_seconds() + 1), "certificate-expired", "{}", document.name);
    }
}

/// What a partner computes for a deployment is what AWS's hypervisor measured.
#[test]
fn pcr_4_is_of_the_instance_id() {
    let Some(documents) = documents() else { return };
    let mut compared = 0;
    for document in documents.iter().filter(|document| !document.is_tpm()) {
        let module = document.facts["module_id"].as_str().unwrap();
        let (instance, _) = module.split_once("-enc").unwrap();
        assert_eq!(document.pcr(4), Some(of_name(instance).to_string().as_str()), "{}", document.name);
        compared += 1;
    }
    assert!(compared > 40, "{compared}");
}

#[test]
fn debug_documents_need_an_explicit_expectation() {
    let Some(documents) = documents() else { return };
    let debug: Vec<_> = documents.iter().filter(|document| document.is_debug()).collect();
    assert!(!debug.is_empty());
    let measured = documents.iter().find(|document| !document.is_debug() && !document.is_tpm()).unwrap();
    for document in debug {
        let expected = Expectation::default();
        let verdict = appraise(&document.bytes, &measured.policy(), &expected, document.timestamp(), None);
        assert_eq!(code(&verdict), "debug-enclave", "{}", document.name);
        assert!(verdict.debug());
        assert!(verdict.to_string().contains("DEBUG"));
    }
}

#[test]
fn the_roots_of_other_partitions_are_not_this_one() {
    let Some(documents) = documents() else { return };
    for document in &documents {
        let text = document.policy_text().replace("\"aws\"", "\"aws-us-gov\"");
        let policy = Policy::from_toml(&text).unwrap();
        let verdict = appraise(&document.bytes, &policy, &Expectation::default(), document.timestamp(), None);
        assert_eq!(code(&verdict), "root-not-trusted", "{}", document.name);
    }
}

#[test]
fn documents_under_roots_of_strangers_are_refused() {
    let Some(documents) = negative_documents() else { return };
    let policy = "version = 1\n[[trust_anchor]]\nname = \"aws\"\n[[trust_anchor]]\nname = \"aws-us-gov\"\n\
                  [[image]]\nname = \"any\"\ndebug = true\n";
    let policy = Policy::from_toml(policy).unwrap();
    for document in &documents {
        let verdict = appraise(&document.bytes, &policy, &Expectation::default(), document.timestamp(), None);
        assert_eq!(code(&verdict), "root-not-trusted", "{}", document.name);
        assert_eq!(verdict.tier(), None);
    }
}
