//! What a partner notices of another who floods the enclave: time to the first token through the whole attested path, in quiet and
//! beside the flood, in turns.
//!
//! ```text
//! flood MODEL [QUESTIONS]
//! ```
//!
//! The flood is of the worst kind that admission lets in: long prompts, answers as long as they may be, more requests at once than there are
//! places, every third hung up on in the middle, refused ones sent again at once. Exit status 1 when the 95th percentile is over twice
//! the quiet one.

#![expect(clippy::expect_used, reason = "a measurement that cannot be made has failed")]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cleanroom_channel::identity::Identity;
use cleanroom_enclave::release::Clock;
use cleanroom_tests::client::send;
use cleanroom_tests::house::House;
use cleanroom_tests::room::World;
use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::task::JoinSet;

/// Requests that the flood keeps under way.
const FLOOD: usize = 48;
/// Turns of quiet and flood.
const TURNS: usize = 5;
/// How long a flood runs before it counts.
const SETTLE: Duration = Duration::from_secs(1);
/// How long a refused request waits before it comes again: a client that heeds no `Retry-After`. Both partners run on the machine that
/// they measure, so a shorter time would measure the flood's own work.
const AGAIN: Duration = Duration::from_millis(100);
/// The flood may make the 95th percentile this many times as long.
const LIMIT: f64 = 2.0;

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    hung_up: AtomicU64,
    refused: AtomicU64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().and_then(|path| std::fs::read(path).ok());
    let questions = arguments.next().map_or(Ok(20), |count| count.parse());
    let (Some(model), Ok(questions)) = (model, questions) else {
        eprintln!("flood: expected a model file, and how many questions to ask in each turn");
        return ExitCode::from(2);
    };
    let house = House::start_with(World::new(), "", Clock::boot(), model).await;
    let identities = [(); 2].map(|()| Identity::generate().expect("keys can be made"));
    let [quiet, loud] = [house.proxy(&identities[0]).await, house.proxy(&identities[1]).await];
    let counts = Arc::new(Counts::default());
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    // The first sets the session up.
    time_to_first_token(quiet).await;
    for _ in 0..TURNS {
        for _ in 0..questions {
            alone.push(time_to_first_token(quiet).await);
        }
        let mut flood = JoinSet::new();
        for number in 0..FLOOD {
            flood.spawn(flood_with(loud, number, Arc::clone(&counts)));
        }
        tokio::time::sleep(SETTLE).await;
        for _ in 0..questions {
            beside.push(time_to_first_token(quiet).await);
        }
        flood.shutdown().await;
        // What it left under way ends at the next token.
        tokio::time::sleep(SETTLE).await;
    }
    report(&mut alone, &mut beside, &counts)
}

fn report(alone: &mut [Duration], beside: &mut [Duration], counts: &Counts) -> ExitCode {
    println!("{:<32} {:>10} {:>10} {:>10}", "time to the first token", "median", "95 of 100", "worst");
    let mut percentiles = Vec::new();
    for (name, times) in [("in quiet", alone), ("beside a partner who floods", beside)] {
        times.sort();
        let at = |percent: usize| {
            times.get((times.len() * percent / 100).min(times.len() - 1)).copied().unwrap_or_default()
        };
        println!("{name:<32} {:>10.1?} {:>10.1?} {:>10.1?}", at(50), at(95), at(100));
        percentiles.push(at(95).as_secs_f64());
    }
    let [answered, hung_up, refused] =
        [&counts.answered, &counts.hung_up, &counts.refused].map(|count| count.load(Ordering::Relaxed));
    println!("\nthe flood: {answered} answers, {hung_up} hung up on, {refused} refused");
    let ratio = percentiles.iter().rev().copied().reduce(|beside, alone| beside / alone).unwrap_or(f64::NAN);
    let met = ratio <= LIMIT;
    println!(
        "{}  95th percentile beside the flood: {ratio:.2} of the quiet one (limit {LIMIT})",
        if met { "ok  " } else { "MISS" }
    );
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn time_to_first_token(proxy: SocketAddr) -> Duration {
    let begun = Instant::now();
    let response = send(proxy, "POST", "/v1/chat/completions", &request("What is attestation?", 4)).await;
    assert_eq!(response.status(), StatusCode::OK, "the quiet partner is served");
    let mut body = response.into_body();
    let mut first = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.expect("the answer goes on");
        if frame.data_ref().is_some_and(|data| has_text(data)) {
            first.get_or_insert_with(|| begun.elapsed());
        }
    }
    // A model of random weights may say nothing that is text; then the first token is the end.
    first.unwrap_or_else(|| begun.elapsed())
}

async fn flood_with(proxy: SocketAddr, number: usize, counts: Arc<Counts>) {
    let long = "Tell me everything about attestation, measurement, enclaves and keys. ".repeat(6);
    for turn in number.. {
        let response = send(proxy, "POST", "/v1/chat/completions", &request(&long, 10_000)).await;
        if response.status() != StatusCode::OK {
            counts.refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(AGAIN).await;
            continue;
        }
        let mut body = response.into_body();
        let mut frames = 0;
        let hung_up = loop {
            match body.frame().await {
                Some(Ok(_)) if turn % 3 == 0 && frames > 10 => break true,
                Some(Ok(_)) => frames += 1,
                _ => break false,
            }
        };
        let count = if hung_up { &counts.hung_up } else { &counts.answered };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn request(text: &str, max_tokens: u32) -> String {
    serde_json::json!({
        "model": "demo",
        "messages": [{ "role": "user", "content": text }],
        "max_tokens": max_tokens,
        "stream": true,
    })
    .to_string()
}

/// Whether an event has a piece of the answer; the first one has an empty one.
fn has_text(data: &[u8]) -> bool {
    const KEY: &[u8] = b"\"content\":\"";
    let texts = data.windows(KEY.len() + 1).filter(|window| window.starts_with(KEY));
    texts.into_iter().any(|window| window.last() != Some(&b'"'))
}
