//! A model's file, and the signature of whoever published it.

use std::path::Path;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::model_signature::{
    MAX_MODEL_SIGNATURE_BYTES, ModelSignatureError, PublisherKey, SignedModel,
};
use serde_json::json;

use crate::failure::Failure;
use crate::{files, measured, signer};

/// A model that its publisher signed.
pub(crate) struct Published {
    /// The model's identity, as a release names it.
    pub(crate) model_sha256: Sha256Digest,
    /// For people, and for programs.
    pub(crate) text: String,
    pub(crate) json: serde_json::Value,
}

/// Measures the model in `file` if the key in `key` has signed its SHA-256. Both digests are of one reading: a file that changes
/// meanwhile has an identity that nobody signed, and then another one here too.
pub(crate) fn signed_model(file: &Path, signature: &Path, key: &Path) -> Result<Published, Failure> {
    let refused = |path: &Path, error: &ModelSignatureError| Failure::Refused {
        what: path.display().to_string(),
        code: error.code(),
        problem: error.to_string(),
    };
    let public =
        PublisherKey::from_spki(&signer::public_key_der(key)?).map_err(|error| refused(key, &error))?;
    let bytes = files::read(signature, MAX_MODEL_SIGNATURE_BYTES)?;
    let signed = SignedModel::verify(&bytes, &public).map_err(|error| refused(signature, &error))?;
    let (model_sha256, file_sha256) = measured::model_and_file(file)?;
    let name = signed.file(&file_sha256).ok_or_else(|| Failure::Refused {
        what: file.display().to_string(),
        code: "model-signature-other-file",
        problem: format!(
            "its SHA-256 is {file_sha256}, and {} names {} file(s) with other digests; get the file that was signed, or the signature \
             of this file",
            signature.display(),
            signed.files()
        ),
    })?;
    let key_id = public.id();
    let text =
        format!("  signed      {} as {name:?} of {:?}, by the key {key_id}\n", file.display(), signed.name());
    let json = json!({
        "file": file.display().to_string(), "file_sha256": file_sha256, "name": name, "model": signed.name(), "key_id": key_id,
    });
    Ok(Published { model_sha256, text, json })
}
