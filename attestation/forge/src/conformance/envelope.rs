//! V-1: the envelope and its encoding.

use super::case::Answer::{Accepted, NotGenuine};
use super::case::{Case, List};
use crate::Cbor;

/// The longest document, in bytes.
const MAX_DOCUMENT_LENGTH: usize = 0x3001;

pub(super) fn list(list: &mut List) {
    variants(list);
    frame(list);
    tags(list);
    parts(list);
    headers(list);
    signature_field(list);
    long_heads(list);
    chunks(list);
    indefinite_and_reserved(list);
    claims(list);
    heads_of_the_envelope(list);
    kinds(list);
}

fn variants(list: &mut List) {
    list.add("envelope/plain", "V-1.2 V-8.1 V-8.2", "a document as AWS makes it", Accepted, |case| {
        case.forge = crate::Forge::new();
    });
    list.add("envelope/tag-18", "V-1.2", "the tag of COSE_Sign1 before it", Accepted, |case| {
        case.forge.document.tags = vec![18];
    });
}

fn frame(list: &mut List) {
    let mut bytes = |id: &str, rule: &str, about: &str, code: &str, rewrite: fn(&mut Vec<u8>)| {
        list.add(format!("envelope/{id}"), rule, about, NotGenuine(code), |case| {
            case.rewrite = Some(Box::new(rewrite));
        });
    };
    bytes("empty", "V-1.12", "no bytes at all", "cbor-truncated", Vec::clear);
    bytes("first-byte-alone", "V-1.12", "the first byte alone", "cbor-truncated", |it| it.truncate(1));
    bytes("cut-in-half", "V-1.12", "the first half", "cbor-truncated", |it| it.truncate(it.len() / 2));
    bytes("last-byte-missing", "V-1.12", "all but the last byte", "cbor-truncated", |it| {
        it.pop();
    });
    bytes(
        "longest-and-wrong",
        "V-1.1 V-1.13",
        "zeros of the greatest length: read, and no document",
        "cbor-unexpected-type",
        |it| {
            *it = vec![0; MAX_DOCUMENT_LENGTH];
        },
    );
    bytes("too-long", "V-1.1", "one byte more than the greatest length", "document-too-long", |it| {
        it.resize(MAX_DOCUMENT_LENGTH + 1, 0);
    });
    bytes("trailing-byte", "V-1.7", "a zero byte after the envelope", "envelope-trailing-bytes", |it| {
        it.push(0);
    });
    bytes("twice", "V-1.7", "the document twice, one after the other", "envelope-trailing-bytes", |it| {
        it.extend_from_within(..);
    });
    bytes("json", "V-1.13", "a JSON object", "cbor-unexpected-type", |it| *it = b"{\"pcrs\":{}}".to_vec());
    bytes("map", "V-1.13", "a map in the place of the array", "cbor-unexpected-type", |it| *it = vec![0xa0]);
}

fn tags(list: &mut List) {
    let mut tags = |id: &str, about: &str, code: &str, tags: &[u64]| {
        let rules = if code == "envelope-tag" { "V-1.2" } else { "V-1.2 V-1.13" };
        list.add(format!("envelope/{id}"), rules, about, NotGenuine(code), |case| {
            case.forge.document.tags = tags.to_vec();
        });
    };
    tags("tag-17", "the tag of COSE_Mac0", "envelope-tag", &[17]);
    tags("tag-98", "the tag of COSE_Sign", "envelope-tag", &[98]);
    tags(
        "tag-self-described",
        "the tag of self-described CBOR before the right one",
        "envelope-tag",
        &[55799, 18],
    );
    tags("tag-18-twice", "the right tag twice", "cbor-unexpected-type", &[18, 18]);
}

fn parts(list: &mut List) {
    let code = NotGenuine("envelope-parts");
    list.add("envelope/three-parts", "V-1.3", "no signature", code, |case| {
        case.forge.document.fewer_parts = 1;
    });
    let code = NotGenuine("envelope-parts");
    list.add("envelope/five-parts", "V-1.3", "a fifth part", code, |case| {
        case.forge.document.more_parts = vec![Cbor::Null];
    });
    list.add(
        "envelope/indefinite-array",
        "V-1.10",
        "the envelope as an array of indefinite length",
        NotGenuine("cbor-indefinite-length"),
        |case| {
            case.rewrite = Some(Box::new(|it| {
                if let Some(first) = it.first_mut() {
                    *first = 0x9f;
                }
                it.push(0xff);
            }));
        },
    );
}

fn headers(list: &mut List) {
    let wrong: [(&str, &str, &[u8]); 9] = [
        ("es256", "ES256", b"\xa1\x01\x26"),
        ("es512", "ES512", b"\xa1\x01\x38\x23"),
        ("with-key-id", "a key id beside the algorithm", b"\xa2\x01\x38\x22\x04\x40"),
        ("crit", "a list of critical parameters beside the algorithm", b"\xa2\x01\x38\x22\x02\x81\x01"),
        ("trailing-byte", "a byte after the map", b"\xa1\x01\x38\x22\x00"),
        ("long-head", "the algorithm with a longer head than it needs", b"\xa1\x01\x39\x00\x22"),
        ("indefinite", "a map of indefinite length", b"\xbf\x01\x38\x22\xff"),
        ("empty-map", "an empty map", b"\xa0"),
        ("empty", "no bytes", b""),
    ];
    for (id, about, bytes) in wrong {
        let about = format!("the protected header, correctly signed: {about}");
        list.add(
            format!("envelope/protected-{id}"),
            "V-1.4",
            about,
            NotGenuine("protected-header"),
            |case| {
                case.forge.document.protected = bytes.to_vec();
            },
        );
    }
    list.add(
        "envelope/protected-not-wrapped",
        "V-1.4 V-1.13",
        "the protected header as a map instead of a byte string",
        NotGenuine("cbor-unexpected-type"),
        |case| case.forge.document.protected_item = Some(Cbor::Raw(b"\xa1\x01\x38\x22".to_vec())),
    );
    let mut unprotected = |id: &str, about: &str, code: &str, item: Cbor| {
        let rules = match code {
            "cbor-indefinite-length" => "V-1.5 V-1.10",
            "cbor-unexpected-type" => "V-1.5 V-1.13",
            _ => "V-1.5",
        };
        let about = format!("the unprotected header: {about}");
        list.add(format!("envelope/unprotected-{id}"), rules, about, NotGenuine(code), |case| {
            case.forge.document.unprotected = item;
        });
    };
    let entry = |key: u64, value: Cbor| Cbor::Map(vec![(Cbor::Unsigned(key), value)]);
    unprotected("key-id", "a key id", "unprotected-header", entry(4, Cbor::bytes(b"key")));
    unprotected("algorithm", "another algorithm", "unprotected-header", entry(1, Cbor::Raw(vec![0x26])));
    unprotected("chain", "a certificate chain (x5chain)", "unprotected-header", entry(33, Cbor::bytes(b"x")));
    unprotected(
        "indefinite",
        "an empty map of indefinite length",
        "cbor-indefinite-length",
        Cbor::OpenMap(vec![]),
    );
    unprotected("null", "null", "cbor-unexpected-type", Cbor::Null);
}

fn signature_field(list: &mut List) {
    for length in [0, 95, 97, 104] {
        list.add(
            format!("envelope/signature-{length}-bytes"),
            "V-1.6",
            format!("a signature of {length} bytes"),
            NotGenuine("signature-length"),
            |case| case.forge.document.signature = Some(Cbor::Bytes(vec![1; length])),
        );
    }
    list.add(
        "envelope/signature-null",
        "V-1.6 V-1.13",
        "null in the place of the signature",
        NotGenuine("cbor-unexpected-type"),
        |case| case.forge.document.signature = Some(Cbor::Null),
    );
    list.add(
        "envelope/unsigned-qemu",
        "V-1.6",
        "no signature and no certificates, as QEMU's nitro-enclave machine makes it",
        NotGenuine("signature-length"),
        |case| {
            case.put("certificate", Cbor::bytes(b""));
            case.put("cabundle", Cbor::Array(Vec::new()));
            case.forge.document.signature = Some(Cbor::bytes(b""));
        },
    );
}

/// A field of the payload that is refused.
fn field(list: &mut List, id: &str, rule: &str, about: &str, code: &str, name: &str, value: Cbor) {
    list.add(format!("envelope/{id}"), rule, about, NotGenuine(code), |case: &mut Case| {
        case.put(name, value);
    });
}

/// V-1.8: heads that are longer than need be.
fn long_heads(list: &mut List) {
    let long = |major, argument, size, rest: &[u8]| {
        Cbor::Raw([Cbor::long_head(major, argument, size), rest.to_vec()].concat())
    };
    let code = "cbor-non-shortest-head";
    field(
        list,
        "long-head-bytes",
        "V-1.8",
        "a byte string's length in two bytes where one does",
        code,
        "user_data",
        long(2, 3, 1, b"abc"),
    );
    field(
        list,
        "long-head-bytes-8",
        "V-1.8",
        "a byte string's length in nine bytes where one does",
        code,
        "user_data",
        long(2, 3, 8, b"abc"),
    );
    field(
        list,
        "long-head-text",
        "V-1.8",
        "a text's length in two bytes where one does",
        code,
        "digest",
        long(3, 6, 1, b"SHA384"),
    );
    field(
        list,
        "long-head-integer",
        "V-1.8",
        "an integer in five bytes where three do",
        code,
        "timestamp",
        long(0, 0xffff, 4, b""),
    );
    field(
        list,
        "long-head-array",
        "V-1.8",
        "an array's length in two bytes where one does",
        code,
        "cabundle",
        long(4, 1, 1, &[0x41, 0]),
    );
    field(
        list,
        "long-head-map",
        "V-1.8",
        "a map's length in two bytes where one does",
        code,
        "pcrs",
        long(5, 0, 1, b""),
    );
}

/// V-1.9: strings in chunks.
fn chunks(list: &mut List) {
    field(
        list,
        "chunked-bytes",
        "V-1.9",
        "a byte string in chunks",
        "cbor-chunked-string",
        "user_data",
        Cbor::Raw(b"\x5f\x41a\x41b\xff".to_vec()),
    );
    field(
        list,
        "chunked-text",
        "V-1.9",
        "a text in chunks",
        "cbor-chunked-string",
        "digest",
        Cbor::Raw(b"\x7f\x66SHA384\xff".to_vec()),
    );
}

/// V-1.10 and V-1.11: indefinite lengths and reserved heads.
fn indefinite_and_reserved(list: &mut List) {
    field(
        list,
        "indefinite-bundle",
        "V-1.10",
        "the bundle as an array of indefinite length",
        "cbor-indefinite-length",
        "cabundle",
        Cbor::Raw(b"\x9f\x41\x00\xff".to_vec()),
    );
    field(
        list,
        "indefinite-registers",
        "V-1.10",
        "the registers as a map of indefinite length",
        "cbor-indefinite-length",
        "pcrs",
        Cbor::OpenMap(Vec::new()),
    );
    field(
        list,
        "reserved-head",
        "V-1.11",
        "a head that RFC 8949 reserves",
        "cbor-reserved-head",
        "user_data",
        Cbor::Raw(vec![0x5c]),
    );
    field(
        list,
        "indefinite-integer",
        "V-1.11",
        "an integer of indefinite length",
        "cbor-reserved-head",
        "timestamp",
        Cbor::Raw(vec![0x1f]),
    );
}

/// V-1.12: lengths that nothing follows.
fn claims(list: &mut List) {
    let mut payload = |id: &str, about: &str, code: &str, bytes: Vec<u8>| {
        list.add(format!("envelope/{id}"), "V-1.12", about, NotGenuine(code), |case| {
            case.forge.document.payload = Some(Cbor::Raw(bytes));
        });
    };
    let claimed = |start: &[u8], major| [start.to_vec(), Cbor::head(major, u64::MAX)].concat();
    payload(
        "claimed-bytes",
        "a byte string that claims 2^64 - 1 bytes",
        "cbor-truncated",
        claimed(b"\xa1\x69user_data", 2),
    );
    payload("claimed-map", "a payload that claims 2^64 - 1 fields", "cbor-truncated", claimed(b"", 5));
}

/// V-1.8 and V-1.9 for the envelope itself.
fn heads_of_the_envelope(list: &mut List) {
    list.add(
        "envelope/long-head-tag",
        "V-1.8",
        "the tag in nine bytes where one does",
        NotGenuine("cbor-non-shortest-head"),
        |case| {
            case.rewrite =
                Some(Box::new(|it| *it = [Cbor::long_head(6, 18, 8), core::mem::take(it)].concat()));
        },
    );
    list.add(
        "envelope/payload-chunked",
        "V-1.9",
        "the payload in chunks",
        NotGenuine("cbor-chunked-string"),
        |case| case.forge.document.payload_item = Some(Cbor::Raw(b"\x5f\x41\xa0\xff".to_vec())),
    );
}

fn kinds(list: &mut List) {
    let code = || NotGenuine("cbor-unexpected-type");
    let mut field = |id: &str, about: &str, name: &str, value: Cbor| {
        list.add(format!("envelope/kind-{id}"), "V-1.13", about, code(), |case| case.put(name, value));
    };
    field("timestamp-negative", "a negative time stamp", "timestamp", Cbor::Raw(vec![0x38, 0x22]));
    field(
        "timestamp-float",
        "a time stamp in floating point",
        "timestamp",
        Cbor::Raw(vec![0xfa, 0, 0, 0, 0]),
    );
    field("module-id-bytes", "a module id as bytes", "module_id", Cbor::bytes(crate::MODULE_ID.as_bytes()));
    field("nonce-text", "a nonce as text", "nonce", Cbor::text("text"));
    field("nonce-undefined", "`undefined` in the place of null", "nonce", Cbor::Raw(vec![0xf7]));
    field("nonce-tagged", "a nonce with a tag", "nonce", Cbor::Tag(2, Box::new(Cbor::bytes(b"1"))));
    field("nonce-break", "a break where no map of indefinite length is open", "nonce", Cbor::Raw(vec![0xff]));
    field("certificate-null", "null in the place of the certificate", "certificate", Cbor::Null);
    field("registers-array", "registers as an array", "pcrs", Cbor::Array(vec![Cbor::bytes(&crate::pcr(0))]));
    list.add("envelope/kind-payload-null", "V-1.13", "a detached payload", code(), |case| {
        case.forge.document.payload_item = Some(Cbor::Null);
    });
    list.add("envelope/kind-field-name", "V-1.13", "a number as a field's name", code(), |case| {
        case.forge.document.fields.push((Cbor::Unsigned(1), Cbor::Null));
    });
    list.add("envelope/kind-payload-array", "V-1.13", "a payload that is an array", code(), |case| {
        case.forge.document.payload = Some(Cbor::Array(Vec::new()));
    });
}
