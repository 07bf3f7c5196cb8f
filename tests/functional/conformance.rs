//! The verification contract end to end: the `cleanroom` program answers every vector through it, and the specification's
//! table says what the vectors are.

use cleanroom_forge::conformance::{self, Coverage};
use cleanroom_tests::clean_room::repository;
use cleanroom_tests::processes;

#[test]
fn this_projects_verifier_agrees_with_every_vector() {
    let vectors = conformance::read(&repository()).unwrap();
    let program = processes::file("cleanroom").to_str().unwrap().to_owned();
    let report = conformance::run(&[program, "conformance".to_owned()], &vectors).unwrap();
    assert!(report.agrees(), "{report}");
    assert_eq!((report.vectors, report.without_code), (vectors.len(), 0));
}

#[test]
fn the_specification_and_the_vectors_agree() {
    let document = std::fs::read_to_string(repository().join("docs/verification.md")).unwrap();
    let vectors = conformance::read(&repository()).unwrap();
    let problems = Coverage::of(&document).problems(&vectors);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    let table = conformance::table(&document, &vectors);
    assert!(document.contains(&table), "run `cargo run -p cleanroom-forge -- table`");
}
