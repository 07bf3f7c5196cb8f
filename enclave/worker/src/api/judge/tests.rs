use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use cleanroom_safeguard::Classifier;

use super::*;

const FILE: &[u8] = b"a classifier's file";

/// A policy with a rule that flags the word `ruled`, and a classifier that refuses every prompt whose `score` is 1.
fn set(score: impl Fn(&str) -> f32 + Send + Sync + 'static) -> PolicySet {
    let text = format!(
        "version = 1\nid = 'test'\nhold_back = 0\n\n[[rules]]\nid = 'rule'\non = 'exchange'\naction = 'flag'\nany = \
         ['ruled']\n\n[[classifiers]]\nid = 'mood'\nsha256 = '{}'\nlabel = 'bad'\non = 'prompt'\nrefuse = 1\n",
        Sha256Digest::of(&[FILE])
    );
    let mut policy = Policy::read(text.as_bytes()).unwrap();
    let classifier = Classifier::new(FILE, ["bad"], move |text, _| score(text));
    assert!(policy.attach(&Arc::new(classifier)).unwrap());
    let digests = vec![Sha256Digest::from_bytes(policy.digest())];
    PolicySet { policies: vec![Arc::new(policy)], digests, record: Record::default() }
}

fn unread(set: &PolicySet, prompts: &[&str]) -> Unread {
    let inputs: Vec<_> = prompts.iter().map(|text| Input::Text(SecretString::new(text))).collect();
    Unread::of(set.clone(), &inputs).unwrap()
}

fn one_turn() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(1))
}

fn rules(record: &Record) -> (SafeguardAction, Vec<String>) {
    let SafeguardVerdict { action, rules, .. } = record.verdict().unwrap();
    (action, rules)
}

#[tokio::test]
async fn what_classifiers_refuse_is_recorded_as_if_there_had_been_no_answer() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let set = set(move |_| {
        wait.lock().unwrap().recv().unwrap();
        1.0
    });
    let mut judge = judges(&set, &[Input::Text(SecretString::new("ruled"))], 1).ok().unwrap().remove(0);
    let classifying = Classifying::begin(unread(&set, &["ruled"]), &one_turn());
    // The answer is quicker.
    assert_eq!(judge.piece("this is ruled"), Ok(13));
    assert_eq!(rules(&set.record), (SafeguardAction::Flag, vec!["rule".to_owned()]));
    go.send(()).unwrap();
    let refused = classifying.passed().await.unwrap_err();
    assert!(matches!(refused, ApiError::Safeguard(_)));
    assert_eq!(rules(&set.record), (SafeguardAction::Refuse, vec!["mood".to_owned(), "rule".to_owned()]));
}

#[tokio::test]
async fn an_answer_adds_nothing_to_the_verdict_on_a_prompt_that_is_refused() {
    let set = set(|_| 1.0);
    let mut judge = judges(&set, &[Input::Text(SecretString::new("plain"))], 1).ok().unwrap().remove(0);
    let passed = Classifying::begin(unread(&set, &["plain"]), &one_turn()).passed().await;
    assert!(passed.is_err());
    assert_eq!(judge.piece("this is ruled"), Ok(13));
    // The word is whole only now.
    assert_eq!(judge.finish(), Ok(()));
    assert_eq!(rules(&set.record), (SafeguardAction::Refuse, vec!["mood".to_owned()]));
}

#[tokio::test]
async fn every_prompt_is_read_and_one_that_passes_is_allowed() {
    static READ: AtomicUsize = AtomicUsize::new(0);
    let set = set(|text| {
        READ.fetch_add(1, Ordering::Relaxed);
        if text.contains('x') { 1.0 } else { 0.0 }
    });
    let passed = Classifying::begin(unread(&set, &["a", "b", "c"]), &one_turn()).passed().await;
    assert!(passed.is_ok());
    assert_eq!(READ.load(Ordering::Relaxed), 3);
    assert_eq!(rules(&set.record), (SafeguardAction::Allow, Vec::new()));
    let refused = Classifying::begin(unread(&set, &["a", "x", "c"]), &one_turn()).passed().await;
    assert!(matches!(refused, Err(ApiError::Safeguard(_))));
    assert_eq!(READ.load(Ordering::Relaxed), 5, "nothing is read after what is refused");
}

#[tokio::test]
async fn what_nobody_waits_for_is_read_no_further_and_gives_its_turn_back() {
    static READ: AtomicUsize = AtomicUsize::new(0);
    let (begun, has_begun) = mpsc::channel::<()>();
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let set = set(move |_| {
        READ.fetch_add(1, Ordering::Relaxed);
        begun.send(()).unwrap();
        wait.lock().unwrap().recv().unwrap();
        0.0
    });
    let readers = one_turn();
    let classifying = Classifying::begin(unread(&set, &["a", "b"]), &readers);
    tokio::task::spawn_blocking(move || has_begun.recv().unwrap()).await.unwrap();
    assert_eq!(readers.available_permits(), 0);
    drop(classifying);
    go.send(()).unwrap();
    drop(readers.acquire().await.unwrap());
    assert_eq!(READ.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_classifier_that_panics_lets_nothing_pass() {
    let set = set(|_| panic!("it cannot"));
    let passed = Classifying::begin(unread(&set, &["a"]), &one_turn()).passed().await;
    assert!(matches!(passed, Err(ApiError::Failed)));
}
