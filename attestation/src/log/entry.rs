//! The leaves of a log: one compact JSON object each, with a `kind`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::channel::ModelId;
use crate::digest::Sha256Digest;

/// The longest entry, in bytes. The boot record has the attestation document and is the longest.
pub const MAX_ENTRY_BYTES: usize = 32 << 10;

/// One entry. It has digests of what partners hold, and nothing of what they sent or got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "snake_case", deny_unknown_fields)]
pub enum Entry {
    /// The first one: which enclave this is.
    Boot(BootRecord),
    /// A receipt was given.
    Receipt {
        /// SHA-256 of the receipt's payload.
        sha256: Sha256Digest,
    },
    /// The authorities' next root was accepted.
    Root {
        /// SHA-256 of its payload.
        sha256: Sha256Digest,
        /// When: milliseconds since 1970 by the security module's clock.
        at_ms: u64,
    },
    /// A release was accepted.
    Release {
        /// SHA-256 of its payload.
        sha256: Sha256Digest,
        /// When.
        at_ms: u64,
    },
    /// A lease came into force.
    Lease {
        /// The digest of the lease, as the channel has it.
        sha256: Sha256Digest,
        /// The release that it leases.
        release_sha256: Sha256Digest,
        /// When.
        at_ms: u64,
    },
    /// An authority halted a model, a partner, or the partners with an attribute.
    Denial {
        /// SHA-256 of the denial's payload.
        sha256: Sha256Digest,
        /// When.
        at_ms: u64,
    },
    /// A safeguard policy that a release names came in.
    Policy {
        /// SHA-256 over the bytes of its file.
        sha256: Sha256Digest,
        /// When.
        at_ms: u64,
    },
    /// A partner reached a limit of the safeguards, and is held until a newer release is in force. Its name is not told: it has
    /// the receipt.
    Hold {
        /// The receipt of the request that reached the limit.
        receipt_sha256: Sha256Digest,
        /// The limit's name in the release.
        limit: String,
        /// When.
        at_ms: u64,
    },
    /// An exchange is kept as a sealed record.
    Record {
        /// SHA-256 of the record's head.
        sha256: Sha256Digest,
        /// The receipt of the request.
        receipt_sha256: Sha256Digest,
        /// When.
        at_ms: u64,
    },
    /// A record is opened.
    Opening {
        /// SHA-256 of the opening's payload.
        sha256: Sha256Digest,
        /// The record.
        record_sha256: Sha256Digest,
        /// The code of the reason.
        reason: String,
        /// The reason in words.
        text: String,
        /// When.
        at_ms: u64,
    },
    /// Sessions were refused.
    Refused {
        /// Why: a code of `docs/release.md`.
        code: String,
        /// How many since the last entry with this code.
        count: u64,
        /// When this was written.
        at_ms: u64,
    },
    /// The last one: the enclave came to its end in order.
    Shutdown {
        /// When.
        at_ms: u64,
    },
}

/// Which enclave a log is of. The attestation document proves it: PCR 17 commits to the receipt key, PCR 16 to the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootRecord {
    /// The version of this form: 1.
    pub version: u32,
    /// The receipt key, base64 of the DER of its `SubjectPublicKeyInfo`.
    receipt_key: String,
    /// The model that is served.
    pub model: ModelId,
    /// The identity of its weights.
    pub model_sha256: Sha256Digest,
    /// When: milliseconds since 1970 by the security module's clock.
    pub at_ms: u64,
    /// An attestation document of the purpose `cleanroom/attestation/1`, base64.
    document: String,
}

impl BootRecord {
    /// A record.
    #[must_use]
    pub fn new(
        receipt_key: &[u8],
        model: ModelId,
        model_sha256: Sha256Digest,
        at_ms: u64,
        document: &[u8],
    ) -> Self {
        let (receipt_key, document) = (STANDARD.encode(receipt_key), STANDARD.encode(document));
        Self { version: 1, receipt_key, model, model_sha256, at_ms, document }
    }

    /// The receipt key, DER of its `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// [`EntryError`] when it is not base64.
    pub fn receipt_key(&self) -> Result<Vec<u8>, EntryError> {
        STANDARD.decode(&self.receipt_key).map_err(|_| EntryError)
    }

    /// The attestation document.
    ///
    /// # Errors
    /// [`EntryError`] when it is not base64.
    pub fn document(&self) -> Result<Vec<u8>, EntryError> {
        STANDARD.decode(&self.document).map_err(|_| EntryError)
    }
}

/// Bytes are not an entry of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an entry of a log, got something else")]
pub struct EntryError;

impl Entry {
    /// The leaf's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // A type of strings and numbers serialises always.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a leaf's bytes, **unverified**.
    ///
    /// # Errors
    /// [`EntryError`] for anything that [`Self::to_bytes`] would not have written.
    pub fn parse(bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > MAX_ENTRY_BYTES {
            return Err(EntryError);
        }
        let entry: Self = serde_json::from_slice(bytes).map_err(|_| EntryError)?;
        // One spelling for each entry.
        if entry.to_bytes() == bytes { Ok(entry) } else { Err(EntryError) }
    }

    /// The word for its kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Boot(_) => "boot",
            Self::Receipt { .. } => "receipt",
            Self::Root { .. } => "root",
            Self::Release { .. } => "release",
            Self::Lease { .. } => "lease",
            Self::Denial { .. } => "denial",
            Self::Policy { .. } => "policy",
            Self::Hold { .. } => "hold",
            Self::Record { .. } => "record",
            Self::Opening { .. } => "opening",
            Self::Refused { .. } => "refused",
            Self::Shutdown { .. } => "shutdown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_back_and_have_one_spelling() {
        let sha256 = Sha256Digest::of(&[b"d"]);
        let model = ModelId::new("demo").unwrap();
        let boot = BootRecord::new(&[1; 44], model, sha256, 3, b"document");
        assert_eq!(boot.receipt_key().unwrap(), [1; 44]);
        assert_eq!(boot.document().unwrap(), b"document");
        for entry in [
            Entry::Boot(boot),
            Entry::Receipt { sha256 },
            Entry::Root { sha256, at_ms: 1 },
            Entry::Release { sha256, at_ms: 1 },
            Entry::Lease { sha256, release_sha256: sha256, at_ms: 1 },
            Entry::Denial { sha256, at_ms: 1 },
            Entry::Policy { sha256, at_ms: 1 },
            Entry::Hold { receipt_sha256: sha256, limit: "tries".to_owned(), at_ms: 1 },
            Entry::Record { sha256, receipt_sha256: sha256, at_ms: 1 },
            Entry::Opening {
                sha256,
                record_sha256: sha256,
                reason: "abuse".to_owned(),
                text: "case 17".to_owned(),
                at_ms: 1,
            },
            Entry::Refused { code: "no-lease".to_owned(), count: 2, at_ms: 1 },
            Entry::Shutdown { at_ms: 1 },
        ] {
            let bytes = entry.to_bytes();
            assert!(bytes.starts_with(format!("{{\"kind\":\"{}\"", entry.kind()).as_bytes()));
            assert_eq!(Entry::parse(&bytes), Ok(entry));
            let spaced = String::from_utf8(bytes.clone()).unwrap().replace(':', ": ");
            assert_eq!(Entry::parse(spaced.as_bytes()), Err(EntryError));
            let with_more = String::from_utf8(bytes).unwrap().replace('}', ",\"more\":1}");
            assert_eq!(Entry::parse(with_more.as_bytes()), Err(EntryError));
        }
        assert_eq!(Entry::parse(br#"{"kind":"other"}"#), Err(EntryError));
    }
}
