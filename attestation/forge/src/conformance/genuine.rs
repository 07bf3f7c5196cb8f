//! V-4: times, and what ties the document to its leaf certificate.

use super::case::Answer::{Accepted, NotGenuine};
use super::case::List;
use crate::{Cbor, Key, MODULE_ID, NOW, Name, Time};

pub(super) fn list(list: &mut List) {
    forms_of_time(list);
    windows(list);
    tolerances(list);
    edges(list);
    binding(list);
    leaf_names(list);
    signature(list);
    changes(list);
}

fn forms_of_time(list: &mut List) {
    list.add("time/generalized", "V-4.1", "GeneralizedTime in all certificates", Accepted, |case| {
        for index in 0..5 {
            let certificate = case.certificate(index);
            certificate.not_before = Time::generalized("20260301113000Z");
            certificate.not_after = Time::generalized("20260301123000Z");
        }
    });
    list.add("time/utc-1970", "V-4.1", "UTCTime at the first second there is", Accepted, |case| {
        case.certificate(1).not_before = Time::utc("700101000000Z");
    });
    list.add("time/year-9999", "V-4.1", "the last second that a certificate can name", Accepted, |case| {
        case.certificate(1).not_after = Time::generalized("99991231235959Z");
    });
    for (id, about, time) in [
        ("without-seconds", "UTCTime without seconds", Time::utc("2603011130Z")),
        ("without-zone", "UTCTime without a zone", Time::utc("260301113000")),
        ("with-offset", "UTCTime with an offset", Time::utc("260301113000+0000")),
        ("with-fraction", "GeneralizedTime with a fraction", Time::generalized("20260301113000.5Z")),
        ("no-such-day", "29 February 2026", Time::utc("260229113000Z")),
        ("leap-second", "second 60", Time::utc("260301112960Z")),
        ("before-1970", "UTCTime in 1960", Time::utc("600101000000Z")),
        ("null", "null in the place of a time", Time(vec![5, 0])),
    ] {
        list.add(format!("time/{id}"), "V-4.1", about, NotGenuine("certificate-time"), |case| {
            case.certificate(2).not_before = time;
        });
    }
}

/// Judged at 12:00:00.
fn windows(list: &mut List) {
    for (index, name) in ["root", "region", "zone", "instance", "leaf"].into_iter().enumerate() {
        let about = format!("one second after the {name} certificate ended");
        list.add(format!("time/expired-{name}"), "V-4.3", about, NotGenuine("certificate-expired"), |case| {
            case.certificate(index).not_after = Time::utc("260301115959Z");
        });
    }
    for (index, name) in [(0, "root"), (3, "instance"), (4, "leaf")] {
        let about = format!("the {name} certificate begins one second later than the tolerance of a minute");
        let code = NotGenuine("certificate-not-yet-valid");
        list.add(format!("time/not-yet-{name}"), "V-4.2", about, code, |case| {
            case.certificate(index).not_before = Time::utc("260301120101Z");
        });
        let about = format!("the {name} certificate begins one minute after the verifier's time");
        list.add(format!("time/skew-{name}"), "V-4.2", about, Accepted, |case| {
            case.certificate(index).not_before = Time::utc("260301120100Z");
            case.put("timestamp", Cbor::Unsigned((NOW + 60) * 1000));
        });
    }
}

/// How much later than the verifier's time a certificate may begin.
fn tolerances(list: &mut List) {
    let mut tolerance = |id: &str, about: &str, late_ms: u64, accepted: bool| {
        let answer = if accepted { Accepted } else { NotGenuine("certificate-not-yet-valid") };
        list.add(format!("time/skew-own-{id}"), "V-4.2", about, answer, |case| {
            case.policy += "[freshness]\nmax_skew = \"10s\"\n";
            // The leaf begins at 11:00:00.
            case.at_ms = (NOW - 3600) * 1000 - late_ms;
        });
    };
    tolerance("limit", "the leaf begins ten seconds later, which the policy allows", 10_000, true);
    tolerance(
        "over",
        "the leaf begins a millisecond later than the ten seconds of the policy",
        10_001,
        false,
    );
    let about = "the zone certificate ends before the leaf certificate begins, both near the verifier's time";
    list.add("time/skew-outlives-zone", "V-4.2 V-4.3", about, NotGenuine("certificate-expired"), |case| {
        case.certificate(2).not_after = Time::utc("260301120010Z");
        case.forge.leaf().not_before = Time::utc("260301120020Z");
        case.put("timestamp", Cbor::Unsigned((NOW + 30) * 1000));
    });
}

/// The first and the last moment of a certificate, and of all time.
fn edges(list: &mut List) {
    list.add(
        "time/first-and-last-second",
        "V-4.2 V-4.3",
        "a chain that is valid for one second",
        Accepted,
        |case| {
            for index in 0..5 {
                let certificate = case.certificate(index);
                (certificate.not_before, certificate.not_after) =
                    (Time::utc("260301120000Z"), Time::utc("260301120000Z"));
            }
        },
    );
    let about = "999 milliseconds into the leaf certificate's last second";
    list.add("time/last-millisecond", "V-4.3", about, Accepted, |case| {
        case.at_ms = (NOW + 7200) * 1000 + 999;
    });
    let about = "one millisecond after the leaf certificate's last second";
    list.add("time/one-millisecond-late", "V-4.3", about, NotGenuine("certificate-expired"), |case| {
        case.at_ms = (NOW + 7200) * 1000 + 1000;
    });
    let about = "one minute before the leaf certificate's first second";
    list.add("time/skew-limit", "V-4.2", about, Accepted, |case| {
        case.at_ms = (NOW - 3600 - 60) * 1000;
    });
    let about = "one minute and a millisecond before the leaf certificate's first second";
    list.add("time/one-millisecond-early", "V-4.2", about, NotGenuine("certificate-not-yet-valid"), |case| {
        case.at_ms = (NOW - 3600 - 60) * 1000 - 1;
    });
    list.add("time/epoch", "V-4.2", "judged at the epoch", NotGenuine("certificate-not-yet-valid"), |case| {
        case.at_ms = 0;
    });
    list.add(
        "time/far-future",
        "V-4.3",
        "judged at the last time there is",
        NotGenuine("certificate-expired"),
        |case| {
            case.at_ms = u64::MAX;
        },
    );
    let about = "a window that ends before it begins";
    list.add("time/window-inside-out", "V-4.2", about, NotGenuine("certificate-not-yet-valid"), |case| {
        let certificate = case.certificate(2);
        (certificate.not_before, certificate.not_after) =
            (Time::utc("260301130000Z"), Time::utc("260301110000Z"));
    });
}

fn binding(list: &mut List) {
    let (first, last) = ((NOW - 3600) * 1000, (NOW + 7200) * 1000 + 999);
    let mut stamped = |id: &str, about: &str, accepted: bool, timestamp: u64| {
        let answer = if accepted { Accepted } else { NotGenuine("timestamp-outside-leaf") };
        list.add(format!("time/stamp-{id}"), "V-4.4", about, answer, |case| {
            case.put("timestamp", Cbor::Unsigned(timestamp));
        });
    };
    stamped("first", "a time stamp at the leaf certificate's first millisecond", true, first);
    stamped("too-early", "a time stamp one millisecond earlier", false, first - 1);
    stamped("last", "a time stamp at the leaf certificate's last millisecond", true, last);
    stamped("too-late", "a time stamp one millisecond later", false, last + 1);
    stamped("zero", "a time stamp of zero", false, 0);
    stamped("seconds", "a time stamp in seconds", false, NOW);
    stamped("greatest", "the greatest time stamp", false, u64::MAX);
}

fn leaf_names(list: &mut List) {
    let code = || NotGenuine("module-id-leaf");
    for (id, about, name) in [
        (
            "another",
            "a leaf certificate of another module",
            "i-0123456789abcdef0-enc0fedcba98765432f.eu-forge-1.forged",
        ),
        (
            "shorter",
            "a module id that the leaf's name begins and does not have",
            "i-0123456789abcdef0-enc0fedcba9876543210.eu-forge-1.forged",
        ),
        ("instance", "a leaf certificate of the instance", "i-0123456789abcdef0.eu-forge-1.forged"),
        ("behind", "the module id behind something else", "x.i-0123456789abcdef0-enc0fedcba987654321"),
    ] {
        list.add(format!("genuine/leaf-name-{id}"), "V-4.5", about, code(), |case| {
            case.forge.leaf().subject = Name::of(name);
        });
    }
    list.add("genuine/leaf-name-none", "V-4.5", "a leaf certificate without a common name", code(), |case| {
        case.forge.leaf().subject = Name::with_common_names(&[]);
    });
    list.add(
        "genuine/leaf-name-twice",
        "V-4.5",
        "a leaf certificate with two common names",
        code(),
        |case| {
            case.forge.leaf().subject = Name::with_common_names(&[MODULE_ID, MODULE_ID]);
        },
    );
}

fn signature(list: &mut List) {
    list.add("genuine/high-s", "V-4.6", "a signature with a high S", Accepted, |case| {
        case.forge.document.high_s = true;
    });
    list.add("genuine/low-s", "V-4.6", "a signature with a low S", Accepted, |case| {
        case.forge.document.high_s = false;
    });
    let code = || NotGenuine("document-signature");
    list.add("genuine/signed-by-a-stranger", "V-4.6", "a signature by another key", code(), |case| {
        case.forge.sign_with(5, &Key::generate());
    });
    list.add(
        "genuine/signed-by-the-instance",
        "V-4.6",
        "a signature by the key above the leaf",
        code(),
        |case| {
            let key = case.forge.chain[3].1.clone();
            case.forge.sign_with(5, &key);
        },
    );
    list.add("genuine/signature-zero", "V-4.6", "a signature of zeros", code(), |case| {
        case.forge.document.signature = Some(Cbor::Bytes(vec![0; 96]));
    });
    list.add(
        "genuine/leaf-key-off-the-curve",
        "V-4.6 V-3.10",
        "the leaf's key is no point of the curve",
        code(),
        |case| {
            case.forge.leaf().public_key[96] ^= 1;
        },
    );
}

/// Bytes that changed after they were signed.
fn changes(list: &mut List) {
    let code = || NotGenuine("document-signature");
    list.add(
        "genuine/one-bit-of-a-register",
        "V-4.6",
        "one bit of PCR 0 flipped after signing",
        code(),
        |case| {
            case.rewrite = Some(Box::new(|it| {
                let pcr0 = crate::pcr(0);
                let at = it.windows(48).position(|window| window == pcr0).expect("the document has PCR 0");
                it[at] ^= 1;
            }));
        },
    );
    list.add(
        "genuine/one-bit-of-the-signature",
        "V-4.6",
        "one bit of the signature flipped",
        code(),
        |case| {
            case.rewrite = Some(Box::new(|it| {
                if let Some(last) = it.last_mut() {
                    *last ^= 1;
                }
            }));
        },
    );
    list.add(
        "genuine/another-payload",
        "V-4.6",
        "the signature of another payload by the same key",
        code(),
        |case| {
            let mut other = case.forge.clone();
            other.document.put("nonce", Cbor::bytes(b"other"));
            let certificates = case.forge.certificates();
            let signed = other.document_with(&certificates);
            let signature = signed[signed.len() - 96..].to_vec();
            case.forge.document.signature = Some(Cbor::Bytes(signature));
        },
    );
}
