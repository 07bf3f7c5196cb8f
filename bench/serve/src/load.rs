//! One round: so many requests at once, and when their tokens came.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Outcome;
use crate::servers::MODEL;

/// What each stream asks for.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    /// Words of the prompt.
    pub(crate) prompt: usize,
    /// Tokens of the answer.
    pub(crate) answer: u64,
}

/// What came of one round.
pub(crate) struct Round {
    /// Of all prompts.
    pub(crate) prompt_tokens: u64,
    tokens: u64,
    whole: Duration,
    /// When each stream's first token came, in seconds from the start of the round.
    first: Vec<f64>,
}

impl Round {
    pub(crate) fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.whole.as_secs_f64()
    }

    pub(crate) fn first_median(&self) -> f64 {
        median(self.first.iter().copied())
    }

    pub(crate) fn first_latest(&self) -> f64 {
        self.first.iter().copied().fold(0.0, f64::max)
    }
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Asks the server at `address` for `streams` answers at once.
pub(crate) async fn round(address: SocketAddr, work: Work, streams: usize, round: usize) -> Outcome<Round> {
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for stream in 0..streams {
        let prompt = prompt(work.prompt, stream, round);
        running.spawn(async move {
            // An error that can go from task to task.
            answer(address, work, prompt, begun).await.map_err(|error| error.to_string())
        });
    }
    let (mut tokens, mut prompt_tokens, mut first) = (0, 0, Vec::with_capacity(streams));
    while let Some(answer) = running.join_next().await {
        let answer = answer??;
        tokens += answer.tokens;
        prompt_tokens += answer.prompt_tokens;
        first.push(answer.first.as_secs_f64());
    }
    Ok(Round { prompt_tokens, tokens, whole: begun.elapsed(), first })
}

/// A prompt of its own for each stream of each round, from the first word on: what a server keeps of one is of no use for another.
fn prompt(words: usize, stream: usize, round: usize) -> String {
    const WORDS: [&str; 16] = [
        "room", "clean", "model", "river", "bank", "grid", "proof", "stone", "light", "house", "paper",
        "green", "north", "seven", "glass", "story",
    ];
    let mut state = (stream * 1009 + round * 9176 + 17) as u32;
    let mut text = String::new();
    for _ in 0..words {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text += WORDS[(state >> 16) as usize % WORDS.len()];
        text.push(' ');
    }
    text
}

struct Answer {
    prompt_tokens: u64,
    tokens: u64,
    first: Duration,
}

/// One answer, streamed, over a connection of its own.
async fn answer(address: SocketAddr, work: Work, prompt: String, begun: Instant) -> Outcome<Answer> {
    // The models' control tokens are the first three. Without them no answer ends early.
    let body = json!({
        "model": MODEL, "prompt": prompt, "max_tokens": work.answer, "temperature": 0,
        "logit_bias": { "0": -100, "1": -100, "2": -100 },
        "stream": true, "stream_options": { "include_usage": true },
    });
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut client, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::post("/v1/completions")
        .header("host", address.to_string())
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))?;
    let mut response = client.send_request(request).await?;
    if !response.status().is_success() {
        let status = response.status();
        let said = response.collect().await?.to_bytes();
        return Err(
            format!("expected an answer, got status {status}: {}", String::from_utf8_lossy(&said)).into()
        );
    }
    let (mut unread, mut first, mut usage) = (Vec::new(), None, None);
    while let Some(frame) = response.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        unread.extend_from_slice(&data);
        while let Some(end) = unread.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = unread.drain(..end + 2).collect();
            let Some(event) = event.strip_prefix(b"data: ") else { continue };
            let Ok(event) = serde_json::from_slice::<Value>(event) else { continue };
            if event["choices"][0]["text"].as_str().is_some_and(|text| !text.is_empty()) {
                first.get_or_insert_with(|| begun.elapsed());
            }
            let count = |name| event["usage"][name].as_u64();
            usage = count("prompt_tokens").zip(count("completion_tokens")).or(usage);
        }
    }
    connection.abort();
    let (prompt_tokens, tokens) = usage.ok_or("an answer was cut off")?;
    if tokens != work.answer {
        return Err(format!("expected {} tokens, got {tokens}", work.answer).into());
    }
    Ok(Answer { prompt_tokens, tokens, first: first.ok_or("an answer without text")? })
}
