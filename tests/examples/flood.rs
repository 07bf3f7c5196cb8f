//! What a partner notices of another who floods the enclave: time to the first token through the whole attested path, in quiet and
//! beside the flood, in turns.
//!
//! ```text
//! flood MODEL [QUESTIONS]
//! ```
//!
//! Two floods, of the worst kinds that admission lets in: more requests at once than there are places, refused ones sent again at once, and
//! either answers as long as they may be, every third hung up on in the middle, or nothing but prompts to read. Exit status 1 when
//! the 95th percentile beside one of them is over twice the quiet one.

#![expect(clippy::expect_used, reason = "a measurement that cannot be made has failed")]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cleanroom_channel::identity::Identity;
use cleanroom_guard::Clock;
use cleanroom_tests::clean_room::CleanRoom;
use cleanroom_tests::client::send;
use cleanroom_tests::platform::World;
use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::task::JoinSet;

/// One thread for the engine: both partners, their proxies and the host run on this machine, too, and take the rest.
const CONFIGURATION: &str = "[limits]\nthreads = 1";
/// Requests that a flood keeps under way.
const REQUESTS: usize = 48;
/// Turns of quiet and both floods.
const TURNS: usize = 5;
/// How long a flood runs before it counts.
const SETTLE: Duration = Duration::from_secs(1);
/// How long a refused request waits before it comes again: a client that heeds no `Retry-After`. Both partners run on the machine that
/// they measure, so a shorter time would measure the flood's own work.
const AGAIN: Duration = Duration::from_millis(100);
/// How long the quiet partner thinks between two questions. One that asks without a pause wants the whole machine, of which it gets half.
const THINKS: Duration = Duration::from_millis(500);
/// The flood may make the 95th percentile this many times as long.
const LIMIT: f64 = 2.0;

/// What the quiet partner asks: some dozen tokens, and a small paragraph.
const QUESTIONS: [(&str, &str); 2] = [
    ("a short question", "What is attestation?"),
    (
        "a usual question",
        "An organisation wants to send a prompt to a model that runs in an enclave, and must know before it sends anything who will be \
         able to read it. Which measurements does the security module sign, who can check the signature, and what does the client do \
         when one of the measurements is not the one that it expects?",
    ),
];

/// What a flood wants of the enclave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flood {
    /// Places for answers: they never end by themselves.
    Answers,
    /// Prompts read: an answer is over with its first token.
    Prompts,
}

const FLOODS: [(&str, Flood); 2] = [("beside answers", Flood::Answers), ("beside prompts", Flood::Prompts)];

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
    let questions = arguments.next().map_or(Ok(8), |count| count.parse());
    let (Some(model), Ok(questions)) = (model, questions) else {
        eprintln!("flood: expected a model file, and how many questions to ask in each turn");
        return ExitCode::from(2);
    };
    let clean_room = CleanRoom::start_with(World::new(), CONFIGURATION, Clock::boot(), model).await;
    let identities = [(); 2].map(|()| Identity::generate().expect("keys can be made"));
    let [quiet, loud] = [clean_room.proxy(&identities[0]).await, clean_room.proxy(&identities[1]).await];
    let counts = [(); 2].map(|()| Arc::new(Counts::default()));
    let mut alone = QUESTIONS.map(|_| Vec::new());
    let mut beside = FLOODS.map(|_| QUESTIONS.map(|_| Vec::new()));
    // The first sets the session up.
    time_to_first_token(quiet, QUESTIONS[0].1).await;
    for _ in 0..TURNS {
        ask(quiet, questions, &mut alone).await;
        for (((_, kind), counts), times) in FLOODS.iter().zip(&counts).zip(&mut beside) {
            let mut flood = JoinSet::new();
            for number in 0..REQUESTS {
                flood.spawn(flood_with(loud, *kind, number, Arc::clone(counts)));
            }
            tokio::time::sleep(SETTLE).await;
            ask(quiet, questions, times).await;
            flood.shutdown().await;
            // What it left under way ends at the next token.
            tokio::time::sleep(SETTLE).await;
        }
    }
    println!("{:<48} {:>10} {:>10} {:>10}", "time to the first token", "median", "95 of 100", "worst");
    let mut met = true;
    for (question, (name, _)) in QUESTIONS.iter().enumerate() {
        let quiet = percentile_95(&format!("{name}, in quiet"), &mut alone[question]);
        for ((when, _), times) in FLOODS.iter().zip(&mut beside) {
            let loud = percentile_95(&format!("{name}, {when}"), &mut times[question]);
            let ratio = loud.as_secs_f64() / quiet.as_secs_f64();
            met &= ratio <= LIMIT;
            let mark = if ratio <= LIMIT { "ok  " } else { "MISS" };
            println!("{mark}  {ratio:.2} of the quiet one (limit {LIMIT})");
        }
        println!();
    }
    for ((name, _), counts) in FLOODS.iter().zip(&counts) {
        let [answered, hung_up, refused] =
            [&counts.answered, &counts.hung_up, &counts.refused].map(|count| count.load(Ordering::Relaxed));
        println!("{name}: {answered} answered, {hung_up} hung up on, {refused} refused");
    }
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Asks every question so many times, in turns.
async fn ask(proxy: SocketAddr, questions: usize, times: &mut [Vec<Duration>]) {
    for _ in 0..questions {
        for ((_, question), times) in QUESTIONS.iter().zip(&mut *times) {
            tokio::time::sleep(THINKS).await;
            times.push(time_to_first_token(proxy, question).await);
        }
    }
}

/// Prints a line, and gives the 95th percentile.
fn percentile_95(name: &str, times: &mut [Duration]) -> Duration {
    times.sort();
    let at = |percent: usize| {
        times.get(times.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
    };
    println!("{name:<48} {:>10.1?} {:>10.1?} {:>10.1?}", at(50), at(95), at(100));
    at(95)
}

/// No prompt begins like another, so that all of it is read.
fn unlike_others(text: &str) -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(100_000);
    format!("{} {text}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Asks for an answer of one token, and waits for its end: a model of random weights may say what is no text.
async fn time_to_first_token(proxy: SocketAddr, question: &str) -> Duration {
    let begun = Instant::now();
    let request = request(&unlike_others(question), 1);
    let response = send(proxy, "POST", "/v1/chat/completions", &request).await;
    assert_eq!(response.status(), StatusCode::OK, "the quiet partner is served");
    response.into_body().collect().await.expect("the answer ends");
    begun.elapsed()
}

async fn flood_with(proxy: SocketAddr, kind: Flood, number: usize, counts: Arc<Counts>) {
    let (sentences, max_tokens) = if kind == Flood::Answers { (6, 10_000) } else { (1, 1) };
    let prompt = "Tell me everything about attestation, measurement, enclaves and keys. ".repeat(sentences);
    for turn in number.. {
        let response =
            send(proxy, "POST", "/v1/chat/completions", &request(&unlike_others(&prompt), max_tokens)).await;
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
