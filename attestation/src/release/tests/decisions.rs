//! Who is served, and who is refused for which reason.

use super::*;

const NOW: BootMillis = BootMillis(1_000);

fn refused(decision: Decision) -> &'static str {
    match decision {
        Decision::Serve { .. } => "served",
        Decision::Refuse(refusal) => refusal.code(),
    }
}

/// A leased state under a release that `change` changed.
fn under(change: impl FnOnce(&mut Release)) -> TrustedState {
    let world = World::new();
    let mut release = world.release(1);
    change(&mut release);
    let mut state = world.state();
    state.accept_release(&world.seal_release(&release)).unwrap();
    world.renew(&mut state, nonce(1), NOW);
    state
}

fn edit<T: Clone, const MAX: usize>(items: &mut List<T, MAX>, index: usize, change: impl FnOnce(&mut T)) {
    let mut changed = items.to_vec();
    change(&mut changed[index]);
    *items = list(changed);
}

#[test]
fn exactly_the_named_partners_use_exactly_the_named_models() {
    let state = under(|_| {});
    for (partner, model, expected) in [
        ("p", "m", "served"),
        ("p", "n", "served"),
        ("q", "n", "served"),
        ("q", "m", "model-not-granted"),
        ("q", "x", "model-not-granted"),
        ("stranger", "m", "partner-unknown"),
    ] {
        assert_eq!(refused(ask(&state, partner, model, NOW)), expected, "{partner} {model}");
    }
    let other = Question {
        partner_key: &sha256("p"),
        model: "m",
        model_sha256: &sha256("other weights"),
        phase: Phase::Start,
    };
    assert_eq!(refused(state.decide(&other, NOW, TODAY)), "model-digest");
}

#[test]
fn each_state_of_a_model_means_what_it_says() {
    for (model_state, start, goes_on) in [
        (ModelState::Active, "served", "served"),
        (ModelState::Draining, "model-draining", "served"),
        (ModelState::Suspended, "model-suspended", "model-suspended"),
        (ModelState::Revoked, "model-revoked", "model-revoked"),
    ] {
        let state = under(|release| edit(&mut release.models, 0, |model| model.state = model_state));
        assert_eq!(refused(ask_at(&state, "p", "m", Phase::Start, NOW, TODAY)), start);
        assert_eq!(refused(ask_at(&state, "p", "m", Phase::Continue, NOW, TODAY)), goes_on);
        assert_eq!(refused(ask(&state, "p", "n", NOW)), "served", "another model is not concerned");
        assert_eq!(state.model("m").unwrap().state, model_state);
    }
}

#[test]
fn the_first_thing_to_expire_ends_it() {
    let soon = UnixMillis(TODAY.0 + 5_000);
    for (expected, state) in [
        ("release-expired", under(|release| release.expires = soon)),
        (
            "partner-expired",
            under(|release| edit(&mut release.partners, 0, |partner| partner.expires = soon)),
        ),
    ] {
        let Decision::Serve { until, .. } = ask(&state, "p", "m", NOW) else { panic!("{expected}") };
        assert_eq!(until, NOW.plus(5_000), "{expected}");
        let last = UnixMillis(soon.0 - 1);
        assert_eq!(refused(ask_at(&state, "p", "m", Phase::Continue, NOW, last)), "served");
        assert_eq!(refused(ask_at(&state, "p", "m", Phase::Continue, NOW, soon)), expected);
    }
    let Decision::Serve { until, limits } = ask(&under(|_| {}), "p", "m", NOW) else { panic!() };
    assert_eq!((until, limits.concurrency), (NOW.plus(60_000), 4));
    let state = under(|_| {});
    let after_all = UnixMillis(NEXT_YEAR.0);
    assert_eq!(refused(ask_at(&state, "p", "m", Phase::Start, NOW, after_all)), "root-expired");
}

#[test]
fn one_authority_halts_a_model_for_all_and_a_partner_for_everything() {
    let world = World::new();
    for by in 0..3 {
        let mut state = world.released();
        world.renew(&mut state, nonce(1), NOW);
        let denial = world.seal_denial(&world.denial(Target::Model(id("n")), "1"), by);
        assert_eq!(state.accept_denial(&denial), Ok(Accepted::New));
        assert_eq!(state.accept_denial(&denial), Ok(Accepted::Known));
        assert_eq!(refused(ask_at(&state, "p", "n", Phase::Continue, NOW, TODAY)), "model-denied");
        assert_eq!(refused(ask_at(&state, "q", "n", Phase::Continue, NOW, TODAY)), "model-denied");
        assert_eq!(refused(ask(&state, "p", "m", NOW)), "served");
        assert!(state.model("n").unwrap().denied && !state.model("m").unwrap().denied);
    }
    let mut state = under(|_| {});
    state.accept_denial(&world.seal_denial(&world.denial(Target::Partner(id("p")), "1"), 0)).unwrap();
    for model in ["m", "n"] {
        assert_eq!(refused(ask_at(&state, "p", model, Phase::Continue, NOW, TODAY)), "partner-denied");
    }
    assert_eq!(refused(ask(&state, "q", "n", NOW)), "served");
}

#[test]
fn only_a_leased_release_that_names_the_denial_resumes() {
    let world = World::new();
    let mut state = world.released();
    let denial = world.seal_denial(&world.denial(Target::Model(id("m")), "1"), 0);
    let second = world.seal_denial(&world.denial(Target::Model(id("m")), "2"), 1);
    state.accept_denial(&denial).unwrap();
    let digest = Envelope::parse(&denial, PayloadType::Denial).unwrap().digest();

    // A newer release alone resumes nothing.
    state.accept_release(&world.seal_release(&world.release(2))).unwrap();
    world.renew(&mut state, nonce(1), NOW);
    assert_eq!(refused(ask(&state, "p", "m", NOW)), "model-denied");
    assert_eq!(state.denials_in_force().count(), 1);

    // One that names it does, once it is leased, and the denial has no effect when it is played again.
    let mut resumes = world.release(3);
    resumes.supersedes_denials = list([digest]);
    state.accept_release(&world.seal_release(&resumes)).unwrap();
    assert_eq!(
        refused(ask(&state, "p", "m", NOW)),
        "model-denied",
        "the lease still names the release before"
    );
    world.renew(&mut state, nonce(2), NOW);
    assert_eq!(refused(ask(&state, "p", "m", NOW)), "served");
    assert_eq!(state.accept_denial(&denial), Ok(Accepted::Known));
    assert_eq!(refused(ask(&state, "p", "m", NOW)), "served");
    assert_eq!(state.denials_in_force().count(), 0);

    // A second denial of the same model is another one.
    state.accept_denial(&second).unwrap();
    assert_eq!(refused(ask(&state, "p", "m", NOW)), "model-denied");
    // And a release that stops naming the first brings it back.
    let mut forgets = world.release(4);
    forgets.supersedes_denials = list([Envelope::parse(&second, PayloadType::Denial).unwrap().digest()]);
    state.accept_release(&world.seal_release(&forgets)).unwrap();
    world.renew(&mut state, nonce(3), NOW);
    assert_eq!(refused(ask(&state, "p", "m", NOW)), "model-denied");
}

#[test]
fn a_denial_that_comes_before_the_release_counts_too() {
    let world = World::new();
    let mut state = world.state();
    state.accept_denial(&world.seal_denial(&world.denial(Target::Partner(id("p")), "1"), 0)).unwrap();
    state.accept_release(&world.seal_release(&world.release(1))).unwrap();
    world.renew(&mut state, nonce(1), NOW);
    assert_eq!(refused(ask(&state, "p", "m", NOW)), "partner-denied");
}

#[test]
fn a_newer_release_narrows_at_once_and_widens_with_its_lease() {
    let world = World::new();
    let mut state =
        under(|release| edit(&mut release.models, 1, |model| model.state = ModelState::Suspended));
    // Release 2 suspends m and resumes n.
    let mut next = world.release(2);
    edit(&mut next.models, 0, |model| model.state = ModelState::Suspended);
    let sealed = seal(PayloadType::Release, &next.to_payload(), &[&world.offline[0], &world.offline[1]]);
    state.accept_release(&sealed).unwrap();
    assert_eq!(refused(ask(&state, "p", "m", NOW)), "model-suspended", "narrowed at once");
    assert_eq!(refused(ask(&state, "p", "n", NOW)), "model-suspended", "not widened yet");
    assert_eq!(state.leased_release().unwrap().version, 1);
    world.renew(&mut state, nonce(2), NOW);
    assert_eq!(refused(ask(&state, "p", "m", NOW)), "model-suspended");
    assert_eq!(refused(ask(&state, "p", "n", NOW)), "served");
    assert_eq!(state.leased_release().unwrap().version, 2);
}

#[test]
fn running_streams_outlive_a_change_of_release_that_does_not_concern_them() {
    let world = World::new();
    let mut state = under(|_| {});
    let mut next = world.release(2);
    edit(&mut next.partners, 0, |partner| partner.limits.concurrency = 1);
    for version in [2, 3] {
        next.version = version;
        let sealed = seal(PayloadType::Release, &next.to_payload(), &[&world.offline[0], &world.offline[1]]);
        state.accept_release(&sealed).unwrap();
        let Decision::Serve { until, limits } = ask(&state, "p", "m", NOW) else {
            panic!("version {version}")
        };
        assert_eq!((until, limits.concurrency), (NOW.plus(60_000), 1));
    }
    assert_eq!(refused(ask(&state, "p", "m", NOW.plus(60_000))), "lease-lapsed");
}
