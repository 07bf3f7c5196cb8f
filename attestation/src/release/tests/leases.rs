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
        // What evidence shows is the lease in force: none before it begins, and none from its end on.
        assert!(state.lease_in_force(SENT.plus(59_999)).is_ok());
        assert_eq!(state.lease_in_force(SENT.plus(60_000)), Err(Refusal::LeaseLapsed));
        assert_eq!(state.lease_in_force(BootMillis(SENT.0 - 1)), Err(Refusal::ClockWentBack));
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
    let other = Lease { root: DocumentName { version: 2, ..good.root }, ..good.clone() };
    assert_eq!(refused(&mut state, &other), "lease-root");
    let other = Lease { root: DocumentName { sha256: sha256("another"), ..good.root }, ..good.clone() };
    assert_eq!(refused(&mut state, &other), "lease-root", "the same version of another root");
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

/// A state under a release for which two issuers must give the lease, and its answer to nonce 1.
fn two_issuers(world: &World) -> (TrustedState, Lease) {
    let mut release = world.release(1);
    release.lease.issuers = 2;
    let mut state = world.state();
    state.accept_release(&world.seal_release(&release)).unwrap();
    state.begin_lease(nonce(1), SENT).unwrap();
    let answer = world.answer(&state, nonce(1));
    (state, answer)
}

#[test]
fn several_issuers_add_up_and_the_shortest_that_is_needed_counts() {
    let world = World::new();
    let (mut state, long) = two_issuers(&world);
    let short = Lease { seconds: 20, ..long.clone() };

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

    // A lease that both sign is as good.
    let (mut state, long) = two_issuers(&world);
    let both = seal(PayloadType::Lease, &long.to_payload(), &[&world.online[0], &world.online[2]]);
    assert_eq!(state.accept_lease(&both, SENT), Ok(Accepted::New));
    assert_eq!(state.lease().unwrap().envelopes().len(), 1);
}

#[test]
fn one_issuer_cannot_shorten_what_the_others_give() {
    let world = World::new();
    for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0]] {
        let (mut state, long) = two_issuers(&world);
        for issuer in order {
            // Issuer 0 gives a second, and gives it again.
            let seconds = if issuer == 0 { 1 } else { 60 };
            let lease = world.seal_lease(&Lease { seconds, ..long.clone() }, issuer);
            state.accept_lease(&lease, SENT).unwrap();
            state.accept_lease(&lease, SENT).unwrap();
        }
        assert!(serves(ask(&state, "p", "m", SENT.plus(59_999))), "{order:?}");
        assert!(!serves(ask(&state, "p", "m", SENT.plus(60_000))), "{order:?}");
        let shown = state.lease().unwrap().envelopes().len();
        assert_eq!(shown, 2, "{order:?}: what is shown is what makes the lease");
    }
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
fn a_lease_that_lists_a_denial_counts_only_where_that_denial_is_held() {
    let world = World::new();
    let mut issuer = world.released();
    let denial = world.denial(Target::Partner(id("p")), "1");
    let (sealed, digest) = (world.seal_denial(&denial, 0), World::digest_of(&denial));
    issuer.accept_denial(&sealed).unwrap();

    let mut state = world.released();
    state.begin_lease(nonce(1), SENT).unwrap();
    let answer = world.answer(&issuer, nonce(1));
    assert_eq!(&*answer.denials, [digest]);
    let lease = world.seal_lease(&answer, 0);
    assert_eq!(state.accept_lease(&lease, SENT), Err(ReleaseError::DenialMissing(digest)));
    assert_eq!(
        ask(&state, "q", "n", SENT),
        Decision::Refuse(Refusal::NoLease),
        "nothing is served without it"
    );
    // With the denial the same lease counts, and the denial is in force.
    state.accept_denial(&sealed).unwrap();
    assert_eq!(state.accept_lease(&lease, SENT), Ok(Accepted::New));
    assert!(serves(ask(&state, "q", "n", SENT)));
    assert_eq!(ask(&state, "p", "m", SENT), Decision::Refuse(Refusal::PartnerDenied));
    // The next lease, of an issuer who does not know it, takes nothing back.
    world.renew_as(&mut state, &world.released(), 1, nonce(2), SENT);
    assert_eq!(ask(&state, "p", "m", SENT), Decision::Refuse(Refusal::PartnerDenied));
}

#[test]
fn what_an_issuer_lists_halts_nothing_and_stops_nobody_else() {
    let world = World::new();
    let (mut state, honest) = two_issuers(&world);
    let invented = Lease { denials: list([sha256("invented")]), ..honest.clone() };
    let error = state.accept_lease(&world.seal_lease(&invented, 0), SENT);
    assert_eq!(error, Err(ReleaseError::DenialMissing(sha256("invented"))));
    assert_eq!(
        state.accept_lease(&world.seal_lease(&honest, 1), SENT),
        Ok(Accepted::MoreIssuersNeeded),
        "the refused one counts as little as if it had not come"
    );
    assert_eq!(state.accept_lease(&world.seal_lease(&honest, 2), SENT), Ok(Accepted::New));
    assert!(serves(ask(&state, "p", "m", SENT)));
    assert_eq!(state.denials_known(), 0);
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
        (LeaseRequest { root_sha256: sha256("x"), ..good }, "root-outdated"),
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
