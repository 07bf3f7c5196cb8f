//! Streams that ask a proxy, one answer after the other.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use cleanroom_tests::client::send;
use http::StatusCode;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// How long a stream waits that a full room refused.
const AGAIN: Duration = Duration::from_millis(20);

/// What is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// Answers at once.
    pub(crate) streams: usize,
    /// Answers of each stream.
    pub(crate) answers: usize,
    /// Tokens of each answer.
    pub(crate) tokens: u64,
}

/// What came.
#[derive(Clone, Copy)]
pub(crate) struct Served {
    tokens: u64,
    elapsed: Duration,
    /// How often a room had no place.
    pub(crate) refused: u64,
}

impl Served {
    pub(crate) fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.elapsed.as_secs_f64()
    }
}

/// A question for an answer of exactly `tokens` tokens.
pub(crate) fn question(tokens: u64) -> String {
    json!({
        "model": "demo", "messages": [{ "role": "user", "content": "What is attestation?" }],
        "temperature": 0, "max_tokens": tokens, "stream": true, "stream_options": { "include_usage": true },
        // The model's control tokens are the first three. Without them no answer ends early.
        "logit_bias": { "0": -100, "1": -100, "2": -100 },
    })
    .to_string()
}

/// Asks the proxy for all answers.
pub(crate) async fn run(proxy: SocketAddr, load: Load) -> Served {
    let begun = Instant::now();
    let mut streams = JoinSet::new();
    for _ in 0..load.streams {
        streams.spawn(async move {
            let mut refused = 0;
            for _ in 0..load.answers {
                while !answer(proxy, load.tokens).await {
                    refused += 1;
                    tokio::time::sleep(AGAIN).await;
                }
            }
            refused
        });
    }
    let refused = streams.join_all().await.into_iter().sum();
    let tokens = load.tokens * (load.streams * load.answers) as u64;
    Served { tokens, elapsed: begun.elapsed(), refused }
}

/// One whole answer, or false when the room had no place.
async fn answer(proxy: SocketAddr, tokens: u64) -> bool {
    let response = send(proxy, "POST", "/v1/chat/completions", &question(tokens)).await;
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8_lossy(&body);
    if status == StatusCode::TOO_MANY_REQUESTS {
        return false;
    }
    assert!(
        status.is_success() && body.contains("data: [DONE]"),
        "expected a whole answer, got {status}: {body}"
    );
    let events =
        body.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    let counted: Vec<u64> = events.filter_map(|event| event["usage"]["completion_tokens"].as_u64()).collect();
    assert_eq!(counted, [tokens], "tokens of the answer");
    true
}
