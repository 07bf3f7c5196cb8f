//! Boots, enclaves, roots and issuers that come and go.

use cleanroom_attestation::release::{Accepted, LeaseRequest};
use cleanroom_channel::identity::Identity;
use cleanroom_link::control::{ControlAnswer, ControlKind};
use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::session::{self};
use cleanroom_tests::authorities::Authorities;
use cleanroom_tests::platform::{World, model_id};
use cleanroom_tests::released_room::ReleasedRoom;

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_makes_nobody_forget_a_halt() {
    let mut room = ReleasedRoom::start().await;
    let release = room.release(1);
    let release = room.run(&release).await;
    let denial = room.authorities.deny_model().0;
    let _ = room.hand(ControlKind::DENIAL, &denial).await;
    assert_eq!(room.asked().await, "model-denied");

    // The enclave forgets; whoever gives it a lease does not.
    let ReleasedRoom { authorities, identity, .. } = room;
    let mut again = ReleasedRoom::of(authorities, identity).await;
    let _ = again.hand(ControlKind::RELEASE, &release).await;
    let request = again.control.ask().await;
    let lease = again.authorities.lease(&request, &release, &[&denial]);
    assert_eq!(again.refused(ControlKind::LEASE, &lease).await, "denial-missing");
    assert_eq!(again.asked().await, "no-lease");
    let _ = again.hand(ControlKind::DENIAL, &denial).await;
    assert_eq!(again.hand(ControlKind::LEASE, &lease).await, ControlAnswer::Accepted(Accepted::New));
    assert_eq!(again.asked().await, "model-denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_one_enclave_is_worth_nothing_in_another_that_runs_beside_it() {
    let mut one = ReleasedRoom::start().await;
    let release = one.release(1);
    let release = one.run(&release).await;
    let other_authorities = Authorities::new();
    let mut other = ReleasedRoom::on(World::new(), other_authorities, Identity::generate().unwrap()).await;
    // Of the same authorities: both trust the same root.
    std::mem::swap(&mut one.authorities, &mut other.authorities);
    assert_eq!(other.refused(ControlKind::RELEASE, &release).await, "threshold");
    std::mem::swap(&mut one.authorities, &mut other.authorities);

    let ReleasedRoom { authorities, identity, mut control, .. } = one;
    let mut second = ReleasedRoom::of(authorities, identity).await;
    let _ = second.hand(ControlKind::RELEASE, &release).await;
    let (for_first, for_second) = (control.ask().await, second.control.ask().await);
    assert_ne!(for_first.nonce, for_second.nonce);
    let lease = second.authorities.lease(&for_first, &release, &[]);
    assert_eq!(second.refused(ControlKind::LEASE, &lease).await, "wrong-nonce");
    assert_eq!(second.asked().await, "no-lease");
    let lease = second.authorities.lease(&for_second, &release, &[]);
    assert_eq!(second.hand(ControlKind::LEASE, &lease).await, ControlAnswer::Accepted(Accepted::New));
    assert_eq!(second.asked().await, "served");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_root_is_left_behind_and_the_keys_that_left_it_count_no_more() {
    let mut room = ReleasedRoom::start().await;
    let first = room.release(1);
    // Signed by two, of which one leaves with root 2.
    let first = room.run(&first).await;
    assert_eq!(room.asked().await, "served");
    let (old, next) = (room.authorities.root(), room.authorities.next_root());
    assert_eq!(room.hand(ControlKind::ROOT, &next).await, ControlAnswer::Accepted(Accepted::New));
    assert_eq!(room.asked().await, "no-release");
    assert_eq!(room.refused(ControlKind::ROOT, &old).await, "rollback");
    assert_eq!(room.refused(ControlKind::RELEASE, &first).await, "threshold");

    let second = room.authorities.sign_as([0, 1], &room.release(2));
    assert_eq!(room.hand(ControlKind::RELEASE, &second).await, ControlAnswer::Accepted(Accepted::New));
    let request = room.control.ask().await;
    assert_eq!(request.root_version, 2);
    // The third authority's online key has left with it.
    let left = room.authorities.lease_of(2, &request, &second, &[]);
    assert_eq!(room.refused(ControlKind::LEASE, &left).await, "threshold");
    let lease = room.authorities.lease(&request, &second, &[]);
    assert_eq!(room.hand(ControlKind::LEASE, &lease).await, ControlAnswer::Accepted(Accepted::New));

    // A partner that pins the new root goes on, and one that still pins the old one has to take the new one first.
    let next = String::from_utf8(next).unwrap();
    let code = async |root: &str| {
        let policy = room.clean_room.world().policy_under(root);
        let party = RelyingParty::new(&room.identity, policy, model_id()).unwrap();
        match session::appraise(&party, &room.clean_room.address()).await {
            Ok(appraised) => appraised.accepted().err().map(|refused| refused.code()),
            Err(error) => Some(error.code()),
        }
    };
    assert_eq!(code(&next).await, None);
    assert_eq!(code(&room.authorities.root_text()).await, Some("lease-root"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_withholds_a_new_root_gets_no_more_leases() {
    let mut room = ReleasedRoom::start().await;
    let release = room.authorities.sign_as([0, 1], &room.release(1));
    let _ = room.hand(ControlKind::RELEASE, &release).await;
    let request = room.control.ask().await;
    let mut service = room.authorities.service(2);
    service.accept_release(&release).unwrap();
    let refusal = service.draft_lease(&request, room.authorities.now()).unwrap_err();
    assert_eq!(refusal.code(), "root-outdated");
    // And a lease for the new root is none for an enclave that was not given it.
    let root_sha256 = service.root().digest();
    let next = LeaseRequest { root_version: 2, root_sha256, ..request };
    let lease = room.authorities.lease(&next, &release, &[]);
    assert_eq!(room.refused(ControlKind::LEASE, &lease).await, "lease-root");
    assert_eq!(room.asked().await, "no-lease");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_issuers_make_a_lease_and_one_twice_does_not() {
    let mut room = ReleasedRoom::start().await;
    let mut release = room.release(1);
    release.lease.issuers = 2;
    let release = room.authorities.sign(&release);
    let _ = room.hand(ControlKind::RELEASE, &release).await;
    let early = room.control.ask().await;
    let of = |room: &ReleasedRoom, issuer, request: &LeaseRequest| {
        room.authorities.lease_of(issuer, request, &release, &[])
    };
    let earlier = of(&room, 1, &early);
    let request = room.control.ask().await;
    let more = ControlAnswer::Accepted(Accepted::MoreIssuersNeeded);
    for _ in 0..2 {
        let lease = of(&room, 0, &request);
        assert_eq!(room.hand(ControlKind::LEASE, &lease).await, more);
    }
    assert_eq!(room.refused(ControlKind::LEASE, &earlier).await, "wrong-nonce");
    assert_eq!(room.asked().await, "no-lease");
    let denial = room.authorities.deny_model().0;
    let second = room.authorities.lease_of(2, &request, &release, &[&denial]);
    assert_eq!(room.refused(ControlKind::LEASE, &second).await, "denial-missing");
    let _ = room.hand(ControlKind::DENIAL, &denial).await;
    assert_eq!(room.hand(ControlKind::LEASE, &second).await, ControlAnswer::Accepted(Accepted::New));
    // What one of them knows is in force.
    assert_eq!(room.asked().await, "model-denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partner_is_shown_the_statement_of_every_issuer() {
    let mut room = ReleasedRoom::start().await;
    let mut release = room.release(1);
    release.lease.issuers = 2;
    let release = room.authorities.sign(&release);
    let _ = room.hand(ControlKind::RELEASE, &release).await;
    let request = room.control.ask().await;
    for issuer in [0, 2] {
        let lease = room.authorities.lease_of(issuer, &request, &release, &[]);
        let _ = room.hand(ControlKind::LEASE, &lease).await;
    }
    assert_eq!(room.asked().await, "served");
}
