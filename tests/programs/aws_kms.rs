//! AWS's command line with KMS behind it, as far as a host needs both: `aws kms decrypt` with an enclave's
//! document. It works in the folder where it is started, with the policy of its key in `kms/policy.json`, and
//! writes a line for each call into `kms/log`.
//!
//! It is as strict as KMS: it verifies the document, decides by the policy alone, and encrypts to the key in
//! the document. It is not KMS: who calls is always the same role, and the roots of security modules are
//! those that the test's brokers trust.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::release::{Envelope, Payload as _, PayloadType, Release};
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::{AcceptedEvidence, Expectation, appraise};
use cleanroom_forge::kms;
use serde_json::{Value, json};

/// The role that calls.
const CALLER: &str = "arn:aws:iam::444455556666:role/host";
const ALGORITHM: &str = "RSAES_OAEP_SHA_256";

type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let answer = decrypt(&std::env::args().collect::<Vec<_>>());
    let outcome = match &answer {
        Ok(_) => "decrypted".to_owned(),
        Err(error) => error.to_string(),
    };
    let log = std::fs::File::options().create(true).append(true).open("kms/log");
    if log.and_then(|mut log| writeln!(log, "{outcome}")).is_err() {
        return ExitCode::FAILURE;
    }
    match answer {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nAn error occurred ({error}) when calling the Decrypt operation: …");
            ExitCode::from(254)
        }
    }
}

/// What KMS says. An error is one of its codes, or what the program itself complains about.
fn decrypt(arguments: &[String]) -> Result<Value, Error> {
    let fixed =
        ["kms", "decrypt", "--region", "eu-central-1", "--cli-binary-format", "base64", "--output", "json"];
    let [_, options @ .., input, question] = arguments else { return Err("usage".into()) };
    if options != fixed || input != "--cli-input-json" {
        return Err("usage".into());
    }
    let question: Value = serde_json::from_str(question)?;
    let bytes = |value: &Value| -> Result<Vec<u8>, Error> {
        Ok(STANDARD.decode(value.as_str().ok_or("ValidationException")?)?)
    };
    let recipient = &question["Recipient"];
    let evidence = match recipient {
        Value::Null => None,
        _ if recipient["KeyEncryptionAlgorithm"] != ALGORITHM => return Err("ValidationException".into()),
        _ => Some(verify(&bytes(&recipient["AttestationDocument"])?)?),
    };
    let policy: Value = serde_json::from_slice(&std::fs::read("kms/policy.json")?)?;
    if !permits(&policy, evidence.as_ref()) {
        return Err("AccessDeniedException".into());
    }
    if question["EncryptionAlgorithm"] != ALGORITHM {
        return Err("InvalidCiphertextException".into());
    }
    let key =
        OaepPrivateDecryptingKey::new(PrivateDecryptingKey::from_pkcs8(&std::fs::read("kms/key.der")?)?)?;
    let mut room = vec![0; key.min_output_size()];
    let ciphertext = bytes(&question["CiphertextBlob"])?;
    let secret = key.decrypt(&OAEP_SHA256_MGF1SHA256, &ciphertext, &mut room, None);
    let secret = secret.map_err(|_| "InvalidCiphertextException")?;
    let mut answer = json!({ "KeyId": question["KeyId"], "EncryptionAlgorithm": ALGORITHM });
    match evidence {
        None => answer["Plaintext"] = STANDARD.encode(secret).into(),
        Some(evidence) => {
            let to = evidence.public_key().ok_or("ValidationException")?;
            answer["CiphertextForRecipient"] =
                STANDARD.encode(kms::Envelope::seal(to, secret).message(16)).into();
        }
    }
    Ok(answer)
}

/// A genuine document, or none.
fn verify(document: &[u8]) -> Result<AcceptedEvidence, Error> {
    let policy = Policy::from_toml(&std::fs::read_to_string("brokers.toml")?)?;
    let release = Envelope::parse(&std::fs::read(Path::new("release.json"))?, PayloadType::Release)?;
    let policy = policy.with_release(&Release::from_payload(release.payload())?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let now = Timestamp::from_millis(u64::try_from(now)?);
    let verdict = appraise(document, &policy, &Expectation::default(), now, None);
    verdict.accepted().cloned().map_err(|rejection| rejection.code().into())
}

/// Whether some statement allows the caller to decrypt with this document, and none denies it.
fn permits(policy: &Value, evidence: Option<&AcceptedEvidence>) -> bool {
    let register = |name: &str| -> Option<String> {
        let name = name.strip_prefix("kms:RecipientAttestation:")?;
        let index = if name == "ImageSha384" { 0 } else { name.strip_prefix("PCR")?.parse().ok()? };
        Some(evidence?.pcrs().enclave()?.get(index)?.to_string())
    };
    let all = |value: &Value| match value {
        Value::Array(several) => several.clone(),
        one => vec![one.clone()],
    };
    let holds = |operator: &str, key: &str, values: &Value| {
        let actual = register(key);
        let is_one = all(values)
            .iter()
            .filter_map(Value::as_str)
            .any(|value| actual.as_ref().is_some_and(|actual| actual.eq_ignore_ascii_case(value)));
        match operator {
            "StringEqualsIgnoreCase" => is_one,
            "StringNotEqualsIgnoreCase" => !is_one,
            // Nobody knows what it would mean, so it permits nothing.
            _ => false,
        }
    };
    let applies = |statement: &Value, effect: &str| {
        let names = |value: &Value, name: &str| all(value).iter().any(|one| one == name || one == "*");
        let principal = &statement["Principal"];
        let conditions = statement["Condition"].as_object().cloned().unwrap_or_default();
        statement["Effect"] == effect
            && names(&statement["Action"], "kms:Decrypt")
            && (principal == "*" || names(&principal["AWS"], CALLER))
            && conditions.iter().all(|(operator, keys)| {
                keys.as_object()
                    .is_some_and(|keys| keys.iter().all(|(key, values)| holds(operator, key, values)))
            })
    };
    let statements = all(&policy["Statement"]);
    statements.iter().any(|statement| applies(statement, "Allow"))
        && !statements.iter().any(|statement| applies(statement, "Deny"))
}
