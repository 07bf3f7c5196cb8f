//! What happens to an answer that is under way.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use bytes::Bytes;
use cleanroom_attestation::channel::StreamEnd;
use cleanroom_attestation::release::{Accepted, List, ModelState, Release, Target};
use cleanroom_channel::identity::Identity;
use cleanroom_link::control::{ControlAnswer, ControlKind};
use cleanroom_partner::session::{self, Sessions};
use cleanroom_program::clock::{Clock, Hands};
use cleanroom_tests::authorities::LEASE_MS;
use cleanroom_tests::client::{json, question, send};
use cleanroom_tests::released_room::ReleasedRoom;
use cleanroom_tests::wait;
use http::StatusCode;
use http_body_util::{BodyExt as _, Full};

/// What is asked. The answer has some dozens of tokens.
const STORY: &str = "Tell me a short story.";

/// A running stream, read up to its first event with text.
async fn stream(room: &ReleasedRoom) -> (Arc<session::Session>, http::Response<hyper::body::Incoming>) {
    stream_of(room, &room.identity).await
}

/// The same, of any partner.
async fn stream_of(
    room: &ReleasedRoom,
    identity: &Identity,
) -> (Arc<session::Session>, http::Response<hyper::body::Incoming>) {
    let sessions = Sessions::new(room.party(identity), room.clean_room.address());
    let session = sessions.get().await.unwrap();
    let request = http::Request::post("https://cleanroom/v1/chat/completions")
        .header("content-type", "application/json")
        .body(Full::<Bytes>::from(question(STORY, true)))
        .unwrap();
    let mut response = session.send(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.body_mut().frame().await.unwrap().unwrap().is_data());
    (session, response)
}

/// The signed end of a stream: its reason, once the signature is good.
async fn signed_end(
    session: &session::Session,
    response: http::Response<hyper::body::Incoming>,
) -> Option<String> {
    signed_end_of(session, &rest(response).await)
}

/// Everything that comes of a stream until it ends.
async fn rest(response: http::Response<hyper::body::Incoming>) -> String {
    let rest = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(rest.to_vec()).unwrap()
}

/// The same, of the rest of a stream.
fn signed_end_of(session: &session::Session, text: &str) -> Option<String> {
    if text.contains("[DONE]") {
        return None;
    }
    assert!(!text.contains(r#""finish_reason":""#), "{text}");
    let mut events = text.split("data: ").filter(|event| event.contains("cleanroom_stream_end"));
    let event = events.next().unwrap().split("\n\n").next().unwrap();
    let event: serde_json::Value = serde_json::from_str(event).unwrap();
    let end = &event["cleanroom_stream_end"];
    assert_eq!(end["reason"], event["error"]["code"]);
    let digest = |name: &str| end[name].as_str().map(|text| text.parse().unwrap());
    let message = StreamEnd {
        transcript: &session.transcript(),
        stream: end["stream"].as_str().unwrap(),
        reason: end["reason"].as_str().unwrap(),
        at_ms: end["at_ms"].as_u64().unwrap(),
        release: digest("release_sha256"),
        lease: digest("lease_sha256"),
    }
    .message();
    let signature =
        base64::engine::general_purpose::STANDARD.decode(end["signature"].as_str().unwrap()).unwrap();
    // The last 32 bytes of the SubjectPublicKeyInfo are the Ed25519 key.
    let key = session.evidence().evidence().public_key().unwrap();
    UnparsedPublicKey::new(&ED25519, &key[key.len() - 32..]).verify(&message, &signature).unwrap();
    Some(end["reason"].as_str().unwrap().to_owned())
}

/// A room in the middle of an answer: three tokens are out, and the engine waits before the fourth.
async fn in_the_middle() -> (ReleasedRoom, Arc<session::Session>, http::Response<hyper::body::Incoming>) {
    let mut room = ReleasedRoom::start().await;
    let release = room.release(1);
    room.run(&release).await;
    room.hold.after(3);
    let (session, response) = stream(&room).await;
    room.hold.reached().await;
    (room, session, response)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_ends_has_no_signed_end() {
    let (room, session, response) = in_the_middle().await;
    room.hold.release();
    assert_eq!(signed_end(&session, response).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_ends_a_running_stream_with_a_signed_reason() {
    let (mut room, session, response) = in_the_middle().await;
    let denial = room.authorities.deny_model().0;
    assert_eq!(room.hand(ControlKind::DENIAL, &denial).await, ControlAnswer::Accepted(Accepted::New));
    room.hold.release();
    assert_eq!(signed_end(&session, response).await.as_deref(), Some("model-denied"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_by_attribute_ends_the_stream_of_whom_it_names_and_of_nobody_else() {
    let mut room = ReleasedRoom::start().await;
    let other = Identity::generate().unwrap();
    let mut release = room.release(1);
    let mut named = release.partners[0].clone();
    let mut spared = named.clone();
    named.attributes = List::new(vec!["jurisdiction=eu".parse().unwrap(), "sector=energy".parse().unwrap()]);
    spared.id = "q".parse().unwrap();
    spared.keys = List::new(vec![other.key_digest()]).unwrap();
    spared.attributes = List::new(vec!["jurisdiction=us".parse().unwrap(), "sector=energy".parse().unwrap()]);
    release.partners = List::new(vec![named, spared]).unwrap();
    room.run(&release).await;
    room.hold.after(3);
    let (session, response) = stream(&room).await;
    room.hold.reached().await;
    // Admitted, and begun: its first event is out.
    let (other_session, other_response) = stream_of(&room, &other).await;

    let denial = room.authorities.deny(Target::Attribute("jurisdiction=eu".parse().unwrap())).0;
    assert_eq!(room.hand(ControlKind::DENIAL, &denial).await, ControlAnswer::Accepted(Accepted::New));
    room.hold.release();
    assert_eq!(signed_end(&session, response).await.as_deref(), Some("attribute-denied"));
    assert_eq!(signed_end(&other_session, other_response).await, None);
    assert_eq!(room.asked().await, "attribute-denied");
}

/// How many events with text there are.
fn events(text: &str) -> usize {
    text.matches(r#""finish_reason":null"#).count()
}

/// How many events with text have come so far.
async fn come(response: &mut http::Response<hyper::body::Incoming>) -> usize {
    let mut text = Vec::new();
    let silence = Duration::from_millis(100);
    while let Ok(frame) = tokio::time::timeout(silence, response.body_mut().frame()).await {
        text.extend_from_slice(&frame.unwrap().unwrap().into_data().unwrap());
    }
    events(std::str::from_utf8(&text).unwrap())
}

/// Hands in the denial of the model, and looks at what still leaves of an answer that has some dozen events more to say.
async fn denial_holds_back(
    room: &mut ReleasedRoom,
    session: &session::Session,
    mut response: http::Response<hyper::body::Incoming>,
) {
    let before = come(&mut response).await;
    let denial = room.authorities.deny_model().0;
    assert_eq!(room.hand(ControlKind::DENIAL, &denial).await, ControlAnswer::Accepted(Accepted::New));
    room.hold.release();
    let rest = rest(response).await;
    assert_eq!(signed_end_of(session, &rest).as_deref(), Some("model-denied"));
    assert!(before <= 9, "{before} events have left already: there is nothing to hold back");
    // The frame of a tick just before the denial, and the event that had begun to leave.
    assert!(events(&rest) <= 4, "{} events left after the denial, {before} before it: {rest}", events(&rest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_holds_back_what_was_made_before_it_and_has_not_left() {
    let mut room = ReleasedRoom::slow().await;
    let release = long(&room, 1);
    room.run(&release).await;
    room.hold.after(20);
    let (session, response) = stream(&room).await;
    room.hold.reached().await;
    denial_holds_back(&mut room, &session, response).await;
}

/// A release whose leases run for longer than a slow answer takes on a busy machine.
fn long(room: &ReleasedRoom, version: u64) -> Release {
    let mut release = room.release(version);
    release.lease.seconds = 600;
    release
}

/// Lets the partner have one request at a time, so that another one is refused for that reason for as long as one is made.
fn one_at_a_time(room: &ReleasedRoom, version: u64, tokens_per_day: u64) -> Release {
    let mut release = long(room, version);
    let mut partner = release.partners[0].clone();
    (partner.limits.concurrency, partner.limits.requests_per_minute) = (1, 10_000);
    partner.limits.tokens_per_day = tokens_per_day;
    release.partners = List::new(vec![partner]).unwrap();
    release
}

/// Waits until the engine has ended the answer that it stood still in.
async fn made(room: &ReleasedRoom) {
    room.hold.release();
    while room.asked().await == "concurrency-limit" {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_holds_back_what_a_limit_had_let_through() {
    const TOKENS: u64 = 14;
    let mut room = ReleasedRoom::slow().await;
    let release = long(&room, 1);
    room.run(&release).await;
    // How many tokens the prompt has.
    let mut first: serde_json::Value = serde_json::from_str(&question(STORY, false)).unwrap();
    first["max_tokens"] = 1.into();
    let proxy = room.proxy().await;
    let (_, answer) = json(send(proxy, "POST", "/v1/chat/completions", &first.to_string()).await).await;
    let prompt = answer["usage"]["prompt_tokens"].as_u64().unwrap();

    let release = one_at_a_time(&room, 2, prompt + 1 + prompt + TOKENS);
    room.run(&release).await;
    room.hold.after(u32::try_from(TOKENS).unwrap());
    let (session, response) = stream(&room).await;
    room.hold.reached().await;
    made(&room).await;
    assert_eq!(room.asked().await, "tokens-per-day-limit");
    denial_holds_back(&mut room, &session, response).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_holds_back_what_a_deadline_had_let_through() {
    const TIME: Duration = Duration::from_secs(5);
    let mut room =
        ReleasedRoom::slow_and(&format!("[limits]\nrequest_time = \"{}s\"\n", TIME.as_secs())).await;
    let release = one_at_a_time(&room, 1, 100_000);
    room.run(&release).await;
    room.hold.after(14);
    let (session, response) = stream(&room).await;
    room.hold.reached().await;
    // The engine stands still until the request's time is over.
    room.clock.fetch_add(u64::try_from(TIME.as_millis()).unwrap(), Ordering::SeqCst);
    made(&room).await;
    denial_holds_back(&mut room, &session, response).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lapse_ends_a_running_stream_with_a_signed_reason() {
    let (room, session, response) = in_the_middle().await;
    room.pass_time(LEASE_MS);
    room.hold.release();
    assert_eq!(signed_end(&session, response).await.as_deref(), Some("lease-lapsed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_lease_and_a_newer_release_let_a_running_stream_go_on() {
    let (mut room, session, response) = in_the_middle().await;
    let second = room.release(2);
    room.run(&second).await;
    room.pass_time(LEASE_MS - 1);
    room.hold.release();
    assert_eq!(signed_end(&session, response).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_a_running_stream_and_the_weights_are_gone_for_good() {
    let (mut room, session, response) = in_the_middle().await;
    let mut revoked = room.release(2);
    let mut model = revoked.models[0].clone();
    model.state = ModelState::Revoked;
    revoked.models = List::new(vec![model]).unwrap();
    let revoked = room.authorities.sign(&revoked);
    // The answer comes once the weights are erased, and the engine that reads them is held.
    room.throw(ControlKind::RELEASE, &revoked).await;
    while room.asked().await != "model-revoked" {}
    room.hold.release();
    assert_eq!(signed_end(&session, response).await.as_deref(), Some("model-revoked"));

    // A release that takes it back does not bring them back: this enclave has to be started again.
    let ReleasedRoom { authorities, clean_room, control, identity, clock, hold } = room;
    drop(control);
    let control = clean_room.control().await;
    let mut room = ReleasedRoom { authorities, clean_room, control, identity, clock, hold };
    let third = room.release(3);
    room.run(&third).await;
    assert_eq!(room.asked().await, "model-revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_model_finishes_what_runs_and_begins_nothing() {
    let (mut room, session, response) = in_the_middle().await;
    let mut draining = room.release(2);
    let mut model = draining.models[0].clone();
    model.state = ModelState::Draining;
    draining.models = List::new(vec![model]).unwrap();
    room.run(&draining).await;
    assert_eq!(room.asked().await, "model-draining");
    room.hold.release();
    assert_eq!(signed_end(&session, response).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_ends_a_running_stream_with_a_signed_reason() {
    let (mut room, session, response) = in_the_middle().await;
    let mut suspended = room.release(2);
    let mut model = suspended.models[0].clone();
    model.state = ModelState::Suspended;
    suspended.models = List::new(vec![model]).unwrap();
    let suspended = room.authorities.sign(&suspended);
    let _ = room.hand(ControlKind::RELEASE, &suspended).await;
    room.hold.release();
    assert_eq!(signed_end(&session, response).await.as_deref(), Some("model-suspended"));
}

/// A stream through a local proxy whose clock the test moves, read up to its first event with text. The lease ends
/// in [`LEFT`], and the engine waits in the middle of the answer.
async fn proxied(room: &ReleasedRoom) -> (Hands, http::Response<hyper::body::Incoming>) {
    room.pass_time(LEASE_MS - LEFT.as_millis() as u64);
    room.hold.after(3);
    let (clock, hands) = Clock::manual();
    let proxy = room.clean_room.proxy_of(room.party(&room.identity).with_clock(clock)).await;
    let question = question(STORY, true);
    let mut response = send(proxy, "POST", "/v1/chat/completions", &question).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.body_mut().frame().await.unwrap().unwrap().is_data());
    room.hold.reached().await;
    (hands, response)
}

/// How much is left of the lease.
const LEFT: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_cuts_what_runs_when_the_lease_it_was_shown_ends_and_no_other_is_proven() {
    let mut room = ReleasedRoom::start().await;
    let release = room.release(1);
    room.run(&release).await;
    let (hands, response) = proxied(&room).await;
    // The lease ends for the partner, and no new connection comes through. The enclave, as one that does not obey,
    // says nothing.
    room.clean_room.recorder.refuse();
    hands.advance(LEFT);
    assert!(response.into_body().collect().await.is_err(), "the stream must be cut");
    room.hold.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_lets_a_stream_go_on_when_the_same_clean_room_is_proven_again() {
    let mut room = ReleasedRoom::start().await;
    let release = room.release(1);
    let release = room.run(&release).await;
    let (hands, response) = proxied(&room).await;
    room.renew(&release).await;
    let proven = room.clean_room.recorder.len();
    hands.advance(LEFT);
    // Another handshake went by: the clean room was proven again while the stream waited.
    wait::until("it is proven again", || room.clean_room.recorder.len() >= proven + 4_096).await;
    room.hold.release();
    let rest = response.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&rest).contains("data: [DONE]\n\n"));
}
