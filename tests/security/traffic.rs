//! What the host learns of an answer from the lengths of what it carries.
//!
//! A host sees TLS records and the length of each. Where an answer is streamed token by token, those are the lengths of tokens, which tell
//! topics apart although everything is encrypted. Here a classifier learns that from traces of answers without padding, and the same
//! classifier learns nothing from traces of padded ones, nor from streams that leave in frames of one length at one rhythm.
//!
//! On a busy machine two events can leave in one record. A real host has many traces to choose from, and so has this one: it looks at an
//! answer several times and keeps the trace with most records.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use cleanroom_channel::identity::Identity;
use cleanroom_tests::clean_room::CleanRoom;
use cleanroom_tests::client::send;
use http::StatusCode;
use http_body_util::BodyExt as _;

/// Questions about different things, each in several words.
const TOPICS: [&[&str]; 4] = [
    &["What is attestation?", "How does attestation work?"],
    &["Who can read my prompt?"],
    &["What is a measurement?", "What is a PCR?"],
    &["What is token streaming?", "How does streaming work?"],
];
/// Answers that the classifier learns from, and as many others that it is asked about, of each topic.
const ANSWERS: u64 = 15;
/// Every answer is cut here, so that their number of tokens says nothing: padding does not hide that.
const TOKENS: u32 = 12;
/// How often the host looks at one answer.
const LOOKS: usize = 3;
/// A configuration in which an answer is a few frames.
const SHAPED: &str = "[traffic]\nstep = 1024\ncadence = \"10ms\"";

/// The lengths of the records of one answer.
type Trace = Vec<u16>;

#[tokio::test(flavor = "multi_thread")]
async fn lengths_tell_topics_apart_unless_they_are_padded() {
    let chance = 1.0 / TOPICS.len() as f64;
    let bare = accuracy("", false).await;
    let padded = accuracy("", true).await;
    let shaped = accuracy(SHAPED, false).await;
    println!(
        "topics told apart: {bare:.2} without padding, {padded:.2} with it, {shaped:.2} at one rhythm, {chance:.2} by chance"
    );
    // Four standard deviations of so many guesses, on both sides of what there is to see.
    let guesses = TOPICS.len() as f64 * ANSWERS as f64;
    let most = chance + 4.0 * (chance * (1.0 - chance) / guesses).sqrt();
    assert!(bare > 1.2 * most, "the classifier must find topics where there is something to see, got {bare}");
    assert!(
        padded < most,
        "expected no more than chance from padded events, {most:.2} at most, got {padded}"
    );
    assert!(shaped < most, "expected no more than chance from one rhythm, {most:.2} at most, got {shaped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_counts_have_one_length() {
    let plain = lengths_of_whole_answers("").await;
    let shaped = lengths_of_whole_answers(SHAPED).await;
    let distinct = |lengths: &[usize]| lengths.iter().collect::<HashSet<_>>().len();
    assert!(distinct(&plain) > plain.len() / 2, "there must be something to see, got {plain:?}");
    assert_eq!(distinct(&shaped), 1, "{shaped:?}");
}

/// How many bytes the enclave sends for each of some refusals and counts, at the least of some looks: what the date and the
/// connection's own frames add has nothing to do with the answer.
async fn lengths_of_whole_answers(configuration: &str) -> Vec<usize> {
    let chat = |changes: serde_json::Value| {
        let mut request =
            serde_json::json!({ "model": "demo", "messages": [{ "role": "user", "content": "Hi" }] });
        request.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        ("/v1/chat/completions", request)
    };
    let count = |words: usize| {
        let content = "word ".repeat(words);
        let request =
            serde_json::json!({ "model": "demo", "messages": [{ "role": "user", "content": content }] });
        ("/v1/messages/count_tokens", request)
    };
    let requests = [
        chat(serde_json::json!({ "unheard_of": 1 })),
        chat(serde_json::json!({ "messages": [] })),
        chat(serde_json::json!({ "temperature": 7 })),
        chat(serde_json::json!({ "model": "another" })),
        chat(serde_json::json!({ "messages": [{ "role": "user", "content": "word ".repeat(2000) }] })),
        count(1),
        count(20),
        count(200),
    ];
    let clean_room = CleanRoom::start(configuration).await;
    let partner = clean_room.proxy(&Identity::generate().unwrap()).await;
    let mut lengths = vec![usize::MAX; requests.len()];
    // The first look warms the compression of heads.
    for look in 0..=2 * LOOKS {
        for ((path, request), least) in requests.iter().zip(&mut lengths) {
            let before = clean_room.recorder.records_from_enclave().len();
            let response = send(partner, "POST", path, &request.to_string()).await;
            assert_eq!(response.status() == StatusCode::OK, path.ends_with("count_tokens"), "{request}");
            response.into_body().collect().await.unwrap();
            let trace = clean_room.recorder.records_from_enclave().split_off(before);
            if look > 0 {
                *least = trace.iter().copied().map(usize::from).sum::<usize>().min(*least);
            }
        }
    }
    lengths
}

/// The part of new answers whose topic the classifier finds.
async fn accuracy(configuration: &str, padding: bool) -> f64 {
    let clean_room = CleanRoom::start(configuration).await;
    let partner = clean_room.proxy(&Identity::generate().unwrap()).await;
    // The session is set up, and with it all that is not an answer.
    answer(partner, TOPICS[0][0], 0, padding).await;
    let mut traces = [const { Vec::new() }; TOPICS.len()];
    for (questions, traces) in TOPICS.iter().zip(&mut traces) {
        for (seed, question) in (0..2 * ANSWERS).zip(questions.iter().cycle()) {
            traces.push(trace(&clean_room, partner, question, seed, padding).await);
        }
    }
    let (known, asked): (Vec<Vec<Trace>>, Vec<Vec<Trace>>) = traces
        .into_iter()
        .map(|mut traces| {
            let asked = traces.split_off(ANSWERS as usize);
            (traces, asked)
        })
        .unzip();
    let classifier = Classifier::learn(&known);
    let right =
        asked.iter().enumerate().flat_map(|(topic, traces)| traces.iter().map(move |trace| (topic, trace)));
    let right = right.filter(|(topic, trace)| classifier.topic(trace) == *topic).count();
    right as f64 / (TOPICS.len() as f64 * ANSWERS as f64)
}

/// The trace of an answer as a host sees it that looks at many.
async fn trace(
    clean_room: &CleanRoom,
    partner: SocketAddr,
    question: &str,
    seed: u64,
    padding: bool,
) -> Trace {
    let mut longest = Trace::new();
    for _ in 0..LOOKS {
        let before = clean_room.recorder.records_from_enclave().len();
        answer(partner, question, seed, padding).await;
        let trace = clean_room.recorder.records_from_enclave().split_off(before);
        if trace.len() > longest.len() {
            longest = trace;
        }
    }
    longest
}

async fn answer(partner: SocketAddr, question: &str, seed: u64, padding: bool) {
    let request = serde_json::json!({
        "model": "demo",
        "messages": [{ "role": "user", "content": question }],
        "max_tokens": TOKENS,
        "seed": seed,
        "stream": true,
        "stream_options": { "include_obfuscation": padding },
    });
    let response = send(partner, "POST", "/v1/chat/completions", &request.to_string()).await;
    assert_eq!(response.status(), StatusCode::OK);
    response.into_body().collect().await.unwrap();
}

/// Naive Bayes: how often each length came at each place, for each topic.
struct Classifier {
    topics: Vec<HashMap<(usize, u16), u32>>,
}

impl Classifier {
    fn learn(topics: &[Vec<Trace>]) -> Self {
        let count = |traces: &Vec<Trace>| {
            let mut counts = HashMap::new();
            let places = traces.iter().flat_map(|trace| trace.iter().copied().enumerate());
            places.for_each(|place| *counts.entry(place).or_default() += 1);
            counts
        };
        Self { topics: topics.iter().map(count).collect() }
    }

    fn topic(&self, trace: &[u16]) -> usize {
        let likelihood = |counts: &HashMap<(usize, u16), u32>| -> f64 {
            let seen =
                trace.iter().copied().enumerate().map(|place| counts.get(&place).copied().unwrap_or(0));
            // One more than was seen, so that nothing is impossible.
            seen.map(|count| f64::from(count + 1).ln()).sum()
        };
        let likelihoods = self.topics.iter().map(likelihood).enumerate();
        likelihoods.max_by(|(_, one), (_, other)| one.total_cmp(other)).map_or(0, |(topic, _)| topic)
    }
}
