//! Every rule about the form of a document: what is accepted, and the code with which everything else is refused.

use crate::common::code_after;
use cleanroom_attestation::document::{
    Document, MAX_BUNDLE_CERTIFICATES, MAX_CERTIFICATE_LENGTH, MAX_DOCUMENT_LENGTH, MAX_FIELD_LENGTH, Survey,
};
use cleanroom_forge::{Cbor, Forge, MODULE_ID, pcr};

const TPM_MODULE_ID: &str = "i-0123456789abcdef0-tpm0000000000000000";

/// The code with which reading alone refuses what the forge makes after `change`.
fn refused(change: impl Fn(&mut Forge)) -> &'static str {
    let mut forge = Forge::new();
    change(&mut forge);
    let code = Document::parse(&forge.document()).err().map_or("accepted", |error| error.code());
    // What is refused in reading is refused with the same code in an appraisal.
    if code != "accepted" {
        assert_eq!(code_after(change), code);
    }
    code
}

/// As [`refused`], after a change of the document's template.
fn document(change: impl Fn(&mut cleanroom_forge::Document)) -> &'static str {
    refused(|forge| change(&mut forge.document))
}

/// As [`refused`], with another value of one field.
fn field(name: &str, value: &Cbor) -> &'static str {
    document(|document| document.put(name, value.clone()))
}

#[test]
fn what_aws_varies_is_accepted() {
    assert_eq!(code_after(|_| ()), "accepted");
    assert_eq!(code_after(|forge| forge.document.open = true), "accepted");
    assert_eq!(code_after(|forge| forge.document.tags = vec![18]), "accepted");
    assert_eq!(code_after(|forge| forge.document.high_s = true), "accepted");
    assert_eq!(code_after(|forge| forge.document.fields.reverse()), "accepted");
    for name in ["public_key", "user_data", "nonce"] {
        assert_eq!(code_after(|forge| forge.document.remove(name)), "accepted");
        assert_eq!(code_after(|forge| forge.document.put(name, Cbor::bytes(b""))), "accepted");
        assert_eq!(code_after(|forge| forge.document.put(name, Cbor::bytes(&[7; 1024]))), "accepted");
    }
    assert_eq!(code_after(|forge| forge.document.put_pcr(31, &pcr(31))), "accepted");
    assert_eq!(code_after(|forge| forge.document.registers().reverse()), "accepted");
}

#[test]
fn absent_null_and_empty_fields_are_told_apart() {
    for name in ["public_key", "user_data", "nonce"] {
        let value = |change: &dyn Fn(&mut cleanroom_forge::Document)| {
            let mut forge = Forge::new();
            change(&mut forge.document);
            let bytes = forge.document();
            let document = Document::parse(&bytes).unwrap();
            let fields = [
                ("public_key", document.public_key()),
                ("user_data", document.user_data()),
                ("nonce", document.nonce()),
            ];
            let found = fields.into_iter().find(|(field, _)| *field == name).unwrap();
            found.1.map(<[u8]>::to_vec)
        };
        assert_eq!(value(&|_| ()), None);
        assert_eq!(value(&|document| document.remove(name)), None);
        assert_eq!(value(&|document| document.put(name, Cbor::bytes(b""))), Some(Vec::new()));
        assert_eq!(value(&|document| document.put(name, Cbor::bytes(b"x"))), Some(b"x".to_vec()));
    }
}

#[test]
fn what_is_read_is_what_was_written() {
    let mut forge = Forge::new();
    let certificates = forge.certificates();
    forge.document.put_pcr(31, &pcr(31));
    let bytes = forge.document_with(&certificates);
    let document = Document::parse(&bytes).unwrap();
    assert_eq!(document.module_id(), MODULE_ID);
    assert_eq!(document.digest(), "SHA384");
    assert_eq!(document.timestamp_ms(), cleanroom_forge::NOW * 1000);
    assert_eq!(document.timestamp().as_seconds(), cleanroom_forge::NOW);
    assert_eq!(document.certificate(), certificates[4]);
    assert_eq!(document.cabundle(), &certificates[..4]);
    assert_eq!(document.signature(), &bytes[bytes.len() - 96..]);
    let registers = document.pcrs().enclave().unwrap();
    let indexes: Vec<_> = registers.iter().map(|(index, _)| index).collect();
    assert_eq!(indexes, (0..16).chain([31]).collect::<Vec<u8>>());
    assert_eq!(registers.get(31).unwrap().as_bytes(), &pcr(31));
    assert_eq!(registers.get(30), None);
    assert_eq!(registers.get(255), None);
}

#[test]
fn registers_of_the_two_platforms_are_different_types() {
    let mut forge = Forge::new();
    forge.document.become_tpm(TPM_MODULE_ID);
    let bytes = forge.document();
    let document = Document::parse(&bytes).unwrap();
    assert!(document.pcrs().enclave().is_none());
    assert_eq!(document.module_id(), TPM_MODULE_ID);
}

#[test]
fn envelope() {
    assert_eq!(document(|document| document.tags = vec![17]), "envelope-tag");
    assert_eq!(document(|document| document.tags = vec![98]), "envelope-tag");
    assert_eq!(document(|document| document.tags = vec![18, 18]), "cbor-unexpected-type");
    assert_eq!(document(|document| document.tags = vec![55799, 18]), "envelope-tag");
    assert_eq!(document(|document| document.fewer_parts = 1), "envelope-parts");
    assert_eq!(document(|document| document.more_parts = vec![Cbor::Null]), "envelope-parts");
    assert_eq!(document(|document| document.trailing = vec![0]), "envelope-trailing-bytes");
    assert_eq!(document(|document| document.trailing = vec![0; 9]), "envelope-trailing-bytes");
    assert_eq!(document(|document| document.payload_trailing = vec![0]), "payload-trailing-bytes");
    assert_eq!(
        document(|document| (document.open, document.payload_trailing) = (true, vec![0xff])),
        "payload-trailing-bytes"
    );
    for bytes in [&b""[..], b"\x84", b"\x9f", b"\xa0", b"{}", b"\xd2"] {
        assert!(Document::parse(bytes).is_err());
    }
}

#[test]
fn protected_header() {
    for wrong in [
        &b"\xa1\x01\x26"[..],        // ES256
        b"\xa1\x01\x38\x23",         // ES512
        b"\xa1\x01\x38\x22\x00",     // trailing byte
        b"\xa2\x01\x38\x22\x04\x40", // a second parameter
        b"\xa1\x01\x39\x00\x22",     // not the shortest
        b"\xbf\x01\x38\x22\xff",     // indefinite
        b"\xa1\x04\x38\x22",         // another parameter
        b"\xa0",
        b"",
    ] {
        assert_eq!(
            document(|document| document.protected = wrong.to_vec()),
            "protected-header",
            "{wrong:x?}"
        );
    }
    let map = Cbor::Raw(b"\xa1\x01\x38\x22".to_vec());
    assert_eq!(document(|document| document.protected_item = Some(map.clone())), "cbor-unexpected-type");
}

#[test]
fn unprotected_header() {
    let entry = (Cbor::Unsigned(4), Cbor::bytes(b"key"));
    assert_eq!(
        document(|document| document.unprotected = Cbor::Map(vec![entry.clone()])),
        "unprotected-header"
    );
    assert_eq!(document(|document| document.unprotected = Cbor::OpenMap(vec![])), "cbor-indefinite-length");
    assert_eq!(document(|document| document.unprotected = Cbor::Null), "cbor-unexpected-type");
}

#[test]
fn signature() {
    for length in [0, 1, 95, 97, 104] {
        let signature = Cbor::Bytes(vec![1; length]);
        assert_eq!(document(|document| document.signature = Some(signature.clone())), "signature-length");
    }
    assert_eq!(document(|document| document.signature = Some(Cbor::Null)), "cbor-unexpected-type");
    let zero = Cbor::Bytes(vec![0; 96]);
    assert_eq!(code_after(|forge| forge.document.signature = Some(zero)), "document-signature");
}

#[test]
fn qemu_documents_that_nobody_signed() {
    let unsigned = |document: &mut cleanroom_forge::Document| {
        document.put("certificate", Cbor::bytes(b""));
        document.put("cabundle", Cbor::Array(Vec::new()));
    };
    assert_eq!(document(|document| document.signature = Some(Cbor::bytes(b""))), "signature-length");
    assert_eq!(document(unsigned), "certificate-length");
    assert_eq!(
        document(|document| {
            unsigned(document);
            document.signature = Some(Cbor::bytes(b""));
        }),
        "signature-length"
    );
}

#[test]
fn heads_are_the_shortest() {
    let long = |major, argument, size, rest: &[u8]| {
        Cbor::Raw([Cbor::long_head(major, argument, size), rest.to_vec()].concat())
    };
    for size in [1, 2, 4, 8] {
        assert_eq!(field("user_data", &long(2, 3, size, b"abc")), "cbor-non-shortest-head", "{size}");
    }
    for (argument, size) in [(0x17, 1), (0xff, 2), (0xffff, 4), (0xffff_ffff, 8)] {
        assert_eq!(field("timestamp", &long(0, argument, size, b"")), "cbor-non-shortest-head");
        let shortest = Cbor::Unsigned(argument + 1);
        assert_eq!(field("timestamp", &shortest), "accepted", "{argument}");
    }
    let digest = long(3, 6, 1, b"SHA384");
    assert_eq!(field("digest", &digest), "cbor-non-shortest-head");
    let bundle = long(4, 1, 1, &[0x41, 0x00]);
    assert_eq!(field("cabundle", &bundle), "cbor-non-shortest-head");
    assert_eq!(document(|document| document.payload = Some(long(5, 0, 1, b""))), "cbor-non-shortest-head");
    let tagged = [Cbor::long_head(6, 18, 1), Forge::new().document()].concat();
    assert_eq!(Document::parse(&tagged).err().unwrap().code(), "cbor-non-shortest-head");
}

#[test]
fn indefinite_lengths_and_reserved_heads() {
    let chunked = Cbor::Raw(b"\x5f\x41a\x41b\xff".to_vec());
    assert_eq!(field("user_data", &chunked), "cbor-chunked-string");
    assert_eq!(field("digest", &Cbor::Raw(b"\x7f\x66SHA384\xff".to_vec())), "cbor-chunked-string");
    assert_eq!(field("cabundle", &Cbor::Raw(b"\x9f\x41\x00\xff".to_vec())), "cbor-indefinite-length");
    assert_eq!(field("pcrs", &Cbor::OpenMap(Vec::new())), "cbor-indefinite-length");
    assert_eq!(document(|document| document.payload_item = Some(chunked.clone())), "cbor-chunked-string");
    for reserved in [0x1c, 0x1d, 0x1e, 0x1f, 0x3f, 0x5c, 0xdf, 0xfc] {
        assert_eq!(field("user_data", &Cbor::Raw(vec![reserved])), "cbor-reserved-head", "{reserved:x}");
    }
    // A break where no map of indefinite length is open.
    assert_eq!(field("user_data", &Cbor::Raw(vec![0xff])), "cbor-unexpected-type");
}

#[test]
fn lengths_that_are_claimed_and_not_there() {
    for claimed in [100_000_u64, u64::from(u32::MAX), u64::MAX] {
        for major in [2, 3] {
            let payload = Cbor::Raw([b"\xa1\x69user_data".to_vec(), Cbor::head(major, claimed)].concat());
            let code = document(|document| document.payload = Some(payload.clone()));
            assert!(matches!(code, "cbor-truncated" | "cbor-unexpected-type"), "{code}");
        }
        let payload = Cbor::Raw([b"\xa1\x68cabundle".to_vec(), Cbor::head(4, claimed)].concat());
        assert_eq!(document(|document| document.payload = Some(payload.clone())), "bundle-count");
        let payload = Cbor::Raw([b"\xa1\x64pcrs".to_vec(), Cbor::head(5, claimed)].concat());
        assert_eq!(document(|document| document.payload = Some(payload.clone())), "pcr-count");
        assert_eq!(
            document(|document| document.payload = Some(Cbor::Raw(Cbor::head(5, claimed)))),
            "cbor-truncated"
        );
    }
    // Every beginning of a document is too short.
    let whole = Forge::new().document();
    for length in 0..whole.len() {
        let error = Document::parse(&whole[..length]).err().unwrap();
        assert_eq!(error.code(), "cbor-truncated", "{length}");
    }
}

#[test]
fn types_of_fields() {
    for name in ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"] {
        assert_eq!(field(name, &Cbor::Null), "cbor-unexpected-type", "{name}");
        for other in
            [vec![0xf4], vec![0xf5], vec![0xf7], vec![0xf8, 0xff], vec![0xfa, 0, 0, 0, 0], vec![0x20]]
        {
            assert_eq!(field(name, &Cbor::Raw(other)), "cbor-unexpected-type", "{name}");
        }
    }
    for name in ["public_key", "user_data", "nonce"] {
        assert_eq!(field(name, &Cbor::text("text")), "cbor-unexpected-type", "{name}");
        assert_eq!(field(name, &Cbor::Unsigned(0)), "cbor-unexpected-type", "{name}");
        // `undefined`, and null in the two-byte form that RFC 8949 forbids.
        assert_eq!(field(name, &Cbor::Raw(vec![0xf7])), "cbor-unexpected-type", "{name}");
        assert_eq!(field(name, &Cbor::Raw(vec![0xf8, 22])), "cbor-unexpected-type", "{name}");
    }
    assert_eq!(field("module_id", &Cbor::bytes(MODULE_ID.as_bytes())), "cbor-unexpected-type");
    assert_eq!(field("timestamp", &Cbor::Raw(vec![0x38, 0x22])), "cbor-unexpected-type");
    assert_eq!(field("nonce", &Cbor::Tag(2, Box::new(Cbor::bytes(b"1")))), "cbor-unexpected-type");
    assert_eq!(document(|document| document.payload = Some(Cbor::Array(Vec::new()))), "cbor-unexpected-type");
    assert_eq!(document(|document| document.payload_item = Some(Cbor::Null)), "cbor-unexpected-type");
    let key = (Cbor::Unsigned(1), Cbor::Null);
    assert_eq!(document(|document| document.fields.push(key.clone())), "cbor-unexpected-type");
}

#[test]
fn fields_come_once_and_are_known() {
    for name in [
        "module_id",
        "digest",
        "timestamp",
        "pcrs",
        "certificate",
        "cabundle",
        "public_key",
        "user_data",
        "nonce",
    ] {
        let twice = |forge: &mut Forge| {
            let certificates = forge.certificates();
            forge.document.put("certificate", Cbor::bytes(&certificates[4]));
            forge.document.put("cabundle", Cbor::Array(vec![Cbor::bytes(&certificates[0])]));
            let fields = &mut forge.document.fields;
            let field =
                fields.iter().find(|(key, _)| key.encode() == Cbor::text(name).encode()).unwrap().clone();
            fields.push(field);
        };
        assert_eq!(refused(twice), "field-duplicate", "{name}");
    }
    for name in ["module_id", "digest", "timestamp", "pcrs"] {
        assert_eq!(document(|document| document.remove(name)), "field-missing", "{name}");
    }
    let without = |name: &'static str| {
        document(move |document| {
            document.put("certificate", Cbor::bytes(b"x"));
            document.put("cabundle", Cbor::Array(vec![Cbor::bytes(b"x")]));
            let fields = core::mem::take(&mut document.fields);
            let kept = fields.into_iter().filter(|(key, _)| key.encode() != Cbor::text(name).encode());
            document.payload = Some(Cbor::Map(kept.collect()));
        })
    };
    assert_eq!(without("certificate"), "field-missing");
    assert_eq!(without("cabundle"), "field-missing");
    assert_eq!(without("nonce"), "accepted");
    for name in ["", "Nonce", "nonce ", "attestation", "pcr"] {
        assert_eq!(field(name, &Cbor::Null), "field-unknown", "{name:?}");
    }
    let duplicate = (Cbor::text("nitrotpm_pcrs"), Cbor::Map(vec![(Cbor::Unsigned(0), Cbor::bytes(&pcr(0)))]));
    assert_eq!(document(|document| document.fields.push(duplicate.clone())), "pcrs-ambiguous");
    let twice = |document: &mut cleanroom_forge::Document| {
        document.become_tpm(TPM_MODULE_ID);
        document.fields.push(duplicate.clone());
    };
    assert_eq!(document(twice), "field-duplicate");
}

#[test]
fn module_id() {
    for wrong in [
        "",
        "i-",
        "i-0123456789abcdef0",
        "i-0123456789abcdef0-",
        "i-0123456789abcdef0-enc",
        "i-0123456789abcdef0-foo0fedcba987654321",
        "i--enc0fedcba987654321",
        "0123456789abcdef0-enc0fedcba987654321",
        "i-0123456789ABCDEF0-enc0fedcba987654321",
        "i-0123456789abcdefg-enc0fedcba987654321",
        "i-0123456789abcdef0-encz",
        "i-0123456789abcdef0-enc0fedcba987654321.eu",
        "i-0123456789abcdef0-enc0fedcba987654321-enc1",
        "i-0123456789abcdef0-enc012345678901234567890123456789012",
        "i-012345678901234567890123456789012-enc0",
    ] {
        assert_eq!(field("module_id", &Cbor::text(wrong)), "module-id", "{wrong}");
    }
    assert_eq!(field("module_id", &Cbor::Text(vec![0xff, 0xfe])), "module-id");
    let longest = "i-01234567890123456789012345678901-enc01234567890123456789012345678901";
    assert_eq!(field("module_id", &Cbor::text(longest)), "accepted");
    assert_eq!(field("module_id", &Cbor::text(TPM_MODULE_ID)), "module-id-kind");
    assert_eq!(document(|document| document.become_tpm(MODULE_ID)), "module-id-kind");
    assert_eq!(document(|document| document.become_tpm(TPM_MODULE_ID)), "accepted");
}

#[test]
fn digest() {
    for wrong in ["", "SHA256", "SHA512", "sha384", "SHA-384", "SHA3840"] {
        assert_eq!(field("digest", &Cbor::text(wrong)), "digest", "{wrong}");
    }
}

#[test]
fn registers() {
    assert_eq!(field("pcrs", &Cbor::Map(Vec::new())), "pcr-count");
    let entries = (0..33).map(|index| (Cbor::Unsigned(index % 32), Cbor::bytes(&pcr(0))));
    assert_eq!(field("pcrs", &Cbor::Map(entries.clone().collect())), "pcr-count");
    assert_eq!(field("pcrs", &Cbor::Map(entries.take(32).collect())), "accepted");
    for index in [32, 33, 255, 256, u64::MAX] {
        assert_eq!(document(|document| document.put_pcr(index, &pcr(0))), "pcr-index", "{index}");
    }
    let twice = (Cbor::Unsigned(5), Cbor::bytes(&[0; 48]));
    assert_eq!(document(|document| document.registers().push(twice.clone())), "pcr-duplicate");
    for length in [0, 1, 32, 47, 49, 64] {
        assert_eq!(document(|document| document.put_pcr(9, &vec![1; length])), "pcr-length", "{length}");
    }
    let text = (Cbor::text("0"), Cbor::bytes(&pcr(0)));
    assert_eq!(field("pcrs", &Cbor::Map(vec![text])), "cbor-unexpected-type");
}

#[test]
fn lengths_over_the_limits() {
    for (name, code) in
        [("public_key", "public-key-length"), ("user_data", "user-data-length"), ("nonce", "nonce-length")]
    {
        assert_eq!(field(name, &Cbor::Bytes(vec![1; MAX_FIELD_LENGTH])), "accepted", "{name}");
        assert_eq!(field(name, &Cbor::Bytes(vec![1; MAX_FIELD_LENGTH + 1])), code);
    }
    let certificate = |length| Cbor::Bytes(vec![1; length]);
    assert_eq!(field("certificate", &certificate(0)), "certificate-length");
    assert_eq!(field("certificate", &certificate(MAX_CERTIFICATE_LENGTH)), "accepted");
    assert_eq!(field("certificate", &certificate(MAX_CERTIFICATE_LENGTH + 1)), "certificate-length");
    let bundle = |lengths: &[usize]| Cbor::Array(lengths.iter().map(|length| certificate(*length)).collect());
    assert_eq!(field("cabundle", &bundle(&[])), "bundle-count");
    assert_eq!(field("cabundle", &bundle(&[1; MAX_BUNDLE_CERTIFICATES])), "accepted");
    assert_eq!(field("cabundle", &bundle(&[1; MAX_BUNDLE_CERTIFICATES + 1])), "bundle-count");
    assert_eq!(field("cabundle", &bundle(&[1, 0])), "bundle-certificate-length");
    assert_eq!(field("cabundle", &bundle(&[1, MAX_CERTIFICATE_LENGTH])), "accepted");
    assert_eq!(field("cabundle", &bundle(&[1, MAX_CERTIFICATE_LENGTH + 1])), "bundle-certificate-length");

    let long = vec![0; MAX_DOCUMENT_LENGTH + 1];
    assert_eq!(Document::parse(&long).err().unwrap().code(), "document-too-long");
    assert_ne!(Document::parse(&long[1..]).err().unwrap().code(), "document-too-long");
}

#[test]
fn hostile_text_in_errors_is_short_and_escaped() {
    let mut forge = Forge::new();
    forge.document.put(&"\u{1b}[2J".repeat(1000), Cbor::Null);
    let message = Document::parse(&forge.document()).err().unwrap().to_string();
    assert!(message.len() < 300 && !message.contains('\u{1b}'), "{message}");
    let mut forge = Forge::new();
    forge.document.protected = vec![0xaa; 1000];
    let message = Document::parse(&forge.document()).err().unwrap().to_string();
    assert!(message.len() < 300 && message.contains("(1000 bytes)"), "{message}");
    for (length, whole) in [(3, true), (64, true), (65, false)] {
        forge.document.protected = vec![0xaa; length];
        let message = Document::parse(&forge.document()).err().unwrap().to_string();
        assert_eq!(message.ends_with(&format!("got {}", "aa".repeat(length))), whole, "{message}");
    }
}

#[test]
fn errors_say_what_came_and_where() {
    let message = |item: Cbor| {
        let mut forge = Forge::new();
        forge.document.payload = Some(Cbor::Map(vec![(Cbor::text("digest"), item)]));
        Document::parse(&forge.document()).err().unwrap().to_string()
    };
    for (item, kind) in [
        (Cbor::Unsigned(1), "an unsigned integer"),
        (Cbor::Raw(vec![0x20]), "a negative integer"),
        (Cbor::bytes(b""), "a byte string"),
        (Cbor::Array(Vec::new()), "an array"),
        (Cbor::Map(Vec::new()), "a map"),
        (Cbor::OpenMap(Vec::new()), "a map of indefinite length"),
        (Cbor::Tag(1, Box::new(Cbor::Null)), "a tag"),
        (Cbor::Null, "null"),
        (Cbor::Raw(vec![0xff]), "a break"),
        (Cbor::Raw(vec![0xf5]), "a simple or floating-point value"),
    ] {
        let expected = format!("expected a text string for the digest at offset 8, got {kind}");
        assert_eq!(message(item), expected);
    }
}

/// A person can look at what is refused, without any of it being accepted.
#[test]
fn what_can_be_read_of_a_refused_document() {
    let mut forge = Forge::new();
    let nested = Cbor::Map(vec![(Cbor::text("a"), Cbor::Array(vec![Cbor::Null, Cbor::OpenMap(Vec::new())]))]);
    forge.document.fields.insert(0, (Cbor::text("attestation"), nested));
    forge.document.put("nonce", Cbor::Unsigned(1));
    let bytes = forge.document();
    let survey = Survey::of(&bytes);
    assert_eq!(
        survey.refusal.as_ref().map(cleanroom_attestation::document::DocumentError::code),
        Some("field-unknown")
    );
    assert_eq!(survey.unread, ["attestation", "nonce"]);
    assert_eq!(survey.module_id, Some(MODULE_ID));
    assert_eq!(survey.timestamp.unwrap().as_seconds(), cleanroom_forge::NOW);
    assert_eq!(survey.pcrs.unwrap().enclave().unwrap().get(0).unwrap().as_bytes(), &pcr(0));
    assert_eq!((survey.cabundle.len(), survey.certificate.is_some()), (4, true));

    // Nothing to read is no reason to fail, and neither is anything that goes on for ever.
    let deep = [&b"\x83\x40\xa0\x58\xff"[..], &[0x81; 300]].concat();
    let endless = b"\x83\x40\xa0\x4a\xa1\x61x\x9b\xff\xff\xff\xff\xff\xff".to_vec();
    for bytes in [b"".to_vec(), b"hello".to_vec(), bytes[..100].to_vec(), deep, endless, vec![0xc0; 20_000]] {
        let survey = Survey::of(&bytes);
        assert!(survey.refusal.is_some() && survey.certificate.is_none());
    }
    // What is not refused is what the document says.
    let bytes = Forge::new().document();
    let survey = Survey::of(&bytes);
    assert_eq!((survey.refusal, survey.module_id, survey.unread.len()), (None, Some(MODULE_ID), 0));
}
