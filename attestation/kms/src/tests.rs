//! What files, questions, answers and policies must keep.

use aws_lc_rs::cipher::{AES_256, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{List, Release};
use cleanroom_forge::kms::Envelope as Forged;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

fn share() -> SealedForKms {
    SealedForKms {
        model: Sha256Digest::of(&[b"model"]),
        broker: "aws".parse().unwrap(),
        key: KEY.parse().unwrap(),
        ciphertext: vec![7; 384],
    }
}

/// An answer that is encrypted to a new key.
fn forged() -> Forged {
    let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let public: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    Forged::seal(public.as_ref(), &[9; 33])
}

fn fields_of(message: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    Envelope::read(message).map(|envelope| envelope.fields())
}

#[test]
fn keys_are_named_in_full_and_nobody_is_named_by_a_pattern() {
    let key: KeyArn = KEY.parse().unwrap();
    assert_eq!((key.as_str(), key.region()), (KEY, "eu-central-1"));
    for wrong in [
        "",
        "1234abcd-12ab-34cd-56ef-1234567890ab",
        "arn:aws:kms:eu-central-1:111122223333:alias/weights",
        "arn:aws:kms:eu-central-1:111122223333:key/",
        "arn:aws:kms:eu-central-1:111122223333:key/1/2",
        "arn:aws:kms:eu-central-1:111122223333:key/*",
        "arn:aws:kms::111122223333:key/1",
        "arn:aws:kms:--endpoint-url=x:111122223333:key/1",
        "arn:aws:kms:-x:111122223333:key/1",
        "arn:aws:kms:eu-central-1:1111:key/1",
        "arn:aws:s3:eu-central-1:111122223333:key/1",
        "arn:aws:kms:eu-central-1:111122223333:key/1:2",
        &format!("arn:aws:kms:eu-central-1:111122223333:key/{}", "a".repeat(512)),
    ] {
        assert_eq!(wrong.parse::<KeyArn>(), Err(ArnError::Key), "{wrong}");
    }
    for right in ["arn:aws:iam::111122223333:role/a/path/host", "arn:aws-us-gov:iam::111122223333:user/me@x"]
    {
        assert_eq!(right.parse::<PrincipalArn>().unwrap().as_str(), right);
    }
    for wrong in [
        "*",
        "111122223333",
        "arn:aws:iam::111122223333:root",
        "arn:aws:iam::111122223333:role/*",
        "arn:aws:iam::*:role/host",
        "arn:aws:iam::111122223333:role/",
        "arn:aws:sts::111122223333:assumed-role/host/i-0",
    ] {
        assert_eq!(wrong.parse::<PrincipalArn>(), Err(ArnError::Principal), "{wrong}");
    }
}

#[test]
fn a_file_is_read_back_and_everything_else_is_refused() {
    let share = share();
    let bytes = share.to_bytes();
    assert!(bytes.len() < FILE_LIMIT);
    assert_eq!(SealedForKms::read(&bytes).as_ref(), Ok(&share));
    let form: Value = serde_json::from_slice(&bytes).unwrap();
    let with = |name: &str, value: Value| {
        let mut form = form.clone();
        form[name] = value;
        SealedForKms::read(&serde_json::to_vec(&form).unwrap())
    };
    assert!(with("broker", json!("utility")).is_ok());
    for (name, value) in [
        ("purpose", json!("records")),
        ("model_sha256", json!("00")),
        ("broker", json!("a b")),
        ("kms_key", json!("alias/weights")),
        ("ciphertext", json!("?")),
        ("ciphertext", json!(STANDARD.encode([7; 33]))),
        ("ciphertext", json!(STANDARD.encode([7; 4096]))),
        ("more", json!(1)),
    ] {
        assert!(with(name, value.clone()).is_err(), "{name} {value}");
    }
    assert!(SealedForKms::read(&bytes[..bytes.len() / 2]).is_err());
    let long = [bytes.as_slice(), &vec![b' '; FILE_LIMIT]].concat();
    assert!(SealedForKms::read(&long).unwrap_err().to_string().contains("too long"));
}

#[test]
fn the_question_asks_for_this_enclave_alone() {
    let request: Value = serde_json::from_str(&share().request(b"a document")).unwrap();
    let algorithm = "RSAES_OAEP_SHA_256";
    let expected = json!({
        "KeyId": KEY,
        "EncryptionAlgorithm": algorithm,
        "CiphertextBlob": STANDARD.encode([7; 384]),
        "Recipient": { "KeyEncryptionAlgorithm": algorithm, "AttestationDocument": STANDARD.encode("a document") },
    });
    assert_eq!(request, expected);
}

#[test]
fn an_answer_is_read_and_one_that_tells_the_host_the_share_is_refused() {
    let forged = forged();
    let answer = |json: Value| read_answer(&serde_json::to_vec(&json).unwrap());
    let right = STANDARD.encode(forged.message(48));
    let (key, algorithm) = (KEY, "RSAES_OAEP_SHA_256");
    let good = json!({ "KeyId": key, "EncryptionAlgorithm": algorithm, "CiphertextForRecipient": right });
    assert_eq!(answer(good).unwrap().fields(), forged.fields());
    for nothing in [json!(null), json!("")] {
        let empty = json!({ "Plaintext": nothing, "CiphertextForRecipient": right });
        assert_eq!(answer(empty).unwrap().fields(), forged.fields());
    }
    let told = json!({ "Plaintext": "c2hhcmU=", "CiphertextForRecipient": right });
    assert_eq!(answer(told), Err(AnswerError::Plaintext));
    assert_eq!(answer(json!({ "Plaintext": "c2hhcmU=" })), Err(AnswerError::Plaintext));
    assert_eq!(answer(json!({ "KeyId": key })), Err(AnswerError::Nothing));
    assert_eq!(answer(json!({ "CiphertextForRecipient": "?" })), Err(AnswerError::Base64));
    assert_eq!(answer(json!([])), Err(AnswerError::Json));
    assert_eq!(read_answer(b"An error"), Err(AnswerError::Json));
    // Two members of one name: which one counts is nobody's to choose.
    let twice = format!("{{\"CiphertextForRecipient\":\"{right}\",\"CiphertextForRecipient\":\"{right}\"}}");
    assert_eq!(read_answer(twice.as_bytes()), Err(AnswerError::Json));
    let cut = json!({ "CiphertextForRecipient": STANDARD.encode(&forged.message(48)[..100]) });
    assert!(matches!(answer(cut), Err(AnswerError::Envelope(_))));
    assert_eq!(read_answer(&vec![b' '; ANSWER_LIMIT + 1]), Err(AnswerError::TooLong(ANSWER_LIMIT + 1)));
}

#[test]
fn messages_are_read_with_either_form_of_lengths_and_with_the_content_in_pieces() {
    let forged = forged();
    for message in [forged.message(48), forged.message(16), forged.message(1), forged.der()] {
        assert_eq!(fields_of(&message), Ok(forged.fields()));
    }
}

/// OpenSSL wrote the message: `tests/vectors/kms/generate`.
#[test]
fn a_message_of_another_implementation_is_read_and_opens() {
    let message = include_bytes!("../../../tests/vectors/kms/message.ber");
    let key = include_bytes!("../../../tests/vectors/kms/key.der");
    let Envelope { encrypted_key, initialisation_vector, mut content } = Envelope::read(message).unwrap();
    let key = OaepPrivateDecryptingKey::new(PrivateDecryptingKey::from_pkcs8(key).unwrap()).unwrap();
    let mut room = vec![0; key.min_output_size()];
    let key = key.decrypt(&OAEP_SHA256_MGF1SHA256, &encrypted_key, &mut room, None).unwrap();
    let key = PaddedBlockDecryptingKey::cbc_pkcs7(UnboundCipherKey::new(&AES_256, key).unwrap()).unwrap();
    let context = aws_lc_rs::cipher::DecryptionContext::Iv128(initialisation_vector.into());
    let opened = key.decrypt(&mut content, context).unwrap();
    assert_eq!(opened, b"a share of thirty-three bytes....");
}

#[test]
fn what_is_not_the_message_that_kms_writes_is_refused() {
    let forged = forged();
    for message in [forged.message(16), forged.der()] {
        for cut in 0..message.len() {
            assert!(fields_of(&message[..cut]).is_err(), "cut at {cut}");
        }
        let longer = [message.as_slice(), &[0]].concat();
        assert_eq!(fields_of(&longer), Err(EnvelopeError::Trailing));
        // A changed byte gives other fields, or an error that says what was expected.
        for at in 0..message.len() {
            let mut changed = message.clone();
            changed[at] ^= 0x01;
            if let Err(error) = fields_of(&changed) {
                assert!(error.to_string().starts_with("expected"), "{error}");
            }
        }
    }
    let too_long = vec![0x30; ENVELOPE_LIMIT + 1];
    assert_eq!(fields_of(&too_long), Err(EnvelopeError::TooLong(ENVELOPE_LIMIT + 1)));
    // A length that is announced reserves nothing.
    assert!(fields_of(&[0x30, 0x82, 0xff, 0xff]).is_err());
    assert!(fields_of(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]).is_err());
    let long = |content: usize| Forged { content: vec![7; content], ..forged.clone() };
    assert!(fields_of(&long(CONTENT_LIMIT).message(100)).is_ok());
    assert!(fields_of(&long(CONTENT_LIMIT + 1).message(100)).is_err());
    assert!(fields_of(&long(CONTENT_LIMIT + 1).der()).is_err());
    let short = Forged { encrypted_key: vec![7; 255], ..forged.clone() };
    let error = fields_of(&short.der()).unwrap_err().to_string();
    assert!(error.contains("encrypted key of 256 bytes"), "{error}");
}

proptest! {
    #[test]
    fn no_bytes_stop_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Envelope::read(&bytes);
        let _ = read_answer(&bytes);
        let _ = SealedForKms::read(&bytes);
    }
}

/// The release of the schema's example.
fn release() -> Release {
    serde_json::from_str(include_str!("../../../docs/schema/release.example.json")).unwrap()
}

fn policy(release: &Release) -> Value {
    let administrator = "arn:aws:iam::111122223333:role/keys".parse().unwrap();
    let host = "arn:aws:iam::444455556666:role/host".parse().unwrap();
    key_policy(release, &administrator, &host).unwrap()
}

#[test]
fn a_policy_lets_the_host_decrypt_for_the_releases_images_and_nobody_else() {
    let release = release();
    let policy = policy(&release);
    let [administration, decrypt, deny] = policy["Statement"].as_array().unwrap().as_slice() else {
        panic!()
    };
    let actions = administration["Action"].as_array().unwrap();
    assert!(actions.iter().all(|action| action != "kms:Decrypt" && action != "kms:CreateGrant"));
    assert_eq!(administration["Principal"]["AWS"], "arn:aws:iam::111122223333:role/keys");
    let (image, deployment) = (&release.images[0], &release.deployments.as_ref().unwrap()[0]);
    let registers = json!({
        "kms:RecipientAttestation:ImageSha384": image.pcr0,
        "kms:RecipientAttestation:PCR1": image.pcr1,
        "kms:RecipientAttestation:PCR2": image.pcr2,
        "kms:RecipientAttestation:PCR3": deployment.pcr3,
        "kms:RecipientAttestation:PCR4": deployment.pcr4,
        "kms:RecipientAttestation:PCR8": deployment.pcr8,
    });
    let expected = json!({
        "Effect": "Allow",
        "Principal": { "AWS": "arn:aws:iam::444455556666:role/host" },
        "Action": "kms:Decrypt",
        "Resource": "*",
        "Condition": { "StringEqualsIgnoreCase": registers },
    });
    assert_eq!(*decrypt, expected);
    let condition =
        json!({ "StringNotEqualsIgnoreCase": { "kms:RecipientAttestation:ImageSha384": [image.pcr0] } });
    assert_eq!((&deny["Effect"], &deny["Principal"]), (&json!("Deny"), &json!("*")));
    assert_eq!(deny["Condition"], condition);
}

#[test]
fn each_image_has_a_statement_in_each_deployment_and_a_policy_has_a_limit() {
    let base = release();
    let images = |count: usize| -> Vec<_> { vec![base.images[0].clone(); count] };
    let deployment = &base.deployments.as_ref().unwrap()[0];
    let with = |count: usize, deployments: usize| Release {
        images: List::new(images(count)).unwrap(),
        deployments: (deployments > 0).then(|| List::new(vec![deployment.clone(); deployments]).unwrap()),
        ..base.clone()
    };
    for (count, deployments, statements) in [(1, 0, 3), (2, 0, 4), (2, 3, 8)] {
        let policy = policy(&with(count, deployments));
        assert_eq!(policy["Statement"].as_array().unwrap().len(), statements);
    }
    // Without deployments an image may run anywhere.
    assert!(!policy(&with(1, 0)).to_string().contains("PCR3"));
    let principal: PrincipalArn = "arn:aws:iam::111122223333:role/keys".parse().unwrap();
    let refused = |release: &Release| key_policy(release, &principal, &principal).unwrap_err();
    assert!(matches!(refused(&with(40, 4)), PolicyError::TooLong(_)));
    assert_eq!(refused(&with(0, 0)), PolicyError::NoImage);
}
