//! Signatures of models, as the `OpenSSF`'s *model-signing* (version 1) makes them with a key.
//!
//! Such a signature is a Sigstore bundle (`application/vnd.dev.sigstore.bundle.v0.3+json`) around a DSSE envelope around an in-toto
//! statement with the predicate `https://model_signing/signature/v1.0`, which names every file of the model with its SHA-256. What
//! is read here was made elsewhere, so the forms are those of these projects and not this project's own.
//!
//! Signatures of certificates are refused by name. Sigstore's are made without a key of the publisher's own, under a certificate that
//! lives for minutes; to judge one later takes the certificate authority's root, a log's proof of the time, and a rule about whose
//! identity counts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::crypto::backend::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, UnparsedPublicKey, VerificationAlgorithm,
};
use crate::digest::{Sha256, Sha256Digest};

/// The longest signature that is read, in bytes: some ten thousand files.
pub const MAX_MODEL_SIGNATURE_BYTES: usize = 4 << 20;
/// The most files that one signature names.
const MAX_FILES: usize = 16_384;

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const IN_TOTO: &str = "application/vnd.in-toto+json";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://model_signing/signature/v1.0";

/// DER of a `SubjectPublicKeyInfo` before the uncompressed point (RFC 5480): on P-256, and on P-384.
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const P384_PREFIX: [u8; 23] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81,
    0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];

/// The key of somebody who publishes models.
#[derive(Clone)]
pub struct PublisherKey {
    algorithm: &'static dyn VerificationAlgorithm,
    point: Box<[u8]>,
    id: Sha256Digest,
}

impl PublisherKey {
    /// Reads the DER of a `SubjectPublicKeyInfo`: ECDSA on P-256 or P-384, with an uncompressed point.
    ///
    /// # Errors
    /// [`ModelSignatureError::Key`] for every other key.
    pub fn from_spki(spki: &[u8]) -> Result<Self, ModelSignatureError> {
        type Curve = (&'static [u8], usize, &'static dyn VerificationAlgorithm);
        const CURVES: [Curve; 2] =
            [(&P256_PREFIX, 65, &ECDSA_P256_SHA256_ASN1), (&P384_PREFIX, 97, &ECDSA_P384_SHA384_ASN1)];
        let key = CURVES.into_iter().find_map(|(prefix, length, algorithm)| {
            let point = spki.strip_prefix(prefix)?;
            let is_point = point.len() == length && point.first() == Some(&4);
            is_point.then(|| Self { algorithm, point: point.into(), id: Sha256Digest::of(&[spki]) })
        });
        key.ok_or(ModelSignatureError::Key)
    }

    /// SHA-256 of the `SubjectPublicKeyInfo`, for people.
    #[must_use]
    pub const fn id(&self) -> Sha256Digest {
        self.id
    }
}

/// The files that a publisher's key signed. Only [`SignedModel::verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedModel {
    name: String,
    files: Vec<(String, Sha256Digest)>,
}

impl SignedModel {
    /// Believes a signature that `key` made.
    ///
    /// # Errors
    /// [`ModelSignatureError`] says why not.
    pub fn verify(signature: &[u8], key: &PublisherKey) -> Result<Self, ModelSignatureError> {
        if signature.len() > MAX_MODEL_SIGNATURE_BYTES {
            return Err(ModelSignatureError::TooLong(signature.len()));
        }
        let bundle: Bundle = serde_json::from_slice(signature).map_err(|_| ModelSignatureError::Form)?;
        if bundle.media_type != BUNDLE {
            return Err(ModelSignatureError::Form);
        }
        let Material { certificate, x509_certificate_chain, public_key } = bundle.verification_material;
        if certificate.is_some() || x509_certificate_chain.is_some() {
            return Err(ModelSignatureError::Certificate);
        }
        // What it says of the key is a hint; the caller knows which key counts.
        public_key.ok_or(ModelSignatureError::Form)?;
        let DsseEnvelope { payload, payload_type, signatures } = bundle.dsse_envelope;
        let [Signature { sig }] = signatures.as_slice() else { return Err(ModelSignatureError::Form) };
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| ModelSignatureError::Form);
        let (payload, sig) = (decode(&payload)?, decode(sig)?);
        if payload_type != IN_TOTO {
            return Err(ModelSignatureError::Form);
        }
        // DSSE v1.0.2, PAE.
        let head = format!("DSSEv1 {} {IN_TOTO} {} ", IN_TOTO.len(), payload.len());
        let signed = [head.as_bytes(), &payload].concat();
        let public = UnparsedPublicKey::new(key.algorithm, &key.point);
        public.verify(&signed, &sig).map_err(|_| ModelSignatureError::Signature)?;
        Self::of_statement(&payload)
    }

    /// Whether a statement would count if a publisher had signed it.
    ///
    /// # Errors
    /// [`ModelSignatureError`] says why not.
    pub fn check_statement(payload: &[u8]) -> Result<(), ModelSignatureError> {
        Self::of_statement(payload).map(|_| ())
    }

    fn of_statement(payload: &[u8]) -> Result<Self, ModelSignatureError> {
        let other = |what, actual: &str| ModelSignatureError::Other { what, actual: shown(actual) };
        // The types first: a statement about something else has other members, and its type is the better answer.
        let types: Types = serde_json::from_slice(payload).map_err(|_| ModelSignatureError::Statement)?;
        for (what, expected, actual) in
            [("statement", STATEMENT, &types.statement), ("predicate", PREDICATE, &types.predicate)]
        {
            if actual != expected {
                return Err(other(what, actual));
            }
        }
        let Statement { subject, predicate: Predicate { serialization, resources } } =
            serde_json::from_slice(payload).map_err(|_| ModelSignatureError::Statement)?;
        let [Subject { name, digest }] = subject.as_slice() else {
            return Err(ModelSignatureError::Statement);
        };
        if serialization.method != "files" {
            return Err(other("serialization", &serialization.method));
        }
        if resources.len() > MAX_FILES {
            return Err(ModelSignatureError::Statement);
        }
        let mut files: Vec<(String, Sha256Digest)> = Vec::with_capacity(resources.len());
        let mut all = Sha256::new();
        for Resource { name, algorithm, digest } in resources {
            if algorithm != "sha256" {
                return Err(other("digest", &algorithm));
            }
            let digest: Sha256Digest = digest.parse().map_err(|_| ModelSignatureError::Statement)?;
            all.update(digest.as_bytes());
            files.push((name, digest));
        }
        // The statement's subject is the SHA-256 of all digests, in their order.
        if digest.sha256.parse::<Sha256Digest>() != Ok(all.finish()) {
            return Err(ModelSignatureError::Inconsistent);
        }
        Ok(Self { name: name.clone(), files })
    }

    /// What the publisher calls the model.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of a file with this SHA-256, if the publisher signed one. The one file of a model that is a file is called `.`.
    #[must_use]
    pub fn file(&self, sha256: &Sha256Digest) -> Option<&str> {
        self.files.iter().find(|(_, digest)| digest == sha256).map(|(name, _)| name.as_str())
    }

    /// How many files were signed.
    #[must_use]
    pub const fn files(&self) -> usize {
        self.files.len()
    }
}

/// The beginning of a text that somebody else wrote, for an error: printable ASCII alone.
fn shown(text: &str) -> String {
    text.chars().take(80).map(|each| if each.is_ascii_graphic() { each } else { '?' }).collect()
}

/// A Sigstore bundle. Members that are not here say nothing about a signature by a key.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    verification_material: Material,
    dsse_envelope: DsseEnvelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    certificate: Option<IgnoredAny>,
    x509_certificate_chain: Option<IgnoredAny>,
    public_key: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DsseEnvelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    sig: String,
}

#[derive(Deserialize)]
struct Types {
    #[serde(rename = "_type")]
    statement: String,
    #[serde(rename = "predicateType")]
    predicate: String,
}

#[derive(Deserialize)]
struct Statement {
    subject: Vec<Subject>,
    predicate: Predicate,
}

#[derive(Deserialize)]
struct Subject {
    name: String,
    digest: SubjectDigest,
}

#[derive(Deserialize)]
struct SubjectDigest {
    sha256: String,
}

#[derive(Deserialize)]
struct Predicate {
    serialization: Serialization,
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Serialization {
    method: String,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    algorithm: String,
    digest: String,
}

/// Why bytes are not a signature of a model by a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelSignatureError {
    /// Longer than [`MAX_MODEL_SIGNATURE_BYTES`].
    #[error("expected a model signature of at most {MAX_MODEL_SIGNATURE_BYTES} bytes, got {0}")]
    TooLong(usize),
    /// Not a bundle of this form.
    #[error(
        "expected a Sigstore bundle (v0.3, JSON) with one signature over an in-toto statement, as `model_signing sign key` writes it"
    )]
    Form,
    /// A certificate signed it.
    #[error(
        "expected a signature by a key, got one by a certificate (Sigstore, or a PKI), which this program does not verify; have the \
         publisher sign with `model_signing sign key`, or verify it with model-signing and sign it again with a key of your own"
    )]
    Certificate,
    /// A key of another kind.
    #[error(
        "expected the publisher's ECDSA key on P-256 or P-384 (SubjectPublicKeyInfo, uncompressed point)"
    )]
    Key,
    /// Another key signed it, or it was changed.
    #[error("the model signature is not by the publisher's key, or was changed")]
    Signature,
    /// The statement is not of the form.
    #[error("expected an in-toto statement of model-signing 1.0 with one subject and its files' digests")]
    Statement,
    /// The statement is of a kind that this program does not know.
    #[error(
        "expected the {what} of a model-signing 1.0 signature over whole files with SHA-256, got {actual}"
    )]
    Other {
        /// Which part.
        what: &'static str,
        /// The kind that came.
        actual: String,
    },
    /// The subject's digest is not that of the files.
    #[error("the statement's own digest is not the one of the files that it names")]
    Inconsistent,
}

impl ModelSignatureError {
    /// A stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLong(_) | Self::Form => "model-signature-form",
            Self::Certificate => "model-signature-certificate",
            Self::Key => "model-signature-key",
            Self::Signature => "model-signature",
            Self::Statement => "model-signature-statement",
            Self::Other { .. } => "model-signature-kind",
            Self::Inconsistent => "model-signature-inconsistent",
        }
    }
}

#[cfg(test)]
mod tests;
