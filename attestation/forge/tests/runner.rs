//! The conformance runner with verifiers that are wrong: it has to notice.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::process::{Command, Output};

use cleanroom_forge::conformance::{self, Vector};

const PASS: &str = r#"{"outcome":"pass"}"#;

fn committed() -> Vec<Vector> {
    conformance::read(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))).unwrap()
}

/// A verifier that says the same whatever it is asked.
fn always(answer: &str, exit_code: i32) -> Vec<String> {
    let script = format!("cat > /dev/null; printf '%s' '{answer}'; exit {exit_code}");
    ["sh", "-c", &script].map(str::to_owned).to_vec()
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_conformance")).args(arguments).output().unwrap()
}

#[test]
fn a_verifier_that_accepts_everything_is_found_out() {
    let vectors = committed();
    let report = conformance::run(&always(PASS, 0), &vectors).unwrap();
    let agreeing: Vec<_> = vectors
        .iter()
        .filter(|vector| !report.disagreements.iter().any(|disagreement| disagreement.id == vector.id))
        .collect();
    assert!(!report.agrees());
    assert!(agreeing.iter().all(|vector| vector.response.outcome == conformance::Outcome::Pass));
    assert!(!agreeing.is_empty() && agreeing.len() < 10, "{}", agreeing.len());
    let refused = vectors.iter().filter(|vector| vector.response.code.is_some()).count();
    assert_eq!(report.without_code, refused);
}

#[test]
fn a_verifier_that_refuses_everything_is_found_out() {
    let vectors = committed();
    let accepted = vectors.iter().filter(|vector| vector.response.code.is_none()).count();
    let invalid = vectors.iter().filter(|it| it.response.outcome == conformance::Outcome::Invalid).count();
    let report = conformance::run(&always(r#"{"outcome":"fail"}"#, 1), &vectors).unwrap();
    let outcomes = report.disagreements.iter().filter(|disagreement| disagreement.what == "outcome").count();
    assert_eq!(outcomes, accepted + invalid);
}

#[test]
fn every_member_of_an_answer_counts() {
    let vectors: Vec<_> = committed().into_iter().filter(|vector| vector.id == "registers/pcr0").collect();
    let what = |answer: &str, exit_code: i32| {
        let report = conformance::run(&always(answer, exit_code), &vectors).unwrap();
        report
            .disagreements
            .iter()
            .map(|disagreement| disagreement.what.clone())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(what(r#"{"outcome":"fail"}"#, 1), "");
    assert_eq!(what(r#"{"outcome":"fail","code":"pcr0-mismatch","more":1}"#, 1), "");
    assert_eq!(what(r#"{"outcome":"fail","code":"pcr1-mismatch"}"#, 1), "code");
    assert_eq!(what(r#"{"outcome":"fail","failed":[]}"#, 1), "failed");
    assert_eq!(what(r#"{"outcome":"fail","axes":{"platform":"passed"}}"#, 1), "axes");
    assert_eq!(what(r#"{"outcome":"fail","tier":"production"}"#, 1), "tier");
    assert_eq!(what(r#"{"outcome":"fail","debug":true}"#, 1), "debug");
    assert_eq!(what(r#"{"outcome":"fail","session":"accepted"}"#, 1), "session");
    assert_eq!(what(r#"{"outcome":"fail"}"#, 0), "exit code");
    assert_eq!(what("accepted", 1), "answer");
    assert_eq!(what("", 0), "answer");
    assert_eq!(what("[]", 1), "answer");
}

#[test]
fn the_exit_code_says_whether_it_agrees() {
    let command = always(PASS, 0);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let wrong = run(&[&["run"][..], &command].concat());
    assert_eq!(wrong.status.code(), Some(1));
    let table = String::from_utf8(wrong.stdout).unwrap();
    let line = table.lines().find(|line| line.starts_with("envelope/tag-17 ")).unwrap();
    assert!(line.contains("V-1.2") && line.ends_with("outcome: expected fail, got pass"), "{line}");

    let partial = always(r#"{"outcome":"partial"}"#, 3);
    let partial: Vec<&str> = partial.iter().map(String::as_str).collect();
    let right = run(&[&["run", "--only", "session/without-model"][..], &partial].concat());
    assert_eq!(right.status.code(), Some(0), "{}", String::from_utf8_lossy(&right.stdout));

    for nothing in [
        &["run"][..],
        &["run", "--only", "x/"],
        &["run", "--only", "x/", "true"],
        &[],
        &["other"],
        &["run", "/no/such/program"],
    ] {
        assert_eq!(run(nothing).status.code(), Some(2), "{nothing:?}");
    }
}
