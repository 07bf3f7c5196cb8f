//! The scenarios of tuf-conformance that apply here, as cases of our own: thresholds, duplicate keys, rotation, expiry, rollback,
//! fast-forward, and files that are not what they say.

use super::*;

#[test]
fn a_root_must_be_signed_by_its_own_quorum() {
    let world = World::new();
    let payload = world.root().to_payload();
    let one = seal(PayloadType::Root, &payload, &[&world.offline[0]]);
    let needed = ReleaseError::Threshold { what: "root", role: Role::Root, needed: 2, valid: 1 };
    assert_eq!(TrustedState::new(&one).unwrap_err(), needed);
    let online = seal(PayloadType::Root, &payload, &[&world.online[0], &world.online[1]]);
    assert_eq!(code(TrustedState::new(&online)), "threshold");
    for pair in [[0, 1], [0, 2], [2, 1]] {
        let signed = seal(PayloadType::Root, &payload, &pair.map(|index| &world.offline[index]));
        assert!(TrustedState::new(&signed).is_ok());
    }
}

#[test]
fn a_threshold_counts_distinct_keys_not_signatures() {
    let world = World::new();
    let payload = world.release(1).to_payload();
    let mut json = json(&seal(PayloadType::Release, &payload, &[&world.offline[0]]));
    // The same signature again, under another key id each time, and under the id of a key that did not sign.
    let signature = json["signatures"][0]["sig"].clone();
    let other = world.offline[1].public().id().to_string();
    for keyid in ["", "x", other.as_str()] {
        let entry = serde_json::json!({ "keyid": keyid, "sig": signature });
        json["signatures"].as_array_mut().unwrap().push(entry);
    }
    let needed = ReleaseError::Threshold { what: "release", role: Role::Release, needed: 2, valid: 1 };
    assert_eq!(world.state().accept_release(json.to_string().as_bytes()), Err(needed));

    // Two different good signatures of one P-384 key are still one key.
    let mut twice = Envelope::unsigned(PayloadType::Release, &payload).unwrap();
    let p384 = &world.offline[2];
    let mut both = Vec::new();
    for _ in 0..2 {
        let signature = p384.sign(twice.pae());
        twice.attach(&p384.public(), &signature).unwrap();
        both.push(self::json(&twice.to_json())["signatures"][0].clone());
    }
    assert_ne!(both[0]["sig"], both[1]["sig"]);
    let mut json = self::json(&twice.to_json());
    json["signatures"] = both.into();
    assert_eq!(code(world.state().accept_release(json.to_string().as_bytes())), "threshold");
}

#[test]
fn one_key_under_two_names_counts_once() {
    let world = World::new();
    let mut root = world.root();
    let mut keys = root.keys.to_vec();
    keys.push(RootKey { name: id("a-again"), authority: id("d"), spki: world.offline[0].public() });
    root.keys = list(keys);
    root.roles.release.keys = list(["a-offline", "a-again"].map(id));
    // Such a root is refused when it is read.
    assert_eq!(code(Root::from_payload(&root.to_payload())), "repeated");
    // And a root that was made some other way still counts values.
    let signed = seal(PayloadType::Release, &world.release(1).to_payload(), &[&world.offline[0]]);
    let envelope = Envelope::parse(&signed, PayloadType::Release).unwrap();
    let needed = ReleaseError::Threshold { what: "release", role: Role::Release, needed: 2, valid: 1 };
    assert_eq!(root.verify(Role::Release, &envelope).unwrap_err(), needed);
    let mut twice = json(&signed);
    let signature = twice["signatures"][0].clone();
    twice["signatures"].as_array_mut().unwrap().push(signature);
    let envelope = Envelope::parse(twice.to_string().as_bytes(), PayloadType::Release).unwrap();
    assert_eq!(root.verify(Role::Release, &envelope).unwrap_err(), needed);
}

#[test]
fn key_ids_decide_nothing() {
    let world = World::new();
    let mut json = json(&world.seal_release(&world.release(1)));
    for signature in json["signatures"].as_array_mut().unwrap() {
        signature["keyid"] = "the same wrong id".into();
    }
    assert_eq!(world.state().accept_release(json.to_string().as_bytes()), Ok(Accepted::New));
    for signature in json["signatures"].as_array_mut().unwrap() {
        signature.as_object_mut().unwrap().remove("keyid");
    }
    assert_eq!(world.state().accept_release(json.to_string().as_bytes()), Ok(Accepted::New));
}

#[test]
fn keys_of_another_role_do_not_count() {
    let world = World::new();
    let release = world.release(1).to_payload();
    let online = seal(PayloadType::Release, &release, &[&world.online[0], &world.online[1]]);
    assert_eq!(code(world.state().accept_release(&online)), "threshold");
    let mut state = world.released();
    let denial = world.denial(Target::Model(id("m")), "1").to_payload();
    let online = seal(PayloadType::Denial, &denial, &[&world.online[0]]);
    assert_eq!(code(state.accept_denial(&online)), "threshold");
    state.begin_lease(nonce(1), BootMillis(0)).unwrap();
    let lease = world.answer(&state, nonce(1)).to_payload();
    let offline = seal(PayloadType::Lease, &lease, &[&world.offline[0], &world.offline[1]]);
    assert_eq!(code(state.accept_lease(&offline, BootMillis(0))), "threshold");
}

#[test]
fn a_signature_for_one_type_is_none_for_another() {
    let world = World::new();
    let payload = world.release(1).to_payload();
    let mut json = json(&seal(PayloadType::Root, &payload, &[&world.offline[0], &world.offline[1]]));
    assert_eq!(code(world.state().accept_release(json.to_string().as_bytes())), "payload-type");
    json["payloadType"] = PayloadType::Release.as_str().into();
    assert_eq!(code(world.state().accept_release(json.to_string().as_bytes())), "threshold");
}

#[test]
fn a_changed_byte_is_noticed() {
    let world = World::new();
    let signed = world.seal_release(&world.release(1));
    let mut json = json(&signed);
    let mut release = world.release(1);
    release.lease.seconds = 61;
    let other =
        self::json(&Envelope::unsigned(PayloadType::Release, &release.to_payload()).unwrap().to_json());
    json["payload"] = other["payload"].clone();
    assert_eq!(code(world.state().accept_release(json.to_string().as_bytes())), "threshold");
}

#[test]
fn a_root_rotates_one_version_at_a_time_signed_by_both_quorums() {
    let world = World::new();
    let next_keys = [Signer::ed25519(21), Signer::ed25519(22)];
    let mut next = world.root();
    next.version = 2;
    let mut keys = next.keys.to_vec();
    keys[0].spki = next_keys[0].public();
    keys[1].spki = next_keys[1].public();
    next.keys = list(keys);
    let payload = next.to_payload();
    let [old_a, old_b, old_c] = &world.offline;
    let [new_a, new_b] = &next_keys;

    let cases: [(&[&Signer], &str); 5] = [
        (&[new_a, new_b], "threshold"),
        (&[old_a, old_b], "threshold"),
        (&[old_a, new_a, new_b], "threshold"),
        // The key that both roots have counts in both.
        (&[old_a, old_c, new_a], "accepted"),
        (&[old_a, old_b, new_a, new_b], "accepted"),
    ];
    for (signers, expected) in cases {
        let mut state = world.state();
        let version = if expected == "accepted" { 2 } else { 1 };
        assert_eq!(code(state.accept_root(&seal(PayloadType::Root, &payload, signers))), expected);
        assert_eq!(state.root().version, version);
    }

    let mut state = world.state();
    let all: &[&Signer] = &[old_a, old_b, new_a, new_b];
    for (version, expected) in
        [(0, "range"), (1, "same-version-other-bytes"), (3, "root-skipped"), (9, "root-skipped")]
    {
        next.version = version;
        assert_eq!(
            code(state.accept_root(&seal(PayloadType::Root, &next.to_payload(), all))),
            expected,
            "{version}"
        );
    }
    assert_eq!(state.accept_root(&world.seal_root(&world.root())), Ok(Accepted::Known));
    state.accept_root(&seal(PayloadType::Root, &payload, all)).unwrap();
    // An old root is not taken back, by whomever it is signed.
    let old = seal(PayloadType::Root, &world.root().to_payload(), &[old_a, old_b, old_c, new_a, new_b]);
    assert_eq!(code(state.accept_root(&old)), "rollback");
    assert_eq!(state.root().version, 2);
}

#[test]
fn a_rotation_takes_away_what_the_new_root_does_not_cover() {
    let world = World::new();
    let now = BootMillis(5);
    let leased = || {
        let mut state = world.released();
        world.renew(&mut state, nonce(1), now);
        assert!(serves(ask(&state, "p", "m", now)));
        state
    };
    let rotated = |change: &dyn Fn(&mut Root)| {
        let mut root = world.root();
        root.version = 2;
        change(&mut root);
        let mut state = leased();
        state.accept_root(&world.seal_root(&root)).unwrap();
        ask(&state, "p", "m", now)
    };
    assert!(serves(rotated(&|_| {})), "nothing that matters changed");
    // The release was signed by b and c.
    let without_b = rotated(&|root| root.roles.release.keys = list(["a-offline", "c-offline"].map(id)));
    assert_eq!(without_b, Decision::Refuse(Refusal::NoRelease));
    let higher_threshold = rotated(&|root| root.roles.release.threshold = 3);
    assert_eq!(higher_threshold, Decision::Refuse(Refusal::NoRelease));
    // The lease was signed by a.
    let without_issuer = rotated(&|root| root.roles.lease.keys = list(["b-online", "c-online"].map(id)));
    assert_eq!(without_issuer, Decision::Refuse(Refusal::NoLease));
    let two_issuers = rotated(&|root| root.roles.lease.threshold = 2);
    assert_eq!(two_issuers, Decision::Refuse(Refusal::NoLease));
    assert_eq!(rotated(&|root| root.minimum_release = 2), Decision::Refuse(Refusal::NoRelease));
}

#[test]
fn a_rotation_does_not_forget_denials() {
    let world = World::new();
    let mut state = world.released();
    let mut root = world.root();
    root.version = 2;
    root.roles.deny.keys = list(["b-offline"].map(id));
    let denial = world.denial(Target::Model(id("m")), "1");
    state.accept_denial(&world.seal_denial(&denial, 1)).unwrap();
    state.accept_root(&world.seal_root(&root)).unwrap();
    world.renew(&mut state, nonce(1), BootMillis(0));
    assert_eq!(ask(&state, "p", "m", BootMillis(0)), Decision::Refuse(Refusal::ModelDenied));
    assert!(serves(ask(&state, "p", "n", BootMillis(0))));
}

#[test]
fn release_versions_only_rise() {
    let world = World::new();
    let mut state = world.state();
    assert_eq!(state.accept_release(&world.seal_release(&world.release(5))), Ok(Accepted::New));
    assert_eq!(state.accept_release(&world.seal_release(&world.release(5))), Ok(Accepted::Known));
    let mut other = world.release(5);
    other.lease.seconds = 61;
    let same = ReleaseError::SameVersionOtherBytes { what: "release", version: 5 };
    assert_eq!(state.accept_release(&world.seal_release(&other)), Err(same));
    let rollback = ReleaseError::Rollback { what: "release", current: 5, actual: 4 };
    assert_eq!(state.accept_release(&world.seal_release(&world.release(4))), Err(rollback));
    assert_eq!(state.accept_release(&world.seal_release(&world.release(7))), Ok(Accepted::New));
    assert_eq!(state.release().unwrap().version, 7);
}

#[test]
fn equal_content_in_other_bytes_is_another_release() {
    let world = World::new();
    let mut state = world.released();
    let compact = serde_json::to_vec(&world.release(1)).unwrap();
    let sealed = seal(PayloadType::Release, &compact, &[&world.offline[0], &world.offline[1]]);
    assert_eq!(code(state.accept_release(&sealed)), "same-version-other-bytes");
}

#[test]
fn an_expired_release_is_taken_so_that_nothing_older_is() {
    let world = World::new();
    let mut expired = world.release(5);
    expired.expires = TODAY;
    let mut state = world.state();
    state.accept_release(&world.seal_release(&expired)).unwrap();
    assert_eq!(code(state.accept_release(&world.seal_release(&world.release(4)))), "rollback");
    let refusal = state.draft_lease(&request(&state, nonce(1)), TODAY).unwrap_err();
    assert_eq!(refusal, LeaseRefusal::ReleaseExpired);
}

#[test]
fn a_fast_forward_is_undone_by_a_root_that_replaces_the_keys() {
    let world = World::new();
    let mut state = world.state();
    // Whoever held the keys of b and c used up the versions.
    state.accept_release(&world.seal_release(&world.release(VERSION_LIMIT))).unwrap();
    assert_eq!(code(state.accept_release(&world.seal_release(&world.release(8)))), "rollback");
    // Rotating the keys alone does not bring an older honest release back: minimum_release says where versions go on.
    let fresh = [Signer::ed25519(31), Signer::ed25519(32)];
    let mut root = world.root();
    root.version = 2;
    root.minimum_release = 8;
    let mut keys = root.keys.to_vec();
    keys[1].spki = fresh[0].public();
    keys[2].spki = fresh[1].public();
    root.keys = list(keys);
    let [a, b, c] = &world.offline;
    let [new_b, new_c] = &fresh;
    state.accept_root(&seal(PayloadType::Root, &root.to_payload(), &[a, b, c, new_b, new_c])).unwrap();
    assert!(state.release().is_none());
    let sealed = |version| seal(PayloadType::Release, &world.release(version).to_payload(), &[a, new_b]);
    let below = ReleaseError::BelowMinimum { minimum: 8, actual: 7 };
    assert_eq!(state.accept_release(&sealed(7)), Err(below));
    state.accept_release(&sealed(8)).unwrap();
    assert_eq!(code(state.accept_release(&world.seal_release(&world.release(VERSION_LIMIT)))), "threshold");
}

#[test]
fn a_root_in_force_keeps_the_version_over_a_rotation() {
    let world = World::new();
    let mut state = world.state();
    state.accept_release(&world.seal_release(&world.release(5))).unwrap();
    let mut root = world.root();
    root.version = 2;
    state.accept_root(&world.seal_root(&root)).unwrap();
    assert_eq!(code(state.accept_release(&world.seal_release(&world.release(4)))), "rollback");
}

#[test]
fn every_root_in_between_may_have_expired_but_not_the_last() {
    let world = World::new();
    let now = BootMillis(0);
    let mut state = world.released();
    let mut root = world.root();
    root.version = 2;
    root.expires = UnixMillis(TODAY.0 - HOUR);
    state.accept_root(&world.seal_root(&root)).unwrap();
    state.begin_lease(nonce(1), now).unwrap();
    let mut lease = Lease {
        nonce: nonce(1),
        root: DocumentName { version: 2, sha256: state.root().digest() },
        release: DocumentName { version: 1, sha256: state.release().unwrap().digest() },
        seconds: 60,
        denials: List::default(),
    };
    state.accept_lease(&world.seal_lease(&lease, 0), now).unwrap();
    assert_eq!(ask(&state, "p", "m", now), Decision::Refuse(Refusal::RootExpired));
    assert_eq!(state.draft_lease(&request(&state, nonce(2)), TODAY), Err(LeaseRefusal::RootExpired));
    root.version = 3;
    root.expires = NEXT_YEAR;
    state.accept_root(&world.seal_root(&root)).unwrap();
    state.begin_lease(nonce(2), now).unwrap();
    let root = DocumentName { version: 3, sha256: state.root().digest() };
    (lease.nonce, lease.root) = (nonce(2), root);
    state.accept_lease(&world.seal_lease(&lease, 0), now).unwrap();
    assert!(serves(ask(&state, "p", "m", now)));
}

#[test]
fn another_room_is_another_world() {
    let world = World::new();
    let mut state = world.state();
    let mut release = world.release(1);
    release.room = id("other");
    assert_eq!(code(state.accept_release(&world.seal_release(&release))), "room");
    let mut denial = world.denial(Target::Model(id("m")), "1");
    denial.room = id("other");
    assert_eq!(code(state.accept_denial(&world.seal_denial(&denial, 0))), "room");
    let mut root = world.root();
    (root.version, root.room) = (2, id("other"));
    assert_eq!(code(state.accept_root(&world.seal_root(&root))), "room");
}

fn json(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).unwrap()
}
