//! A machine that sleeps: what may last for a stated time lasts no longer, although timers stand still meanwhile.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cleanroom_attestation::release::BootMillis;
use cleanroom_channel::identity::Identity;
use cleanroom_guard::Clock;
use cleanroom_partner::session::Session;
use cleanroom_tests::clean_room::CleanRoom;
use cleanroom_tests::client::{json, question, send};
use cleanroom_tests::platform::World;
use cleanroom_tests::wait;
use http::{Request, StatusCode};
use http_body_util::Empty;

const HOUR: Duration = Duration::from_secs(60 * 60);

/// A clock that stands still until it is moved.
fn scripted() -> (Clock, Arc<AtomicU64>) {
    let millis = Arc::new(AtomicU64::new(1_000_000));
    let now = Arc::clone(&millis);
    (Clock::from_fn(move || BootMillis(now.load(Ordering::SeqCst))), millis)
}

fn advance(clock: &AtomicU64, by: Duration) {
    clock.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_when_its_time_is_over_although_the_machine_slept() {
    // The machine sleeps in the middle of an answer: after so many looks that the engine has taken at the clock.
    const LOOKS: usize = 20;
    let looks = Arc::new(AtomicUsize::new(0));
    let clock = Clock::from_fn({
        let looks = Arc::clone(&looks);
        move || {
            let engine = std::thread::current().name().is_some_and(|name| name.starts_with("engine"));
            let looks = looks.fetch_add(usize::from(engine), Ordering::SeqCst);
            BootMillis(if looks < LOOKS { 0 } else { u64::try_from(HOUR.as_millis()).unwrap() })
        }
    });
    let clean_room = CleanRoom::start_on(World::new(), "[limits]\nrequest_time = \"1h\"", clock).await;
    let proxy = clean_room.proxy(&Identity::generate().unwrap()).await;
    let asked = question("Tell me a short story.", false);
    let (status, answer) = json(send(proxy, "POST", "/v1/chat/completions", &asked).await).await;
    let code = answer["error"]["code"].as_str();
    assert_eq!((status, code), (StatusCode::GATEWAY_TIMEOUT, Some("request_time")), "{answer}");
    // The next request has an hour of its own.
    let (status, answer) = json(send(proxy, "POST", "/v1/chat/completions", &asked).await).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_when_its_time_is_over_although_the_machine_slept() {
    let (clock, time) = scripted();
    let clean_room = CleanRoom::start_on(World::new(), "[limits]\nsession_lifetime = \"1h\"", clock).await;
    let party = clean_room.party(&Identity::generate().unwrap());
    let attested = party
        .challenge(clean_room.stream().await)
        .await
        .unwrap()
        .appraise(cleanroom_partner::clock::now())
        .unwrap()
        .confirm()
        .await
        .unwrap();
    // The partner would go on for longer than the enclave does.
    let session = Session::start(attested, 10 * HOUR).await.unwrap();
    // An answer shows that the session's time runs in the enclave.
    let models = Request::get("https://cleanroom/v1/models").body(Empty::<Bytes>::new()).unwrap();
    let answer = session.send(models).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    advance(&time, HOUR - Duration::from_millis(1));
    // More than one look of the enclave at its clock.
    let early = tokio::time::timeout(Duration::from_secs(3), closed(&session)).await;
    assert!(early.is_err(), "it ended before its time");
    advance(&time, Duration::from_millis(1));
    closed(&session).await;
}

/// Returns when the enclave takes no further request on the session.
async fn closed(session: &Session) {
    wait::until("the session takes no further request", || !session.is_usable()).await;
}
