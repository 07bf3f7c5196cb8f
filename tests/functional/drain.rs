//! A drain that everybody hears: the host tells the enclave, and the enclave tells its sessions.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::time::Duration;

use bytes::Bytes;
use cleanroom_attestation::log::Entry;
use cleanroom_attestation::release::{Accepted, BootMillis};
use cleanroom_channel::identity::Identity;
use cleanroom_guard::Clock;
use cleanroom_link::control::{ControlAnswer, ControlKind};
use cleanroom_partner::channel::ChannelError;
use cleanroom_partner::session::{Reach, Session};
use cleanroom_tests::clean_room::CleanRoom;
use cleanroom_tests::client::question;
use cleanroom_tests::hold::Hold;
use cleanroom_tests::log::LogKeeper;
use cleanroom_tests::platform::World;
use cleanroom_tests::wait;
use http::Request;
use http_body_util::{BodyExt as _, Full};

/// Longer than anything here takes, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

async fn session(clean_room: &CleanRoom, identity: &Identity) -> Result<Session, ChannelError> {
    let party = clean_room.party(identity);
    let challenge = party.challenge(clean_room.stream().await).await?;
    let attested = challenge.appraise(cleanroom_partner::clock::now())?.confirm().await?;
    Ok(Session::start(attested, Duration::from_secs(900)).await.unwrap())
}

fn chat(text: &str) -> Request<Full<Bytes>> {
    Request::post("https://cleanroom/v1/chat/completions")
        .header("content-type", "application/json")
        .body(Full::from(question(text, true)))
        .unwrap()
}

/// Returns when the enclave takes no further request on the session.
async fn closed(session: &Session) {
    wait::until("the session takes no further request", || !session.is_usable()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_finished_and_everybody_else_hears_of_the_end() {
    let hold = Hold::default();
    let look = hold.look();
    let clock = Clock::from_fn(move || {
        look();
        BootMillis(0)
    });
    let mut clean_room = CleanRoom::start_on(World::new(), "", clock).await;
    let identity = Identity::generate().unwrap();
    let (idle, busy) =
        (session(&clean_room, &identity).await.unwrap(), session(&clean_room, &identity).await.unwrap());
    hold.after(10);
    let mut answer = busy.send(chat("Tell me a short story.")).await.unwrap();
    assert!(answer.body_mut().frame().await.unwrap().unwrap().is_data());

    let mut control = clean_room.control().await;
    let accepted = |what| ControlAnswer::Accepted(what);
    assert_eq!(control.send(ControlKind::Drain, b"").await, accepted(Accepted::New));
    assert_eq!(control.send(ControlKind::Drain, b"").await, accepted(Accepted::Known));
    closed(&idle).await;
    // The session with the stream takes nothing more, either, and says that it did not look at it.
    let refused = async {
        loop {
            match busy.send(chat("One more.")).await {
                Err(error) => return error,
                // The word that it goes away was still on its way.
                Ok(_) => tokio::task::yield_now().await,
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert_eq!(refused.reach, Reach::NeverSent, "{refused}");
    let new = session(&clean_room, &identity).await.err().unwrap();
    assert_eq!((new.code(), new.is_refusal()), ("unproven/draining", false), "{new}");
    assert!(new.to_string().contains("busy: the enclave is draining"), "{new}");

    hold.release();
    let story = answer.into_body().collect().await.unwrap().to_bytes();
    let story = String::from_utf8(story.to_vec()).unwrap();
    assert!(story.contains("data: [DONE]\n\n"), "{story}");
    tokio::time::timeout(PATIENCE, clean_room.ended()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enclave_on_which_nothing_runs_ends_at_once() {
    let mut clean_room = CleanRoom::start("").await;
    let session = session(&clean_room, &Identity::generate().unwrap()).await.unwrap();
    // Connections that say nothing hold nothing up.
    let _silent = [clean_room.stream().await, clean_room.stream().await];
    let mut control = clean_room.control().await;
    control.throw(ControlKind::Drain, b"").await;
    tokio::time::timeout(PATIENCE, clean_room.ended()).await.unwrap().unwrap();
    closed(&session).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_has_the_end_of_the_log_before_the_enclave_is_gone() {
    let mut clean_room = CleanRoom::start("").await;
    let session = session(&clean_room, &Identity::generate().unwrap()).await.unwrap();
    let store = tempfile::tempdir().unwrap();
    let (mut log, mut fetching) = (LogKeeper::new(store.path()), clean_room.control().await);
    log.fetch(&mut fetching).await;
    // The host's agent holds its connection, and the drain comes on another one.
    let accepted = ControlAnswer::Accepted(Accepted::New);
    assert_eq!(clean_room.control().await.send(ControlKind::Drain, b"").await, accepted);
    closed(&session).await;
    let end = async {
        while !matches!(log.said().last(), Some(Entry::Shutdown { .. })) {
            log.fetch(&mut fetching).await;
        }
    };
    tokio::time::timeout(PATIENCE, end).await.unwrap();
    tokio::time::timeout(PATIENCE, clean_room.ended()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_release_control_a_host_can_ask_for_a_drain_and_for_nothing_else() {
    let clean_room = CleanRoom::start("").await;
    // As many connections as a host likes: the oldest make space.
    let mut connections = Vec::new();
    for _ in 0..9 {
        let mut control = clean_room.control().await;
        for kind in [ControlKind::State, ControlKind::Ask, ControlKind::DENIAL] {
            let refused = ControlAnswer::Refused("no-release-control".to_owned());
            assert_eq!(control.send(kind, b"").await, refused, "{kind:?}");
        }
        connections.push(control);
    }
}
