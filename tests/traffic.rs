//! What the host learns of an answer from the lengths of what it carries.
//!
//! A host sees TLS records and the length of each. Where an answer is streamed token by token, those are the lengths of tokens, which tell
//! topics apart although everything is encrypted. Here a classifier learns that from traces of answers without padding, and the same
//! classifier learns nothing from traces of padded ones.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::HashMap;
use std::net::SocketAddr;

use cleanroom_channel::identity::Identity;
use cleanroom_tests::client::send;
use cleanroom_tests::house::House;
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
const ANSWERS: u64 = 20;
/// Every answer is cut here, so that their number of tokens says nothing: padding does not hide that.
const TOKENS: u32 = 12;

/// The lengths of the records of one answer.
type Trace = Vec<u16>;

#[tokio::test(flavor = "multi_thread")]
async fn lengths_tell_topics_apart_unless_they_are_padded() {
    let chance = 1.0 / TOPICS.len() as f64;
    let bare = accuracy(false).await;
    let padded = accuracy(true).await;
    println!("topics told apart: {bare:.2} without padding, {padded:.2} with it, {chance:.2} by chance");
    assert!(
        bare > 0.8,
        "the classifier must be able to tell topics apart where there is something to see, got {bare}"
    );
    // Three standard deviations of so many guesses.
    let guesses = TOPICS.len() as f64 * ANSWERS as f64;
    let most = chance + 3.0 * (chance * (1.0 - chance) / guesses).sqrt();
    assert!(padded < most, "expected no more than chance, {most:.2} at most, got {padded}");
}

/// The part of new answers whose topic the classifier finds.
async fn accuracy(padding: bool) -> f64 {
    let house = House::start("").await;
    let partner = house.proxy(&Identity::generate().unwrap()).await;
    // The session is set up, and with it all that is not an answer.
    answer(partner, TOPICS[0][0], 0, padding).await;
    let mut traces = [const { Vec::new() }; TOPICS.len()];
    for (questions, traces) in TOPICS.iter().zip(&mut traces) {
        for (seed, question) in (0..2 * ANSWERS).zip(questions.iter().cycle()) {
            let before = house.recorder.records_from_enclave().len();
            answer(partner, question, seed, padding).await;
            traces.push(house.recorder.records_from_enclave().split_off(before));
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
