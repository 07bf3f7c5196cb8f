//! Signatures that model-signing 1.1.1 (`PyPI`) made with keys of OpenSSL, and what is not one.

use serde_json::{Value, json};

use super::*;

const FILE: &str = include_str!("../../../tests/vectors/model-signature/file.json");
const FOLDER: &str = include_str!("../../../tests/vectors/model-signature/folder.json");
const WEIGHTS: &[u8] = include_bytes!("../../../tests/vectors/model-signature/weights.gguf");

fn key(pem: &str) -> PublisherKey {
    let text: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    PublisherKey::from_spki(&STANDARD.decode(text).unwrap()).unwrap()
}

fn p256() -> PublisherKey {
    key(include_str!("../../../tests/vectors/model-signature/p256.pub.pem"))
}

fn p384() -> PublisherKey {
    key(include_str!("../../../tests/vectors/model-signature/p384.pub.pem"))
}

fn verify(bundle: &Value, key: &PublisherKey) -> Result<SignedModel, ModelSignatureError> {
    SignedModel::verify(&serde_json::to_vec(bundle).unwrap(), key)
}

fn file() -> Value {
    serde_json::from_str(FILE).unwrap()
}

#[test]
fn a_genuine_signature_names_the_files_of_the_model() {
    let weights = Sha256Digest::of(&[WEIGHTS]);
    let model = SignedModel::verify(FILE.as_bytes(), &p256()).unwrap();
    assert_eq!((model.name(), model.files(), model.file(&weights)), ("weights.gguf", 1, Some(".")));
    let model = SignedModel::verify(FOLDER.as_bytes(), &p384()).unwrap();
    assert_eq!((model.name(), model.files(), model.file(&weights)), ("folder", 2, Some("weights.gguf")));
    assert_eq!(model.file(&Sha256Digest::of(&[b"other weights"])), None);
}

#[test]
fn another_key_and_every_change_are_refused() {
    let refused = Err(ModelSignatureError::Signature);
    assert_eq!(verify(&file(), &p384()), refused);
    let mut swapped = file();
    let other: Value = serde_json::from_str(FOLDER).unwrap();
    swapped["dsseEnvelope"]["payload"] = other["dsseEnvelope"]["payload"].clone();
    assert_eq!(verify(&swapped, &p256()), refused);
    let payload = STANDARD.decode(file()["dsseEnvelope"]["payload"].as_str().unwrap()).unwrap();
    for at in 0..payload.len() {
        let mut payload = payload.clone();
        payload[at] ^= 1;
        let mut changed = file();
        changed["dsseEnvelope"]["payload"] = STANDARD.encode(payload).into();
        assert_eq!(verify(&changed, &p256()), refused, "byte {at}");
    }
}

#[test]
fn a_certificate_is_refused_by_name() {
    for member in ["certificate", "x509CertificateChain"] {
        let mut keyless = file();
        keyless["verificationMaterial"] = json!({ member: { "rawBytes": "AAAA" }, "tlogEntries": [] });
        assert_eq!(verify(&keyless, &p256()), Err(ModelSignatureError::Certificate));
        // A key beside it changes nothing.
        keyless["verificationMaterial"]["publicKey"] = json!({ "hint": "" });
        assert_eq!(verify(&keyless, &p256()), Err(ModelSignatureError::Certificate));
    }
}

#[test]
fn what_is_no_bundle_is_refused_before_it_is_verified() {
    let form = Err(ModelSignatureError::Form);
    let long = vec![b' '; MAX_MODEL_SIGNATURE_BYTES + 1];
    let error = ModelSignatureError::TooLong(long.len());
    assert_eq!(SignedModel::verify(&long, &p256()), Err(error));
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    for bytes in [&b""[..], b"{}", b"[]", b"null", &deep, &FILE.as_bytes()[..FILE.len() - 1]] {
        assert_eq!(SignedModel::verify(bytes, &p256()), form);
    }
    let twice = FILE.replacen("{\"mediaType\"", "{\"mediaType\":\"x\",\"mediaType\"", 1);
    assert_eq!(SignedModel::verify(twice.as_bytes(), &p256()), form);
    let signature = file()["dsseEnvelope"]["signatures"][0].clone();
    for (pointer, value) in [
        ("/mediaType", json!("application/vnd.dev.sigstore.bundle.v0.2+json")),
        ("/verificationMaterial", json!({ "tlogEntries": [] })),
        ("/dsseEnvelope/payloadType", json!("application/json")),
        ("/dsseEnvelope/payload", json!("%")),
        ("/dsseEnvelope/signatures", json!([])),
        ("/dsseEnvelope/signatures", json!([signature, signature])),
        ("/dsseEnvelope/signatures/0/sig", json!("%")),
    ] {
        let mut bundle = file();
        *bundle.pointer_mut(pointer).unwrap() = value;
        assert_eq!(verify(&bundle, &p256()), form, "{pointer}");
    }
}

#[test]
fn a_statement_must_be_of_whole_files_with_sha256_and_agree_with_itself() {
    let payload = STANDARD.decode(file()["dsseEnvelope"]["payload"].as_str().unwrap()).unwrap();
    let genuine: Value = serde_json::from_slice(&payload).unwrap();
    let of = |statement: &Value| SignedModel::of_statement(&serde_json::to_vec(statement).unwrap());
    assert!(of(&genuine).is_ok());
    let listed = include_bytes!("../../../tests/vectors/model-signature/statement.json");
    assert_eq!(SignedModel::check_statement(listed), Ok(()));
    let other = |what, actual: &str| ModelSignatureError::Other { what, actual: actual.to_owned() };
    let resource = genuine["predicate"]["resources"][0].clone();
    let digest = resource["digest"].as_str().unwrap().to_owned();
    for (pointer, value, expected) in [
        ("/_type", json!("https://in-toto.io/Statement/v0.1"), {
            other("statement", "https://in-toto.io/Statement/v0.1")
        }),
        ("/predicateType", json!("https://slsa.dev/provenance/v1\n"), {
            other("predicate", "https://slsa.dev/provenance/v1?")
        }),
        ("/predicate/serialization/method", json!("shards"), other("serialization", "shards")),
        ("/predicate/resources/0/algorithm", json!("blake2b"), other("digest", "blake2b")),
        ("/predicate/resources/0/digest", json!("00"), ModelSignatureError::Statement),
        ("/predicate/resources/0/digest", json!("0".repeat(64)), ModelSignatureError::Inconsistent),
        ("/predicate/resources", json!([resource, resource]), ModelSignatureError::Inconsistent),
        ("/predicate/resources", json!([]), ModelSignatureError::Inconsistent),
        ("/subject/0/digest/sha256", json!(digest), ModelSignatureError::Inconsistent),
        ("/subject", json!([]), ModelSignatureError::Statement),
        ("/subject", json!([genuine["subject"][0], genuine["subject"][0]]), ModelSignatureError::Statement),
    ] {
        let mut statement = genuine.clone();
        *statement.pointer_mut(pointer).unwrap() = value;
        assert_eq!(of(&statement), Err(expected), "{pointer}");
    }
}

#[test]
fn a_key_is_on_p256_or_p384_in_one_spelling() {
    let spki = |pem: &str| {
        let text: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        STANDARD.decode(text).unwrap()
    };
    let genuine = spki(include_str!("../../../tests/vectors/model-signature/p256.pub.pem"));
    let mut compressed = genuine.clone();
    compressed[P256_PREFIX.len()] = 2;
    for bad in [&[][..], &genuine[..genuine.len() - 1], &[genuine.as_slice(), &[0]].concat(), &compressed] {
        assert_eq!(PublisherKey::from_spki(bad).err(), Some(ModelSignatureError::Key));
    }
}
