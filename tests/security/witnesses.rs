//! A room whose release demands witnesses, and a host that withholds, forges, replays and miscounts their cosignatures.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use cleanroom_attestation::log::SignedCheckpoint;
use cleanroom_attestation::release::{Accepted, AuditRules, List, Release};
use cleanroom_channel::identity::Identity;
use cleanroom_link::control::{ControlAnswer, ControlKind};
use cleanroom_tests::authorities::Authorities;
use cleanroom_tests::client::{json, question, send};
use cleanroom_tests::platform::World;
use cleanroom_tests::released_room::ReleasedRoom;
use http::StatusCode;
use http_body_util::BodyExt as _;

const NEW: ControlAnswer = ControlAnswer::Accepted(Accepted::New);
const KNOWN: ControlAnswer = ControlAnswer::Accepted(Accepted::Known);
/// How long the log may run ahead, in milliseconds.
const WITHIN: u64 = 40_000;

/// A room whose release demands two of three witnesses.
async fn demanding() -> (ReleasedRoom, Vec<u8>) {
    let mut room = ReleasedRoom::start().await;
    let release = room.authorities.witnessed(room.release(1), 2, WITHIN / 1000);
    let release = room.run(&release).await;
    (room, release)
}

/// The newest checkpoint, as the enclave signs it.
async fn newest(room: &mut ReleasedRoom) -> SignedCheckpoint {
    match room.hand(ControlKind::Log, b"").await {
        ControlAnswer::Log(batch) => SignedCheckpoint::parse(&batch.checkpoint).unwrap(),
        other => panic!("expected the log, got {other:?}"),
    }
}

fn cosigned(room: &ReleasedRoom, note: &SignedCheckpoint, by: &[usize]) -> SignedCheckpoint {
    by.iter().fold(note.clone(), |note, witness| room.authorities.cosign(*witness, &note))
}

/// Hands in a checkpoint with the cosignatures of these witnesses.
async fn hand(room: &mut ReleasedRoom, note: &SignedCheckpoint, by: &[usize]) -> ControlAnswer {
    let note = cosigned(room, note, by).to_bytes();
    room.hand(ControlKind::Witnessed, &note).await
}

fn refused(answer: &ControlAnswer) -> &str {
    match answer {
        ControlAnswer::Refused(code) => code,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_begins_before_the_witnesses_have_cosigned_and_after_they_stop() {
    let (mut room, release) = demanding().await;
    assert_eq!(room.asked().await, "unwitnessed", "not even the boot is witnessed");
    let note = newest(&mut room).await;
    assert_eq!(hand(&mut room, &note, &[0, 2]).await, NEW);
    assert_eq!(room.asked().await, "served");
    // The host withholds what comes next. The log has a receipt that no witness has seen.
    room.pass_time(WITHIN - 1000);
    room.renew(&release).await;
    assert_eq!(room.asked().await, "served");
    room.pass_time(1000);
    assert_eq!(room.asked().await, "unwitnessed");
    // The same checkpoint once more is of a log that was left behind too long ago.
    assert_eq!(refused(&hand(&mut room, &note, &[0, 1, 2]).await), "checkpoint-old");
    assert_eq!(room.asked().await, "unwitnessed");
    // A fresh one opens the room again.
    let note = newest(&mut room).await;
    assert_eq!(hand(&mut room, &note, &[1, 2]).await, NEW);
    assert_eq!(room.asked().await, "served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_does_not_grow_stays_witnessed_as_long_as_the_host_says_so() {
    let (mut room, release) = demanding().await;
    let note = newest(&mut room).await;
    assert_eq!(hand(&mut room, &note, &[0, 1]).await, NEW);
    assert_eq!(hand(&mut room, &note, &[0, 1]).await, KNOWN, "no time has passed");
    room.pass_time(WITHIN / 2);
    assert_eq!(hand(&mut room, &note, &[0, 1]).await, NEW);
    room.pass_time(WITHIN - 1000);
    // Its lease is over; the next one is an entry that this checkpoint does not count.
    room.renew(&release).await;
    assert_eq!(room.asked().await, "served");
    // The entry came just now, so the checkpoint before it counts from now.
    assert_eq!(hand(&mut room, &note, &[0, 1]).await, NEW);
    room.pass_time(WITHIN - 1);
    assert_eq!(room.asked().await, "served");
    room.pass_time(1);
    assert_eq!(room.asked().await, "unwitnessed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_forges_replays_or_counts_twice_opens_nothing() {
    let (mut room, _) = demanding().await;
    let note = newest(&mut room).await;
    let size = note.unverified().size;
    assert!(size > 1);

    // One witness, however many lines it has.
    for by in [&[][..], &[0], &[0, 0], &[1, 1, 1]] {
        assert_eq!(refused(&hand(&mut room, &note, by).await), "witness-quorum", "{by:?}");
    }
    // Witnesses of other authorities, under the same names.
    let strangers = Authorities::new();
    let forged = strangers.cosign(2, &strangers.cosign(1, &cosigned(&room, &note, &[0])));
    assert_eq!(refused(&room.hand(ControlKind::Witnessed, &forged.to_bytes()).await), "witness-quorum");
    // A line of a witness that belongs to another size.
    let other = room.hand(ControlKind::Log, &0_u64.to_be_bytes()).await;
    let ControlAnswer::Log(batch) = other else { panic!("expected the log") };
    assert_eq!(batch.entries.len() as u64, size);
    let mut longer = note.unverified().clone();
    longer.size += 1;
    let text = String::from_utf8(note.to_bytes()).unwrap();
    let longer = text.replacen(&format!("\n{size}\n"), &format!("\n{}\n", longer.size), 1);
    let longer = SignedCheckpoint::parse(longer.as_bytes()).unwrap();
    let line = |by| cosigned(&room, &longer, &[by]).signatures().last().unwrap().clone();
    let moved = cosigned(&room, &note, &[0]).with(line(1)).with(line(2));
    assert_eq!(refused(&room.hand(ControlKind::Witnessed, &moved.to_bytes()).await), "witness-quorum");
    // Witnesses that cosign what the enclave did not sign: a size of the host's own.
    assert_eq!(refused(&hand(&mut room, &longer, &[0, 1, 2]).await), "checkpoint-signature");
    // The log of another boot of the same authorities' room.
    let authorities = std::mem::take(&mut room.authorities);
    let mut elsewhere = ReleasedRoom::on(World::new(), authorities, Identity::generate().unwrap()).await;
    let foreign = newest(&mut elsewhere).await;
    room.authorities = std::mem::take(&mut elsewhere.authorities);
    assert_eq!(refused(&hand(&mut room, &foreign, &[0, 1, 2]).await), "checkpoint-other-log");
    for rubbish in [&b""[..], b"rubbish", &text.as_bytes()[..text.len() - 1]] {
        assert_eq!(refused(&room.hand(ControlKind::Witnessed, rubbish).await), "checkpoint-form");
    }
    assert_eq!(room.asked().await, "unwitnessed");

    // An older size does not take back what a newer one gave.
    assert_eq!(hand(&mut room, &note, &[0, 1]).await, NEW);
    assert_eq!(room.asked().await, "served");
    let newer = newest(&mut room).await;
    assert!(newer.unverified().size > size);
    room.pass_time(WITHIN / 2);
    assert_eq!(hand(&mut room, &newer, &[0, 1]).await, NEW);
    assert_eq!(hand(&mut room, &note, &[0, 1]).await, KNOWN);
    room.pass_time(WITHIN / 2 - 1);
    assert_eq!(hand(&mut room, &note, &[0, 1]).await, KNOWN);
    assert_eq!(room.asked().await, "served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_release_demands_at_once_and_lets_go_with_its_lease() {
    let (mut room, _) = demanding().await;
    let note = newest(&mut room).await;
    assert_eq!(hand(&mut room, &note, &[0, 1]).await, NEW);
    assert_eq!(room.asked().await, "served");
    // Three of three, from the moment at which the release is there.
    let stricter = room.authorities.witnessed(room.release(2), 3, WITHIN / 1000);
    let signed = room.authorities.sign(&stricter);
    assert_eq!(room.hand(ControlKind::RELEASE, &signed).await, NEW);
    assert_eq!(room.asked().await, "unwitnessed");
    let note = newest(&mut room).await;
    assert_eq!(hand(&mut room, &note, &[0, 1]).await, KNOWN, "enough for the release that is leased");
    assert_eq!(room.asked().await, "unwitnessed");
    assert_eq!(hand(&mut room, &note, &[0, 1, 2]).await, NEW);
    assert_eq!(room.asked().await, "served");
    room.renew(&signed).await;

    // A release without witnesses lets go once it is leased.
    let none = Release {
        witnesses: List::default(),
        audit: AuditRules { checkpoint_seconds: 0, witnesses: 0 },
        ..room.release(3)
    };
    let signed = room.authorities.sign(&none);
    assert_eq!(room.hand(ControlKind::RELEASE, &signed).await, NEW);
    room.pass_time(WITHIN);
    assert_eq!(room.asked().await, "unwitnessed", "the leased release still demands them");
    room.renew(&signed).await;
    assert_eq!(room.asked().await, "served");
    assert_eq!(hand(&mut room, &note, &[]).await, KNOWN, "nothing depends on it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_runs_when_the_witnesses_stop_is_finished() {
    let (mut room, _) = demanding().await;
    let note = newest(&mut room).await;
    assert_eq!(hand(&mut room, &note, &[0, 1]).await, NEW);
    let proxy = room.proxy().await;
    room.hold.after(3);
    let response = send(proxy, "POST", "/v1/chat/completions", &question("Hi", true)).await;
    assert_eq!(response.status(), StatusCode::OK);
    room.hold.reached().await;
    room.pass_time(WITHIN);
    room.hold.release();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(body.windows(6).any(|window| window == b"[DONE]"), "{}", String::from_utf8_lossy(&body));
    // The next request on the same session does not begin.
    let (status, body) =
        json(send(proxy, "POST", "/v1/chat/completions", &question("Hi", false)).await).await;
    assert_eq!(
        (status, body["error"]["code"].as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, Some("unwitnessed"))
    );
}
