//! Another partner floods the engine.
//!
//! Two floods, of the worst kinds that admission lets in: more requests at once than there are places, refused ones sent again at once, and
//! either answers as long as they may be, every third hung up on in the middle, or nothing but prompts to read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cleanroom_channel::identity::Identity;
use cleanroom_guard::Clock;
use cleanroom_tests::clean_room::CleanRoom;
use cleanroom_tests::client::send;
use cleanroom_tests::platform::World;
use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::task::JoinSet;

use crate::measure::{
    AGAIN, ONE_THREAD, QUESTIONS, SETTLE, THINKS, TURNS, compare, print_head, request, time_to_first_token,
    unlike_others,
};

/// Requests that a flood keeps under way.
const REQUESTS: usize = 48;

/// What a flood wants of the enclave.
#[derive(Clone, Copy)]
pub(crate) enum Flood {
    /// Places for answers: they never end by themselves.
    Answers,
    /// The same, and no request says how long its answer may be.
    Unlimited,
    /// Prompts read: an answer is over with its first token.
    Prompts,
}

const FLOODS: [(&str, Flood); 2] = [("beside answers", Flood::Answers), ("beside prompts", Flood::Prompts)];

#[derive(Default)]
pub(crate) struct Counts {
    answered: AtomicU64,
    hung_up: AtomicU64,
    refused: AtomicU64,
}

impl Counts {
    /// Says what became of a flood.
    pub(crate) fn print(&self, name: &str) {
        let [answered, hung_up, refused] =
            [&self.answered, &self.hung_up, &self.refused].map(|count| count.load(Ordering::Relaxed));
        println!("{name}: {answered} answered, {hung_up} hung up on, {refused} refused");
    }
}

/// Measures. Whether every ratio is within its limit.
pub(crate) async fn run(model: Vec<u8>, questions: usize) -> bool {
    let clean_room = CleanRoom::start_with(World::new(), ONE_THREAD, Clock::boot(), model).await;
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
    print_head();
    let mut met = true;
    for (question, (name, _)) in QUESTIONS.iter().enumerate() {
        let mut floods: Vec<_> =
            FLOODS.iter().zip(&mut beside).map(|((when, _), times)| (*when, &mut times[question])).collect();
        met &= compare(&format!("first token of {name}"), &mut alone[question], &mut floods);
    }
    for ((name, _), counts) in FLOODS.iter().zip(&counts) {
        counts.print(name);
    }
    met
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

/// Sends one request after the other, from the `number`-th on. Hangs up on every third.
pub(crate) async fn flood_with(proxy: SocketAddr, kind: Flood, number: usize, counts: Arc<Counts>) {
    let (sentences, max_tokens) = match kind {
        Flood::Answers => (6, Some(10_000)),
        Flood::Unlimited => (6, None),
        Flood::Prompts => (1, Some(1)),
    };
    let prompt = "Tell me everything about attestation, measurement, enclaves and keys. ".repeat(sentences);
    for turn in number.. {
        let request = request(&unlike_others(&prompt), max_tokens).to_string();
        let response = send(proxy, "POST", "/v1/chat/completions", &request).await;
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
