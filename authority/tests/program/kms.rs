//! A share that is sealed to a key of KMS, and the policy of that key.

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleanroom_kms::SealedForKms;
use serde_json::Value;

use crate::folder::Folder;

const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

/// A folder with the shares of a bank and of KMS, and the public half of a key of KMS in `aws.pub`.
fn world() -> (Folder, PrivateDecryptingKey) {
    let folder = Folder::new();
    let model = "cd".repeat(32);
    folder.ok(&format!(
        "broker secret new --model-sha256 {model} --needed 2 --broker bank --broker aws --out keys"
    ));
    let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let public: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    folder.write("aws.pub", (STANDARD.encode(public.as_ref()) + "\n").as_bytes());
    (folder, key)
}

fn seal(key: &str, out: &str) -> String {
    format!("broker kms seal keys/aws.share --public-key {key} --key-arn {KEY} --out {out}")
}

#[test]
fn the_file_for_hosts_holds_the_share_for_the_key_of_kms_alone() {
    let (folder, key) = world();
    let said = folder.json(&seal("aws.pub", "aws.kms.json"));
    let shown = folder.json("broker secret show keys/aws.share");
    assert_eq!((&said["broker"], &said["commitment"]), (&shown["broker"], &shown["commitment"]));
    let file = folder.read("aws.kms.json");
    let sealed = SealedForKms::read(&file).unwrap();
    assert_eq!((sealed.broker.as_str(), sealed.key.as_str()), ("aws", KEY));
    assert_eq!(said["model_sha256"], sealed.model.to_string());
    let key = OaepPrivateDecryptingKey::new(key).unwrap();
    let mut room = vec![0; key.min_output_size()];
    let opened = key.decrypt(&OAEP_SHA256_MGF1SHA256, &sealed.ciphertext, &mut room, None).unwrap();
    let share: Value = serde_json::from_slice(&folder.read("keys/aws.share")).unwrap();
    let hex: String = opened.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(share["share"], hex);
    assert!(!String::from_utf8(file).unwrap().contains(&hex));

    // PEM does as well. A file that exists stays.
    let base64 = String::from_utf8(folder.read("aws.pub")).unwrap();
    folder.write(
        "aws.pem",
        format!("-----BEGIN PUBLIC KEY-----\n{base64}-----END PUBLIC KEY-----\n").as_bytes(),
    );
    folder.ok(&seal("aws.pem", "again.json"));
    assert_eq!(folder.run(&seal("aws.pub", "aws.kms.json")).status, 3);
}

#[test]
fn only_an_rsa_key_of_kms_is_sealed_to() {
    let (folder, _) = world();
    folder.ok("key new offline.pem");
    folder.write("rubbish", b"rubbish!");
    folder.write("empty", b"");
    for key in ["offline.pem.pub", "rubbish", "empty", "keys/aws.share"] {
        assert_eq!(folder.refused(&seal(key, "no.json")), "kms-key", "{key}");
    }
    // The file of a share comes first, and an alias is no key.
    assert_eq!(folder.refused(&seal("aws.pub", "no.json").replace("aws.share", "data.key")), "share");
    let alias = seal("aws.pub", "no.json").replace("key/1234", "alias/1234");
    assert_eq!(folder.run(&alias).status, 2);
    assert!(!folder.exists("no.json"));
}

#[test]
fn the_policy_names_the_images_of_a_release_that_counts() {
    let folder = Folder::new();
    folder.released();
    let line = "broker kms policy --root root.json --release release.json \
                --administrator arn:aws:iam::111122223333:role/keys --host arn:aws:iam::444455556666:role/host";
    let policy: Value = serde_json::from_str(&folder.ok(line)).unwrap();
    assert_eq!(folder.json(line), policy);
    let pcr = "ab".repeat(48);
    let registers = &policy["Statement"][1]["Condition"]["StringEqualsIgnoreCase"];
    assert_eq!(registers["kms:RecipientAttestation:ImageSha384"], pcr);
    assert_eq!(registers["kms:RecipientAttestation:PCR2"], pcr);
    assert_eq!(policy["Statement"][2]["Effect"], "Deny");
    // A release that too few have signed says nothing about images.
    folder.ok(&format!("{} --out next.draft.json", Folder::first_release()));
    folder.ok("release sign next.draft.json --root root.json --key b.pem");
    assert_eq!(folder.refused(&line.replace("release.json", "next.json")), "threshold");
    assert_eq!(folder.run(&line.replace("role/keys", "root")).status, 2);
}
