//! What is permitted runs, and nothing else: releases, leases, denials, limits.

use cleanroom_attestation::release::{Accepted, LeaseRequest, List};
use cleanroom_channel::identity::Identity;
use cleanroom_link::control::{ControlAnswer, ControlKind};
use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::session::{self, SessionError};
use cleanroom_tests::authorities::{Authorities, LEASE_MS};
use cleanroom_tests::clean_room::CleanRoom;
use cleanroom_tests::platform::model_id;
use cleanroom_tests::released_room::ReleasedRoom;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_before_it_is_released_and_leased_and_then_the_partner_sees_the_terms() {
    let mut room = ReleasedRoom::start().await;
    assert_eq!(room.asked().await, "no-release");
    let release = room.authorities.sign(&room.release(1));
    assert_eq!(room.refused(ControlKind::Ask, b"").await, "no-release");
    let _ = room.hand(ControlKind::RELEASE, &release).await;
    assert_eq!(room.asked().await, "no-lease");
    room.renew(&release).await;
    assert_eq!(room.asked().await, "served");

    let party = room.party(&room.identity);
    room.pass_time(20_000);
    let appraised = session::appraise(&party, &room.clean_room.address()).await.unwrap();
    assert!(appraised.accepted().is_ok(), "{:?}", appraised.accepted().err());
    let permitted = appraised.permitted().unwrap().as_ref().unwrap();
    assert_eq!((permitted.partner.as_str(), permitted.release_version), ("p", 1));
    assert_eq!(permitted.lease_seconds_left, 40);
    assert_eq!(permitted.holds_for.as_millis(), 40_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partner_that_pins_no_root_refuses_a_release_and_one_that_pins_another_root_too() {
    let mut room = ReleasedRoom::start().await;
    let release = room.release(1);
    room.run(&release).await;
    let code = |result: Result<_, SessionError>| result.err().map_or("accepted", |error| error.code());

    let party = RelyingParty::new(&room.identity, room.clean_room.policy(), model_id()).unwrap();
    let appraised = session::appraise(&party, &room.clean_room.address()).await.unwrap();
    assert_eq!(appraised.accepted().unwrap_err().code(), "unexpected-release");

    let other = room.clean_room.world().policy_under(&Authorities::new().root_text());
    let party = RelyingParty::new(&room.identity, other, model_id()).unwrap();
    assert_eq!(code(session::appraise(&party, &room.clean_room.address()).await), "threshold");

    // A key that the release does not know gets evidence, for auditing, and no more.
    let stranger = Identity::generate().unwrap();
    let appraised = session::appraise(&room.party(&stranger), &room.clean_room.address()).await.unwrap();
    assert!(appraised.verdict().accepted().is_ok());
    assert_eq!(appraised.accepted().unwrap_err().code(), "partner-unknown");

    // And a clean room without release control shows nothing to a partner that pins a root.
    let plain = CleanRoom::start("").await;
    let policy = plain.world().policy_under(&room.authorities.root_text());
    let party = RelyingParty::new(&room.identity, policy, model_id()).unwrap();
    assert_eq!(code(session::appraise(&party, &plain.address()).await), "no-release");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lapsed_lease_stops_everything_and_only_a_new_one_resumes() {
    let mut room = ReleasedRoom::start().await;
    let release = room.release(1);
    let release = room.run(&release).await;
    // The partner counts the rest from its question: so much is left that a busy machine gets its answer within it.
    room.pass_time(LEASE_MS - 20_000);
    assert_eq!(room.asked().await, "served");
    room.pass_time(20_000);
    assert_eq!(room.asked().await, "lease-lapsed");
    room.renew(&release).await;
    assert_eq!(room.asked().await, "served");
}

#[tokio::test(flavor = "multi_thread")]
async fn time_before_the_answer_counts_and_a_late_answer_is_none() {
    let mut room = ReleasedRoom::start().await;
    let release = room.authorities.sign(&room.release(1));
    let _ = room.hand(ControlKind::RELEASE, &release).await;
    let request = room.control.ask().await;
    let lease = room.authorities.lease(&request, &release, &[]);
    room.pass_time(LEASE_MS - 1_000);
    assert_eq!(room.hand(ControlKind::LEASE, &lease).await, ControlAnswer::Accepted(Accepted::New));
    assert_eq!(room.asked().await, "served");
    room.pass_time(1_000);
    assert_eq!(room.asked().await, "lease-lapsed");

    let request = room.control.ask().await;
    let lease = room.authorities.lease(&request, &release, &[]);
    room.pass_time(LEASE_MS);
    assert_eq!(room.refused(ControlKind::LEASE, &lease).await, "lease-late");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_replays_reorders_or_mixes_is_refused() {
    let mut room = ReleasedRoom::start().await;
    let (first, second) = (room.release(1), room.release(2));
    let (first, second) = (room.authorities.sign(&first), room.authorities.sign(&second));
    let alone = room.authorities.sign_alone(&room.release(3));
    let foreign = Authorities::new().sign(&room.release(3));
    // Reordered: a lease before anything else, and before its nonce.
    let zero = LeaseRequest {
        nonce: "07".repeat(32).parse().unwrap(),
        root_version: 1,
        root_sha256: room.authorities.service(1).root().digest(),
        release_sha256: cleanroom_attestation::release::Envelope::parse(
            &first,
            cleanroom_attestation::release::PayloadType::Release,
        )
        .unwrap()
        .digest(),
    };
    let made_up = room.authorities.lease(&zero, &first, &[]);
    assert_eq!(room.refused(ControlKind::LEASE, &made_up).await, "no-lease-asked");
    assert_eq!(room.refused(ControlKind::RELEASE, &alone).await, "threshold");
    assert_eq!(room.refused(ControlKind::RELEASE, &foreign).await, "threshold");
    assert_eq!(room.refused(ControlKind::RELEASE, &made_up).await, "payload-type");

    let _ = room.hand(ControlKind::RELEASE, &first).await;
    let request = room.control.ask().await;
    let old = room.authorities.lease(&request, &first, &[]);
    assert_eq!(room.hand(ControlKind::LEASE, &old).await, ControlAnswer::Accepted(Accepted::New));
    // Replayed: after another nonce was drawn, the lease is worth nothing.
    let _ = room.control.ask().await;
    assert_eq!(room.refused(ControlKind::LEASE, &old).await, "wrong-nonce");

    let _ = room.hand(ControlKind::RELEASE, &second).await;
    assert_eq!(room.refused(ControlKind::RELEASE, &first).await, "rollback");
    // A lease for the release before cannot renew it.
    let mut request = room.control.ask().await;
    let newest = request.release_sha256;
    request.release_sha256 = zero.release_sha256;
    let stale = room.authorities.lease(&request, &first, &[]);
    assert_ne!(newest, zero.release_sha256);
    assert_eq!(room.refused(ControlKind::LEASE, &stale).await, "lease-release");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_one_boot_is_worth_nothing_in_another() {
    let mut room = ReleasedRoom::start().await;
    let release = room.authorities.sign(&room.release(1));
    let _ = room.hand(ControlKind::RELEASE, &release).await;
    let request = room.control.ask().await;
    let lease = room.authorities.lease(&request, &release, &[]);
    assert_eq!(room.hand(ControlKind::LEASE, &lease).await, ControlAnswer::Accepted(Accepted::New));

    // The same authorities and partner, booted again: it has forgotten everything and begins with nothing.
    let ReleasedRoom { authorities, identity, .. } = room;
    let mut again = ReleasedRoom::of(authorities, identity).await;
    assert_eq!(again.asked().await, "no-release");
    let _ = again.hand(ControlKind::RELEASE, &release).await;
    assert_eq!(again.refused(ControlKind::LEASE, &lease).await, "no-lease-asked");
    let _ = again.control.ask().await;
    assert_eq!(again.refused(ControlKind::LEASE, &lease).await, "wrong-nonce");
    assert_eq!(again.asked().await, "no-lease");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_that_the_host_withholds_ends_the_leases_and_only_a_release_lifts_it() {
    let mut room = ReleasedRoom::start().await;
    let release = room.release(1);
    let release = room.run(&release).await;
    let (denial, digest) = room.authorities.deny_model();
    let request = room.control.ask().await;
    let lease = room.authorities.lease(&request, &release, &[&denial]);
    assert_eq!(room.refused(ControlKind::LEASE, &lease).await, "denial-missing");
    room.pass_time(LEASE_MS - 20_000);
    assert_eq!(room.asked().await, "served", "as long as the lease that was given before");
    room.pass_time(20_000);
    assert_eq!(room.asked().await, "lease-lapsed");
    let _ = room.hand(ControlKind::DENIAL, &denial).await;
    // A lease that does not list it does not lift it.
    room.renew(&release).await;
    assert_eq!(room.asked().await, "model-denied");

    let mut resumed = room.release(2);
    resumed.supersedes_denials = List::new(vec![digest]).unwrap();
    room.run(&resumed).await;
    assert_eq!(room.asked().await, "served");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_inside_the_enclave() {
    let mut room = ReleasedRoom::start().await;
    let mut release = room.release(1);
    let mut partner = release.partners[0].clone();
    partner.limits.requests_per_minute = 2;
    release.partners = List::new(vec![partner]).unwrap();
    room.run(&release).await;
    for expected in ["served", "served", "requests-per-minute-limit"] {
        assert_eq!(room.asked().await, expected);
    }
}
