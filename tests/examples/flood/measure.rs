//! What a partner asks, how long it waits, and what counts as a miss.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cleanroom_tests::client::send;
use http::StatusCode;
use http_body_util::BodyExt as _;

/// One thread for the engine: partners, their proxies and the host run on this machine, too, and take the rest.
pub(crate) const ONE_THREAD: &str = "[limits]\nthreads = 1";
/// Turns of quiet and of each flood.
pub(crate) const TURNS: usize = 5;
/// How long a flood runs before it counts.
pub(crate) const SETTLE: Duration = Duration::from_secs(1);
/// How long whoever was refused waits before it comes again: a client that heeds no `Retry-After`. Everybody runs on the
/// machine that is measured, so a shorter time would measure the flood's own work.
pub(crate) const AGAIN: Duration = Duration::from_millis(100);
/// How long the quiet partner thinks between two questions. One that asks without a pause wants the whole machine, of which it gets half.
pub(crate) const THINKS: Duration = Duration::from_millis(500);
/// The flood may make the 95th percentile this many times as long.
pub(crate) const LIMIT: f64 = 2.0;

/// What the quiet partner asks: some dozen tokens, and a small paragraph.
pub(crate) const QUESTIONS: [(&str, &str); 2] = [
    ("a short question", "What is attestation?"),
    (
        "a usual question",
        "An organisation wants to send a prompt to a model that runs in an enclave, and must know before it sends anything who will be \
         able to read it. Which measurements does the security module sign, who can check the signature, and what does the client do \
         when one of the measurements is not the one that it expects?",
    ),
];

/// The head of the table that [`compare`] fills.
pub(crate) fn print_head() {
    println!("{:<48} {:>10} {:>10} {:>10}", "", "median", "95 of 100", "worst");
}

/// Prints both lines and their ratio. Whether it is within [`LIMIT`].
pub(crate) fn compare(what: &str, quiet: &mut [Duration], floods: &mut [(&str, &mut Vec<Duration>)]) -> bool {
    let mut met = true;
    print_ratios(what, quiet, floods, |ratio| {
        met &= ratio <= LIMIT;
        let mark = if ratio <= LIMIT { "ok  " } else { "MISS" };
        println!("{mark}  {ratio:.2} of the quiet one (limit {LIMIT})");
    });
    met
}

/// The same for times that have no limit.
pub(crate) fn show(what: &str, quiet: &mut [Duration], floods: &mut [(&str, &mut Vec<Duration>)]) {
    print_ratios(what, quiet, floods, |ratio| println!("      {ratio:.2} of the quiet one"));
}

fn print_ratios(
    what: &str,
    quiet: &mut [Duration],
    floods: &mut [(&str, &mut Vec<Duration>)],
    mut print: impl FnMut(f64),
) {
    let quiet = percentile_95(&format!("{what}, in quiet"), quiet);
    for (when, times) in floods {
        let loud = percentile_95(&format!("{what}, {when}"), times);
        print(loud.as_secs_f64() / quiet.as_secs_f64());
    }
    println!();
}

/// The same, where not one time may be over [`LIMIT`] times the quiet 95th percentile.
pub(crate) fn compare_every(what: &str, quiet: &mut [Duration], when: &str, times: &mut [Duration]) -> bool {
    let quiet = percentile_95(&format!("{what}, in quiet"), quiet);
    percentile_95(&format!("{what}, {when}"), times);
    let ratio = times.last().copied().unwrap_or_default().as_secs_f64() / quiet.as_secs_f64();
    let met = ratio <= LIMIT;
    let mark = if met { "ok  " } else { "MISS" };
    println!("{mark}  the worst is {ratio:.2} of the 95th percentile of the quiet ones (limit {LIMIT})\n");
    met
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
pub(crate) fn unlike_others(text: &str) -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(100_000);
    format!("{} {text}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Asks for an answer of one token, and waits for its end: a model of random weights may say what is no text.
pub(crate) async fn time_to_first_token(proxy: SocketAddr, question: &str) -> Duration {
    let begun = Instant::now();
    let request = request(&unlike_others(question), Some(1)).to_string();
    let response = send(proxy, "POST", "/v1/chat/completions", &request).await;
    assert_eq!(response.status(), StatusCode::OK, "the quiet partner is served");
    response.into_body().collect().await.expect("the answer ends");
    begun.elapsed()
}

/// A question. Without `max_tokens` its answer ends where the model ends it, or where memory or context do.
pub(crate) fn request(text: &str, max_tokens: Option<u32>) -> serde_json::Value {
    let mut request = serde_json::json!({
        "model": "demo",
        "messages": [{ "role": "user", "content": text }],
        "stream": true,
    });
    if let Some(max_tokens) = max_tokens {
        request["max_tokens"] = max_tokens.into();
    }
    request
}
