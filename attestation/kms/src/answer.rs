//! KMS's answer to `Decrypt` with `Recipient`, as AWS's program prints it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::envelope::{Envelope, EnvelopeError};

/// The longest answer, in bytes.
pub const ANSWER_LIMIT: usize = 16 << 10;

/// What is read of the answer. KMS says more, and later versions may add to it.
#[derive(Deserialize)]
struct Form {
    /// Something only if KMS did not encrypt for an enclave. Beside `CiphertextForRecipient` KMS documents it
    /// as null or empty.
    #[serde(rename = "Plaintext")]
    plaintext: Option<String>,
    #[serde(rename = "CiphertextForRecipient")]
    ciphertext: Option<String>,
}

/// Why there is no share in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// KMS gave the share to whoever asked.
    #[error(
        "KMS gave the share unencrypted: the key's policy asks for no attestation document, so the share is lost; make a new key for \
         the weights, and print the policy with `cleanroom-authority broker kms policy`"
    )]
    Plaintext,
    /// Too long.
    #[error("expected an answer of KMS of at most {ANSWER_LIMIT} bytes, got {0}")]
    TooLong(usize),
    /// Not the JSON that AWS documents.
    #[error(
        "expected the JSON that `aws kms decrypt` prints, got something else; is it version 2.13 or later?"
    )]
    Json,
    /// Nothing is in it for an enclave.
    #[error("expected CiphertextForRecipient in the answer of KMS; is `aws` version 2.13 or later?")]
    Nothing,
    /// No Base64.
    #[error("CiphertextForRecipient is no Base64")]
    Base64,
    /// Another message.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
}

/// Reads an answer.
///
/// # Errors
/// [`AnswerError`].
pub fn read_answer(json: &[u8]) -> Result<Envelope, AnswerError> {
    if json.len() > ANSWER_LIMIT {
        return Err(AnswerError::TooLong(json.len()));
    }
    let Form { plaintext, ciphertext } = serde_json::from_slice(json).map_err(|_| AnswerError::Json)?;
    if plaintext.is_some_and(|plaintext| !plaintext.is_empty()) {
        return Err(AnswerError::Plaintext);
    }
    let ciphertext = ciphertext.ok_or(AnswerError::Nothing)?;
    let message = STANDARD.decode(ciphertext).map_err(|_| AnswerError::Base64)?;
    Ok(Envelope::read(&message)?)
}
