//! What is refused before any signature is looked at, and what a payload may not say.

use super::*;
use crate::safeguard::SafeguardAction;

#[test]
fn the_pre_authentication_encoding_is_that_of_dsse() {
    let envelope = Envelope::unsigned(PayloadType::Lease, b"hello world").unwrap();
    let expected = b"DSSEv1 39 application/vnd.cleanroom.lease.v1+json 11 hello world";
    assert_eq!(envelope.pae(), expected);
    assert_eq!(envelope.payload(), b"hello world");
    assert_eq!(envelope.digest(), sha256("hello world"));
    let back = Envelope::parse(&envelope.to_json(), PayloadType::Lease).unwrap();
    assert_eq!(back, envelope);
}

#[test]
fn envelopes_are_read_strictly() {
    let parse = |text: &str| code(Envelope::parse(text.as_bytes(), PayloadType::Lease));
    let lease = PayloadType::Lease.as_str();
    let with =
        |payload: &str, rest: &str| format!(r#"{{"payload":"{payload}","payloadType":"{lease}"{rest}}}"#);
    assert_eq!(parse(&with("aGk=", r#","signatures":[]"#)), "accepted");
    assert_eq!(
        parse(&with("-_8=", r#","signatures":[{"sig":"-_8="}]"#)),
        "accepted",
        "DSSE permits the URL-safe alphabet"
    );
    for (text, expected) in [
        (with("aGk", r#","signatures":[]"#), "base64"),
        (with("a===", r#","signatures":[]"#), "base64"),
        (with("=", r#","signatures":[]"#), "base64"),
        (with("aGk=\\n", r#","signatures":[]"#), "base64"),
        (with("aGl=", r#","signatures":[]"#), "base64"),
        (with("-+8=", r#","signatures":[]"#), "base64"),
        (with("aGk=", r#","signatures":[{"sig":"?"}]"#), "base64"),
        (with("aGk=", ""), "form"),
        (with("aGk=", r#","signatures":[],"extra":1"#), "form"),
        (with("aGk=", r#","signatures":[],"payload":"aGk=""#), "form"),
        (with("aGk=", r#","signatures":[{"sig":"","sig":""}]"#), "form"),
        (with("aGk=", r#","signatures":[{"sig":"","cert":""}]"#), "form"),
        (with("aGk=", r#","signatures":[{"keyid":"x"}]"#), "form"),
        (with("aGk=", r#","signatures":[]"#) + " {}", "form"),
        ("[]".to_owned(), "form"),
        (String::new(), "form"),
    ] {
        assert_eq!(parse(&text), expected, "{text}");
    }
}

#[test]
fn limits_come_before_work() {
    let parse = |bytes: &[u8], payload_type| Envelope::parse(bytes, payload_type);
    for payload_type in [
        PayloadType::Root,
        PayloadType::Release,
        PayloadType::Denial,
        PayloadType::Lease,
        PayloadType::Opening,
    ] {
        let limit = payload_type.limit();
        assert!(Envelope::unsigned(payload_type, &vec![b' '; limit]).is_ok());
        assert_eq!(code(Envelope::unsigned(payload_type, &vec![b' '; limit + 1])), "too-large");
        let largest = Envelope::unsigned(payload_type, &vec![b' '; limit]).unwrap().to_json();
        assert!(
            parse(&largest, payload_type).is_ok(),
            "a payload at the limit fits into an envelope at its limit"
        );
        let over = vec![b'x'; payload_type.envelope_limit() + 1];
        assert_eq!(code(parse(&over, payload_type)), "too-large");
    }
    let sealed = |sig: &str, count: usize| {
        let one = format!(r#"{{"sig":"{sig}"}}"#);
        let lease = PayloadType::Lease.as_str();
        format!(r#"{{"payload":"","payloadType":"{lease}","signatures":[{}]}}"#, vec![one; count].join(","))
    };
    assert!(parse(sealed("AA==", SIGNATURES_LIMIT).as_bytes(), PayloadType::Lease).is_ok());
    assert_eq!(code(parse(sealed("AA==", SIGNATURES_LIMIT + 1).as_bytes(), PayloadType::Lease)), "form");
    assert_eq!(code(parse(sealed(&"A".repeat(176), 1).as_bytes(), PayloadType::Lease)), "too-large");
    let long_id =
        sealed("AA==", 1).replace(r#"{"sig""#, &format!(r#"{{"keyid":"{}","sig""#, "k".repeat(257)));
    assert_eq!(code(parse(long_id.as_bytes(), PayloadType::Lease)), "too-large");
}

#[test]
fn an_error_quotes_little_of_what_a_stranger_wrote() {
    let name = "x\u{1b}[31m".repeat(10_000);
    let text = serde_json::json!({ "payload": "", name: 1 }).to_string();
    let error = Envelope::parse(text.as_bytes(), PayloadType::Lease).unwrap_err().to_string();
    assert!(error.len() < 500, "{} bytes", error.len());
    assert!(!error.contains('\u{1b}'));
}

#[test]
fn only_one_encoding_of_a_key_is_a_key() {
    for signer in [Signer::ed25519(1), Signer::p384()] {
        let key = signer.public();
        assert_eq!(PublicKey::from_spki(key.spki()), Ok(key.clone()));
        assert_eq!(key.to_string().parse(), Ok(key.clone()));
        let signature = signer.sign(b"x");
        assert!(key.verifies(b"x", &signature));
        assert!(!key.verifies(b"y", &signature));
        assert!(!key.verifies(b"x", &[]));
        let mut longer = key.spki().to_vec();
        longer.push(0);
        assert!(PublicKey::from_spki(&longer).is_err());
        assert!(PublicKey::from_spki(&key.spki()[1..]).is_err());
        let mut compressed = key.spki().to_vec();
        if key.algorithm() == Algorithm::P384 {
            compressed[23] = 2;
            assert!(PublicKey::from_spki(&compressed).is_err(), "only uncompressed points");
        }
    }
    // p = 2^255 - 19, little endian: the first coordinate that is a second spelling (of zero), with and without the sign.
    let mut zero_again = [0xff; 32];
    (zero_again[0], zero_again[31]) = (0xed, 0x7f);
    assert_eq!(PublicKey::from_raw(Algorithm::Ed25519, &zero_again), Err(KeyError::NotReduced));
    zero_again[31] = 0xff;
    assert_eq!(PublicKey::from_raw(Algorithm::Ed25519, &zero_again), Err(KeyError::NotReduced));
    zero_again[0] = 0xec;
    assert!(PublicKey::from_raw(Algorithm::Ed25519, &zero_again).is_ok());
    assert_eq!("AAAA".repeat(60).parse::<PublicKey>(), Err(KeyError::Unsupported(180)));
    assert_eq!("???".parse::<PublicKey>(), Err(KeyError::Base64));
}

#[test]
fn a_signature_is_checked_before_it_is_attached() {
    let (signer, other) = (Signer::ed25519(1), Signer::ed25519(2));
    let mut envelope = Envelope::unsigned(PayloadType::Denial, b"{}").unwrap();
    let signature = signer.sign(envelope.pae());
    assert_eq!(code(envelope.attach(&other.public(), &signature)), "not-the-signer");
    assert_eq!(code(envelope.attach(&signer.public(), b"")), "not-the-signer");
    assert!(envelope.signatures().is_empty());
    envelope.attach(&signer.public(), &signature).unwrap();
    envelope.attach(&signer.public(), &signature).unwrap();
    assert_eq!(envelope.signatures().len(), 1, "signing twice replaces");
    assert_eq!(envelope.signatures()[0].key_id(), signer.public().id().to_string());
}

fn root_with(change: impl FnOnce(&mut Root)) -> Result<Root, ReleaseError> {
    let mut root = World::new().root();
    change(&mut root);
    Root::from_payload(&root.to_payload())
}

#[test]
fn rules_of_a_root() {
    assert!(root_with(|_| {}).is_ok());
    assert_eq!(code(root_with(|root| root.version = 0)), "range");
    assert_eq!(code(root_with(|root| root.version = VERSION_LIMIT + 1)), "range");
    assert_eq!(code(root_with(|root| root.minimum_release = 0)), "range");
    assert_eq!(code(root_with(|root| root.roles.root.threshold = 0)), "range");
    assert_eq!(code(root_with(|root| root.roles.release.threshold = 4)), "range");
    assert_eq!(code(root_with(|root| root.roles.lease.threshold = 0)), "range");
    assert_eq!(code(root_with(|root| root.roles.lease = RoleRule::default())), "range");
    assert_eq!(code(root_with(|root| root.roles.witness.threshold = 1)), "range");
    assert_eq!(code(root_with(|root| root.roles.witness.keys = list([id("a-online")]))), "range");
    // Any one authority can halt: a root under which two are needed is none.
    assert_eq!(code(root_with(|root| root.roles.deny.threshold = 2)), "range");
    assert_eq!(code(root_with(|root| root.roles.deny.keys = list([id("nobody")]))), "dangling");
    assert_eq!(
        code(root_with(|root| root.roles.deny.keys = list(["a-offline", "a-offline"].map(id)))),
        "repeated"
    );
    let twice = root_with(|root| root.roles.deny.keys = list(["a-offline", "a-online"].map(id)));
    assert_eq!(code(twice), "authority-twice");
    let online = |rule: fn(&mut Roles) -> &mut RoleRule| {
        root_with(|root| {
            let rule = rule(&mut root.roles);
            rule.keys = list(["a-online", "b-offline", "c-offline"].map(id));
        })
    };
    assert_eq!(code(online(|roles| &mut roles.root)), "online-key");
    assert_eq!(code(online(|roles| &mut roles.release)), "online-key");
    assert_eq!(code(online(|roles| &mut roles.deny)), "accepted");
    let same_name = root_with(|root| {
        let mut keys = root.keys.to_vec();
        keys[3].name = keys[0].name.clone();
        root.keys = list(keys);
    });
    assert_eq!(code(same_name), "repeated");
}

fn release_with(change: impl FnOnce(&mut Release)) -> Result<Release, ReleaseError> {
    let mut release = World::new().release(1);
    change(&mut release);
    Release::from_payload(&release.to_payload())
}

/// The list and its first element once more.
fn doubled<T: Clone, const MAX: usize>(items: &List<T, MAX>) -> List<T, MAX> {
    list(items.iter().chain(items.first()).cloned())
}

#[test]
fn rules_of_a_release() {
    assert!(release_with(|_| {}).is_ok());
    assert_eq!(code(release_with(|release| release.version = 0)), "range");
    assert_eq!(code(release_with(|release| release.images = List::default())), "range");
    assert_eq!(code(release_with(|release| release.deployments = Some(List::default()))), "range");
    let empty = Deployment { name: label("nowhere"), pcr3: None, pcr4: None, pcr8: None };
    assert_eq!(code(release_with(|release| release.deployments = Some(list([empty])))), "range");
    assert_eq!(code(release_with(|release| release.lease.seconds = 0)), "range");
    assert_eq!(code(release_with(|release| release.lease.seconds = LEASE_SECONDS_LIMIT + 1)), "range");
    assert_eq!(code(release_with(|release| release.lease.issuers = 0)), "range");
    let seconds = LEASE_SECONDS_LIMIT + 1;
    assert_eq!(code(release_with(|release| release.audit.checkpoint_seconds = seconds)), "range");
    assert_eq!(code(release_with(|release| release.audit.witnesses = 1)), "range");
    assert_eq!(
        code(release_with(|release| release.egress = list([Egress { host: id("h"), port: 0 }]))),
        "range"
    );
    assert_eq!(code(release_with(|release| release.models = doubled(&release.models))), "repeated");
    // One name for the same weights: a halt of the other name would leave them serving.
    let aliased = release_with(|release| {
        let same = Model { id: id("alias"), ..release.models[0].clone() };
        release.models = list(release.models.iter().cloned().chain([same]));
    });
    assert_eq!(code(aliased), "repeated");
    assert_eq!(code(release_with(|release| release.partners = doubled(&release.partners))), "repeated");
    assert_eq!(code(release_with(|release| release.images = doubled(&release.images))), "repeated");
    let with_tpm = |images: Vec<TpmImage>, enclaves: bool| {
        release_with(|release| {
            release.nitrotpm_images = Some(list(images));
            if !enclaves {
                release.images = List::default();
            }
        })
    };
    assert!(with_tpm(vec![tpm_image("4"), tpm_image("5")], true).is_ok());
    assert!(with_tpm(vec![tpm_image("4")], false).is_ok(), "instances alone");
    assert_eq!(code(with_tpm(Vec::new(), true)), "range");
    assert_eq!(code(with_tpm(vec![tpm_image("4"), tpm_image("4")], true)), "repeated");
    assert_eq!(code(with_tpm(vec![TpmImage { pcr4: zero(), ..tpm_image("4") }], true)), "range");
    assert_eq!(code(with_tpm(vec![TpmImage { pcr7: zero(), ..tpm_image("4") }], true)), "range");
    let twice = release_with(|release| release.supersedes_denials = list([sha256("d"), sha256("d")]));
    assert_eq!(code(twice), "repeated");
    assert_eq!(code(release_with(|release| release.models = list([release.models[1].clone()]))), "dangling");
    let brokers = |change: &dyn Fn(&mut Brokers)| {
        release_with(|release| {
            let broker = |name: &str| Broker { name: id(name), sha256: sha256(name) };
            let mut brokers = Brokers { needed: 2, of: list([broker("a"), broker("b")]) };
            change(&mut brokers);
            let mut models = release.models.to_vec();
            models[0].weights = Some(Weights { brokers });
            release.models = list(models);
        })
    };
    assert_eq!(brokers(&|_| {}).unwrap().seals("m"), Some(true));
    assert_eq!(brokers(&|_| {}).unwrap().seals("n"), Some(false));
    assert_eq!(code(brokers(&|brokers| brokers.needed = 0)), "range");
    assert_eq!(code(brokers(&|brokers| brokers.needed = 3)), "range");
    assert_eq!(code(brokers(&|brokers| brokers.of = List::default())), "range");
    let repeated = |name: [&'static str; 2], share: [&'static str; 2]| {
        let of = [0, 1].map(|at| Broker { name: id(name[at]), sha256: sha256(share[at]) });
        code(brokers(&|brokers| brokers.of = list(of.clone())))
    };
    assert_eq!(repeated(["a", "a"], ["1", "2"]), "repeated");
    assert_eq!(repeated(["a", "b"], ["1", "1"]), "repeated");
    let safeguards = |change: &dyn Fn(&mut SafeguardLimit)| {
        release_with(|release| {
            let action = SafeguardAction::Refuse;
            let mut limit = SafeguardLimit { id: id("tries"), action, count: 3, within_seconds: 3600 };
            change(&mut limit);
            let other = SafeguardLimit { id: id("flags"), action: SafeguardAction::Flag, ..limit.clone() };
            let mut models = release.models.to_vec();
            models[0].safeguards =
                Some(Safeguards { policy: sha256("policy"), limits: list([limit, other]) });
            release.models = list(models);
        })
    };
    assert!(safeguards(&|_| {}).is_ok());
    assert_eq!(code(safeguards(&|limit| limit.id = id("flags"))), "repeated");
    assert_eq!(code(safeguards(&|limit| limit.action = SafeguardAction::Allow)), "range");
    assert_eq!(code(safeguards(&|limit| limit.count = 0)), "range");
    assert_eq!(code(safeguards(&|limit| limit.count = SAFEGUARD_COUNT_LIMIT + 1)), "range");
    assert_eq!(code(safeguards(&|limit| limit.within_seconds = 0)), "range");
    assert_eq!(code(safeguards(&|limit| limit.within_seconds = SAFEGUARD_SECONDS_LIMIT + 1)), "range");
    let partners = |change: fn(&mut Vec<Partner>)| {
        release_with(|release| {
            let mut partners = release.partners.to_vec();
            change(&mut partners);
            release.partners = list(partners);
        })
    };
    assert_eq!(code(partners(|all| all[0].keys = List::default())), "range");
    assert_eq!(code(partners(|all| all[0].keys = all[1].keys.clone())), "repeated");
    assert_eq!(code(partners(|all| all[0].models = doubled(&all[0].models))), "repeated");
    assert_eq!(code(partners(|all| all[0].limits.tokens_per_day = VERSION_LIMIT + 1)), "range");
    assert_eq!(code(partners(|all| all[0].attributes = Some(List::default()))), "range");
    let twice = |all: &mut Vec<Partner>| all[0].attributes = Some(list(["a=x", "a=y"].map(attribute)));
    assert_eq!(code(partners(twice)), "repeated", "a partner has one value under a name");
    let shared = |all: &mut Vec<Partner>| {
        all[0].attributes = Some(list(["a=x", "b=x"].map(attribute)));
        all[1].attributes = all[0].attributes.clone();
    };
    assert_eq!(code(partners(shared)), "accepted");
    let attributes = |count: usize| (0..count).map(|n| attribute(&format!("a{n}=x"))).collect::<Vec<_>>();
    let most = release_with(|release| {
        let one = Partner {
            attributes: Some(list(attributes(PARTNER_ATTRIBUTES_LIMIT))),
            ..release.partners[0].clone()
        };
        release.partners = list([one]);
    });
    let text = String::from_utf8(most.unwrap().to_payload()).unwrap();
    let first = r#""attributes": ["#;
    let over = text.replace(first, &format!(r#"{first}{{"name":"one-more","value":"x"}},"#));
    assert_ne!(text, over);
    assert_eq!(code(Release::from_payload(over.as_bytes())), "form", "one attribute too many");
    let debug = release_with(|release| {
        let mut images = release.images.to_vec();
        images[0].pcr1 = Sha384Digest::from_bytes([0; 48]);
        release.images = list(images);
    });
    assert_eq!(code(debug), "range", "an image in debug mode is never released");
}

#[test]
fn rules_of_a_release_under_its_root() {
    let world = World::new();
    let mut release = world.release(1);
    release.lease.issuers = 4;
    assert_eq!(
        code(world.state().accept_release(&world.seal_release(&release))),
        "range",
        "there are three issuers"
    );
    release.lease.issuers = 3;
    assert_eq!(world.state().accept_release(&world.seal_release(&release)), Ok(Accepted::New));
}

#[test]
fn a_release_that_promises_what_is_not_enforced_is_refused() {
    let world = World::new();
    let refused = |member: &str, change: fn(&mut Release)| {
        let mut release = world.release(1);
        change(&mut release);
        let error = world.state().accept_release(&world.seal_release(&release)).unwrap_err();
        assert_eq!(error.code(), "not-enforced", "{member}: {error}");
        assert!(error.to_string().starts_with(&format!("{member} must be ")), "{error}");
    };
    refused("egress", |release| release.egress = list([Egress { host: id("h"), port: 443 }]));
}

#[test]
fn witnesses_and_their_numbers_belong_together_and_their_keys_are_in_the_root() {
    let demand = |names: &[&str], seconds: u64, needed: u64| {
        let witness = |name: &&str| Witness { key: id(name), url: label("https://witness.example") };
        let witnesses: Vec<Witness> = names.iter().map(witness).collect();
        move |release: &mut Release| {
            release.witnesses = list(witnesses);
            release.audit = AuditRules { checkpoint_seconds: seconds, witnesses: needed };
        }
    };
    let form = |names: &[&str], seconds, needed| code(release_with(demand(names, seconds, needed)));
    assert_eq!(form(&["w", "v"], 60, 2), "accepted");
    for (seconds, needed) in [(0, 1), (60, 0), (60, 3), (WITNESS_SECONDS_LIMIT + 1, 1)] {
        assert_eq!(form(&["w", "v"], seconds, needed), "range", "{seconds} {needed}");
    }
    assert_eq!(form(&[], 0, 1), "range");
    assert_eq!(form(&[], 60, 0), "range");
    assert_eq!(form(&["w", "w"], 60, 1), "repeated");

    let world = World::new();
    let mut root = world.root();
    let key = |name: &str, seed| RootKey {
        name: id(name),
        authority: id(name),
        spki: Signer::ed25519(seed).public(),
    };
    root.keys = list(root.keys.iter().cloned().chain([key("w", 41), key("w+v", 42)]));
    root.roles.witness = RoleRule { threshold: 1, keys: list([id("w"), id("w+v"), id("c-offline")]) };
    let against = |name: &str| {
        let mut release = world.release(1);
        demand(&[name], 60, 1)(&mut release);
        code(release.check_against(&root))
    };
    assert_eq!(against("w"), "accepted");
    assert_eq!(against("w+v"), "witness-key", "no name of a signed note");
    assert_eq!(against("c-offline"), "witness-key", "a P-384 key");
    assert_eq!(against("a-offline"), "dangling", "a key of another role");
}

#[test]
fn rules_of_a_lease() {
    let world = World::new();
    let lease = world.answer(&world.released(), nonce(1));
    let check = |lease: Lease| code(Lease::from_payload(&lease.to_payload()));
    assert_eq!(check(lease.clone()), "accepted");
    assert_eq!(check(Lease { seconds: 0, ..lease.clone() }), "range");
    assert_eq!(check(Lease { seconds: LEASE_SECONDS_LIMIT + 1, ..lease.clone() }), "range");
    let root = DocumentName { version: 0, ..lease.root };
    assert_eq!(check(Lease { root, ..lease.clone() }), "range");
    assert_eq!(check(Lease { denials: list([sha256("d"), sha256("d")]), ..lease.clone() }), "repeated");
    let most: Vec<Sha256Digest> = (0..=LEASE_DENIALS_LIMIT).map(|n| sha256(&n.to_string())).collect();
    let full = Lease { denials: list(most[1..].iter().copied()), ..lease };
    assert_eq!(check(full.clone()), "accepted");
    let text = String::from_utf8(full.to_payload()).unwrap();
    let over = text.replace("\"denials\": [", &format!("\"denials\": [\"{}\",", most[0]));
    assert_eq!(code(Lease::from_payload(over.as_bytes())), "form", "one denial too many");
}

/// The limits in bytes and the limits in numbers say the same.
#[test]
fn the_largest_documents_fit_their_limits() {
    let world = World::new();
    let long = "\"".repeat(TEXT_LIMIT);
    let mut denial = world.denial(Target::Partner(id(&"p".repeat(TEXT_LIMIT))), "1");
    (denial.room, denial.reason) = (id(&"r".repeat(TEXT_LIMIT)), label(&long));
    assert!(denial.to_payload().len() <= PayloadType::Denial.limit(), "{}", denial.to_payload().len());

    // A root with 16 issuers, each of which lists as many denials as it may, and a host that adds signatures of its own.
    let mut root = world.root();
    let signers: Vec<Signer> = (100..116).map(Signer::ed25519).collect();
    let keys = signers.iter().enumerate().map(|(n, signer)| RootKey {
        name: id(&format!("issuer-{n}")),
        authority: id(&format!("authority-{n}")),
        spki: signer.public(),
    });
    let names = list((0..16).map(|n| id(&format!("issuer-{n}"))));
    root.keys = list(root.keys.iter().cloned().chain(keys));
    root.roles.lease = RoleRule { threshold: 16, keys: names };
    let mut release = world.release(1);
    release.lease.issuers = 16;
    release.partners = list((0..LEASE_DENIALS_LIMIT).map(|n| Partner {
        id: id(&n.to_string()),
        keys: list([sha256(&n.to_string())]),
        ..world.release(1).partners[0].clone()
    }));
    let mut state = TrustedState::new(&world.seal_root(&root)).unwrap();
    state.accept_release(&world.seal_release(&release)).unwrap();
    for n in 0..LEASE_DENIALS_LIMIT {
        let denial = world.denial(Target::Partner(id(&n.to_string())), "1");
        state.accept_denial(&world.seal_denial(&denial, 0)).unwrap();
    }
    state.begin_lease(nonce(1), BootMillis(0)).unwrap();
    let lease = world.answer(&state, nonce(1)).to_payload();
    for (n, signer) in signers.iter().enumerate() {
        // Two bytes of white space, so that each issuer's statement is another one.
        let payload = [&lease[..], &vec![b' '; PayloadType::Lease.limit() - lease.len() - n]].concat();
        let others = signers.iter().cycle().skip(n + 1).take(15).chain([signer]);
        let junk = Signer::ed25519(99);
        let sealed = seal(PayloadType::Lease, &payload, &others.chain([&junk]).collect::<Vec<_>>());
        assert!(sealed.len() <= AuthorityDocument::Lease.envelope_limit(), "{}", sealed.len());
        state.accept_lease(&sealed, BootMillis(0)).unwrap();
    }
    let live = state.lease().unwrap();
    let shown = crate::channel::ShownLease { left_ms: 1, envelopes: live.envelopes() }.encode();
    assert!(shown.len() <= crate::channel::MAX_LEASE_BYTES, "{}", shown.len());
    assert!(!String::from_utf8_lossy(&shown).contains(&Signer::ed25519(99).public().id().to_string()));
}

#[test]
fn images_and_deployments_are_matched_whole() {
    let mut release = World::new().release(1);
    let pcr = |text: &str| Sha384Digest::of(&[text.as_bytes()]);
    let (zero, one, two, x) = (pcr("0"), pcr("1"), pcr("2"), pcr("x"));
    assert!(release.image(&zero, &one, &two).is_some());
    for (a, b, c) in [(&x, &one, &two), (&zero, &x, &two), (&zero, &one, &x)] {
        assert!(release.image(a, b, c).is_none());
    }
    assert!(release.permits_deployment(None, None, None), "a release without deployments permits all");
    release.deployments = Some(list([
        Deployment { name: label("eu"), pcr3: Some(zero), pcr4: None, pcr8: Some(two) },
        Deployment { name: label("us"), pcr3: None, pcr4: Some(one), pcr8: None },
    ]));
    assert!(release.permits_deployment(Some(&zero), Some(&x), Some(&two)));
    assert!(release.permits_deployment(None, Some(&one), None));
    assert!(!release.permits_deployment(Some(&zero), Some(&x), None));
    assert!(!release.permits_deployment(Some(&zero), Some(&x), Some(&x)));
    assert!(!release.permits_deployment(None, None, None));
}

#[test]
fn bytes_of_all_kinds_are_refused_without_harm() {
    use proptest::prelude::*;
    proptest!(|(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>())| {
        let world = World::new();
        let mut state = world.released();
        prop_assert!(state.accept_release(&bytes).is_err());
        prop_assert!(Release::from_payload(&bytes).is_err());
        let mut sealed = world.seal_release(&world.release(2));
        sealed.truncate(cut.index(sealed.len() - 2));
        prop_assert!(state.accept_release(&sealed).is_err());
        prop_assert_eq!(state.release().unwrap().version, 1);
    });
}

#[test]
fn a_denial_has_one_target_of_a_known_kind() {
    let read = |halt: &str| {
        let serial = sha256("serial");
        let text = format!(r#"{{"room":"{ROOM}","halt":{halt},"reason":"r","serial":"{serial}"}}"#);
        Denial::from_payload(text.as_bytes()).map(|denial| denial.halt)
    };
    let eu = r#"{"name":"jurisdiction","value":"eu"}"#;
    assert_eq!(
        read(&format!(r#"{{"attribute":{eu}}}"#)),
        Ok(Target::Attribute(attribute("jurisdiction=eu")))
    );
    for wrong in [
        r"{}".to_owned(),
        r#"{"sector":"energy"}"#.to_owned(),
        r#"{"attribute":"jurisdiction=eu"}"#.to_owned(),
        r#"{"attribute":{"name":"jurisdiction"}}"#.to_owned(),
        r#"{"attribute":{"name":"jurisdiction","value":"EU"}}"#.to_owned(),
        format!(r#"{{"attribute":{{"name":"jurisdiction","value":"{}"}}}}"#, "e".repeat(33)),
        format!(r#"{{"attribute":[{eu}]}}"#),
        format!(r#"{{"attribute":{eu},"attribute":{eu}}}"#),
        format!(r#"{{"model":"m","attribute":{eu}}}"#),
        r#""attribute""#.to_owned(),
    ] {
        assert_eq!(code(read(&wrong)), "form", "{wrong}");
    }
}

#[test]
fn a_share_is_optional_and_at_least_one() {
    let limits = |share: &str| {
        let text = format!(r#"{{"requests_per_minute":1,"tokens_per_day":2,"concurrency":3{share}}}"#);
        serde_json::from_str::<Limits>(&text).ok()
    };
    let without = limits("").unwrap();
    assert_eq!((without.share, without.share().get()), (None, 1));
    let same = serde_json::to_string(&without).unwrap();
    assert_eq!(
        same, r#"{"requests_per_minute":1,"tokens_per_day":2,"concurrency":3}"#,
        "old releases stay as they are"
    );
    let with = limits(r#","share":7"#).unwrap();
    assert_eq!(with.share().get(), 7);
    assert_eq!(with.lesser(&without).share().get(), 1);
    for wrong in ["0", "256", "null", "1.5", "-1", "\"2\""] {
        assert!(limits(&format!(r#","share":{wrong}"#)).is_none(), "{wrong}");
    }
    assert!(limits(r#","weight":2"#).is_none(), "and other members are refused");
}
