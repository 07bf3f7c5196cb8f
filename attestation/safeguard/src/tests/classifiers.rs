//! What a policy makes of a classifier's scores.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cleanroom_attestation::digest::Sha256Digest;
use proptest::prelude::*;

use crate::{Action, Classifier, Exchange, Policy, PolicyError, PromptReading, Verdict, pieces};

const FILE: &[u8] = b"a classifier's file";

fn digest(file: &[u8]) -> String {
    Sha256Digest::of(&[file]).to_string()
}

/// A policy with one classifier and these members.
fn read(members: &str) -> Result<Policy, PolicyError> {
    let text = format!(
        "version = 1\nid = 'test'\nhold_back = 4\n\n[[rules]]\nid = 'rule'\non = 'exchange'\naction = 'flag'\nany = \
         ['ruled']\n\n[[classifiers]]\nid = 'mood'\nsha256 = '{}'\nlabel = 'bad'\n{members}",
        digest(FILE)
    );
    Policy::read(text.as_bytes())
}

/// A text's score is the number of its letters `x`, in tenths; a `?` has no number.
fn count(text: &str, label: usize) -> f32 {
    assert_eq!(label, 1);
    if text.contains('?') { f32::NAN } else { text.matches('x').count() as f32 / 10.0 }
}

fn classifier() -> Arc<Classifier> {
    Arc::new(Classifier::new(FILE, ["good", "bad"], count))
}

fn policy(members: &str) -> Arc<Policy> {
    let mut policy = read(members).unwrap_or_else(|error| panic!("{error}"));
    assert!(policy.attach(&classifier()).unwrap());
    assert_eq!(policy.missing().count(), 0);
    Arc::new(policy)
}

fn prompt(policy: &Arc<Policy>, texts: &[&str]) -> (Action, Vec<String>) {
    let mut exchange = Exchange::new(Arc::clone(policy));
    let mut verdict = Verdict::default();
    texts.iter().for_each(|text| verdict = exchange.prompt(text));
    (verdict.action, verdict.rules.iter().map(ToString::to_string).collect())
}

#[test]
fn a_score_leads_to_the_strictest_action_that_it_reaches() {
    let policy = policy("on = 'prompt'\nflag = 0.2\nrefuse = 0.4\nend = 0.6");
    for (texts, action, named) in [
        (&["x"][..], Action::Allow, &[][..]),
        (&["xx"], Action::Flag, &["mood"]),
        (&["x", "x"], Action::Allow, &[]),
        (&["xxx", "x"], Action::Flag, &["mood"]),
        (&["xxx ruled"], Action::Flag, &["rule", "mood"]),
        (&["xxxx", "ruled"], Action::Refuse, &["mood", "rule"]),
        (&["xxxxxx"], Action::End, &["mood"]),
        // What is no number is the worst.
        (&["?"], Action::End, &["mood"]),
        (&[""], Action::Allow, &[]),
    ] {
        let (found, rules) = prompt(&policy, texts);
        assert_eq!((found, &*rules), (action, &*named.iter().map(ToString::to_string).collect::<Vec<_>>()));
    }
}

#[test]
fn the_pieces_of_a_text_overlap_and_are_all_of_it() {
    assert_eq!(pieces("").count(), 0);
    assert_eq!(pieces("short").collect::<Vec<_>>(), ["short"]);
    for letter in ["a", "é", "€", "😀"] {
        for length in [2047, 2048, 2049, 3584, 3585, 10_000] {
            let text = letter.repeat(length);
            let (mut end, mut count) = (0, 0);
            for piece in pieces(&text) {
                assert!(piece.len() <= 2048);
                // It begins 512 bytes before the end of the one before, or a character earlier.
                let start = if count == 0 { 0 } else { (end - 512_usize) / letter.len() * letter.len() };
                end = start + piece.len();
                count += 1;
            }
            assert_eq!(end, text.len(), "{letter} {length}");
            assert_eq!(count, (text.len().saturating_sub(512)).div_ceil(1536).max(1), "{letter} {length}");
        }
    }
    // What is in a later piece is found.
    let policy = policy("on = 'prompt'\nrefuse = 0.2");
    let far = format!("{}xx{}", "a".repeat(5000), "b".repeat(5000));
    assert_eq!(prompt(&policy, &[&far]).0, Action::Refuse);
    let apart = format!("x{}x", "a".repeat(5000));
    assert_eq!(prompt(&policy, &[&apart]).0, Action::Allow);
}

#[test]
fn classifiers_that_are_asked_by_themselves_say_the_same() {
    let policy = policy("on = 'prompt'\nflag = 0.2\nrefuse = 0.4");
    for texts in [&["x"][..], &["xx", "x"], &["xxx ruled", "xxxx", "x"], &["ruled"], &["", "xxxx"]] {
        let mut exchange = Exchange::new(Arc::clone(&policy));
        let mut reading = PromptReading::new(Arc::clone(&policy)).unwrap();
        let (mut by_rules, mut by_classifiers) = (Verdict::default(), Verdict::default());
        for text in texts {
            by_rules = exchange.prompt_by_rules(text);
            pieces(text).for_each(|piece| by_classifiers = reading.read(piece));
        }
        let (action, named) = prompt(&policy, texts);
        assert_eq!(by_rules.action.max(by_classifiers.action), action, "{texts:?}");
        let both = by_rules.rules.iter().chain(&by_classifiers.rules).map(ToString::to_string);
        assert_eq!(both.collect::<BTreeSet<_>>(), named.into_iter().collect(), "{texts:?}");
    }
    let answers = read(ANSWERS).unwrap();
    assert!(PromptReading::new(Arc::new(answers)).is_none());
}

#[test]
fn a_classifier_that_is_not_there_lets_nothing_pass() {
    let mut policy = read("on = 'prompt'\nflag = 0.5\nrefuse = 1").unwrap();
    assert_eq!(policy.missing().collect::<Vec<_>>(), [*Sha256Digest::of(&[FILE]).as_bytes()]);
    let other = Arc::new(Classifier::new(b"another file", ["bad"], |_, _| 0.0));
    assert!(!policy.attach(&other).unwrap());
    assert_eq!(policy.missing().count(), 1);
    let policy = Arc::new(policy);
    assert_eq!(prompt(&policy, &["harmless"]).0, Action::Refuse);
    assert_eq!(PromptReading::new(policy).unwrap().read("harmless").action, Action::Refuse);
}

#[test]
fn a_file_without_the_label_is_not_the_policys() {
    let mut policy = read("on = 'prompt'\nflag = 0.5").unwrap();
    let other = Arc::new(Classifier::new(FILE, ["worse"], |_, _| 0.0));
    assert_eq!(policy.attach(&other).unwrap_err().code(), "policy-classifier");
    assert_eq!(policy.missing().count(), 1);
}

#[test]
fn what_is_decided_is_not_scored_again() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let mut policy = read("on = 'exchange'\nflag = 0.1\nwindow = 64\nstep = 32").unwrap();
    let score = |text: &str, _| {
        ASKED.fetch_add(1, Ordering::Relaxed);
        if text.contains('x') { 1.0 } else { 0.0 }
    };
    policy.attach(&Arc::new(Classifier::new(FILE, ["bad"], score))).unwrap();
    let mut exchange = Exchange::new(Arc::new(policy));
    exchange.prompt("no");
    assert_eq!(ASKED.load(Ordering::Relaxed), 1);
    exchange.prompt("x");
    exchange.prompt("x");
    exchange.answer(&"x".repeat(500));
    assert_eq!(exchange.finish().verdict.action, Action::Flag);
    assert_eq!(ASKED.load(Ordering::Relaxed), 2);
}

/// The verdict, the text that left, and the greatest number of bytes that waited.
fn answer<'a>(policy: &Arc<Policy>, pieces: impl IntoIterator<Item = &'a str>) -> (Action, String, usize) {
    let mut exchange = Exchange::new(Arc::clone(policy));
    let (mut left, mut length, mut waited) = (String::new(), 0, 0);
    for piece in pieces {
        length += piece.len();
        left.push_str(exchange.answer(piece).leaves.as_str());
        waited = waited.max(length - left.len());
    }
    let last = exchange.finish();
    left.push_str(last.leaves.as_str());
    (last.verdict.action, left, waited)
}

const ANSWERS: &str = "on = 'answer'\nrefuse = 0.3\nwindow = 40\nstep = 32";

#[test]
fn an_answer_leaves_only_when_its_window_has_passed() {
    let policy = policy(ANSWERS);
    let letters = |text: &str| answer(&policy, text.split_inclusive(|_| true));
    let harmless = "a harmless answer ".repeat(9);
    let (action, left, waited) = letters(&harmless);
    assert_eq!((action, &left), (Action::Allow, &harmless));
    // Up to a step, and what the policy holds back.
    assert!((31..=36).contains(&waited), "{waited}");
    // Two windows of 32 bytes; the third letter comes in the second, eight bytes of the first are read again.
    let bad = format!("{}xx{}x{}", "a".repeat(30), "b".repeat(10), "c".repeat(50));
    let (action, left, _) = letters(&bad);
    assert_eq!((action, left.as_str()), (Action::Refuse, &bad[..32]));
    // The same letters far from each other.
    let apart = format!("{}xx{}x{}", "a".repeat(20), "b".repeat(40), "c".repeat(50));
    assert_eq!(letters(&apart).0, Action::Allow);
    // The last window is shorter than a step.
    assert_eq!(letters("xxx").0, Action::Refuse);
    assert_eq!(letters("xxx").1, "");
    // Prompts are not its business.
    assert_eq!(prompt(&policy, &["xxxxx"]).0, Action::Allow);
}

#[test]
fn entries_that_cannot_be_meant_are_refused() {
    for (members, code) in [
        ("on = 'prompt'", "policy-classifier"),
        ("on = 'prompt'\nflag = 0", "policy-classifier"),
        ("on = 'prompt'\nflag = 1.1", "policy-classifier"),
        ("on = 'prompt'\nflag = nan", "policy-classifier"),
        ("on = 'prompt'\nflag = 0.9\nrefuse = 0.8", "policy-classifier"),
        ("on = 'prompt'\nflag = 0.9\nwindow = 64\nstep = 64", "policy-classifier"),
        ("on = 'answer'\nflag = 0.9", "policy-classifier"),
        ("on = 'answer'\nflag = 0.9\nwindow = 64", "policy-classifier"),
        ("on = 'answer'\nflag = 0.9\nwindow = 64\nstep = 31", "policy-classifier"),
        ("on = 'answer'\nflag = 0.9\nwindow = 64\nstep = 65", "policy-classifier"),
        ("on = 'answer'\nflag = 0.9\nwindow = 16385\nstep = 64", "policy-classifier"),
        ("on = 'prompt'\nflag = 0.9\nrules = 1", "policy-syntax"),
        ("on = 'prompt'\nallow = 0.9", "policy-syntax"),
    ] {
        assert_eq!(read(members).err().unwrap_or_else(|| panic!("accepted: {members}")).code(), code);
    }
    let entry = |id: &str, sha256: &str| {
        format!("[[classifiers]]\nid = '{id}'\nsha256 = '{sha256}'\nlabel = 'bad'\non = 'prompt'\nflag = 1\n")
    };
    let of = |entries: &str| {
        Policy::read(format!("version = 1\nid = 't'\nhold_back = 0\nrules = []\n{entries}").as_bytes())
    };
    let good = digest(FILE);
    assert_eq!(of(&entry("a", &good)).unwrap().classifiers().len(), 1);
    for (entries, code) in [
        (entry("a", &good[1..]), "policy-classifier"),
        (entry("No Name", &good), "policy-name"),
        (entry("a", &good).repeat(2), "policy-twice"),
        ((0..5).map(|index| entry(&format!("a{index}"), &good)).collect(), "policy-too-many"),
    ] {
        assert_eq!(of(&entries).err().unwrap().code(), code);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn pieces_change_neither_the_verdict_nor_what_leaves(
        text in "(a{1,9}|x|é|😀|ruled| ){0,60}",
        cuts in prop::collection::vec(1_usize..40, 0..60),
    ) {
        let policy = policy(ANSWERS);
        let whole = answer(&policy, [text.as_str()]);
        let cut = answer(&policy, super::cut_up(&text, cuts));
        prop_assert_eq!((&whole.0, &whole.1), (&cut.0, &cut.1));
        prop_assert!(whole.0.stops() || whole.1 == text);
    }
}
