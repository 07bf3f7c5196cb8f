//! Nobody says how long an answer may be.
//!
//! Three partners share a model with a context of 16,384 tokens, and 60 MiB for keys and values: less than a
//! sixth of one context. Two of them keep more requests under way than there are places, and the third asks its
//! questions. Each is the third in turn. In quiet the same partner asks the same alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cleanroom_channel::identity::Identity;
use cleanroom_guard::Clock;
use cleanroom_tests::clean_room::CleanRoom;
use cleanroom_tests::client::send;
use cleanroom_tests::platform::World;
use http::StatusCode;
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::task::JoinSet;

use crate::measure::{
    ONE_THREAD, QUESTIONS, SETTLE, THINKS, compare_every, print_head, request, unlike_others,
};
use crate::partners::{Counts, Flood, flood_with};

/// Turns of quiet and of the flood, for each partner.
const TURNS: usize = 2;
const PARTNERS: usize = 3;
/// Requests that each of those who flood keeps under way.
const REQUESTS: usize = 24;

/// Measures. Whether every first token came in time.
pub(crate) async fn run(model: Vec<u8>, questions: usize) -> bool {
    let limits = format!("{ONE_THREAD}\nkv_memory = \"60MiB\"");
    let clean_room = CleanRoom::start_with(World::new(), &limits, Clock::boot(), model).await;
    let mut partners = Vec::with_capacity(PARTNERS);
    for _ in 0..PARTNERS {
        let identity = Identity::generate().expect("keys can be made");
        let proxy = clean_room.proxy(&identity).await;
        // The first sets the session up.
        time_to_first_token(proxy, QUESTIONS[0].1).await;
        partners.push(proxy);
    }
    let counts = Arc::new(Counts::default());
    let [mut alone, mut beside] = [(); 2].map(|()| QUESTIONS.map(|_| Vec::new()));
    for turn in 0..TURNS * PARTNERS {
        let asker = partners[turn % PARTNERS];
        ask(asker, questions, &mut alone).await;
        let mut flood = JoinSet::new();
        for other in partners.iter().filter(|other| **other != asker) {
            for number in 0..REQUESTS {
                flood.spawn(flood_with(*other, Flood::Unlimited, number, Arc::clone(&counts)));
            }
        }
        // Until the answers have taken all memory.
        tokio::time::sleep(FILL).await;
        ask(asker, questions, &mut beside).await;
        flood.shutdown().await;
        // What it left under way ends at the next token.
        tokio::time::sleep(SETTLE).await;
    }
    print_head();
    let mut met = true;
    for (question, (name, _)) in QUESTIONS.iter().enumerate() {
        let what = format!("first token of {name}");
        met &= compare_every(&what, &mut alone[question], "beside two who flood", &mut beside[question]);
    }
    counts.print("of those who flood");
    met
}

/// How long a flood runs before it counts.
const FILL: Duration = Duration::from_secs(10);

/// Asks every question so many times, in turns.
async fn ask(proxy: SocketAddr, questions: usize, times: &mut [Vec<Duration>]) {
    for _ in 0..questions {
        for ((_, question), times) in QUESTIONS.iter().zip(&mut *times) {
            tokio::time::sleep(THINKS).await;
            times.push(time_to_first_token(proxy, question).await);
        }
    }
}

/// Asks without a limit, and hangs up on the first token. It asks for an object, whose first token is text: a
/// model of random weights may begin with a part of a character, which no stream shows.
async fn time_to_first_token(proxy: SocketAddr, question: &str) -> Duration {
    let begun = Instant::now();
    let mut request = request(&unlike_others(question), None);
    request["response_format"] = json!({ "type": "json_object" });
    let response = send(proxy, "POST", "/v1/chat/completions", &request.to_string()).await;
    assert_eq!(response.status(), StatusCode::OK, "the partner is served");
    let (mut body, mut events) = (response.into_body(), Vec::new());
    while !has_text(&events) {
        let frame = body.frame().await.expect("an answer begins").expect("the connection lasts");
        events.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
    }
    begun.elapsed()
}

/// Whether these events have any of an answer's text.
fn has_text(events: &[u8]) -> bool {
    const CONTENT: &[u8] = br#""content":""#;
    let mut found = memchr::memmem::find_iter(events, CONTENT);
    found.any(|at| events.get(at + CONTENT.len()).is_some_and(|byte| *byte != b'"'))
}
