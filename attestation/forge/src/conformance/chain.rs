//! V-3: the certificates.

use super::case::Answer::{Accepted, NotGenuine};
use super::case::{Case, List, anchor, image, sha256};
use crate::{Certificate, Extension, Forge, Key, MODULE_ID, Name, Time, oid};

const SUBJECT_KEY_IDENTIFIER: u8 = 14;
const KEY_USAGE: u8 = 15;
const ALTERNATIVE_NAME: u8 = 17;
const BASIC_CONSTRAINTS: u8 = 19;
const NAME_CONSTRAINTS: u8 = 30;
const AUTHORITY_KEY_IDENTIFIER: u8 = 35;

/// What the certificate at an index is called in an id, and for people.
const NAMES: [&str; 5] = ["root", "region", "zone", "instance", "leaf"];

pub(super) fn list(list: &mut List) {
    variants(list);
    roots(list);
    order(list);
    links(list);
    signatures(list);
    form(list);
    kinds(list);
    roles(list);
    leaf_roles(list);
    extensions(list);
    name_constraints(list);
    key_identifiers(list);
}

/// Adds a case for each of these certificates.
fn each(
    list: &mut List,
    indexes: &[usize],
    id: &str,
    rules: &str,
    about: &str,
    code: Option<&str>,
    change: fn(&mut Certificate),
) {
    for index in indexes {
        let name = NAMES[*index];
        let about = format!("{about}: {name} certificate");
        let answer = code.map_or(Accepted, NotGenuine);
        list.add(format!("chain/{id}-{name}"), rules, about, answer, |case: &mut Case| {
            change(case.certificate(*index));
        });
    }
}

fn variants(list: &mut List) {
    let about = "no authority key identifier anywhere, as before 2024";
    list.add("chain/without-authority-key-identifiers", "V-3.20", about, Accepted, |case| {
        (0..5).for_each(|index| case.certificate(index).remove_extension(AUTHORITY_KEY_IDENTIFIER));
    });
    let about = "no key identifier of either kind anywhere";
    list.add("chain/without-key-identifiers", "V-3.20", about, Accepted, |case| {
        for index in 0..5 {
            case.certificate(index).remove_extension(AUTHORITY_KEY_IDENTIFIER);
            case.certificate(index).remove_extension(SUBJECT_KEY_IDENTIFIER);
        }
    });
    let about = "authority key identifiers in root and leaf too, both right";
    list.add("chain/with-all-key-identifiers", "V-3.20", about, Accepted, |case| {
        for (index, above) in [(0, 0), (4, 3)] {
            let identifier = case.forge.chain[above].1.identifier();
            case.certificate(index).set_extension(Extension::authority_key_identifier(&identifier));
        }
    });
    list.add("chain/short", "V-3.2", "the leaf directly under the root", Accepted, |case| {
        case.forge.chain.drain(1..4);
        let root = case.certificate(0).subject.clone();
        case.forge.leaf().issuer = root;
    });
    list.add(
        "chain/extensions-not-critical",
        "V-3.18",
        "unknown extensions that are not critical",
        Accepted,
        |case| {
            for index in 0..5 {
                case.certificate(index).extensions.push(Extension::standard(99, false, vec![0x05, 0]));
                case.certificate(index).extensions.push(Extension::standard(31, false, vec![0x30, 0]));
            }
        },
    );
    list.add(
        "chain/leaf-without-basic-constraints",
        "V-3.14",
        "a leaf that says nothing about being a CA",
        Accepted,
        |case| {
            case.forge.leaf().remove_extension(BASIC_CONSTRAINTS);
        },
    );
    list.add("chain/key-usage-nine-bits", "V-3.13", "a key usage with the ninth bit", Accepted, |case| {
        let usage = Extension::standard(KEY_USAGE, true, b"\x03\x03\x07\x04\x80".to_vec());
        case.certificate(2).set_extension(usage);
    });
}

fn roots(list: &mut List) {
    let code = || NotGenuine("root-not-trusted");
    let stranger = |case: &mut Case| {
        let other = Forge::new().certificates();
        case.policy = case.policy.replace("{root}", &sha256(&other[0]));
    };
    list.add("chain/root-of-a-stranger", "V-3.1", "a root that the policy does not name", code(), stranger);
    let about = "a root of the same name under another key";
    list.add("chain/root-of-the-same-name", "V-3.1", about, code(), |case| {
        let other = Forge::new().certificates()[0].clone();
        case.rearrange = Some(Box::new(move |it| it[0] = other));
    });
    let about = "the root with its trust pinned, signed anew: other bytes, same key";
    list.add("chain/root-signed-anew", "V-3.1", about, code(), |case| {
        let again = case.forge.chain[0].0.sign(&case.forge.chain[0].1);
        case.rearrange = Some(Box::new(move |it| it[0] = again));
    });
    let about = "a policy for hardware of AWS alone, and a development root";
    list.add("chain/root-of-development-in-production", "V-3.1 V-8.2", about, code(), |case| {
        case.policy = format!("version = 1\n[[trust_anchor]]\nname = \"aws\"\n{}", image());
    });
    // A second root, the way a second partition has one of its own.
    let partition = |own: bool| {
        move |case: &mut Case| {
            let other = sha256(&Forge::new().certificates()[0]);
            let first = anchor("forge", &other);
            let second = if own { anchor("forge-gov", "{root}") } else { String::new() };
            case.policy = format!("version = 1\n{first}{second}{}", image());
        }
    };
    let about = "a root of a second partition, which the policy names beside the first";
    list.add("chain/root-of-second-partition", "V-3.1", about, Accepted, partition(true));
    let about = "a root of a second partition, and a policy that names the first alone";
    list.add("chain/root-of-partition-not-named", "V-3.1", about, code(), partition(false));
    let about = "the root's own signature is wrong, and its bytes are those that are pinned";
    list.add("chain/root-self-signature", "V-3.6", about, Accepted, |case| {
        case.forge.sign_with(0, &Key::generate());
    });
}

fn order(list: &mut List) {
    let mut rearranged = |id: &str, rules: &str, about: &str, code: &str, change: fn(&mut Vec<Vec<u8>>)| {
        list.add(format!("chain/{id}"), rules, about, NotGenuine(code), |case| {
            case.rearrange = Some(Box::new(change));
        });
    };
    let issuer = "certificate-issuer";
    rearranged("root-missing", "V-3.1", "no root certificate", "root-not-trusted", |it| {
        it.remove(0);
    });
    rearranged("region-missing", "V-3.2", "no region certificate", issuer, |it| {
        it.remove(1);
    });
    rearranged("zone-missing", "V-3.2", "no zone certificate", issuer, |it| {
        it.remove(2);
    });
    rearranged("instance-missing", "V-3.2", "no instance certificate", issuer, |it| {
        it.remove(3);
    });
    rearranged(
        "region-and-zone-swapped",
        "V-3.2 V-3.12",
        "region and zone in each other's place",
        "certificate-path-length",
        |it| it.swap(1, 2),
    );
    rearranged("leaf-first", "V-3.1", "the bundle leaf first, as TLS has it", "root-not-trusted", |it| {
        it[..4].reverse();
    });
    rearranged("root-twice", "V-3.3", "the root twice", "certificate-self-issued", |it| {
        it.insert(1, it[0].clone());
    });
    rearranged(
        "instance-twice",
        "V-3.2 V-3.12",
        "the instance certificate twice",
        "certificate-path-length",
        |it| it.insert(4, it[3].clone()),
    );
}

/// Certificates that do not belong behind each other.
fn links(list: &mut List) {
    let issuer = "certificate-issuer";
    for index in [1, 4] {
        let name = NAMES[index];
        let about = format!("the {name} certificate of another chain with the same names");
        let code = if index == 4 { "certificate-signature" } else { "certificate-authority-key" };
        list.add(format!("chain/{name}-of-another-chain"), "V-3.6 V-3.20", about, NotGenuine(code), |case| {
            let other = Forge::new().certificates()[index].clone();
            case.rearrange = Some(Box::new(move |it| it[index] = other));
        });
    }
    for index in [1, 4] {
        let name = NAMES[index];
        let about = format!("the {name} certificate names another issuer");
        list.add(format!("chain/issuer-{name}"), "V-3.2", about, NotGenuine(issuer), |case| {
            case.certificate(index).issuer = Name::of("somebody else");
        });
    }
    let about = "the root certificate names another issuer than itself";
    list.add("chain/issuer-root", "V-3.2", about, NotGenuine(issuer), |case| {
        case.certificate(0).issuer = Name::of("somebody else");
    });
    let about = "a detour in the bundle: each certificate is issued by the one before it, and the path needs only one of three";
    list.add("chain/detour", "V-3.5", about, NotGenuine("chain-other-path"), detour);
    let about = "two lists of alternative names: only one of the two validations reads them";
    list.add("chain/alternative-names-twice-leaf", "V-3.4", about, NotGenuine("chain-path"), |case| {
        let names = Extension::standard(ALTERNATIVE_NAME, false, dns_name("x.forged"));
        case.forge.leaf().extensions.extend([names.clone(), names]);
    });
    let about = "the leaf has the name of the certificate that issued it";
    list.add("chain/leaf-self-issued", "V-3.3", about, NotGenuine("certificate-self-issued"), |case| {
        let name = case.forge.leaf().subject.clone();
        case.certificate(3).subject = name.clone();
        case.forge.leaf().issuer = name;
    });
}

/// The contents of an alternative name or, inside a subtree, of a constraint: one DNS name.
fn dns_name(name: &str) -> Vec<u8> {
    crate::der::sequence(&[&crate::der::element(0x82, name.as_bytes())])
}

/// Name constraints are refused whatever they say: under authorities that a verifier knows already, nobody would ask again.
fn name_constraints(list: &mut List) {
    let code = || NotGenuine("certificate-name-constraints");
    let subtrees = |tag: u8, name: &str| {
        let subtree = crate::der::sequence(&[&crate::der::element(0x82, name.as_bytes())]);
        crate::der::sequence(&[&crate::der::element(tag, &subtree)])
    };
    for (id, about, critical, value) in [
        ("permitting", "name constraints that permit the leaf's name", false, subtrees(0xa0, "forged")),
        ("excluding", "name constraints that exclude the leaf's name", false, subtrees(0xa1, "forged")),
        ("critical", "critical name constraints", true, subtrees(0xa0, "forged")),
        ("malformed", "name constraints that are malformed", false, vec![0x05, 0]),
    ] {
        list.add(format!("chain/name-constraints-{id}"), "V-3.21", about, code(), |case| {
            case.certificate(1).extensions.push(Extension::standard(NAME_CONSTRAINTS, critical, value));
            let names = Extension::standard(ALTERNATIVE_NAME, false, dns_name("x.forged"));
            case.forge.leaf().extensions.push(names);
        });
    }
}

/// root → a → b → a' → leaf, where a' has the name and the key of a.
fn detour(case: &mut Case) {
    let (shared, between) = (Key::generate(), Key::generate());
    let authority = |issuer: &str, subject: &str, key: &Key| {
        let (not_before, not_after) = (Time::utc("260301000000Z"), Time::utc("260302000000Z"));
        let mut certificate =
            Certificate::new(Name::of(issuer), Name::of(subject), key, not_before, not_after);
        certificate.extensions = vec![Extension::basic_constraints(true, None), Extension::key_usage(0x04)];
        (certificate, key.clone())
    };
    let (root, mut leaf) = (case.forge.chain[0].clone(), case.forge.chain[4].clone());
    leaf.0.issuer = Name::of("a");
    case.forge.chain = vec![
        root,
        authority("forged.nitro-enclaves", "a", &shared),
        authority("a", "b", &between),
        authority("b", "a", &shared),
        leaf,
    ];
}

fn signatures(list: &mut List) {
    for (index, name) in NAMES.into_iter().enumerate().skip(1) {
        let about = format!("the {name} certificate is signed by another key");
        let code = NotGenuine("certificate-signature");
        list.add(format!("chain/signature-{name}"), "V-3.6", about, code, |case| {
            case.forge.sign_with(index, &Key::generate());
        });
    }
    let about = "the instance certificate's key is no point of the curve";
    list.add("chain/key-off-the-curve", "V-3.6 V-3.10", about, NotGenuine("certificate-signature"), |case| {
        case.certificate(3).public_key[96] ^= 1;
    });
}

fn form(list: &mut List) {
    let syntax = Some("certificate-syntax");
    each(list, &[2, 4], "trailing-byte", "V-3.7", "a byte after the certificate", syntax, |it| {
        it.trailing = vec![0];
    });
    each(list, &[2], "inner-trailing", "V-3.7", "a fourth field in the certificate", syntax, |it| {
        it.inner_trailing = vec![5, 0];
    });
    each(list, &[2], "unique-identifier", "V-3.7", "a unique identifier of X.509 version 2", syntax, |it| {
        it.identifiers = vec![0x81, 2, 0, 1];
    });
    each(list, &[2], "long-length", "V-3.7", "a length that is longer than need be", syntax, |it| {
        it.serial = vec![0x02, 0x81, 1, 1];
    });
    each(list, &[2], "indefinite-length", "V-3.7", "an indefinite length", syntax, |it| {
        it.serial = vec![0x02, 0x80, 1, 0, 0];
    });
    each(list, &[2], "boolean-not-der", "V-3.7", "a true that is not 0xff", syntax, |it| {
        it.set_extension(Extension::standard(BASIC_CONSTRAINTS, true, b"\x30\x03\x01\x01\x01".to_vec()));
    });
    each(list, &[2], "path-length-without-ca", "V-3.7", "a path length without being a CA", syntax, |it| {
        it.set_extension(Extension::standard(BASIC_CONSTRAINTS, true, b"\x30\x03\x02\x01\x01".to_vec()));
    });
    each(
        list,
        &[2],
        "key-usage-padding",
        "V-3.7",
        "a key usage with the wrong count of unused bits",
        syntax,
        |it| {
            it.set_extension(Extension::standard(KEY_USAGE, true, b"\x03\x02\x00\x04".to_vec()));
        },
    );
    each(
        list,
        &[2],
        "authority-by-serial",
        "V-3.7",
        "an authority by issuer and serial number",
        syntax,
        |it| {
            let value = b"\x30\x06\x80\x01\x01\x82\x01\x01".to_vec();
            it.set_extension(Extension::standard(AUTHORITY_KEY_IDENTIFIER, false, value));
        },
    );
}

/// V-3.8 to V-3.10: versions, algorithms and keys.
fn kinds(list: &mut List) {
    each(list, &[0, 4], "version-1", "V-3.8", "X.509 version 1", Some("certificate-version"), |it| {
        it.version = vec![];
    });
    let algorithm = Some("certificate-algorithm");
    each(
        list,
        &[2, 4],
        "algorithm-inside",
        "V-3.9",
        "another algorithm inside what is signed",
        algorithm,
        |it| {
            it.inner_algorithm = oid::ECDSA_WITH_SHA256.to_vec();
        },
    );
    each(
        list,
        &[2, 4],
        "algorithm-outside",
        "V-3.9",
        "another algorithm beside the signature",
        algorithm,
        |it| {
            it.outer_algorithm = oid::ECDSA_WITH_SHA256.to_vec();
        },
    );
    each(list, &[2], "algorithm-parameters", "V-3.9", "an algorithm with parameters", algorithm, |it| {
        it.inner_algorithm.extend([5, 0]);
        it.outer_algorithm.extend([5, 0]);
    });
    let key = Some("certificate-public-key");
    each(list, &[2, 4], "key-p256", "V-3.10", "a key that says it is on P-256", key, |it| {
        it.key_algorithm = [oid::EC_PUBLIC_KEY, oid::P256].concat();
    });
    each(list, &[2, 4], "key-compressed", "V-3.10", "a compressed key", key, |it| {
        it.public_key.truncate(49);
        it.public_key[0] = 2;
    });
}

fn roles(list: &mut List) {
    let not_ca = Some("certificate-not-ca");
    each(list, &[0, 3], "not-ca", "V-3.11", "not a CA", not_ca, |it| {
        it.set_extension(Extension::basic_constraints(false, None));
    });
    each(list, &[1], "no-basic-constraints", "V-3.11", "nothing about being a CA", not_ca, |it| {
        it.remove_extension(BASIC_CONSTRAINTS);
    });
    each(
        list,
        &[0, 1],
        "path-length-0",
        "V-3.12",
        "no certificate may stand between it and the leaf",
        Some("certificate-path-length"),
        |it| {
            it.set_extension(Extension::basic_constraints(true, Some(0)));
        },
    );
    each(list, &[3], "path-length-enough", "V-3.12", "more certificates may follow than do", None, |it| {
        it.set_extension(Extension::basic_constraints(true, Some(1)));
    });
    let usage = Some("certificate-key-usage");
    each(list, &[0, 3], "no-key-usage", "V-3.13", "no key usage", usage, |it| it.remove_extension(KEY_USAGE));
    each(
        list,
        &[1, 3],
        "key-usage-signs-data",
        "V-3.13",
        "a key usage for signing data alone",
        usage,
        |it| {
            it.set_extension(Extension::key_usage(0x80));
        },
    );
}

/// V-3.14 to V-3.16: what a leaf is for.
fn leaf_roles(list: &mut List) {
    each(list, &[4], "ca", "V-3.14", "a CA", Some("leaf-is-ca"), |it| {
        it.set_extension(Extension::basic_constraints(true, None));
    });
    let leaf_usage = Some("leaf-key-usage");
    each(list, &[4], "no-key-usage", "V-3.15", "no key usage", leaf_usage, |it| {
        it.remove_extension(KEY_USAGE);
    });
    each(
        list,
        &[4],
        "key-usage-agreement",
        "V-3.15",
        "a key usage for key agreement alone",
        leaf_usage,
        |it| {
            it.set_extension(Extension::key_usage(0x08));
        },
    );
    each(
        list,
        &[4],
        "key-usage-signs-certificates",
        "V-3.16",
        "a key usage for data and certificates",
        Some("leaf-signs-certificates"),
        |it| {
            it.set_extension(Extension::key_usage(0x84));
        },
    );
}

fn extensions(list: &mut List) {
    let critical = Some("certificate-extension-critical");
    each(list, &[0, 2, 4], "critical-unknown", "V-3.18", "an unknown critical extension", critical, |it| {
        it.extensions.push(Extension::standard(99, true, vec![0x30, 0]));
    });
    each(
        list,
        &[2],
        "critical-policy-constraints",
        "V-3.18",
        "critical policy constraints",
        critical,
        |it| {
            it.extensions.push(Extension::standard(36, true, vec![0x30, 0]));
        },
    );
    let purposes = |critical: bool| {
        Extension::standard(37, critical, b"\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02".to_vec())
    };
    for (index, critical) in [(2, true), (4, false)] {
        let name = NAMES[index];
        let about = format!("an extended key usage: {name} certificate");
        let code = NotGenuine("certificate-extended-key-usage");
        list.add(format!("chain/extended-key-usage-{name}"), "V-3.19", about, code, |case| {
            case.certificate(index).extensions.push(purposes(critical));
        });
    }
    each(
        list,
        &[2, 4],
        "extension-twice",
        "V-3.17",
        "an extension twice",
        Some("certificate-extension-duplicate"),
        |it| {
            let first = it.extensions[0].clone();
            it.extensions.push(first);
        },
    );
}

fn key_identifiers(list: &mut List) {
    let code = Some("certificate-authority-key");
    each(
        list,
        &[0, 1, 4],
        "other-authority-key",
        "V-3.20",
        "another authority key than its issuer's",
        code,
        |it| {
            it.set_extension(Extension::authority_key_identifier(&[1; 20]));
        },
    );
    let about = "a certificate names its issuer's key, and the issuer does not say which key it has";
    list.add(
        "chain/issuer-without-key-identifier",
        "V-3.20",
        about,
        NotGenuine("certificate-authority-key"),
        |case| {
            case.certificate(1).remove_extension(SUBJECT_KEY_IDENTIFIER);
        },
    );
    list.add(
        "chain/leaf-named-after-the-module-alone",
        "V-4.5",
        "a leaf whose name is the module id",
        Accepted,
        |case| {
            case.forge.leaf().subject = Name::of(MODULE_ID);
        },
    );
}
