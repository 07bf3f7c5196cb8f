//! The conformance vectors of `docs/verification.md`: the committed ones and freshly made ones, on this build's backend.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleanroom_attestation::chain::ChainCache;
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::{Check, Expectation, Verdict, appraise};
use cleanroom_forge::conformance::{self, Coverage, Outcome, Response, Vector};
use serde_json::Value;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What this library answers, with and without a cache.
fn respond(vector: &Vector) -> Response {
    let request = &vector.request;
    let Ok(policy) = Policy::from_toml(&request.policy) else {
        return Response {
            outcome: Outcome::Invalid,
            code: Some("policy".to_owned()),
            failed: None,
            axes: None,
            tier: None,
            debug: None,
            session: None,
        };
    };
    let document = STANDARD.decode(&request.document).unwrap();
    let bytes = |text: &Option<String>| text.as_ref().map(|text| hex::decode(text).unwrap());
    let register = |text: &Option<String>| text.as_ref().map(|text| text.parse().unwrap());
    let expected = &request.expected;
    let (nonce, user_data, public_key) =
        (bytes(&expected.nonce), bytes(&expected.user_data), bytes(&expected.public_key));
    let expectation = Expectation {
        nonce: nonce.as_deref(),
        user_data: user_data.as_deref(),
        public_key: public_key.as_deref(),
        pcr16: register(&expected.pcr16),
        pcr17: register(&expected.pcr17),
    };
    let at = Timestamp::from_millis(request.at_ms);
    let verdict = appraise(&document, &policy, &expectation, at, None);
    let mut cache = ChainCache::new();
    for round in ["filling the cache", "with the cache"] {
        let cached = appraise(&document, &policy, &expectation, at, Some(&mut cache));
        assert_eq!(cached, verdict, "{}: {round}", vector.id);
    }
    response(&verdict)
}

fn response(verdict: &Verdict) -> Response {
    let object = serde_json::to_value(verdict).unwrap();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let failed = verdict.checks().iter().filter_map(Check::rejection).map(str::to_owned);
    Response {
        outcome: serde_json::from_value(object["outcome"].clone()).unwrap(),
        code: text(&object["rejection"]["code"]),
        failed: Some(failed.collect()),
        axes: Some(serde_json::from_value(object["axes"].clone()).unwrap()),
        tier: text(&object["tier"]),
        debug: object["debug"].as_bool(),
        session: Some(match verdict.accepted_session() {
            Ok(_) => "accepted".to_owned(),
            Err(rejection) => rejection.code().to_owned(),
        }),
    }
}

fn check(vectors: &[Vector]) {
    let wrong: Vec<_> = vectors
        .iter()
        .map(|vector| (vector, respond(vector)))
        .filter(|(vector, response)| vector.response != *response)
        .map(|(vector, response)| format!("{}: expected {:?}, got {response:?}", vector.id, vector.response))
        .collect();
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), vectors.len(), wrong.join("\n"));
}

fn committed() -> Vec<Vector> {
    conformance::read(&repository()).unwrap()
}

#[test]
fn the_committed_vectors() {
    let vectors = committed();
    assert!(vectors.len() >= 150, "{}", vectors.len());
    check(&vectors);
}

#[test]
fn the_same_cases_made_anew() {
    let (mut made, mut committed) = (conformance::generate(), committed());
    check(&made);
    made.sort_by(|one, other| one.id.cmp(&other.id));
    committed.sort_by(|one, other| one.id.cmp(&other.id));
    let ids = |vectors: &[Vector]| vectors.iter().map(|vector| vector.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&made), ids(&committed), "run `cargo run -p cleanroom-forge -- write`");
    for (made, committed) in made.iter().zip(&committed) {
        // Keys, and therefore documents and pins, differ every time. Everything else is the same.
        let rest = |vector: &Vector| {
            let Vector { id: _, rules, about, request, response } = vector.clone();
            (rules, about, request.expected, request.at_ms, response)
        };
        assert_eq!(rest(made), rest(committed), "{}: run `cargo run -p cleanroom-forge -- write`", made.id);
    }
}

/// A verifier that knows the certificates above a leaf gives the answer of one that knows nothing.
#[test]
fn known_authorities_change_no_answer() {
    let mut known = 0;
    for (vector, sibling) in conformance::generate_with_siblings() {
        let request = &vector.request;
        let Ok(policy) = Policy::from_toml(&request.policy) else { continue };
        let document = STANDARD.decode(&request.document).unwrap();
        let at = Timestamp::from_millis(request.at_ms);
        let mut cache = ChainCache::new();
        let _ = appraise(&sibling, &policy, &Expectation::default(), at, Some(&mut cache));
        known += cache.len().0;
        let plain = appraise(&document, &policy, &Expectation::default(), at, None);
        let cached = appraise(&document, &policy, &Expectation::default(), at, Some(&mut cache));
        assert_eq!(cached, plain, "{}", vector.id);
    }
    assert!(known > 200, "only {known} vectors had authorities that could be known");
}

#[test]
fn the_vectors_stay_small() {
    let directory = repository().join(conformance::DIRECTORY);
    let files = std::fs::read_dir(directory).unwrap();
    let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 2_000_000, "{bytes}");
}
/// Every word in the sources that is a code: what stands behind the arrows of the `code` functions, and every hyphenated
/// word in the appraisal.
fn codes_of_the_sources() -> BTreeSet<String> {
    let source = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path);
        let text = std::fs::read_to_string(path).unwrap();
        text.split("#[cfg(test)]").next().unwrap().to_owned()
    };
    let is_code = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    let mut codes = BTreeSet::new();
    for path in [
        "document/error.rs",
        "chain/error.rs",
        "verdict/checks.rs",
        "measurement/error.rs",
        "measured_boot/error.rs",
    ] {
        let text = source(path);
        let words = text.split("=> \"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0));
        let found: Vec<_> = words.filter(|word| is_code(word)).map(str::to_owned).collect();
        assert!(!found.is_empty(), "{path}");
        codes.extend(found);
    }
    let text = source("verdict/appraise.rs");
    let words = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split('"').skip(1).step_by(2));
    codes.extend(words.filter(|word| is_code(word) && word.contains('-')).map(str::to_owned));
    codes
}

#[test]
fn every_code_is_in_the_specification() {
    let document = std::fs::read_to_string(repository().join("docs/verification.md")).unwrap();
    let coverage = Coverage::of(&document);
    let sources = codes_of_the_sources();
    assert!(sources.len() > 80, "{}", sources.len());
    let specified: BTreeSet<String> = coverage.codes().into_iter().map(str::to_owned).collect();
    let missing: Vec<_> = sources.difference(&specified).collect();
    assert!(missing.is_empty(), "not in docs/verification.md: {missing:?}");
    // Of the contract, not of the library.
    let others: BTreeSet<String> = ["policy", "request"].map(str::to_owned).into();
    let invented: Vec<_> = specified.difference(&sources).filter(|code| !others.contains(*code)).collect();
    assert!(invented.is_empty(), "in docs/verification.md and nowhere else: {invented:?}");
}
