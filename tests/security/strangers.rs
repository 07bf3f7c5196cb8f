//! What keys without any right cannot do to partners: take their sessions, their handshakes or the security module.

use std::time::Duration;

use cleanroom_channel::identity::Identity;
use cleanroom_partner::channel::{Attested, ChannelError, RelyingParty};
use cleanroom_partner::clock::now;
use cleanroom_tests::clean_room::CleanRoom;
use cleanroom_tests::platform::World;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

/// One proven session, or why there is none.
async fn session(clean_room: &CleanRoom, party: &RelyingParty) -> Result<Attested<UnixStream>, ChannelError> {
    let stream = clean_room.stream().await;
    party.challenge(stream).await?.appraise(now())?.confirm().await
}

async fn listing(listed: &Identity, limits: &str) -> CleanRoom {
    let partners = format!("partners = [\"{}\"]\n[limits]\n{limits}", listed.key_digest());
    CleanRoom::start(&partners).await
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_hold_their_own_places_and_no_partners() {
    let listed = Identity::generate().unwrap();
    let clean_room = listing(&listed, "sessions = 8\nhandshakes = 64").await;
    let (partner, stranger) = (clean_room.party(&listed), clean_room.party(&Identity::generate().unwrap()));
    let held = session(&clean_room, &stranger).await.unwrap();
    // The class of strangers is full, whichever keys they have, and they hear so.
    for stranger in [&stranger, &clean_room.party(&Identity::generate().unwrap())] {
        let refused = session(&clean_room, stranger).await.err().unwrap();
        assert_eq!(refused.code(), "unproven/busy", "{refused}");
    }
    let mut sessions = Vec::new();
    for _ in 0..6 {
        sessions.push(session(&clean_room, &partner).await.unwrap());
    }
    // One partner leaves places for the others.
    assert_eq!(session(&clean_room, &partner).await.err().unwrap().code(), "unproven/busy");
    drop((held, sessions));
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_make_space_for_a_partner() {
    let listed = Identity::generate().unwrap();
    let clean_room = listing(&listed, "handshakes = 4\nhandshake_timeout = \"1h\"").await;
    let partner = clean_room.party(&listed);
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(clean_room.stream().await);
    }
    // Until the oldest has had its second, new connections are closed. Afterwards each new one takes the oldest's place.
    let connected = async {
        while session(&clean_room, &partner).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), connected).await.unwrap();
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_not_keep_the_security_module_from_a_partner() {
    const ANSWER: Duration = Duration::from_millis(10);
    let listed = Identity::generate().unwrap();
    let config =
        format!("partners = [\"{}\"]\n[limits]\nsessions = 1024\nhandshakes = 1024", listed.key_digest());
    let clock = cleanroom_guard::Clock::boot();
    let clean_room = CleanRoom::start_on(World::new().slow(ANSWER), &config, clock).await;
    let partner = clean_room.party(&listed);
    // More strangers than requests can wait ask for evidence again and again, for as long as the partner works.
    let mut strangers = JoinSet::new();
    for _ in 0..96 {
        let (stranger, address) = (clean_room.party(&Identity::generate().unwrap()), clean_room.path());
        strangers.spawn(async move {
            loop {
                let Ok(stream) = UnixStream::connect(&address).await else { continue };
                _ = stranger.challenge(stream).await.is_ok();
            }
        });
    }
    for _ in 0..30 {
        let session = session(&clean_room, &partner).await;
        assert!(session.is_ok(), "{}", session.err().unwrap());
    }
    strangers.shutdown().await;
}
