//! What denials do, how many there may be, and what happens at each limit.

use super::*;

const NOW: BootMillis = BootMillis(1_000);

fn partner(name: &str) -> Target {
    Target::Partner(id(name))
}

/// A denial of partner `name`, its envelope signed by authority `by`, and its digest.
fn denied(world: &World, name: &str, serial: &str, by: usize) -> (Vec<u8>, Sha256Digest) {
    let denial = world.denial(partner(name), serial);
    (world.seal_denial(&denial, by), World::digest_of(&denial))
}

#[test]
fn only_a_deny_key_halts() {
    let world = World::new();
    let mut state = world.released();
    world.renew(&mut state, nonce(1), NOW);
    let denial = world.denial(Target::Model(id("m")), "1");
    let forged = seal(PayloadType::Denial, &denial.to_payload(), &[&world.online[0]]);
    assert_eq!(code(state.accept_denial(&forged)), "threshold");
    assert_eq!(code(state.accept_denial(&seal(PayloadType::Denial, &denial.to_payload(), &[]))), "threshold");
    assert!(!state.knows_denial(&World::digest_of(&denial)));
    assert!(serves(ask(&state, "p", "m", NOW)));
}

/// A key that leaks, or an authority that goes wrong, can halt everything until the others act. It cannot take more memory, it
/// cannot keep another authority's denials out, and a release or a root ends it.
#[test]
fn a_key_has_so_many_denials_in_force_and_no_more_and_a_release_or_a_root_ends_it() {
    let world = World::new();
    let mut state = world.released();
    let flood: Vec<_> = (0..DENIALS_PER_KEY).map(|n| denied(&world, "q", &n.to_string(), 0)).collect();
    for (sealed, _) in &flood {
        assert_eq!(state.accept_denial(sealed), Ok(Accepted::New));
    }
    let (over, over_digest) = denied(&world, "p", "one more", 0);
    let full = Err(ReleaseError::TooManyDenials { limit: DENIALS_PER_KEY });
    assert_eq!(state.accept_denial(&over), full);
    assert!(!state.knows_denial(&over_digest));
    assert_eq!(state.accept_denial(&flood[0].0), Ok(Accepted::Known), "what is held stays held");
    world.renew(&mut state, nonce(1), NOW);
    assert!(serves(ask(&state, "p", "m", NOW)), "what was refused changed nothing");

    // An issuer that was given the same cannot list it, and an enclave does not take a lease that lists what it refused.
    let mut knows = world.released();
    knows.accept_denial(&over).unwrap();
    state.begin_lease(nonce(2), NOW).unwrap();
    let lease = world.seal_lease(&world.answer(&knows, nonce(2)), 1);
    assert_eq!(state.accept_lease(&lease, NOW), Err(ReleaseError::DenialMissing(over_digest)));

    // Another authority still has room, also for the very same denial.
    let mut both = state.clone();
    assert_eq!(both.accept_denial(&denied(&world, "p", "other", 1).0), Ok(Accepted::New));
    let second = world.seal_denial(&world.denial(partner("p"), "one more"), 1);
    assert_eq!(both.accept_denial(&second), Ok(Accepted::New));

    // A release that lifts some makes room at once.
    let mut lifts = state.clone();
    let mut release = world.release(2);
    release.supersedes_denials = list(flood[..1].iter().map(|(_, digest)| *digest));
    lifts.accept_release(&world.seal_release(&release)).unwrap();
    assert_eq!(lifts.accept_denial(&over), Ok(Accepted::New));
    // A denial that the release lifts takes no place, and a release that lifts all of them exists.
    assert_eq!(lifts.accept_denial(&flood[0].0), Ok(Accepted::Known));
    const { assert!(DENIALS_PER_KEY * ROLE_KEYS_LIMIT <= SUPERSEDED_LIMIT) };

    // A root without the key ends it as well, with the first lease under it.
    let mut root = world.root();
    root.version = 2;
    root.roles.deny.keys = list(["b-offline", "c-offline"].map(id));
    state.accept_root(&world.seal_root(&root)).unwrap();
    assert_eq!(code(state.accept_denial(&over)), "threshold");
    assert_eq!(state.denials_known(), DENIALS_PER_KEY, "until the issuers agree");
    let mut issuer = world.released();
    issuer.accept_root(&world.seal_root(&root)).unwrap();
    world.renew_as(&mut state, &issuer, 0, nonce(3), NOW);
    assert_eq!(state.denials_known(), 0);
    assert!(serves(ask(&state, "q", "n", NOW)));
}

#[test]
fn a_lifted_denial_takes_no_place() {
    let world = World::new();
    let mut state = world.state();
    let old: Vec<_> = (0..DENIALS_PER_KEY).map(|n| denied(&world, "p", &n.to_string(), 0)).collect();
    let mut release = world.release(1);
    release.supersedes_denials = list(old.iter().map(|(_, digest)| *digest));
    state.accept_release(&world.seal_release(&release)).unwrap();
    for (sealed, _) in &old {
        state.accept_denial(sealed).unwrap();
    }
    assert_eq!(state.denials_in_force().count(), 0);
    assert_eq!(state.accept_denial(&denied(&world, "p", "new", 0).0), Ok(Accepted::New));
}

/// A lease names each halted model and partner of its release once, whatever else was denied.
#[test]
fn a_lease_lists_what_matters_under_its_release_once() {
    let world = World::new();
    let mut issuer = world.released();
    for serial in ["1", "2", "3"] {
        issuer.accept_denial(&denied(&world, "p", serial, 0).0).unwrap();
        issuer.accept_denial(&denied(&world, "nobody", serial, 1).0).unwrap();
    }
    let listed = world.answer(&issuer, nonce(1)).denials;
    let [digest] = &*listed else { panic!("{listed:?}") };
    assert!(issuer.knows_denial(digest));

    // Lifting the listed one lists another one of the same partner, and lifting all lists none.
    let all: Vec<Sha256Digest> = ["1", "2", "3"].map(|serial| denied(&world, "p", serial, 0).1).to_vec();
    for (version, lifted, left) in [(2, vec![*digest], 1), (3, all, 0)] {
        let mut release = world.release(version);
        release.supersedes_denials = list(lifted.clone());
        issuer.accept_release(&world.seal_release(&release)).unwrap();
        let listed = world.answer(&issuer, nonce(1)).denials;
        assert_eq!(listed.len(), left);
        assert!(listed.iter().all(|digest| !lifted.contains(digest)));
    }

    // A later release that names the partner brings what was denied of it into its leases.
    let mut release = world.release(4);
    let mut partners = release.partners.to_vec();
    partners[1].id = id("nobody");
    release.partners = list(partners);
    release.supersedes_denials = list(["1", "2", "3"].map(|serial| denied(&world, "p", serial, 0).1));
    issuer.accept_release(&world.seal_release(&release)).unwrap();
    assert_eq!(world.answer(&issuer, nonce(1)).denials.len(), 1);
}

/// Too many halted names stop the leases, and a release that lifts one or leaves one out ends that.
#[test]
fn an_issuer_gives_no_lease_while_more_is_halted_than_a_lease_can_list() {
    let world = World::new();
    let names: Vec<String> = (0..=LEASE_DENIALS_LIMIT).map(|n| format!("partner-{n}")).collect();
    let release = |version, names: &[String]| {
        let partners = names.iter().map(|name| Partner {
            id: id(name),
            keys: list([sha256(name)]),
            ..world.release(1).partners[0].clone()
        });
        Release { partners: list(partners), ..world.release(version) }
    };
    let mut issuer = world.state();
    issuer.accept_release(&world.seal_release(&release(1, &names))).unwrap();
    for (n, name) in names.iter().enumerate() {
        issuer.accept_denial(&denied(&world, name, "1", n % 3).0).unwrap();
    }
    let drafted = |issuer: &TrustedState| issuer.draft_lease(&request(issuer, nonce(1)), TODAY);
    assert_eq!(drafted(&issuer), Err(LeaseRefusal::TooManyDenials));

    let mut lifts = release(2, &names);
    lifts.supersedes_denials = list([denied(&world, &names[0], "1", 0).1]);
    let mut lifted = issuer.clone();
    lifted.accept_release(&world.seal_release(&lifts)).unwrap();
    assert_eq!(drafted(&lifted).unwrap().denials.len(), LEASE_DENIALS_LIMIT);
    let mut fewer = issuer.clone();
    fewer.accept_release(&world.seal_release(&release(2, &names[1..]))).unwrap();
    assert_eq!(drafted(&fewer).unwrap().denials.len(), LEASE_DENIALS_LIMIT);
}

/// A routine rotation must not lift a halt in passing: the issuers see it and stop, until people decide.
#[test]
fn a_denial_whose_key_leaves_the_root_holds_until_the_issuers_give_a_lease_and_they_give_none() {
    let world = World::new();
    let mut root = world.root();
    root.version = 2;
    root.roles.deny.keys = list(["b-offline", "c-offline"].map(id));
    let root = world.seal_root(&root);
    let (sealed, digest) = denied(&world, "p", "1", 0);
    let mut state = world.released();
    world.renew(&mut state, nonce(1), NOW);
    state.accept_denial(&sealed).unwrap();
    state.accept_root(&root).unwrap();
    assert_eq!(ask(&state, "p", "m", NOW), Decision::Refuse(Refusal::PartnerDenied), "it holds at first");
    let issuer = state.clone();
    let drafted = |issuer: &TrustedState| issuer.draft_lease(&request(issuer, nonce(2)), TODAY);
    assert_eq!(drafted(&issuer), Err(LeaseRefusal::DenialUnsigned));

    // A remaining authority halts it again: the issuers go on, and so does the halt.
    let mut again = issuer.clone();
    let (second, second_digest) = denied(&world, "p", "2", 1);
    again.accept_denial(&second).unwrap();
    assert_eq!(&*drafted(&again).unwrap().denials, [second_digest]);
    // It signs the same denial: that is the same denial with another signature.
    let mut countersigned = issuer.clone();
    let same = world.seal_denial(&world.denial(partner("p"), "1"), 1);
    assert_eq!(countersigned.accept_denial(&same), Ok(Accepted::Known));
    assert_eq!(&*drafted(&countersigned).unwrap().denials, [digest]);
    // The quorum lifts it.
    let mut lifted = issuer.clone();
    let mut release = world.release(2);
    release.supersedes_denials = list([digest]);
    lifted.accept_release(&world.seal_release(&release)).unwrap();
    assert!(drafted(&lifted).unwrap().denials.is_empty());

    // An issuer that was told nothing gives a lease, and then the denial is gone: nobody in the root stands by it.
    let mut ignorant = world.released();
    ignorant.accept_root(&root).unwrap();
    world.renew_as(&mut state, &ignorant, 0, nonce(3), NOW);
    assert!(serves(ask(&state, "p", "m", NOW)));
    assert_eq!(code(state.accept_denial(&sealed)), "threshold");
}

#[test]
fn signatures_of_one_denial_add_up() {
    let world = World::new();
    let mut state = world.released();
    let denial = world.denial(partner("p"), "1");
    assert_eq!(state.accept_denial(&world.seal_denial(&denial, 0)), Ok(Accepted::New));
    assert_eq!(state.accept_denial(&world.seal_denial(&denial, 1)), Ok(Accepted::Known));
    let mut root = world.root();
    root.version = 2;
    root.roles.deny.keys = list(["b-offline", "c-offline"].map(id));
    state.accept_root(&world.seal_root(&root)).unwrap();
    world.renew(&mut state, nonce(1), NOW);
    assert_eq!(ask(&state, "p", "m", NOW), Decision::Refuse(Refusal::PartnerDenied));
}

/// The issuer has a signature of the denial that the enclave was not given. The enclave's own copy goes with the lease, so it
/// must not stand for the issuer's.
#[test]
fn a_denial_that_only_a_key_of_an_earlier_root_signed_is_missing_for_a_lease_that_lists_it() {
    let world = World::new();
    let mut root = world.root();
    root.version = 2;
    root.roles.deny.keys = list(["b-offline", "c-offline"].map(id));
    let root = world.seal_root(&root);
    let denial = world.denial(partner("p"), "1");
    let (first, second) = (world.seal_denial(&denial, 0), world.seal_denial(&denial, 1));
    let [mut state, mut issuer] = [world.released(), world.released()];
    state.accept_denial(&first).unwrap();
    issuer.accept_denial(&second).unwrap();
    state.accept_root(&root).unwrap();
    issuer.accept_root(&root).unwrap();

    state.begin_lease(nonce(1), NOW).unwrap();
    let lease = world.seal_lease(&world.answer(&issuer, nonce(1)), 0);
    assert_eq!(state.accept_lease(&lease, NOW), Err(ReleaseError::DenialMissing(World::digest_of(&denial))));
    state.accept_denial(&second).unwrap();
    assert_eq!(state.accept_lease(&lease, NOW), Ok(Accepted::New));
    assert_eq!(ask(&state, "p", "m", NOW), Decision::Refuse(Refusal::PartnerDenied));
}

/// What a lease lists is what the release makes of a denial: nothing while no partner has the attribute.
#[test]
fn a_lease_lists_a_denial_by_attribute_while_the_release_gives_it_to_somebody() {
    let world = World::new();
    let release = |version, given: &[&str]| {
        let mut release = world.release(version);
        let mut partners = release.partners.to_vec();
        for (partner, given) in partners.iter_mut().zip(given) {
            partner.attributes = Some(list([attribute(given)]));
        }
        release.partners = list(partners);
        world.seal_release(&release)
    };
    let denials =
        ["1", "2"].map(|serial| world.denial(Target::Attribute(attribute("sector=energy")), serial));
    let mut issuer = world.state();
    issuer.accept_release(&release(1, &["sector=water"])).unwrap();
    for denial in &denials {
        issuer.accept_denial(&world.seal_denial(denial, 0)).unwrap();
    }
    assert!(world.answer(&issuer, nonce(1)).denials.is_empty());
    issuer.accept_release(&release(2, &["sector=energy", "sector=energy"])).unwrap();
    let listed = world.answer(&issuer, nonce(1)).denials;
    let [digest] = &*listed else { panic!("once for both partners and both denials: {listed:?}") };
    assert!(denials.iter().any(|denial| World::digest_of(denial) == *digest));

    // An enclave that was not given it has no lease.
    let mut state = world.state();
    state.accept_release(&release(2, &["sector=energy", "sector=energy"])).unwrap();
    state.begin_lease(nonce(2), NOW).unwrap();
    let lease = world.seal_lease(&world.answer(&issuer, nonce(2)), 0);
    assert_eq!(state.accept_lease(&lease, NOW), Err(ReleaseError::DenialMissing(*digest)));
    for denial in &denials {
        state.accept_denial(&world.seal_denial(denial, 0)).unwrap();
    }
    assert_eq!(state.accept_lease(&lease, NOW), Ok(Accepted::New));
    for partner in ["p", "q"] {
        assert_eq!(ask(&state, partner, "n", NOW), Decision::Refuse(Refusal::AttributeDenied));
    }

    // Its key leaves the root: the issuers stop until people decide, as with every other denial.
    let mut root = world.root();
    root.version = 2;
    root.roles.deny.keys = list(["b-offline", "c-offline"].map(id));
    issuer.accept_root(&world.seal_root(&root)).unwrap();
    assert_eq!(issuer.draft_lease(&request(&issuer, nonce(3)), TODAY), Err(LeaseRefusal::DenialUnsigned));
}
