//! The certificates' profile against documents that AWS signed.

use std::path::PathBuf;

use super::*;

/// A certificate's extensions: identifier, critical or not, and value; of key identifiers only that they are
/// there.
type Extensions = BTreeMap<String, (bool, Vec<u8>)>;

/// A DER element taken from the front of `input`: tag, contents, and what follows.
fn element(input: &[u8]) -> (u8, &[u8], &[u8]) {
    let (tag, length) = (input[0], usize::from(input[1]));
    let (length, header) = match length {
        0..=0x7f => (length, 2),
        0x81 => (usize::from(input[2]), 3),
        _ => (usize::from(input[2]) << 8 | usize::from(input[3]), 4),
    };
    (tag, &input[header..header + length], &input[header + length..])
}

fn extensions(certificate: &[u8]) -> Extensions {
    let (_, certificate, _) = element(certificate);
    let (_, mut rest, _) = element(certificate);
    let mut list = loop {
        let (tag, contents, following) = element(rest);
        if tag == 0xa3 {
            break element(contents).1;
        }
        rest = following;
    };
    let mut found = Extensions::new();
    while !list.is_empty() {
        let (_, extension, following) = element(list);
        list = following;
        let (_, identifier, rest) = element(extension);
        let (tag, first, rest) = element(rest);
        let (critical, value) = if tag == 0x01 { (first == [0xff], element(rest).1) } else { (false, first) };
        let identifier = match hex::encode(identifier).as_str() {
            "551d13" => "basic constraints",
            "551d0f" => "key usage",
            "551d0e" => "subject key identifier",
            "551d23" => "authority key identifier",
            "551d1f" => continue, // Distribution points of CRLs, which a development root has none of.
            other => panic!("the profile has no extension {other}"),
        };
        let value = if identifier.ends_with("identifier") { Vec::new() } else { value.to_vec() };
        found.insert(identifier.to_owned(), (critical, value));
    }
    found
}

fn chain(statement: &AttestationDoc) -> Vec<Extensions> {
    statement.cabundle.iter().chain([&statement.certificate]).map(|der| extensions(der)).collect()
}

#[test]
fn certificates_have_the_extensions_that_aws_gives() {
    let mut nsm = module();
    let (_, ours) = attest_at(&mut nsm, &plain(), NOW_MS);
    let ours = chain(&ours.statement);
    assert_eq!(ours[3]["key usage"], (true, vec![0x03, 0x02, 0x02, 0x04]), "the instance only issues");
    assert_eq!(ours[4].len(), 2, "the leaf has no key identifiers");

    // Beside the repository, or beside the folder of its work trees.
    let beside = ["../../../shared/vectors", "../../../../shared/vectors"];
    let beside = beside.map(|beside| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(beside));
    let named = std::env::var_os("CLEANROOM_AWS_VECTORS").map(PathBuf::from);
    let found = named.into_iter().chain(beside).find_map(|folder| std::fs::read_dir(folder).ok());
    let Some(entries) = found else {
        let missing = "the documents of AWS are absent: set CLEANROOM_AWS_VECTORS to their folder";
        // A gate that passes by not testing is none.
        assert!(!std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1"), "{missing}");
        eprintln!("NOT TESTED: {missing}");
        return;
    };
    let mut compared = 0;
    for path in entries.map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_str().unwrap();
        // The instance has had key identifiers since 2024; NitroTPM's documents have another form.
        if !(name.ends_with(".bin") && name.contains("_enclave") && name[..4] >= *"2025") {
            continue;
        }
        let document = std::fs::read(&path).unwrap();
        type Envelope = (ByteBuf, serde_cbor::Value, ByteBuf, ByteBuf);
        let Ok((_, _, payload, _)) = serde_cbor::from_slice::<Envelope>(&document) else { panic!("{name}") };
        assert_eq!(chain(&AttestationDoc::from_binary(&payload).unwrap()), ours, "{name}");
        compared += 1;
    }
    assert!(compared > 10, "only {compared} documents compared");
}
