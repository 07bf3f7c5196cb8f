use serde_json::{Value, json};

use super::*;
use crate::channel::ModelId;
use crate::digest::{Sha256Digest, Sha384Digest};
use crate::log::Signer;
use crate::log::boot_of;
use crate::safeguard::{SafeguardAction, SafeguardVerdict};

const PROMPT: &[u8] = b"{\"prompt\":\"yes\"}";

fn salt() -> Salt {
    Salt::from_bytes([7; 32])
}

fn receipt(signer: &Signer) -> Receipt {
    Receipt {
        version: 1,
        id: "chatcmpl-1".parse().unwrap(),
        boot: boot_of(&signer.spki()),
        index: 3,
        session: Sha384Digest::of(&[b"session"]),
        partner: Sha256Digest::of(&[b"partner"]),
        number: 2,
        previous_sha256: Some(Sha256Digest::of(&[b"one"])),
        model: ModelId::new("demo").unwrap(),
        model_sha256: Sha256Digest::of(&[b"model"]),
        release_sha256: None,
        lease_sha256: None,
        request: Commitment::to(PROMPT, Part::Request, &salt()),
        response: Commitment::to(b"answer", Part::Response, &salt()),
        finish: Finish::Halted,
        code: Some("model-denied".to_owned()),
        safeguard: None,
        record_sha256: None,
        started_ms: 1,
        ended_ms: 2,
    }
}

fn signed(signer: &Signer) -> SignedReceipt {
    SignedReceipt::sign(receipt(signer), &signer.spki(), |message| signer.sign(message)).unwrap()
}

#[test]
fn a_receipt_is_believed_under_its_own_key_alone() {
    let (signer, other) = (Signer::new(1), Signer::new(2));
    let signed = signed(&signer);
    let json = signed.to_json();
    assert_eq!(SignedReceipt::verify(&json, &signer.spki()), Ok(signed));
    assert_eq!(SignedReceipt::verify(&json, &other.spki()), Err(ReceiptError::Signature));
    // Another enclave's key may sign what it likes, but not in this one's name.
    let stolen = SignedReceipt::sign(receipt(&signer), &other.spki(), |message| other.sign(message)).unwrap();
    assert_eq!(SignedReceipt::verify(&stolen.to_json(), &other.spki()), Err(ReceiptError::OtherBoot));
    assert!(SignedReceipt::sign(receipt(&signer), &signer.spki(), |message| other.sign(message)).is_err());
}

#[test]
fn every_byte_of_the_payload_is_signed() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let signer = Signer::new(1);
    let envelope: Value = serde_json::from_slice(&signed(&signer).to_json()).unwrap();
    let payload = STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
    for at in 0..payload.len() {
        let mut changed = payload.clone();
        changed[at] ^= 1;
        let mut envelope = envelope.clone();
        envelope["payload"] = json!(STANDARD.encode(&changed));
        let bytes = serde_json::to_vec(&envelope).unwrap();
        assert_eq!(SignedReceipt::verify(&bytes, &signer.spki()), Err(ReceiptError::Signature), "byte {at}");
    }
    let mut two = envelope.clone();
    two["signatures"] = json!([envelope["signatures"][0], envelope["signatures"][0]]);
    assert!(SignedReceipt::verify(&serde_json::to_vec(&two).unwrap(), &signer.spki()).is_err());
    let mut other_type = envelope;
    other_type["payloadType"] = json!("application/vnd.cleanroom.lease.v1+json");
    assert!(SignedReceipt::verify(&serde_json::to_vec(&other_type).unwrap(), &signer.spki()).is_err());
}

#[test]
fn a_payload_of_another_form_is_none() {
    let good: Value = serde_json::from_slice(&receipt(&Signer::new(1)).to_payload()).unwrap();
    let read = |value: &Value| Receipt::from_payload(&serde_json::to_vec(value).unwrap());
    assert!(read(&good).is_some());
    for (member, value) in [
        ("version", json!(2)),
        ("id", json!("a b")),
        ("id", json!("")),
        ("number", json!(0)),
        ("number", json!(1)),
        ("previous_sha256", Value::Null),
        ("release_sha256", Value::Null),
        ("finish", json!("finished")),
        ("finish", json!("other")),
        ("code", json!("A")),
        ("code", json!("x".repeat(65))),
        ("ended_ms", json!(0)),
        ("more", json!(1)),
    ] {
        let mut bad = good.clone();
        bad[member] = value;
        assert_eq!(read(&bad), None, "{bad}");
    }
}

#[test]
fn what_the_safeguards_said_is_read_strictly_and_fits_at_its_longest() {
    let signer = Signer::new(1);
    let digest = Sha256Digest::of(&[b"policy"]);
    let rules: Vec<String> = (0..16).map(|rule| format!("{rule:0>64}")).collect();
    let longest = Receipt {
        id: "a".repeat(64).parse().unwrap(),
        model: ModelId::new(&"m".repeat(ModelId::MAX_BYTES)).unwrap(),
        release_sha256: Some(digest),
        lease_sha256: Some(digest),
        code: Some("c".repeat(64)),
        safeguard: Some(SafeguardVerdict {
            policies_sha256: vec![digest, digest],
            action: SafeguardAction::Refuse,
            rules: rules.clone(),
        }),
        record_sha256: Some(digest),
        started_ms: u64::MAX,
        ended_ms: u64::MAX,
        ..receipt(&signer)
    };
    let signed = SignedReceipt::sign(longest, &signer.spki(), |message| signer.sign(message)).unwrap();
    assert!(SignedReceipt::verify(&signed.to_json(), &signer.spki()).is_ok());
    let good: Value = serde_json::from_slice(&signed.receipt().to_payload()).unwrap();
    for (member, value) in [
        ("policies_sha256", json!([])),
        ("policies_sha256", json!([digest, digest, digest])),
        ("action", json!("allow")),
        ("action", json!("warn")),
        ("rules", json!([])),
        ("rules", json!([rules[0].clone() + "0"])),
        ("rules", json!(["a text"])),
        ("rules", json!([""])),
        ("rules", json!(vec!["rule"; 17])),
        ("more", json!(1)),
    ] {
        let mut bad = good.clone();
        bad["safeguard"][member] = value;
        assert!(Receipt::from_payload(bad.to_string().as_bytes()).is_none(), "{member}: {bad}");
    }
    let mut bad = good;
    bad["safeguard"] = Value::Null;
    assert!(Receipt::from_payload(bad.to_string().as_bytes()).is_none());
}

#[test]
fn a_commitment_opens_with_its_salt_and_text_and_cannot_be_guessed_without_the_salt() {
    let signed = signed(&Signer::new(1));
    assert_eq!(signed.opens(Part::Request, PROMPT, &salt()), Ok(()));
    assert_eq!(signed.opens(Part::Response, b"answer", &salt()), Ok(()));
    assert_eq!(signed.opens(Part::Request, b"other", &salt()), Err(ReceiptError::Request));
    assert_eq!(signed.opens(Part::Response, PROMPT, &salt()), Err(ReceiptError::Response));
    assert!(signed.opens(Part::Request, PROMPT, &Salt::from_bytes([8; 32])).is_err());

    // A prompt out of a hundred. Whoever has the receipt and no salt tries each of them.
    let words: Vec<String> = (0..99).map(|n| format!("{{\"prompt\":\"{n}\"}}")).collect();
    let guesses = || words.iter().map(String::as_bytes).chain([PROMPT]);
    let committed = signed.receipt().request.sha256;
    let guessed =
        |salt: &Salt| guesses().find(|guess| Commitment::to(guess, Part::Request, salt).sha256 == committed);
    assert_eq!(guessed(&Salt::from_bytes([0; 32])), None);
    assert_eq!(guesses().find(|guess| Sha256Digest::of(&[guess]) == committed), None);
    // The same search finds it once the salt is known: it is the salt that hides it.
    assert_eq!(guessed(&salt()), Some(PROMPT));
    // The salt of the response is of no use for the request.
    let response_salt = salt().of(Part::Response);
    let found = guesses().find(|guess| {
        let mut committer = Committer::with_part_salt(Part::Request, &response_salt);
        committer.update(guess);
        committer.finish().sha256 == committed
    });
    assert_eq!(found, None);
}

#[test]
fn what_is_delivered_is_read_back() {
    let signer = Signer::new(1);
    let envelope = signed(&signer).to_json();
    let json = Delivered { envelope, salt: salt() }.to_json();
    assert!(!json.contains('\n'));
    let delivered = Delivered::parse(json.as_bytes()).unwrap();
    assert_eq!(delivered.salt, salt());
    assert!(SignedReceipt::verify(&delivered.envelope, &signer.spki()).is_ok());
    for bad in ["", "{}", "[]", r#"{"receipt":{},"salt":"AA=="}"#, r#"{"receipt":{},"salt":"!"}"#] {
        assert!(Delivered::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(Delivered::parse(&vec![b' '; MAX_DELIVERED_BYTES + 1]).is_err());
}
