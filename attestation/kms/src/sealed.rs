//! The file of a share that is sealed to a key of KMS. Nothing in it is secret: only KMS opens it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::Id;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::arn::KeyArn;

/// The longest file, in bytes.
pub const FILE_LIMIT: usize = 4 << 10;

/// The lengths of what RSA keys of KMS encrypt, in bytes: 2048, 3072 and 4096 bits.
const CIPHERTEXT_BYTES: [usize; 3] = [256, 384, 512];

/// RSAES-OAEP with SHA-256, as KMS calls it: the way in which the share is sealed to KMS's key, and the only
/// one in which KMS seals to an enclave.
const ALGORITHM: &str = "RSAES_OAEP_SHA_256";

/// A share that is sealed to a key of KMS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedForKms {
    /// The model whose key it is a share of.
    pub model: Sha256Digest,
    /// The name that the release gives to whoever holds this share.
    pub broker: Id,
    /// The key that opens it.
    pub key: KeyArn,
    /// The share, encrypted.
    pub ciphertext: Vec<u8>,
}

/// As the file has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    purpose: String,
    model_sha256: Sha256Digest,
    broker: Id,
    kms_key: KeyArn,
    ciphertext: String,
}

/// What the key is for, as in the files of shares.
const PURPOSE: &str = "weights";

/// Why bytes are no such file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a share as `cleanroom-authority broker kms seal` writes it: {0}")]
pub struct SealedForKmsError(String);

impl SealedForKms {
    /// Reads a file.
    ///
    /// # Errors
    /// [`SealedForKmsError`] says what is wrong.
    pub fn read(bytes: &[u8]) -> Result<Self, SealedForKmsError> {
        let wrong = |what: &str| SealedForKmsError(what.to_owned());
        if bytes.len() > FILE_LIMIT {
            return Err(wrong("it is too long"));
        }
        let form: Form =
            serde_json::from_slice(bytes).map_err(|error| SealedForKmsError(error.to_string()))?;
        let Form { purpose, model_sha256: model, broker, kms_key: key, ciphertext } = form;
        if purpose != PURPOSE {
            return Err(wrong("it is for another purpose"));
        }
        let ciphertext = STANDARD.decode(ciphertext).map_err(|_| wrong("its ciphertext is no Base64"))?;
        if !CIPHERTEXT_BYTES.contains(&ciphertext.len()) {
            return Err(wrong("its ciphertext has the length of no RSA key of KMS"));
        }
        Ok(Self { model, broker, key, ciphertext })
    }

    /// The file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { model, broker, key, ciphertext } = self;
        let form = Form {
            purpose: PURPOSE.to_owned(),
            model_sha256: *model,
            broker: broker.clone(),
            kms_key: key.clone(),
            ciphertext: STANDARD.encode(ciphertext),
        };
        // A type of texts and digests serialises always.
        let mut bytes = serde_json::to_vec_pretty(&form).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// The question to KMS, `Decrypt` with `Recipient`, as the JSON that `aws kms decrypt --cli-input-json`
    /// takes.
    #[must_use]
    pub fn request(&self, document: &[u8]) -> String {
        let Self { model: _, broker: _, key, ciphertext } = self;
        json!({
            "KeyId": key,
            "EncryptionAlgorithm": ALGORITHM,
            "CiphertextBlob": STANDARD.encode(ciphertext),
            "Recipient": {
                "KeyEncryptionAlgorithm": ALGORITHM,
                "AttestationDocument": STANDARD.encode(document),
            },
        })
        .to_string()
    }
}
