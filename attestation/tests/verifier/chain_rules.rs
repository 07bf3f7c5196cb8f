//! Every rule about the certificates of a document, and the code with which a chain that breaks it is refused.

use crate::common::{AT, code, code_after, policy, verdict_at};
use cleanroom_attestation::verdict::Expectation;
use cleanroom_forge::{Certificate, Extension, Forge, Key, MODULE_ID, NOW, Name, Time, oid};

/// The code after a change of one certificate's template, 0 being the root and 4 the leaf.
fn certificate(index: usize, change: impl FnOnce(&mut Certificate)) -> &'static str {
    code_after(|forge| change(forge.certificate(index)))
}

const BASIC_CONSTRAINTS: u8 = 19;
const KEY_USAGE: u8 = 15;
const ALTERNATIVE_NAME: u8 = 17;
const NAME_CONSTRAINTS: u8 = 30;
const SUBJECT_KEY_IDENTIFIER: u8 = 14;
const AUTHORITY_KEY_IDENTIFIER: u8 = 35;

#[test]
fn what_aws_varies_is_accepted() {
    for index in 0..5 {
        let generalized = |certificate: &mut Certificate| {
            certificate.not_before = Time::generalized("20260301113000Z");
            certificate.not_after = Time::generalized("20260301123000Z");
        };
        assert_eq!(certificate(index, generalized), "accepted", "{index}");
        // Documents before 2024 have no authority key identifiers.
        assert_eq!(certificate(index, |it| it.remove_extension(AUTHORITY_KEY_IDENTIFIER)), "accepted");
        let crl = |it: &mut Certificate| it.extensions.push(Extension::standard(31, false, vec![0x30, 0]));
        assert_eq!(certificate(index, crl), "accepted");
        let unknown =
            |it: &mut Certificate| it.extensions.push(Extension::standard(99, false, vec![0x05, 0]));
        assert_eq!(certificate(index, unknown), "accepted");
    }
    let no_identifiers = |forge: &mut Forge| {
        for index in 0..5 {
            forge.certificate(index).remove_extension(AUTHORITY_KEY_IDENTIFIER);
            forge.certificate(index).remove_extension(SUBJECT_KEY_IDENTIFIER);
        }
    };
    assert_eq!(code_after(no_identifiers), "accepted");
    assert_eq!(certificate(4, |leaf| leaf.remove_extension(BASIC_CONSTRAINTS)), "accepted");
    assert_eq!(certificate(4, |leaf| leaf.subject = Name::of(MODULE_ID)), "accepted");
}

#[test]
fn certificates_removed_swapped_or_repeated() {
    let forge = Forge::new();
    let right = forge.certificates();
    let policy = policy(&right[0], "");
    let judged = |certificates: &[Vec<u8>]| {
        code(&verdict_at(&forge.document_with(certificates), &policy, &Expectation::default(), AT))
    };
    assert_eq!(judged(&right), "accepted");
    for removed in 0..4 {
        let mut certificates = right.clone();
        certificates.remove(removed);
        let expected = if removed == 0 { "root-not-trusted" } else { "certificate-issuer" };
        assert_eq!(judged(&certificates), expected, "without {removed}");
    }
    for first in 0..5 {
        for second in first + 1..5 {
            let mut certificates = right.clone();
            certificates.swap(first, second);
            let code = judged(&certificates);
            assert_ne!(code, "accepted");
            assert_eq!(code == "root-not-trusted", first == 0, "{first} and {second} swapped: {code}");
        }
    }
    for repeated in 0..4 {
        let mut certificates = right.clone();
        certificates.insert(repeated, right[repeated].clone());
        assert_ne!(judged(&certificates), "accepted", "{repeated} twice");
    }
    let mut certificates = right.clone();
    certificates.insert(1, right[0].clone());
    assert_eq!(judged(&certificates), "certificate-self-issued");
    let mut certificates = right.clone();
    certificates.insert(4, Forge::new().certificates()[1].clone());
    assert_ne!(judged(&certificates), "accepted");
    // Leaf first, as TLS has it.
    let mut certificates = right.clone();
    certificates[..4].reverse();
    assert_eq!(judged(&certificates), "root-not-trusted");
}

#[test]
fn certificates_of_another_chain() {
    let (forge, other) = (Forge::new(), Forge::new());
    let (right, others) = (forge.certificates(), other.certificates());
    let policy = policy(&right[0], "");
    for index in 0..5 {
        let mut certificates = right.clone();
        certificates[index].clone_from(&others[index]);
        let document = forge.document_with(&certificates);
        assert_ne!(code(&verdict_at(&document, &policy, &Expectation::default(), AT)), "accepted", "{index}");
    }
}

#[test]
fn a_chain_may_be_short() {
    let mut forge = Forge::new();
    let leaf = forge.chain.remove(4);
    forge.chain.truncate(1);
    forge.chain.push(leaf);
    let root = forge.certificate(0).subject.clone();
    forge.leaf().issuer = root;
    assert_eq!(code(&crate::common::verdict_of(&forge, "", &Expectation::default())), "accepted");
}

#[test]
fn signatures() {
    for index in 1..5 {
        assert_eq!(
            code_after(|forge| forge.sign_with(index, &Key::generate())),
            "certificate-signature",
            "{index}"
        );
    }
    assert_eq!(code_after(|forge| forge.sign_with(5, &Key::generate())), "document-signature");
    // The root's own signature proves nothing and is not looked at: its bytes are pinned.
    assert_eq!(code_after(|forge| forge.sign_with(0, &Key::generate())), "accepted");
    // A leaf's key signs documents, not certificates, and an instance's key the other way round.
    let instance_signs = |forge: &mut Forge| {
        let key = forge.chain[3].1.clone();
        forge.sign_with(5, &key);
    };
    assert_eq!(code_after(instance_signs), "document-signature");
}

#[test]
fn authorities_say_that_they_are() {
    for index in 0..4 {
        assert_eq!(certificate(index, |it| it.remove_extension(BASIC_CONSTRAINTS)), "certificate-not-ca");
        let not_ca = |it: &mut Certificate| it.set_extension(Extension::basic_constraints(false, None));
        assert_eq!(certificate(index, not_ca), "certificate-not-ca", "{index}");
        assert_eq!(certificate(index, |it| it.extensions.clear()), "certificate-not-ca");
    }
    let ca = |leaf: &mut Certificate| leaf.set_extension(Extension::basic_constraints(true, None));
    assert_eq!(certificate(4, ca), "leaf-is-ca");
}

#[test]
fn path_lengths() {
    for (index, below) in [(0, 3), (1, 2), (2, 1), (3, 0)] {
        let with = |length: u8| {
            certificate(index, |it| it.set_extension(Extension::basic_constraints(true, Some(length))))
        };
        assert_eq!(with(below), "accepted", "{index}");
        assert_eq!(with(below + 1), "accepted", "{index}");
        if below > 0 {
            assert_eq!(with(below - 1), "certificate-path-length", "{index}");
        }
    }
}

#[test]
fn key_usages() {
    for index in 0..4 {
        assert_eq!(certificate(index, |it| it.remove_extension(KEY_USAGE)), "certificate-key-usage");
        for bits in [0x80, 0x02, 0xfb & 0xfa] {
            let code = certificate(index, |it| it.set_extension(Extension::key_usage(bits)));
            assert_eq!(code, "certificate-key-usage", "{index}: {bits:x}");
        }
        assert_eq!(certificate(index, |it| it.set_extension(Extension::key_usage(0x04))), "accepted");
    }
    assert_eq!(certificate(4, |leaf| leaf.remove_extension(KEY_USAGE)), "leaf-key-usage");
    for bits in [0x40, 0x04, 0x08, 0x7f] {
        assert_eq!(certificate(4, |leaf| leaf.set_extension(Extension::key_usage(bits))), "leaf-key-usage");
    }
    for bits in [0x84, 0xc4] {
        let code = certificate(4, |leaf| leaf.set_extension(Extension::key_usage(bits)));
        assert_eq!(code, "leaf-signs-certificates");
    }
    for bits in [0x80, 0xc0, 0x88] {
        assert_eq!(certificate(4, |leaf| leaf.set_extension(Extension::key_usage(bits))), "accepted");
    }
}

#[test]
fn extensions_beyond_the_profile() {
    for index in 0..5 {
        // Policy constraints, something private: an issuer that marks them critical wants them understood.
        for number in [36, 99, 31] {
            let code =
                certificate(index, |it| it.extensions.push(Extension::standard(number, true, vec![0x30, 0])));
            assert_eq!(code, "certificate-extension-critical", "{index}: {number}");
        }
        for critical in [true, false] {
            let code = certificate(index, |it| {
                it.extensions.push(Extension::standard(NAME_CONSTRAINTS, critical, vec![0x30, 0]));
            });
            assert_eq!(code, "certificate-name-constraints", "{index}");
            let purposes = b"\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02".to_vec();
            let code =
                certificate(index, |it| it.extensions.push(Extension::standard(37, critical, purposes)));
            assert_eq!(code, "certificate-extended-key-usage", "{index}");
        }
        let other_arc =
            Extension { id: b"\x06\x03\x55\x1e\x13".to_vec(), critical: vec![1, 1, 0xff], value: vec![] };
        let code = certificate(index, |it| it.extensions.push(other_arc));
        assert_eq!(code, "certificate-extension-critical");
        let twice = |it: &mut Certificate| {
            let first = it.extensions[0].clone();
            it.extensions.push(first);
        };
        assert_eq!(certificate(index, twice), "certificate-extension-duplicate", "{index}");
    }
    for number in [SUBJECT_KEY_IDENTIFIER, AUTHORITY_KEY_IDENTIFIER, KEY_USAGE] {
        let twice = |it: &mut Certificate| {
            let id = oid::standard_extension(number);
            let first = it.extensions.iter().find(|extension| extension.id == id).unwrap().clone();
            it.extensions.push(first);
        };
        assert_eq!(certificate(2, twice), "certificate-extension-duplicate", "{number}");
    }
}

#[test]
fn key_identifiers() {
    for index in 1..4 {
        let other = Extension::authority_key_identifier(&[1; 20]);
        assert_eq!(certificate(index, |it| it.set_extension(other)), "certificate-authority-key", "{index}");
        // A certificate that names its issuer's key needs an issuer that says which key it has.
        let unnamed = |it: &mut Certificate| it.remove_extension(SUBJECT_KEY_IDENTIFIER);
        assert_eq!(certificate(index - 1, unnamed), "certificate-authority-key", "{index}");
    }
    let other = Extension::authority_key_identifier(&[1; 20]);
    assert_eq!(certificate(4, |leaf| leaf.set_extension(other.clone())), "certificate-authority-key");
    assert_eq!(certificate(0, |root| root.set_extension(other)), "certificate-authority-key");
    let right = |forge: &mut Forge| {
        let identifier = forge.chain[3].1.identifier();
        forge.leaf().set_extension(Extension::authority_key_identifier(&identifier));
        let identifier = forge.chain[0].1.identifier();
        forge.certificate(0).set_extension(Extension::authority_key_identifier(&identifier));
    };
    assert_eq!(code_after(right), "accepted");
}

#[test]
fn names() {
    for index in 1..5 {
        let code = certificate(index, |it| it.issuer = Name::of("somebody else"));
        assert_eq!(code, "certificate-issuer", "{index}");
    }
    for index in 0..4 {
        let code = certificate(index, |it| it.subject = Name::of("somebody else"));
        assert_eq!(code, "certificate-issuer", "{index}");
    }
    assert_eq!(certificate(0, |root| root.issuer = Name::of("somebody else")), "certificate-issuer");
}

#[test]
fn the_leaf_names_the_module() {
    let leaf = |name: Name| certificate(4, |leaf| leaf.subject = name);
    for wrong in [
        "",
        "i-0123456789abcdef0.eu-forge-1.forged",
        "i-0123456789abcdef0-enc0fedcba98765432.eu-forge-1.forged",
        "i-0123456789abcdef0-enc0fedcba9876543210.eu-forge-1.forged",
        "x.i-0123456789abcdef0-enc0fedcba987654321",
    ] {
        assert_eq!(leaf(Name::of(wrong)), "module-id-leaf", "{wrong}");
    }
    assert_eq!(leaf(Name::with_common_names(&[])), "module-id-leaf");
    assert_eq!(leaf(Name::with_common_names(&[MODULE_ID, MODULE_ID])), "module-id-leaf");
    assert_eq!(leaf(Name::of(&format!("{MODULE_ID}.eu-forge-2.forged"))), "accepted");
}

/// Certificates that are superfluous although each is issued by the one before it: the path does without them.
#[test]
fn the_path_is_the_whole_bundle() {
    let mut forge = Forge::new();
    let name = |text: &str| Name::of(text);
    // root → a → b → a' → leaf, where a' has the name and the key of a.
    let shared = Key::generate();
    let between = Key::generate();
    let authority = |issuer: &str, subject: &str, key: &Key| {
        let mut certificate = Certificate::new(
            name(issuer),
            name(subject),
            key,
            Time::utc("260301000000Z"),
            Time::utc("260302000000Z"),
        );
        certificate.extensions = vec![Extension::basic_constraints(true, None), Extension::key_usage(0x04)];
        (certificate, key.clone())
    };
    let root = forge.chain[0].clone();
    let mut leaf = forge.chain[4].clone();
    leaf.0.issuer = name("a");
    forge.chain = vec![
        root,
        authority("forged.nitro-enclaves", "a", &shared),
        authority("a", "b", &between),
        authority("b", "a", &shared),
        leaf,
    ];
    assert_eq!(code(&verdict_without_cache(&forge)), "chain-other-path");
    forge.chain.drain(2..4);
    assert_eq!(code(&verdict_without_cache(&forge)), "accepted");
}

fn verdict_without_cache(forge: &Forge) -> cleanroom_attestation::verdict::Verdict {
    crate::common::verdict_of(forge, "", &Expectation::default())
}

#[test]
fn algorithms_and_keys() {
    for index in 0..5 {
        let inner = |it: &mut Certificate| it.inner_algorithm = oid::ECDSA_WITH_SHA256.to_vec();
        assert_eq!(certificate(index, inner), "certificate-algorithm", "{index}");
        let outer = |it: &mut Certificate| it.outer_algorithm = oid::ECDSA_WITH_SHA256.to_vec();
        assert_eq!(certificate(index, outer), "certificate-algorithm", "{index}");
        let parameters = |it: &mut Certificate| {
            it.inner_algorithm.extend([0x05, 0x00]);
            it.outer_algorithm.extend([0x05, 0x00]);
        };
        assert_eq!(certificate(index, parameters), "certificate-algorithm", "{index}");

        let curve = |it: &mut Certificate| it.key_algorithm = [oid::EC_PUBLIC_KEY, oid::P256].concat();
        assert_eq!(certificate(index, curve), "certificate-public-key", "{index}");
        let compressed = |it: &mut Certificate| {
            it.public_key.truncate(49);
            it.public_key[0] = 2;
        };
        assert_eq!(certificate(index, compressed), "certificate-public-key", "{index}");
        for first in [0, 2, 3, 5, 6] {
            let code = certificate(index, |it| it.public_key[0] = first);
            assert_eq!(code, "certificate-public-key", "{index}");
        }
        assert_eq!(certificate(index, |it| it.public_key.push(0)), "certificate-public-key", "{index}");
        assert_eq!(certificate(index, |it| it.public_key.clear()), "certificate-public-key", "{index}");
    }
    // A point that is not on the curve.
    assert_eq!(certificate(4, |leaf| leaf.public_key[96] ^= 1), "document-signature");
    assert_eq!(certificate(3, |instance| instance.public_key[96] ^= 1), "certificate-signature");
}

#[test]
fn form() {
    for index in 0..5 {
        for version in [vec![], vec![0xa0, 3, 2, 1, 0], vec![0xa0, 3, 2, 1, 1], vec![0xa0, 3, 2, 1, 3]] {
            let code = certificate(index, |it| it.version = version);
            assert_eq!(code, "certificate-version", "{index}");
        }
        let syntax =
            |change: fn(&mut Certificate)| assert_eq!(certificate(index, change), "certificate-syntax");
        syntax(|it| it.trailing = vec![0]);
        syntax(|it| it.inner_trailing = vec![5, 0]);
        syntax(|it| it.identifiers = vec![0x81, 2, 0, 1]);
        syntax(|it| it.serial = vec![0x04, 1, 1]);
        syntax(|it| it.serial = vec![0x02, 0x81, 1, 1]);
        syntax(|it| it.serial = vec![0x02, 0x82, 0, 1, 1]);
        syntax(|it| it.serial = vec![0x02, 0x80, 1, 0, 0]);
        syntax(|it| it.serial = vec![0x02, 0x84, 0, 0, 0, 1, 1]);
        syntax(|it| it.serial = vec![0x1f, 0x02, 1, 1]);
        syntax(|it| it.subject.0[0] = 0x31);
    }
}

#[test]
fn form_of_extensions() {
    let value = |number: u8, value: &[u8]| {
        certificate(2, |it| it.set_extension(Extension::standard(number, true, value.to_vec())))
    };
    for wrong in [
        &b""[..],
        b"\x30",
        b"\x30\x00\x00",
        b"\x31\x00",
        b"\x30\x03\x01\x01\x00",                     // a default that DER leaves out
        b"\x30\x03\x01\x01\x01",                     // true, but not 0xff
        b"\x30\x04\x01\x02\xff\xff",                 // two bytes
        b"\x30\x05\x01\x01\xff\x02\x00",             // no number
        b"\x30\x06\x01\x01\xff\x02\x01\x80",         // a negative number
        b"\x30\x07\x01\x01\xff\x02\x02\x00\x01",     // longer than need be
        b"\x30\x08\x01\x01\xff\x02\x01\x01\x05\x00", // something after it
        b"\x30\x03\x02\x01\x01",                     // a path length without a CA
    ] {
        assert_eq!(value(BASIC_CONSTRAINTS, wrong), "certificate-syntax", "{wrong:x?}");
    }
    for wrong in [
        &b""[..],
        b"\x03\x00",
        b"\x03\x01\x00",
        b"\x03\x02\x00\x04",     // the unused bits are said to be used
        b"\x03\x02\x03\x04",     // a used bit is said to be unused
        b"\x03\x02\x02\x00",     // no bits
        b"\x03\x03\x00\x04\x00", // a last byte without bits
        b"\x03\x04\x07\x04\x00\x80",
        b"\x03\x02\x02\x04\x00",
        b"\x04\x02\x02\x04",
    ] {
        assert_eq!(value(KEY_USAGE, wrong), "certificate-syntax", "{wrong:x?}");
    }
    // keyCertSign and decipherOnly, which has the ninth bit.
    assert_eq!(value(KEY_USAGE, b"\x03\x03\x07\x04\x80"), "accepted");
    for wrong in [&b""[..], b"\x05\x00", b"\x04\x01", b"\x04\x01\x01\x00"] {
        assert_eq!(value(SUBJECT_KEY_IDENTIFIER, wrong), "certificate-syntax", "{wrong:x?}");
    }
    for wrong in [
        &b""[..],
        b"\x30\x00",
        b"\x30\x03\x81\x01\x01",
        b"\x30\x03\x80\x01\x01\x00",
        b"\x30\x06\x80\x01\x01\x82\x01\x01",
    ] {
        assert_eq!(value(AUTHORITY_KEY_IDENTIFIER, wrong), "certificate-syntax", "{wrong:x?}");
    }
    let critical = |encoded: &[u8]| certificate(2, |it| it.extensions[0].critical = encoded.to_vec());
    for wrong in [&b"\x01\x01\x00"[..], b"\x01\x01\x01", b"\x01\x00", b"\x05\x00"] {
        assert_eq!(critical(wrong), "certificate-syntax", "{wrong:x?}");
    }
}

#[test]
fn forms_of_time() {
    for index in 0..5 {
        for wrong in [
            Time::utc("2603011130Z"),
            Time::utc("260301113000"),
            Time::utc("260301113000+0000"),
            Time::utc("269901113000Z"),
            Time::utc("600101000000Z"),
            Time::generalized("20260301113000.5Z"),
            Time::generalized("260301113000Z"),
            Time(vec![0x05, 0x00]),
            Time(Vec::new()),
            Time([Time::utc("260301113000Z").0, Time::utc("260301113000Z").0].concat()),
        ] {
            let code = certificate(index, |it| it.not_before = wrong);
            assert_eq!(code, "certificate-time", "{index}");
        }
    }
}

#[test]
fn windows_at_the_callers_time() {
    // Whole seconds, both ends included, at NOW = 12:00:00.
    for index in 0..5 {
        let at = |not_before: &str, not_after: &str| {
            let (not_before, not_after) = (Time::utc(not_before), Time::utc(not_after));
            certificate(index, |it| (it.not_before, it.not_after) = (not_before, not_after))
        };
        assert_eq!(at("260301120000Z", "260301120000Z"), "accepted", "{index}");
        // A minute is forgiven at the start, and nothing at the end.
        assert_eq!(at("260301120101Z", "260301130000Z"), "certificate-not-yet-valid", "{index}");
        assert_eq!(at("260301110000Z", "260301115959Z"), "certificate-expired", "{index}");
        assert_eq!(at("260301130000Z", "260301110000Z"), "certificate-not-yet-valid", "{index}");
    }
}

#[test]
fn the_documents_time_lies_in_the_leafs() {
    let at = |timestamp_ms: u64| {
        code_after(|forge| forge.document.put("timestamp", cleanroom_forge::Cbor::Unsigned(timestamp_ms)))
    };
    let (not_before, not_after) = ((NOW - 3600) * 1000, (NOW + 7200) * 1000);
    assert_eq!(at(not_before), "accepted");
    assert_eq!(at(not_before - 1), "timestamp-outside-leaf");
    assert_eq!(at(not_after), "accepted");
    assert_eq!(at(not_after + 999), "accepted");
    assert_eq!(at(not_after + 1000), "timestamp-outside-leaf");
    assert_eq!(at(0), "timestamp-outside-leaf");
    assert_eq!(at(u64::MAX), "timestamp-outside-leaf");
}

#[test]
fn roots_are_pinned() {
    let (forge, other) = (Forge::new(), Forge::new());
    let document = forge.document();
    let stranger = policy(&other.certificates()[0], "");
    let verdict = verdict_at(&document, &stranger, &Expectation::default(), AT);
    assert_eq!(code(&verdict), "root-not-trusted");
    // A production policy does not know a development root.
    let text = crate::common::policy_text(b"", "");
    let (_, images) = text.split_once("[[image]]").unwrap();
    let production = format!("version = 1\n[[trust_anchor]]\nname = \"aws\"\n[[image]]{images}");
    let production = cleanroom_attestation::policy::Policy::from_toml(&production).unwrap();
    let verdict = verdict_at(&document, &production, &Expectation::default(), AT);
    assert_eq!(code(&verdict), "root-not-trusted");
    assert_eq!(verdict.tier(), None);
}

/// Alternative names are nothing that the profile knows, so the pass of our own leaves them to webpki, which reads them. Both
/// have to agree.
#[test]
fn what_only_webpki_refuses_is_refused() {
    for index in 1..5 {
        let names = Extension::standard(ALTERNATIVE_NAME, false, vec![0x30, 0x00]);
        let code = certificate(index, |it| it.extensions.extend([names.clone(), names]));
        assert_eq!(code, "chain-path", "{index}");
    }
}

/// Each certificate may begin a little later than the verifier's time, but all of them are judged at one time.
#[test]
fn a_tolerance_does_not_outlive_another_certificate() {
    let code = code_after(|forge| {
        forge.certificate(2).not_after = Time::utc("260301120010Z");
        forge.leaf().not_before = Time::utc("260301120020Z");
    });
    assert_eq!(code, "certificate-expired");
}

#[test]
fn errors_name_the_certificate() {
    let message = |index: usize| {
        let mut forge = Forge::new();
        forge.certificate(index).not_after = Time::utc("260301115959Z");
        let verdict = crate::common::verdict_of(&forge, "", &Expectation::default());
        verdict.accepted().unwrap_err().to_string()
    };
    let rest =
        "ended at 2026-03-01T11:59:59.000Z, before the time of the verification, 2026-03-01T12:00:00.000Z";
    for (index, name) in [(0, "certificate 0 (root)"), (2, "certificate 2"), (4, "the leaf certificate")] {
        assert!(message(index).ends_with(&format!("certificates: {name} {rest}")), "{}", message(index));
    }
    let mut forge = Forge::new();
    forge.document.put("timestamp", cleanroom_forge::Cbor::Unsigned(0));
    let verdict = crate::common::verdict_of(&forge, "", &Expectation::default());
    let message = verdict.accepted().unwrap_err().to_string();
    assert!(message.contains("2026-03-01T11:00:00.000Z to 2026-03-01T14:00:00.000Z"), "{message}");
}

#[test]
fn the_view_shows_what_cannot_be_read_too() {
    let mut forge = Forge::new();
    forge.certificate(1).trailing = vec![0];
    let bytes = forge.document();
    let document = cleanroom_attestation::document::Document::parse(&bytes).unwrap();
    let views = serde_json::to_value(cleanroom_attestation::chain::describe(&document)).unwrap();
    let positions: Vec<_> = views.as_array().unwrap().iter().map(|view| view["position"].clone()).collect();
    assert_eq!(serde_json::Value::from(positions), serde_json::json!([0, 1, 2, 3, "leaf"]));
    assert!(views[1]["problem"].as_str().unwrap().contains("end of the certificate"));
    let zone = &views[2]["contents"];
    assert_eq!((&zone["ca"], &zone["path_length"]), (&true.into(), &1.into()));
    assert_eq!(
        zone["issuer"],
        "C=US, O=Amazon, OU=AWS, CN=0011223344556677.eu-forge-1.forged.nitro-enclaves"
    );
    assert_eq!(views[4]["contents"]["ca"], false);
}
