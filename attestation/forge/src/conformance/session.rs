//! V-7 and V-8: freshness, the session, and the verdict on all of it.

use super::case::Answer::{Accepted, Fails, NotGenuine};
use super::case::{Case, List, NONCE};
use crate::{Cbor, Key, NOW, pcr};

pub(super) fn list(list: &mut List) {
    nonces(list);
    fields(list);
    age(list);
    questions(list);
    wrong_answers(list);
}

fn nonces(list: &mut List) {
    let failures = [("freshness", "nonce-mismatch")];
    let mut nonce = |id: &str, about: &str, value: Option<Cbor>| {
        list.add(format!("session/nonce-{id}"), "V-7.1", about, Fails(&failures), |case| {
            case.expected.nonce = Some(hex::encode(NONCE));
            match value {
                Some(value) => case.put("nonce", value),
                None => case.forge.document.remove("nonce"),
            }
        });
    };
    nonce("another", "another nonce", Some(Cbor::bytes(b"thirty-two bytes of a challenge?")));
    nonce("shorter", "the nonce without its last byte", Some(Cbor::bytes(&NONCE[..31])));
    nonce("longer", "the nonce with a byte more", Some(Cbor::bytes(&[NONCE, b"!"].concat())));
    nonce("null", "null in the place of the nonce", Some(Cbor::Null));
    nonce("empty", "an empty nonce", Some(Cbor::bytes(b"")));
    nonce("absent", "no nonce", None);
    list.add("session/nonce-right", "V-7.1", "the nonce that is asked about", Accepted, |case| {
        case.put("nonce", Cbor::bytes(NONCE));
        case.expected.nonce = Some(hex::encode(NONCE));
    });
    let about = "an empty nonce where an empty one is expected: nobody's challenge";
    list.add("session/nonce-empty-expected", "V-7.1", about, Fails(&failures), |case| {
        case.put("nonce", Cbor::bytes(b""));
        case.expected.nonce = Some(String::new());
    });
}

fn fields(list: &mut List) {
    for (name, rule, code) in
        [("user_data", "V-7.2", "user-data-mismatch"), ("public_key", "V-7.3", "public-key-mismatch")]
    {
        let id = name.replace('_', "-");
        let failures = [("session", code)];
        let expect = move |case: &mut Case| {
            let value = Some(hex::encode(b"expected"));
            if name == "user_data" {
                case.expected.user_data = value;
            } else {
                case.expected.public_key = value;
            }
        };
        list.add(
            format!("session/{id}-right"),
            rule,
            format!("the `{name}` that is asked about"),
            Accepted,
            |case| {
                expect(case);
                case.put(name, Cbor::bytes(b"expected"));
            },
        );
        list.add(
            format!("session/{id}-another"),
            rule,
            format!("another `{name}`"),
            Fails(&failures),
            |case| {
                expect(case);
                case.put(name, Cbor::bytes(b"Expected"));
            },
        );
        list.add(
            format!("session/{id}-null"),
            rule,
            format!("null in the place of `{name}`"),
            Fails(&failures),
            expect,
        );
        let about = format!("the expected `{name}` with a byte more");
        list.add(format!("session/{id}-longer"), rule, about, Fails(&failures), |case| {
            expect(case);
            case.put(name, Cbor::bytes(b"expected!"));
        });
    }
}

/// The document is of 12:00:00.000.
fn age(list: &mut List) {
    const FIVE_MINUTES: &str = "[freshness]\nmax_age = \"5m\"\n";
    const TEN_SECONDS_AHEAD: &str = "[freshness]\nmax_age = \"5m\"\nmax_skew = \"10s\"\n";
    let old = [("freshness", "evidence-too-old")];
    let future = [("freshness", "timestamp-in-future")];
    let now = NOW * 1000;
    let mut at = |id: &str, rule: &str, about: &str, policy: &str, at_ms: u64, failures: &[(&str, &str)]| {
        let answer = if failures.is_empty() { Accepted } else { Fails(failures) };
        list.add(format!("session/{id}"), rule, about, answer, |case| {
            case.policy += policy;
            case.at_ms = at_ms;
        });
    };
    at("age-limit", "V-7.4", "exactly five minutes old", FIVE_MINUTES, now + 300_000, &[]);
    at("age-over", "V-7.4", "a millisecond over five minutes old", FIVE_MINUTES, now + 300_001, &old);
    at("age-not-asked", "V-7.4", "an hour old, and no greatest age", "", now + 3_600_000, &[]);
    at("skew-limit", "V-7.5", "exactly one minute in the future", FIVE_MINUTES, now - 60_000, &[]);
    at(
        "skew-over",
        "V-7.5",
        "a millisecond over one minute in the future",
        FIVE_MINUTES,
        now - 60_001,
        &future,
    );
    at(
        "skew-own-limit",
        "V-7.5",
        "ten seconds in the future, which the policy allows",
        TEN_SECONDS_AHEAD,
        now - 10_000,
        &[],
    );
    at(
        "skew-own-over",
        "V-7.5",
        "a millisecond over the ten seconds that the policy allows",
        TEN_SECONDS_AHEAD,
        now - 10_001,
        &future,
    );
}

fn questions(list: &mut List) {
    list.add(
        "session/everything",
        "V-8.1 V-7.6",
        "every question asked, every answer right",
        Accepted,
        Case::ask_everything,
    );
    let mut without = |id: &str, about: &str, forget: fn(&mut Case)| {
        let about = format!("every question but {about}");
        list.add(format!("session/without-{id}"), "V-7.6 V-8.1", about, Accepted, |case| {
            case.ask_everything();
            forget(case);
        });
    };
    without("nonce", "the nonce", |case| case.expected.nonce = None);
    without("user-data", "the user data", |case| case.expected.user_data = None);
    without("public-key", "the public key", |case| case.expected.public_key = None);
    without("model", "PCR 16", |case| case.expected.pcr16 = None);
    without("receipt-key", "PCR 17", |case| case.expected.pcr17 = None);
    without("deployment", "the deployment, which a channel does not need", |case| {
        case.policy = case.policy.replace(&super::case::deployment(), "");
    });
    for (length, about) in
        [(15, "a nonce of 15 bytes, which is too short for a channel"), (16, "a nonce of 16 bytes")]
    {
        list.add(format!("session/nonce-of-{length}"), "V-7.6", about, Accepted, |case| {
            case.ask_everything();
            case.put("nonce", Cbor::bytes(&NONCE[..length]));
            case.expected.nonce = Some(hex::encode(&NONCE[..length]));
        });
    }
}

/// More than one wrong answer.
fn wrong_answers(list: &mut List) {
    let failures = [
        ("image", "pcr0-mismatch"),
        ("deployment", "pcr3-mismatch"),
        ("model", "pcr16-mismatch"),
        ("freshness", "nonce-mismatch"),
        ("session", "user-data-mismatch"),
    ];
    list.add(
        "session/everything-wrong",
        "V-8.3",
        "one wrong answer on every axis but the platform",
        Fails(&failures),
        |case| {
            case.ask_everything();
            case.forge.document.put_pcr(0, &pcr(90));
            case.forge.document.put_pcr(3, &pcr(93));
            case.forge.document.put_pcr(16, &pcr(96));
            case.put("nonce", Cbor::Null);
            case.put("user_data", Cbor::bytes(b"other"));
        },
    );
    let about =
        "a signature by another key, and wrong answers to every question: only the signature is reported";
    list.add("session/not-genuine-and-wrong", "V-8.3", about, NotGenuine("document-signature"), |case| {
        case.ask_everything();
        let signer = case.forge.chain.len();
        case.forge.sign_with(signer, &Key::generate());
        case.forge.document.put_pcr(0, &pcr(90));
        case.put("nonce", Cbor::Null);
    });
}
