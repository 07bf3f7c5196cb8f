//! What anybody may see of a clean room under release control, and what asking for it costs the authorities.

use std::time::Duration;

use cleanroom_attestation::channel::Nonce;
use cleanroom_channel::identity::Identity;
use cleanroom_tests::authorities::{Authorities, LEASE_MS};
use cleanroom_tests::client::json;
use cleanroom_tests::platform::World;
use cleanroom_tests::released_room::ReleasedRoom;
use cleanroom_tests::stranger::{Statement, Stranger, ask_attestation};
use cleanroom_tests::wait;
use http::StatusCode;
use tokio::task::JoinSet;

/// What the clean room tells an auditor on a connection.
async fn statement(
    requests: &mut hyper::client::conn::http2::SendRequest<http_body_util::Full<bytes::Bytes>>,
    nonce: u8,
) -> Statement {
    let nonce = Nonce::from_bytes([nonce; Nonce::LENGTH]);
    let (status, answer) = json(ask_attestation(requests, &nonce).await.unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    Statement::of(&answer, &nonce)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_has_ended_is_not_attested() {
    let mut room = ReleasedRoom::start().await;
    let release = room.run(&room.release(1)).await;
    // A stranger's session lives for a minute, as the lease does.
    room.pass_time(LEASE_MS / 2);
    let mut requests = Stranger::new().requests(room.clean_room.stream().await).await.unwrap();
    let leased = statement(&mut requests, 1).await;
    assert!(leased.release.is_some() && leased.lease.is_some());
    room.pass_time(LEASE_MS / 2 - 1);
    assert_eq!(statement(&mut requests, 2).await.lease, leased.lease, "its last millisecond");
    room.pass_time(1);
    let lapsed = statement(&mut requests, 3).await;
    assert_eq!((lapsed.release, lapsed.lease), (None, None));
    assert_eq!(lapsed.receipt_key, leased.receipt_key);
    // The next lease is another one, and the release is the same.
    room.renew(&release).await;
    let renewed = statement(&mut requests, 4).await;
    assert_eq!(renewed.release, leased.release);
    assert!(renewed.lease.is_some() && renewed.lease != leased.lease);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_not_keep_the_security_module_from_the_leases_nonce() {
    const RENEWALS: usize = 10;
    let world = World::new().slow(Duration::from_millis(20));
    let mut room = ReleasedRoom::on(world, Authorities::new(), Identity::generate().unwrap()).await;
    let release = room.run(&room.release(1)).await;
    let mut strangers = JoinSet::new();
    // More of them than requests of strangers can wait, all the time.
    for _ in 0..24 {
        let path = room.clean_room.path();
        strangers.spawn(async move {
            let stranger = Stranger::new();
            loop {
                let Ok(stream) = tokio::net::UnixStream::connect(&path).await else { continue };
                let Ok(mut requests) = stranger.requests(stream).await else { continue };
                let nonce = Nonce::from_bytes([7; Nonce::LENGTH]);
                _ = ask_attestation(&mut requests, &nonce).await.is_ok();
            }
        });
    }
    // The security module is never idle for strangers from here on: one of them waits whenever it may have a turn.
    let world = room.clean_room.world();
    let begun = world.requests();
    wait::until("strangers have had their turns", || world.requests() >= begun + 3).await;
    let mut foreign = 0;
    for _ in 0..RENEWALS {
        let before = room.clean_room.world().requests();
        let _ = room.control.ask().await;
        foreign += room.clean_room.world().requests() - before - 1;
    }
    // Each waits for the request under way at most, and another one may begin before the answer is here.
    assert!(
        foreign <= 2 * RENEWALS,
        "{foreign} requests of strangers went ahead of {RENEWALS} of the enclave"
    );
    room.renew(&release).await;
    strangers.shutdown().await;
}
