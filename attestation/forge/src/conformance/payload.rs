//! V-2: the payload's fields.

use super::case::Answer::{Accepted, NotGenuine};
use super::case::{List, TPM_MODULE_ID};
use crate::{Cbor, MODULE_ID, Name, pcr};

pub(super) fn list(list: &mut List) {
    variants(list);
    fields(list);
    module_ids(list);
    modules_and_registers(list);
    registers(list);
    lengths(list);
}

fn variants(list: &mut List) {
    list.add("payload/definite", "V-2.1", "a map of definite length", Accepted, |case| {
        case.forge.document.open = false;
    });
    list.add("payload/indefinite", "V-2.1", "a map of indefinite length", Accepted, |case| {
        case.forge.document.open = true;
    });
    list.add("payload/fields-reversed", "V-2.2", "the fields in the reverse order", Accepted, |case| {
        case.forge.document.fields.reverse();
    });
    for name in ["public_key", "user_data", "nonce"] {
        let id = name.replace('_', "-");
        list.add(format!("payload/{id}-null"), "V-2.4", format!("`{name}` is null"), Accepted, |case| {
            case.put(name, Cbor::Null);
        });
        list.add(format!("payload/{id}-absent"), "V-2.4", format!("no `{name}`"), Accepted, |case| {
            case.forge.document.remove(name);
        });
        list.add(format!("payload/{id}-empty"), "V-2.4", format!("`{name}` is empty"), Accepted, |case| {
            case.put(name, Cbor::bytes(b""));
        });
    }
    let code = NotGenuine("payload-trailing-bytes");
    list.add("payload/trailing-byte", "V-2.1", "a signed byte after the map", code, |case| {
        case.forge.document.payload_trailing = vec![0];
    });
    let code = NotGenuine("payload-trailing-bytes");
    list.add(
        "payload/second-break",
        "V-2.1",
        "a second break after a map of indefinite length",
        code,
        |case| {
            case.forge.document.open = true;
            case.forge.document.payload_trailing = vec![0xff];
        },
    );
    let code = NotGenuine("cbor-truncated");
    list.add(
        "payload/unclosed",
        "V-2.1 V-1.12",
        "a map of indefinite length without its end",
        code,
        |case| {
            case.forge.document.payload = Some(Cbor::Raw(b"\xbf\x66digest\x66SHA384".to_vec()));
        },
    );
}

fn fields(list: &mut List) {
    for name in ["", "Nonce", "attestation", "pcr"] {
        let id = format!("payload/unknown-field-{}", if name.is_empty() { "empty" } else { name });
        list.add(id, "V-2.2", format!("a field called {name:?}"), NotGenuine("field-unknown"), |case| {
            case.put(name, Cbor::Null);
        });
    }
    for name in ["module_id", "timestamp", "pcrs", "nonce", "user_data"] {
        let id = format!("payload/twice-{}", name.replace('_', "-"));
        list.add(id, "V-2.2", format!("`{name}` twice"), NotGenuine("field-duplicate"), |case| {
            let key = Cbor::text(name).encode();
            let fields = &mut case.forge.document.fields;
            let field = fields.iter().find(|(name, _)| name.encode() == key).cloned();
            fields.extend(field);
        });
    }
    for name in ["module_id", "digest", "timestamp", "pcrs"] {
        let id = format!("payload/without-{}", name.replace('_', "-"));
        list.add(id, "V-2.3", format!("no `{name}`"), NotGenuine("field-missing"), |case| {
            case.forge.document.remove(name);
        });
    }
    for (name, kept) in [("certificate", "cabundle"), ("cabundle", "certificate")] {
        let id = format!("payload/without-{name}");
        list.add(id, "V-2.3", format!("no `{name}`"), NotGenuine("field-missing"), |case| {
            let mut fields = case.forge.document.fields.clone();
            let value =
                if kept == "cabundle" { Cbor::Array(vec![Cbor::bytes(b"x")]) } else { Cbor::bytes(b"x") };
            fields.push((Cbor::text(kept), value));
            case.forge.document.payload = Some(Cbor::Map(fields));
        });
    }
    for wrong in ["SHA256", "SHA512", "sha384", ""] {
        let id = format!("payload/digest-{}", if wrong.is_empty() { "empty" } else { wrong });
        list.add(id, "V-2.8", format!("the digest {wrong:?}"), NotGenuine("digest"), |case| {
            case.put("digest", Cbor::text(wrong));
        });
    }
}

fn module_ids(list: &mut List) {
    let wrong = [
        ("empty", "no text", ""),
        ("no-module", "an instance alone", "i-0123456789abcdef0"),
        ("no-digits", "no digits after the kind", "i-0123456789abcdef0-enc"),
        ("other-kind", "an unknown kind", "i-0123456789abcdef0-foo0fedcba987654321"),
        ("upper-case", "upper case digits", "i-0123456789ABCDEF0-enc0fedcba987654321"),
        ("full-stop", "the region behind it", "i-0123456789abcdef0-enc0fedcba987654321.eu-forge-1"),
        ("long", "33 digits", "i-0123456789abcdef0-enc012345678901234567890123456789012"),
    ];
    for (id, about, text) in wrong {
        let about = format!("a module id with {about}");
        list.add(format!("payload/module-id-{id}"), "V-2.5", about, NotGenuine("module-id"), |case| {
            case.put("module_id", Cbor::text(text));
        });
    }
    let about = "a module id that is not UTF-8";
    list.add("payload/module-id-not-utf8", "V-2.5", about, NotGenuine("module-id"), |case| {
        case.put("module_id", Cbor::Text(vec![0xff, 0xfe]));
    });
    list.add("payload/module-id-longest", "V-2.5", "32 digits on both sides", Accepted, |case| {
        let longest = "i-01234567890123456789012345678901-enc01234567890123456789012345678901";
        case.put("module_id", Cbor::text(longest));
        case.forge.leaf().subject = Name::of(longest);
    });
}

/// Module ids and registers of an enclave and of a `NitroTPM`.
fn modules_and_registers(list: &mut List) {
    let code = NotGenuine("module-id-kind");
    list.add(
        "payload/enclave-registers-of-a-tpm",
        "V-2.6",
        "a NitroTPM's module id beside `pcrs`",
        code,
        |case| {
            case.put("module_id", Cbor::text(TPM_MODULE_ID));
            case.forge.leaf().subject = Name::of(TPM_MODULE_ID);
        },
    );
    let code = NotGenuine("module-id-kind");
    list.add(
        "payload/tpm-registers-of-an-enclave",
        "V-2.6",
        "an enclave's module id beside `nitrotpm_pcrs`",
        code,
        |case| {
            case.become_tpm();
            case.put("module_id", Cbor::text(MODULE_ID));
            case.forge.leaf().subject = Name::of(MODULE_ID);
        },
    );
    list.add(
        "payload/nitrotpm",
        "V-2.6 V-2.7",
        "a document of a NitroTPM",
        Accepted,
        super::case::Case::become_tpm,
    );
    let code = NotGenuine("pcrs-ambiguous");
    list.add("payload/both-registers", "V-2.7", "`pcrs` and `nitrotpm_pcrs`", code, |case| {
        case.put("nitrotpm_pcrs", Cbor::Map(vec![(Cbor::Unsigned(0), Cbor::bytes(&pcr(0)))]));
    });
}

fn registers(list: &mut List) {
    list.add("payload/register-31", "V-2.9", "the last register that there is", Accepted, |case| {
        case.forge.document.put_pcr(31, &pcr(31));
    });
    list.add("payload/registers-all", "V-2.9", "32 registers", Accepted, |case| {
        (5..32).for_each(|index| case.forge.document.put_pcr(index.into(), &pcr(index)));
    });
    list.add("payload/registers-reversed", "V-2.9", "the registers in the reverse order", Accepted, |case| {
        case.forge.document.registers().reverse();
    });
    list.add("payload/registers-none", "V-2.9", "no registers", NotGenuine("pcr-count"), |case| {
        case.put("pcrs", Cbor::Map(Vec::new()));
    });
    list.add("payload/registers-33", "V-2.9", "33 registers", NotGenuine("pcr-count"), |case| {
        let entries = (0..33).map(|index| (Cbor::Unsigned(index % 32), Cbor::bytes(&pcr(0))));
        case.put("pcrs", Cbor::Map(entries.collect()));
    });
    for index in [32, 256, u64::MAX] {
        let about = format!("a register {index}");
        list.add(format!("payload/register-{index}"), "V-2.10", about, NotGenuine("pcr-index"), |case| {
            case.forge.document.put_pcr(index, &pcr(0));
        });
    }
    list.add("payload/register-twice", "V-2.11", "register 0 twice", NotGenuine("pcr-duplicate"), |case| {
        case.forge.document.registers().push((Cbor::Unsigned(0), Cbor::bytes(&pcr(0))));
    });
    for length in [0, 32, 47, 49, 64] {
        let about = format!("a register of {length} bytes");
        list.add(
            format!("payload/register-{length}-bytes"),
            "V-2.12",
            about,
            NotGenuine("pcr-length"),
            |case| {
                case.forge.document.put_pcr(9, &vec![1; length]);
            },
        );
    }
}

fn lengths(list: &mut List) {
    for (name, rule, code) in [
        ("public_key", "V-2.16", "public-key-length"),
        ("user_data", "V-2.17", "user-data-length"),
        ("nonce", "V-2.18", "nonce-length"),
    ] {
        let id = name.replace('_', "-");
        for (length, about) in [(1025, "more than AWS documents"), (4096, "the greatest length")] {
            let about = format!("`{name}` of {length} bytes, {about}");
            list.add(format!("payload/{id}-{length}"), rule, about, Accepted, |case| {
                case.put(name, Cbor::Bytes(vec![7; length]));
            });
        }
        let about = format!("`{name}` of one byte more than the greatest length");
        list.add(format!("payload/{id}-4097"), rule, about, NotGenuine(code), |case| {
            case.put(name, Cbor::Bytes(vec![7; 4097]));
        });
    }
    for length in [0, 1025] {
        let about = format!("a leaf certificate of {length} bytes");
        let code = NotGenuine("certificate-length");
        list.add(format!("payload/certificate-{length}-bytes"), "V-2.13", about, code, |case| {
            case.put("certificate", Cbor::Bytes(vec![1; length]));
        });
        let about = format!("a certificate of {length} bytes in the bundle");
        let code = NotGenuine("bundle-certificate-length");
        list.add(format!("payload/bundle-certificate-{length}-bytes"), "V-2.15", about, code, |case| {
            case.put("cabundle", Cbor::Array(vec![Cbor::bytes(b"x"), Cbor::Bytes(vec![1; length])]));
        });
    }
    for count in [0, 9] {
        let about = format!("a bundle of {count} certificates");
        list.add(format!("payload/bundle-of-{count}"), "V-2.14", about, NotGenuine("bundle-count"), |case| {
            case.put("cabundle", Cbor::Array(vec![Cbor::bytes(b"x"); count]));
        });
    }
    let code = NotGenuine("bundle-count");
    list.add(
        "payload/bundle-claimed",
        "V-2.14 V-1.12",
        "a bundle that claims 2^64 - 1 certificates",
        code,
        |case| {
            case.forge.document.payload =
                Some(Cbor::Raw([b"\xa1\x68cabundle".to_vec(), Cbor::head(4, u64::MAX)].concat()));
        },
    );
}
