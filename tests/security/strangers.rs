//! What keys without any right cannot do to partners: take their sessions, their handshakes or the security module.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::HashSet;
use std::time::Duration;

use cleanroom_attestation::channel::Nonce;
use cleanroom_attestation::verdict::{Expectation, appraise};
use cleanroom_channel::identity::Identity;
use cleanroom_partner::channel::{Attested, ChannelError, RelyingParty};
use cleanroom_partner::clock::now;
use cleanroom_tests::clean_room::CleanRoom;
use cleanroom_tests::client::json;
use cleanroom_tests::platform::World;
use cleanroom_tests::stranger::{Statement, Stranger, ask_attestation};
use http::StatusCode;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

/// Longer than anything here takes, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

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
    for _ in 0..32 {
        let (stranger, address) = (clean_room.party(&Identity::generate().unwrap()), clean_room.path());
        strangers.spawn(async move {
            loop {
                let Ok(stream) = UnixStream::connect(&address).await else { continue };
                _ = stranger.challenge(stream).await.is_ok();
            }
        });
    }
    for _ in 0..12 {
        let session = session(&clean_room, &partner).await;
        assert!(session.is_ok(), "{}", session.err().unwrap());
    }
    strangers.shutdown().await;
}

/// Strangers on connections of their own who ask for public attestations, each as fast as it is answered or refused.
async fn askers(clean_room: &CleanRoom, connections: usize, questions: usize) -> JoinSet<()> {
    let mut askers = JoinSet::new();
    for _ in 0..connections {
        let requests = Stranger::new().requests(clean_room.stream().await).await.unwrap();
        for _ in 0..questions {
            let mut requests = requests.clone();
            askers.spawn(async move {
                let nonce = Nonce::from_bytes([9; Nonce::LENGTH]);
                while let Ok(response) = ask_attestation(&mut requests, &nonce).await {
                    if response.status() != StatusCode::OK {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            });
        }
    }
    askers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_attestation_is_one_document_for_everybody_who_asks() {
    let listed = Identity::generate().unwrap();
    let clean_room = listing(&listed, "sessions = 128").await;
    let mut connections = Vec::new();
    for _ in 0..16 {
        connections.push(Stranger::new().requests(clean_room.stream().await).await.unwrap());
    }
    // The first statement is made at once. All questions meanwhile and in the interval after it share the next one, unless this
    // machine is so busy that they take longer to come.
    let before = clean_room.world().requests();
    let mut asked = JoinSet::new();
    for (number, mut connection) in (0..).zip(connections) {
        asked.spawn(async move {
            let nonce = Nonce::from_bytes([number; Nonce::LENGTH]);
            let (status, answer) = json(ask_attestation(&mut connection, &nonce).await.unwrap()).await;
            assert_eq!(status, StatusCode::OK);
            Statement::of(&answer, &nonce)
        });
    }
    let statements = asked.join_all().await;
    let documents: HashSet<_> = statements.iter().map(Statement::digest).collect();
    assert_eq!(documents.len(), clean_room.world().requests() - before, "nobody else asks");
    assert!(documents.len() <= 8, "{} documents for 16 strangers", documents.len());
    for statement in statements {
        let expected = Expectation {
            nonce: Some(statement.root.as_bytes()),
            user_data: Some(&statement.user_data),
            public_key: Some(&statement.receipt_key),
            ..Expectation::default()
        };
        let verdict = appraise(&statement.document, &clean_room.policy(), &expected, now(), None);
        assert!(verdict.accepted().is_ok(), "{:?}", verdict.accepted().err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_asks_one_question_at_a_time() {
    let clean_room = CleanRoom::start("").await;
    let mut requests = Stranger::new().requests(clean_room.stream().await).await.unwrap();
    let nonce = Nonce::from_bytes([1; Nonce::LENGTH]);
    let before = clean_room.world().requests();
    clean_room.world().hold(true);
    let mut asked = JoinSet::new();
    for _ in 0..8 {
        let (mut requests, nonce) = (requests.clone(), nonce.clone());
        asked.spawn(async move { ask_attestation(&mut requests, &nonce).await.unwrap() });
    }
    for _ in 0..7 {
        let refused = tokio::time::timeout(PATIENCE, asked.join_next()).await.expect("it is refused at once");
        let refused = refused.unwrap().unwrap();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(refused.headers()["retry-after"], "1");
    }
    clean_room.world().hold(false);
    assert_eq!(asked.join_next().await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(clean_room.world().requests() - before, 1);
    // A question that nobody waits for any more is none: the next one is answered.
    clean_room.world().hold(true);
    let given_up = tokio::time::timeout(Duration::from_millis(1), ask_attestation(&mut requests, &nonce));
    assert!(given_up.await.is_err());
    clean_room.world().hold(false);
    while ask_attestation(&mut requests, &nonce).await.unwrap().status() != StatusCode::OK {}
}

#[tokio::test(flavor = "multi_thread")]
async fn public_attestations_keep_the_security_module_from_nobody() {
    const ANSWER: Duration = Duration::from_millis(10);
    const SESSIONS: usize = 12;
    let listed = Identity::generate().unwrap();
    let config = format!("partners = [\"{}\"]\n[limits]\nsessions = 128", listed.key_digest());
    let clock = cleanroom_guard::Clock::boot();
    let clean_room = CleanRoom::start_on(World::new().slow(ANSWER), &config, clock).await;
    let partner = clean_room.party(&listed);
    let mut strangers = askers(&clean_room, 8, 8).await;
    let (before, begun) = (clean_room.world().requests(), std::time::Instant::now());
    for _ in 0..SESSIONS {
        let session = session(&clean_room, &partner).await;
        assert!(session.is_ok(), "{}", session.err().unwrap());
    }
    // Each interval has one statement; the one under way and the one at the beginning are not whole.
    let statements = usize::try_from(begun.elapsed().as_secs()).unwrap() + 2;
    let requests = clean_room.world().requests() - before;
    assert!((SESSIONS..=SESSIONS + statements).contains(&requests), "{requests} for {SESSIONS} sessions");
    assert!(!strangers.is_empty() && strangers.try_join_next().is_none(), "the strangers still ask");
    strangers.shutdown().await;
}
