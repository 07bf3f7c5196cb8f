//! A share that AWS KMS holds, from its sealing to the weights that it opens: the project's programs, and a
//! KMS that decides by the key policy that they print.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::session::Sessions;
use cleanroom_tests::ceremony::{Ceremony, Terms};
use cleanroom_tests::platform::model_id;
use cleanroom_tests::processes::{file, output};
use cleanroom_tests::wait;
use serde_json::{Value, json};

const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
/// The stand-in for AWS's command line.
const AWS: &str = "aws-kms";

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_and_kms_open_the_weights_together_and_kms_gives_nothing_to_another_image() {
    let mut ceremony = Ceremony::new(Terms { sealed: Some(2), ..Terms::default() });
    ceremony.serve(0);
    seal_to_kms(&ceremony);
    // The regulator's share is gone but for the file that KMS alone opens.
    std::fs::remove_file(ceremony.path("keys/regulator.share")).unwrap();
    let policy = ceremony.run(
        "broker kms policy --root roots --release release.json \
         --administrator arn:aws:iam::111122223333:role/keys --host arn:aws:iam::444455556666:role/host",
    );
    let mut other: Value = serde_json::from_str(&policy).unwrap();
    other["Statement"][1]["Condition"]["StringEqualsIgnoreCase"]["kms:RecipientAttestation:PCR2"] =
        json!("ab".repeat(48));
    std::fs::write(ceremony.path("kms/policy.json"), other.to_string()).unwrap();

    let aws = file(AWS);
    let further = ["--kms-share", "regulator.kms.json", "--aws-cli", aws.to_str().unwrap()];
    let mut host = ceremony.starting_host_with(true, &further);
    ceremony.serve_broker(0);
    wait::until_blocking("KMS has refused the image that its policy does not name", || {
        calls(&ceremony).contains(&"AccessDeniedException".to_owned())
    });
    assert!(!calls(&ceremony).contains(&"decrypted".to_owned()));

    std::fs::write(ceremony.path("kms/policy.json"), &policy).unwrap();
    let address = host.wait_for("ready: partners connect to ");
    wait::found("the sealed model serves", async || serves(&ceremony, &address).await.then_some(())).await;
    assert!(calls(&ceremony).contains(&"decrypted".to_owned()));

    // The host asks KMS for the share itself, without a document.
    let sealed: Value =
        serde_json::from_slice(&std::fs::read(ceremony.path("regulator.kms.json")).unwrap()).unwrap();
    let question = json!({
        "KeyId": KEY,
        "EncryptionAlgorithm": "RSAES_OAEP_SHA_256",
        "CiphertextBlob": sealed["ciphertext"],
    });
    let question = question.to_string();
    let arguments =
        ["kms", "decrypt", "--region", "eu-central-1", "--cli-binary-format", "base64", "--output", "json"];
    let arguments = [arguments.as_slice(), &["--cli-input-json", &question]].concat();
    let refused = output(AWS, ceremony.folder(), &arguments);
    assert!(!refused.status.success());
    assert!(String::from_utf8(refused.stderr).unwrap().contains("AccessDeniedException"));
}

/// Makes a key of KMS and seals the regulator's share to it, as its owner does.
fn seal_to_kms(ceremony: &Ceremony) {
    let key = PrivateDecryptingKey::generate(KeySize::Rsa3072).unwrap();
    let private: Pkcs8V1Der<'_> = key.as_der().unwrap();
    let public: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    std::fs::create_dir(ceremony.path("kms")).unwrap();
    std::fs::write(ceremony.path("kms/key.der"), private.as_ref()).unwrap();
    std::fs::write(ceremony.path("aws.pub"), STANDARD.encode(public.as_ref()) + "\n").unwrap();
    ceremony.run(&format!(
        "broker kms seal keys/regulator.share --public-key aws.pub --key-arn {KEY} --out regulator.kms.json"
    ));
}

/// What came of each call of KMS.
fn calls(ceremony: &Ceremony) -> Vec<String> {
    let log = std::fs::read_to_string(ceremony.path("kms/log")).unwrap_or_default();
    log.lines().map(str::to_owned).collect()
}

/// Whether an enclave at `address` proves that it has the model, and may serve.
async fn serves(ceremony: &Ceremony, address: &str) -> bool {
    let party = RelyingParty::new(ceremony.identity(), ceremony.policy("roots/1.json"), model_id()).unwrap();
    Sessions::new(party, address.parse().unwrap()).get().await.is_ok()
}
