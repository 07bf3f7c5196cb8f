//! Whose clock decides what.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use cleanroom_attestation::release::{Accepted, UnixMillis};
use cleanroom_attestation::time::Timestamp;
use cleanroom_link::control::{ControlAnswer, ControlKind};
use cleanroom_partner::dial::Dialer;
use cleanroom_partner::session::{self};
use cleanroom_tests::client::{json, question};
use cleanroom_tests::platform::now_ms;
use cleanroom_tests::released_room::ReleasedRoom;
use http::StatusCode;
use http_body_util::Full;

/// As [`ReleasedRoom::asked`], of a partner whose clock is right, whatever this machine's says.
async fn asked_at_the_right_time(room: &ReleasedRoom) -> String {
    let party = room.party(&room.identity);
    let stream = Dialer::from(room.clean_room.address()).connect().await.unwrap();
    let challenged = match party.challenge(stream).await {
        Ok(challenged) => challenged,
        Err(error) => return error.code().trim_start_matches("unproven/").to_owned(),
    };
    let appraised = challenged.appraise(Timestamp::from_millis(room.clean_room.world().now_ms())).unwrap();
    if let Err(refused) = appraised.accepted() {
        return refused.code().to_owned();
    }
    let session = session::Session::start(appraised.confirm().await.unwrap(), Duration::from_secs(60));
    let session = session.await.unwrap();
    let request = http::Request::post("https://cleanroom/v1/chat/completions")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(question("Hi", false))))
        .unwrap();
    let (status, body) = json(session.send(request).await.unwrap()).await;
    if status == StatusCode::OK { "served".to_owned() } else { body["error"]["code"].to_string() }
}

const DAY_MS: i64 = 24 * 3600 * 1000;
const YEAR_MS: i64 = 365 * DAY_MS;

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_clock_decides_nothing() {
    // The host sets its clock back by a year, to before the end of a release that has ended.
    let mut room = ReleasedRoom::at(YEAR_MS).await;
    let mut release = room.release(1);
    release.expires = UnixMillis((now_ms() + 30 * DAY_MS as u64) / 1000 * 1000);
    let release = room.authorities.sign(&release);
    let _ = room.hand(ControlKind::RELEASE, &release).await;
    let request = room.control.ask().await;
    // The issuers know what time it is, so the lease is of one who does not.
    room.authorities.shift_ms = 0;
    let lease = room.authorities.lease(&request, &release, &[]);
    assert_eq!(room.hand(ControlKind::LEASE, &lease).await, ControlAnswer::Accepted(Accepted::New));
    assert_eq!(asked_at_the_right_time(&room).await, "release-expired");

    // The host sets its clock on by a year: what is in force stays in force.
    let mut room = ReleasedRoom::at(-YEAR_MS).await;
    let mut release = room.release(1);
    release.expires = UnixMillis((now_ms() - 335 * DAY_MS as u64) / 1000 * 1000);
    room.run(&release).await;
    assert_eq!(asked_at_the_right_time(&room).await, "served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_clock_that_jumps_can_only_end_the_service() {
    let mut room = ReleasedRoom::start().await;
    let release = room.release(1);
    let release = room.run(&release).await;
    let begin = room.clock.load(Ordering::SeqCst);
    room.clock.store(begin - 1, Ordering::SeqCst);
    assert_eq!(room.asked().await, "clock-went-back");
    assert_eq!(room.refused(ControlKind::Ask, b"").await, "clock-went-back");
    room.clock.store(begin + YEAR_MS as u64, Ordering::SeqCst);
    assert_eq!(room.asked().await, "lease-lapsed");
    // A lease that is asked for now lets it go on.
    room.renew(&release).await;
    assert_eq!(room.asked().await, "served");
}
