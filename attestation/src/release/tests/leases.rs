//! Leases: for one nonce, of one enclave, counted from the moment it was sent.

use super::*;

const SENT: BootMillis = BootMillis(10_000);

#[test]
fn nothing_is_served_without_release_and_lease() {
    let world = World::new();
    assert_eq!(ask(&world.state(), "p", "m", SENT), Decision::Refuse(Refusal::NoRelease));
    let mut state = world.released();
    assert_eq!(ask(&state, "p", "m", SENT), Decision::Refuse(Refusal::NoLease));
    state.begin_lease(nonce(1), SENT).unwrap();
    assert_eq!(ask(&state, "p", "m", SENT), Decision::Refuse(Refusal::NoLease));
}

#[test]
fn the_lease_counts_from_the_sending_however_late_it_comes() {
    let world = World::new();
    for delay in [0, 1, 30_000, 59_999] {
        let mut state = world.released();
        state.begin_lease(nonce(1), SENT).unwrap();
        let lease = world.seal_lease(&world.answer(&state, nonce(1)), 0);
        assert_eq!(state.accept_lease(&lease, SENT.plus(delay)), Ok(Accepted::New));
        assert!(serves(ask(&state, "p", "m", SENT.plus(59_999))));
        assert_eq!(ask(&state, "p", "m", SENT.plus(60_000)), Decision::Refuse(Refusal::LeaseLapsed));
        assert_eq!(ask(&state, "p", "m", BootMillis(SENT.0 - 1)), Decision::Refuse(Refusal::ClockWentBack));
        let live = state.lease().unwrap();
        assert_eq!((live.begin(), live.end()), (SENT, SENT.plus(60_000)));
    }
    let mut state = world.released();
    state.begin_lease(nonce(1), SENT).unwrap();
    let lease = world.seal_lease(&world.answer(&state, nonce(1)), 0);
    assert_eq!(state.accept_lease(&lease, SENT.plus(60_007)), Err(ReleaseError::LeaseLate(7)));
    assert_eq!(state.accept_lease(&lease, BootMillis(0)), Err(ReleaseError::ClockWentBack));
    assert_eq!(ask(&state, "p", "m", SENT.plus(1)), Decision::Refuse(Refusal::NoLease));
}

#[test]
fn a_lease_played_again_prolongs_nothing() {
    let world = World::new();
    let mut state = world.released();
    world.renew(&mut state, nonce(1), SENT);
    let first = world.seal_lease(&world.answer(&state, nonce(1)), 0);
    assert_eq!(state.accept_lease(&first, SENT.plus(50_000)), Ok(Accepted::Known));
    assert_eq!(state.lease().unwrap().end(), SENT.plus(60_000));
    // After the next nonce was drawn, the first answer is none.
    state.begin_lease(nonce(2), SENT.plus(50_000)).unwrap();
    assert_eq!(state.accept_lease(&first, SENT.plus(50_000)), Err(ReleaseError::WrongNonce));
    assert!(serves(ask(&state, "p", "m", SENT.plus(59_999))), "the first lease runs on");
    let second = world.seal_lease(&world.answer(&state, nonce(2)), 1);
    state.accept_lease(&second, SENT.plus(59_000)).unwrap();
    assert!(serves(ask(&state, "p", "m", SENT.plus(109_999))));
    assert!(!serves(ask(&state, "p", "m", SENT.plus(110_000))));
}

#[test]
fn nonces_are_fresh_and_the_clock_goes_on() {
    let world = World::new();
    let mut state = world.released();
    assert_eq!(state.begin_lease(nonce(0), SENT), Err(ReleaseError::StaleNonce));
    state.begin_lease(nonce(1), SENT).unwrap();
    assert_eq!(state.begin_lease(nonce(1), SENT.plus(1)), Err(ReleaseError::StaleNonce));
    assert_eq!(state.begin_lease(nonce(2), BootMillis(SENT.0 - 1)), Err(ReleaseError::ClockWentBack));
    let mut fresh = world.released();
    let lease = world.seal_lease(&world.answer(&fresh, nonce(1)), 0);
    assert_eq!(fresh.accept_lease(&lease, SENT), Err(ReleaseError::NoLeaseAsked));
    fresh.begin_lease(nonce(7), SENT).unwrap();
    assert_eq!(fresh.accept_lease(&lease, SENT), Err(ReleaseError::WrongNonce), "another enclave's lease");
}

#[test]
fn a_lease_must_name_the_newest_release_and_root() {
    let world = World::new();
    let mut state = world.released();
    state.begin_lease(nonce(1), SENT).unwrap();
    let good = world.answer(&state, nonce(1));
    let refused =
        |state: &mut TrustedState, lease: &Lease| code(state.accept_lease(&world.seal_lease(lease, 0), SENT));

    let mut other = good.clone();
    other.release.sha256 = sha256("another release");
    assert_eq!(refused(&mut state, &other), "lease-release");
    let mut other = good.clone();
    other.release.version = 2;
    assert_eq!(refused(&mut state, &other), "lease-release");
    let other = Lease { root_version: 2, ..good.clone() };
    assert_eq!(refused(&mut state, &other), "lease-root");
    let longer = Lease { seconds: 61, ..good.clone() };
    assert_eq!(refused(&mut state, &longer), "lease-too-long");
    assert_eq!(ask(&state, "p", "m", SENT), Decision::Refuse(Refusal::NoLease));

    // The answer for release 1 comes when release 2 is already there.
    state.accept_release(&world.seal_release(&world.release(2))).unwrap();
    assert_eq!(refused(&mut state, &good), "lease-release");
    let shorter = Lease { seconds: 1, ..world.answer(&state, nonce(1)) };
    assert_eq!(refused(&mut state, &shorter), "accepted");
    assert!(serves(ask(&state, "p", "m", SENT.plus(999))));
    assert!(!serves(ask(&state, "p", "m", SENT.plus(1_000))));
}

#[test]
fn several_issuers_add_up_to_the_narrowest() {
    let world = World::new();
    let mut release = world.release(1);
    release.lease.issuers = 2;
    let mut state = world.state();
    state.accept_release(&world.seal_release(&release)).unwrap();
    state.begin_lease(nonce(1), SENT).unwrap();
    let long = world.answer(&state, nonce(1));
    let notice = DenialNotice { denial: sha256("d"), halt: Target::Model(id("n")) };
    let short = Lease { seconds: 20, denials: list([notice]), ..long.clone() };

    let first = world.seal_lease(&long, 0);
    assert_eq!(state.accept_lease(&first, SENT), Ok(Accepted::MoreIssuersNeeded));
    // The same issuer again, and the same issuer with another statement, are still one.
    assert_eq!(state.accept_lease(&first, SENT), Ok(Accepted::MoreIssuersNeeded));
    assert_eq!(
        state.accept_lease(&world.seal_lease(&Lease { seconds: 59, ..long.clone() }, 0), SENT),
        Ok(Accepted::MoreIssuersNeeded)
    );
    assert_eq!(ask(&state, "p", "m", SENT), Decision::Refuse(Refusal::NoLease));

    let second = world.seal_lease(&short, 1);
    assert_eq!(state.accept_lease(&second, SENT), Ok(Accepted::New));
    assert!(serves(ask(&state, "p", "m", SENT.plus(19_999))));
    assert!(!serves(ask(&state, "p", "m", SENT.plus(20_000))), "the shorter of the two counts");
    assert_eq!(
        ask(&state, "p", "n", SENT),
        Decision::Refuse(Refusal::ModelDenied),
        "what one issuer denies is denied"
    );

    // A lease that both sign is as good.
    let mut state = world.state();
    state.accept_release(&world.seal_release(&release)).unwrap();
    state.begin_lease(nonce(1), SENT).unwrap();
    let both = seal(PayloadType::Lease, &long.to_payload(), &[&world.online[0], &world.online[2]]);
    assert_eq!(state.accept_lease(&both, SENT), Ok(Accepted::New));
}

#[test]
fn answers_for_the_release_before_do_not_count_for_the_next() {
    let world = World::new();
    let mut release = world.release(1);
    release.lease.issuers = 2;
    let mut state = world.state();
    state.accept_release(&world.seal_release(&release)).unwrap();
    state.begin_lease(nonce(1), SENT).unwrap();
    let old = world.seal_lease(&world.answer(&state, nonce(1)), 0);
    assert_eq!(state.accept_lease(&old, SENT), Ok(Accepted::MoreIssuersNeeded));
    release.version = 2;
    state.accept_release(&world.seal_release(&release)).unwrap();
    let new = world.seal_lease(&world.answer(&state, nonce(1)), 1);
    assert_eq!(state.accept_lease(&new, SENT), Ok(Accepted::MoreIssuersNeeded));
    let new = world.seal_lease(&world.answer(&state, nonce(1)), 0);
    assert_eq!(state.accept_lease(&new, SENT), Ok(Accepted::New));
}

#[test]
fn a_denial_in_a_lease_is_remembered_when_the_next_lease_leaves_it_out() {
    let world = World::new();
    let mut state = world.released();
    state.begin_lease(nonce(1), SENT).unwrap();
    let notice = DenialNotice { denial: sha256("d"), halt: Target::Partner(id("p")) };
    let knows = Lease { denials: list([notice]), ..world.answer(&state, nonce(1)) };
    state.accept_lease(&world.seal_lease(&knows, 0), SENT).unwrap();
    assert_eq!(ask(&state, "p", "m", SENT), Decision::Refuse(Refusal::PartnerDenied));
    state.begin_lease(nonce(2), SENT).unwrap();
    let ignorant = Lease { denials: List::default(), ..world.answer(&state, nonce(2)) };
    state.accept_lease(&world.seal_lease(&ignorant, 1), SENT).unwrap();
    assert_eq!(ask(&state, "p", "m", SENT), Decision::Refuse(Refusal::PartnerDenied));
}

#[test]
fn an_issuer_signs_only_for_what_it_holds() {
    let world = World::new();
    let issuer = world.released();
    let good = request(&issuer, nonce(1));
    let lease = issuer.draft_lease(&good, TODAY).unwrap();
    assert_eq!((lease.seconds, lease.nonce, lease.release.version), (60, nonce(1), 1));
    let cases = [
        (LeaseRequest { nonce: nonce(0), ..good }, "zero-nonce"),
        (LeaseRequest { root_version: 2, ..good }, "root-outdated"),
        (LeaseRequest { release_sha256: sha256("x"), ..good }, "release-outdated"),
    ];
    for (request, expected) in cases {
        assert_eq!(issuer.draft_lease(&request, TODAY).unwrap_err().code(), expected);
    }
    assert_eq!(world.state().draft_lease(&good, TODAY), Err(LeaseRefusal::NoRelease));
    // No lease outlives the release, and half a second is none.
    let lease = |millis| issuer.draft_lease(&good, UnixMillis(NEXT_YEAR.0 - millis));
    assert_eq!(lease(10_500).unwrap().seconds, 10);
    assert_eq!(lease(999), Err(LeaseRefusal::RootExpired));
}

#[test]
fn a_lease_has_one_name_in_whatever_order_its_parts_came() {
    let (a, b) = (sha256("a"), sha256("b"));
    assert_eq!(lease_digest(&[a, b]), lease_digest(&[b, a]));
    assert_eq!(lease_digest(&[a, a]), lease_digest(&[a]));
    assert_ne!(lease_digest(&[a]), a, "one rule for one issuer and for several");
}
