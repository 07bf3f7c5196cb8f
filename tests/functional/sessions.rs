//! The partner's sessions against a scripted clean room: what is sent when, how far a request got, when a
//! session ends.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::policy::Policy;
use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::session::{Answer, Reach, SendError, Sessions};
use cleanroom_program::clock::{BootInstant, Clock, Hands};
use cleanroom_tests::platform::{model_digest, model_id};
use cleanroom_tests::scripted::{
    Connection, DATA, MAX_CONCURRENT_STREAMS, REFUSED_STREAM, Received, ScriptedRoom,
};
use cleanroom_tests::wait;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use tokio::sync::{Notify, oneshot};

/// How long a session lives when the policy does not say.
const MAX_SESSION: Duration = Duration::from_secs(15 * 60);

/// Within which time what runs on an ended session is cut.
const CUT_WITHIN: Duration = Duration::from_secs(5);

const SECRET: &[u8] = b"a prompt that nobody else may read";

fn request() -> Request<Bytes> {
    Request::post("https://cleanroom/v1/chat/completions").body(Bytes::from_static(SECRET)).unwrap()
}

/// Sessions to a room, on a clock that the test moves.
fn sessions(room: &ScriptedRoom) -> (Sessions, Hands) {
    let (clock, hands) = Clock::manual();
    (Sessions::new(room.world.partner().with_clock(clock), room.address()), hands)
}

/// The connections on which the room got the request.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<usize>>>);

impl Seen {
    fn on(&self, connection: usize) -> impl Fn(Received) + use<> {
        let seen = Arc::clone(&self.0);
        move |request| {
            assert_eq!(request.content, SECRET);
            seen.lock().unwrap().push(connection);
        }
    }

    fn connections(&self) -> Vec<usize> {
        self.0.lock().unwrap().clone()
    }
}

/// Proves and serves.
async fn honest(connection: Connection, seen: impl Fn(Received)) {
    let mut peer = connection.prove().await;
    peer.begin(&[]).await;
    peer.serve(seen).await;
}

async fn is_answered(answer: Result<Answer, SendError>) {
    let content = answer.unwrap().response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(content, "{}");
}

// How far a request got.

#[tokio::test]
async fn a_failed_start_of_http2_is_never_sent() {
    let room = ScriptedRoom::start(async |_, connection: Connection| drop(connection.prove().await)).await;
    let error = sessions(&room).0.send(&request()).await.err().unwrap();
    assert_eq!((error.reach, error.code()), (Reach::NeverSent, "http2"));
    assert!(error.to_string().ends_with("Your request was not sent."), "{error}");
}

#[tokio::test]
async fn what_a_leaving_room_did_not_look_at_is_sent_again_on_a_fresh_proven_session() {
    for leave in ["goaway before the request", "goaway after it", "refused stream"] {
        let seen = Seen::default();
        let script = {
            let seen = seen.clone();
            move |number, connection: Connection| {
                let seen = seen.clone();
                async move {
                    if number > 0 {
                        return honest(connection, seen.on(number)).await;
                    }
                    let mut peer = connection.prove().await;
                    peer.begin(&[]).await;
                    if leave == "goaway before the request" {
                        peer.go_away(0).await;
                    }
                    // The request may be under way already.
                    let Some(request) = peer.request().await else { return };
                    match leave {
                        "refused stream" => peer.reset(request.stream, REFUSED_STREAM).await,
                        _ => peer.go_away(0).await,
                    }
                    peer.rest().await;
                }
            }
        };
        let room = ScriptedRoom::start(script).await;
        is_answered(sessions(&room).0.send(&request()).await).await;
        assert_eq!(seen.connections(), [1], "{leave}");
        assert_eq!(room.connections(), 2, "{leave}");
    }
}

#[tokio::test]
async fn a_room_that_never_takes_a_request_is_given_up() {
    let script = async |_, connection: Connection| {
        let mut peer = connection.prove().await;
        peer.begin(&[]).await;
        while let Some(request) = peer.request().await {
            peer.reset(request.stream, REFUSED_STREAM).await;
        }
    };
    let room = ScriptedRoom::start(script).await;
    let error = sessions(&room).0.send(&request()).await.err().unwrap();
    assert_eq!((error.reach, error.code()), (Reach::NeverSent, "connection-lost"));
    assert_eq!(room.connections(), 3);
}

#[tokio::test]
async fn what_may_have_been_sent_is_not_sent_again() {
    let script = async |_, connection: Connection| {
        let mut peer = connection.prove().await;
        peer.begin(&[]).await;
        // The room has the request, and its connection is cut.
        let _ = peer.request().await;
    };
    let room = ScriptedRoom::start(script).await;
    let error = sessions(&room).0.send(&request()).await.err().unwrap();
    assert_eq!((error.reach, error.code()), (Reach::MayHaveBeenSent, "connection-lost"));
    assert!(error.to_string().ends_with("may have received your request."), "{error}");
    assert_eq!(room.connections(), 1);
    // A code of its own that is not REFUSED_STREAM says nothing about what the room did.
    let script = async |_, connection: Connection| {
        let mut peer = connection.prove().await;
        peer.begin(&[]).await;
        let request = peer.request().await.unwrap();
        peer.reset(request.stream, 2).await;
        peer.rest().await;
    };
    let room = ScriptedRoom::start(script).await;
    let error = sessions(&room).0.send(&request()).await.err().unwrap();
    assert_eq!(error.reach, Reach::MayHaveBeenSent);
    assert_eq!(room.connections(), 1);
}

// Nothing leaves on a session that has ended.

#[tokio::test]
async fn the_last_moment_decides_and_an_ended_session_is_replaced() {
    let seen = Seen::default();
    let script = {
        let seen = seen.clone();
        move |number, connection| honest(connection, seen.on(number))
    };
    let room = ScriptedRoom::start(script).await;
    let (sessions, hands) = sessions(&room);
    let first = sessions.get().await.unwrap();
    let permit = first.permit().unwrap();
    hands.advance(MAX_SESSION);
    // Neither a permit that was taken before nor a new one carries anything.
    let error = permit.send(request().map(Full::new)).await.err().unwrap();
    assert_eq!((error.reach, error.code()), (Reach::NeverSent, "session-ended"));
    assert_eq!(first.permit().err().unwrap().reach, Reach::NeverSent);
    is_answered(sessions.send(&request()).await).await;
    assert_eq!(seen.connections(), [1]);
}

#[tokio::test]
async fn a_request_that_http2_holds_back_does_not_leave_after_the_end() {
    let (began, released, seen) = (Arc::new(Notify::new()), Arc::new(Notify::new()), Seen::default());
    let (saw, first) = oneshot::channel();
    let saw = Arc::new(Mutex::new(Some(saw)));
    let script = {
        let (began, released, seen) = (Arc::clone(&began), Arc::clone(&released), seen.clone());
        move |number, connection: Connection| {
            let (began, released, seen) = (Arc::clone(&began), Arc::clone(&released), seen.clone());
            let saw = Arc::clone(&saw);
            async move {
                if number > 0 {
                    return honest(connection, seen.on(number)).await;
                }
                let mut peer = connection.prove().await;
                peer.begin(&[(MAX_CONCURRENT_STREAMS, 0)]).await;
                peer.settled().await;
                began.notify_one();
                released.notified().await;
                // Now that the session has ended, the room would take the request.
                peer.settings(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
                let kinds = peer.rest().await.into_iter().map(|(kind, ..)| kind).collect();
                let _ = saw.lock().unwrap().take().unwrap().send(kinds);
            }
        }
    };
    let room = ScriptedRoom::start(script).await;
    let (sessions, hands) = sessions(&room);
    let _ = sessions.get().await.unwrap();
    began.notified().await;
    let sending = tokio::spawn({
        let sessions = sessions.clone();
        async move { sessions.send(&request()).await }
    });
    // The settings are there, and the request waits in HTTP/2.
    settle().await;
    assert!(!sending.is_finished());
    hands.advance(MAX_SESSION);
    is_answered(sending.await.unwrap()).await;
    assert_eq!(seen.connections(), [1]);
    released.notify_one();
    let kinds: Vec<u8> = first.await.unwrap();
    assert!(!kinds.contains(&DATA), "content left on a session that has ended");
}

// When a session ends.

#[tokio::test]
async fn how_long_a_proof_holds_counts_from_the_question() {
    let (clock, hands) = Clock::manual();
    let late = hands.clone();
    let script = move |_, connection: Connection| {
        let late = late.clone();
        async move {
            let delay = async { late.advance(MAX_SESSION - Duration::from_secs(60)) };
            let mut peer = connection.prove_enclave(0, delay).await;
            peer.begin(&[]).await;
            peer.serve(drop).await;
        }
    };
    let room = ScriptedRoom::start(script).await;
    let sessions = Sessions::new(room.world.partner().with_clock(clock.clone()), room.address());
    let session = sessions.get().await.unwrap();
    assert_eq!(session.until(), BootInstant::from_millis(0) + MAX_SESSION);
    assert_eq!(session.until().since(clock.now()), Duration::from_secs(60));
}

/// A stream that runs on the first connection. Later connections do what `later` says.
async fn running<F>(
    later: impl Fn(Connection) -> F + Clone + Send + Sync + 'static,
) -> (ScriptedRoom, Sessions, Hands, Answer)
where
    F: Future<Output = ()> + Send + 'static,
{
    let script = move |number, connection: Connection| {
        let later = later.clone();
        async move {
            if number > 0 {
                return later(connection).await;
            }
            let mut peer = connection.prove().await;
            peer.begin(&[]).await;
            let request = peer.request().await.unwrap();
            peer.answer(request.stream, "text/event-stream").await;
            peer.content(request.stream, b"data: 1\n\n", false).await;
            peer.rest().await;
        }
    };
    let room = ScriptedRoom::start(script).await;
    let (sessions, hands) = sessions(&room);
    let mut answer = sessions.send(&request()).await.unwrap();
    assert!(answer.response.body_mut().frame().await.unwrap().unwrap().is_data());
    (room, sessions, hands, answer)
}

#[tokio::test]
async fn a_stream_goes_on_when_the_same_clean_room_is_proven_again_and_no_further_than_that_proof() {
    let (room, sessions, hands, mut answer) = running(|connection| honest(connection, drop)).await;
    hands.advance(MAX_SESSION);
    wait::until("the clean room is asked again", || room.connections() >= 2).await;
    // Once it is proven, the time in which it had to be may pass.
    sessions.get().await.unwrap();
    hands.advance(CUT_WITHIN);
    is_answered(sessions.send(&request()).await).await;
    settle().await;
    is_still_open(&mut answer).await;
}

/// Fails unless the stream is neither cut nor ended.
async fn is_still_open(answer: &mut Answer) {
    assert_eq!(answer.session.why_cut(), None);
    let more = tokio::select! {
        more = answer.response.body_mut().frame() => Some(more),
        () = settle() => None,
    };
    assert!(more.is_none(), "the stream is still open");
}

/// Lets every task do what it can do without further time.
async fn settle() {
    // More often than the runtime looks at its sockets between two of its tasks.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_stream_is_cut_when_only_other_enclaves_answer() {
    let another = |connection: Connection| async move {
        let mut peer = connection.prove_enclave(1, async {}).await;
        peer.begin(&[]).await;
        peer.serve(drop).await;
    };
    let (_room, _sessions, hands, answer) = running(another).await;
    hands.advance(MAX_SESSION);
    assert!(answer.response.into_body().collect().await.is_err());
    assert_eq!(answer.session.why_cut().unwrap().code, "other-enclaves");
}

#[tokio::test]
async fn a_stream_is_cut_within_five_seconds_when_nobody_proves_the_room_again() {
    let silent = |connection: Connection| async move {
        let _stream = connection.into_stream();
        std::future::pending::<()>().await;
    };
    let (room, _sessions, hands, answer) = running(silent).await;
    hands.advance(MAX_SESSION);
    wait::until("the clean room is asked again", || room.connections() >= 2).await;
    hands.advance(CUT_WITHIN - Duration::from_millis(1));
    settle().await;
    assert_eq!(answer.session.why_cut(), None);
    hands.advance(Duration::from_millis(1));
    assert!(answer.response.into_body().collect().await.is_err());
    assert_eq!(answer.session.why_cut().unwrap().code, "not-proven-in-time");
}

#[tokio::test]
async fn a_stream_is_cut_although_its_sessions_are_gone() {
    let (_room, sessions, hands, answer) =
        running(|connection| async { drop(connection.into_stream()) }).await;
    drop(sessions);
    hands.advance(MAX_SESSION);
    assert!(answer.response.into_body().collect().await.is_err());
    assert!(answer.session.why_cut().is_some());
}

// When another policy comes into force.

/// The room's policy in another text, for a model with this digest.
fn another_policy(room: &ScriptedRoom, sessions: &Sessions, model: Sha256Digest) -> RelyingParty {
    let text = format!("# another one\n{}", room.world.policy_text(model));
    sessions.party().under(Policy::from_toml(&text).unwrap(), model_id()).unwrap()
}

#[tokio::test]
async fn under_another_policy_that_accepts_its_room_a_stream_goes_on_and_requests_go_on_a_fresh_proof() {
    let (room, sessions, hands, mut answer) = running(|connection| honest(connection, drop)).await;
    sessions.adopt(another_policy(&room, &sessions, model_digest()));
    // The first connection answers no second request.
    is_answered(sessions.send(&request()).await).await;
    assert!(room.connections() >= 2);
    settle().await;
    hands.advance(CUT_WITHIN);
    settle().await;
    is_still_open(&mut answer).await;
}

#[tokio::test]
async fn a_policy_that_does_not_accept_a_room_ends_its_streams_and_nothing_more_is_sent_there() {
    let seen = Seen::default();
    let later = seen.clone();
    let (room, sessions, _hands, answer) = running(move |connection| honest(connection, later.on(1))).await;
    sessions.adopt(another_policy(&room, &sessions, Sha256Digest::of(&[b"another model"])));
    let error = answer.session.permit().err().unwrap();
    assert_eq!(error.reach, Reach::NeverSent);
    assert!(error.reason.to_string().contains("policy that is no longer in force"), "{}", error.reason);
    let error = sessions.send(&request()).await.err().unwrap();
    assert_eq!(error.reach, Reach::NeverSent);
    assert!(error.reason.is_refusal(), "{}", error.reason);
    let cut = Arc::clone(&answer.session);
    assert!(answer.response.into_body().collect().await.is_err());
    assert_eq!(cut.why_cut().unwrap().code, error.reason.code());
    assert_eq!(seen.connections(), [0; 0]);
    // The first one again: the room is proven anew.
    sessions.adopt(another_policy(&room, &sessions, model_digest()));
    is_answered(sessions.send(&request()).await).await;
    assert_eq!(seen.connections(), [1]);
}

#[tokio::test]
async fn what_was_proven_while_another_policy_came_into_force_does_not_count() {
    let adopted = Arc::new(Notify::new());
    let waits = Arc::clone(&adopted);
    let script = move |number, connection: Connection| {
        let waits = Arc::clone(&waits);
        async move {
            if number == 0 {
                waits.notified().await;
            }
            honest(connection, drop).await;
        }
    };
    let room = ScriptedRoom::start(script).await;
    let (sessions, _hands) = sessions(&room);
    let asking = tokio::spawn({
        let sessions = sessions.clone();
        async move { sessions.get().await.unwrap().is_usable() }
    });
    wait::until("the clean room is asked", || room.connections() >= 1).await;
    sessions.adopt(another_policy(&room, &sessions, model_digest()));
    adopted.notify_one();
    assert!(asking.await.unwrap());
    assert_eq!(room.connections(), 2);
}

// Many who wait.

#[tokio::test(start_paused = true)]
async fn all_who_wait_get_the_failure_together_and_in_time() {
    // The host takes connections, and says nothing.
    let script = async |_, connection: Connection| {
        let _stream = connection.into_stream();
        std::future::pending::<()>().await;
    };
    let room = ScriptedRoom::start(script).await;
    let sessions = Sessions::new(room.world.partner(), room.address());
    let begun = tokio::time::Instant::now();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let sessions = sessions.clone();
        waiting.spawn(async move { sessions.send(&request()).await.err().unwrap() });
    }
    for error in waiting.join_all().await {
        assert_eq!((error.reach, error.code()), (Reach::NeverSent, "timeout"));
    }
    assert!(begun.elapsed() < Duration::from_secs(11), "{:?}", begun.elapsed());
    assert_eq!(room.connections(), 1);
}
