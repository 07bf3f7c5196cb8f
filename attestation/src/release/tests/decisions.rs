//! Who is served, and who is refused for which reason.

use proptest::prelude::*;

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

/// World's release, in which the partners `p` and `q` have these attributes.
fn described(world: &World, version: u64, given: [&[&str]; 2]) -> Release {
    let mut release = world.release(version);
    for (at, given) in given.into_iter().enumerate() {
        let all: Vec<Attribute> = given.iter().map(|text| attribute(text)).collect();
        edit(&mut release.partners, at, |partner| {
            partner.attributes = (!all.is_empty()).then(|| list(all));
        });
    }
    release
}

#[test]
fn a_denial_by_attribute_halts_whoever_has_it_and_nobody_else() {
    let world = World::new();
    let mut state = world.state();
    let eu = ["jurisdiction=eu", "sector=energy"];
    let release = described(&world, 1, [&eu, &["jurisdiction=us", "sector=energy"]]);
    state.accept_release(&world.seal_release(&release)).unwrap();
    world.renew(&mut state, nonce(1), NOW);
    let halt = |text: &str, serial: &str| {
        world.seal_denial(&world.denial(Target::Attribute(attribute(text)), serial), 0)
    };
    // Neither the name alone nor the value alone says whom a denial concerns.
    state.accept_denial(&halt("jurisdiction=energy", "1")).unwrap();
    state.accept_denial(&halt("sector=eu", "2")).unwrap();
    assert!(serves(ask(&state, "p", "m", NOW)) && serves(ask(&state, "q", "n", NOW)));
    state.accept_denial(&halt("jurisdiction=eu", "3")).unwrap();
    for (model, phase) in [("m", Phase::Start), ("n", Phase::Continue)] {
        assert_eq!(refused(ask_at(&state, "p", model, phase, NOW, TODAY)), "attribute-denied");
    }
    assert!(serves(ask(&state, "q", "n", NOW)));
    // The name says more, so it is told first.
    state.accept_denial(&world.seal_denial(&world.denial(Target::Partner(id("p")), "4"), 0)).unwrap();
    assert_eq!(refused(ask(&state, "p", "m", NOW)), "partner-denied");
}

#[test]
fn a_denial_by_attribute_follows_the_partner_from_release_to_release() {
    let world = World::new();
    let denial = world.denial(Target::Attribute(attribute("jurisdiction=eu")), "1");
    let mut state = world.state();
    state.accept_release(&world.seal_release(&described(&world, 1, [&[], &["jurisdiction=eu"]]))).unwrap();
    world.renew(&mut state, nonce(1), NOW);
    state.accept_denial(&world.seal_denial(&denial, 0)).unwrap();
    assert!(serves(ask(&state, "p", "m", NOW)));
    assert_eq!(refused(ask(&state, "q", "n", NOW)), "attribute-denied");

    // Release 2 gives it to p, which halts p at once, and takes it from q, which waits for the lease.
    state.accept_release(&world.seal_release(&described(&world, 2, [&["jurisdiction=eu"], &[]]))).unwrap();
    assert_eq!(refused(ask_at(&state, "p", "m", Phase::Continue, NOW, TODAY)), "attribute-denied");
    assert_eq!(refused(ask(&state, "q", "n", NOW)), "attribute-denied", "not widened yet");
    world.renew(&mut state, nonce(2), NOW);
    assert_eq!(refused(ask(&state, "p", "m", NOW)), "attribute-denied");
    assert!(serves(ask(&state, "q", "n", NOW)));

    // A release that lifts the denial frees whoever has the attribute, with its lease.
    let mut lifts = described(&world, 3, [&["jurisdiction=eu"], &["jurisdiction=eu"]]);
    lifts.supersedes_denials = list([World::digest_of(&denial)]);
    state.accept_release(&world.seal_release(&lifts)).unwrap();
    assert_eq!(refused(ask(&state, "p", "m", NOW)), "attribute-denied");
    world.renew(&mut state, nonce(3), NOW);
    assert!(serves(ask(&state, "p", "m", NOW)) && serves(ask(&state, "q", "n", NOW)));
}

/// For each of six partners, the attributes of a pool of nine that it has: at most one value under each of three names.
fn given() -> impl Strategy<Value = Vec<Vec<Attribute>>> {
    let one = |name: &'static str| {
        let value = proptest::option::of(0..3_u8);
        value.prop_map(move |value| value.map(|value| attribute(&format!("{name}={value}"))))
    };
    let partner =
        (one("a"), one("b"), one("c")).prop_map(|(a, b, c)| [a, b, c].into_iter().flatten().collect());
    proptest::collection::vec(partner, 6)
}

/// World's release for six partners with these attributes, each of whom may use `m`.
fn six(world: &World, version: u64, given: &[Vec<Attribute>]) -> Release {
    let partners = given.iter().enumerate().map(|(n, given)| Partner {
        id: id(&n.to_string()),
        keys: list([sha256(&n.to_string())]),
        attributes: (!given.is_empty()).then(|| list(given.iter().cloned())),
        ..world.release(version).partners[0].clone()
    });
    Release { partners: list(partners), ..world.release(version) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Two enclaves under the same releases: one holds denials of attributes, the other denials of the partners that have one of
    /// them, by their names. They serve the same partners, in every phase, while a newer release waits for its lease and after.
    #[test]
    fn a_denial_by_attribute_is_denials_of_exactly_the_partners_that_have_it(
        first in given(),
        second in given(),
        denied in proptest::collection::btree_set((0..3_usize, 0..3_u8), 0..4),
        denial_comes_first in any::<bool>(),
    ) {
        let world = World { offline: [1, 2, 3].map(Signer::ed25519), ..World::new() };
        let denied: Vec<Attribute> =
            denied.iter().map(|(name, value)| attribute(&format!("{}={value}", ["a", "b", "c"][*name]))).collect();
        let has = |given: &[Vec<Attribute>], n: usize| given[n].iter().any(|given| denied.contains(given));
        let halt = |state: &mut TrustedState, targets: Vec<Target>| {
            for (n, target) in targets.into_iter().enumerate() {
                state.accept_denial(&world.seal_denial(&world.denial(target, &n.to_string()), n % 3)).unwrap();
            }
        };
        let attributes: Vec<Target> = denied.iter().cloned().map(Target::Attribute).collect();
        let named = |given: &dyn Fn(usize) -> bool| -> Vec<Target> {
            (0..6).filter(|n| given(*n)).map(|n| Target::Partner(id(&n.to_string()))).collect()
        };
        let mut by_attribute = world.state();
        if denial_comes_first {
            halt(&mut by_attribute, attributes.clone());
        }
        let releases = [six(&world, 1, &first), six(&world, 2, &second)].map(|release| world.seal_release(&release));
        by_attribute.accept_release(&releases[0]).unwrap();
        world.renew(&mut by_attribute, nonce(1), NOW);
        if !denial_comes_first {
            halt(&mut by_attribute, attributes);
        }
        let same = |by_attribute: &TrustedState, by_name: &TrustedState| {
            for n in 0..6 {
                for phase in [Phase::Start, Phase::Continue] {
                    let ask = |state| ask_at(state, &n.to_string(), "m", phase, NOW, TODAY);
                    let expected = match ask(by_name) {
                        Decision::Refuse(Refusal::PartnerDenied) => Decision::Refuse(Refusal::AttributeDenied),
                        other => other,
                    };
                    prop_assert_eq!(ask(by_attribute), expected, "partner {}", n);
                }
            }
            Ok(())
        };
        // The first release alone.
        let mut by_name = world.state();
        by_name.accept_release(&releases[0]).unwrap();
        halt(&mut by_name, named(&|n| has(&first, n)));
        world.renew(&mut by_name, nonce(1), NOW);
        same(&by_attribute, &by_name)?;
        // The second one waits for its lease: whoever has it under either.
        by_attribute.accept_release(&releases[1]).unwrap();
        by_name.accept_release(&releases[1]).unwrap();
        let mut either = by_name.clone();
        halt(&mut either, named(&|n| has(&first, n) || has(&second, n)));
        same(&by_attribute, &either)?;
        // The second one alone.
        world.renew(&mut by_attribute, nonce(2), NOW);
        let mut by_name = world.state();
        by_name.accept_release(&releases[1]).unwrap();
        halt(&mut by_name, named(&|n| has(&second, n)));
        world.renew(&mut by_name, nonce(2), NOW);
        same(&by_attribute, &by_name)?;
    }
}
