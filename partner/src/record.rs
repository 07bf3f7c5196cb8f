//! Records of verifications: one file for each, of those that failed as well.
//!
//! ```text
//! FOLDER/20260131T120000.000Z-proven-5f1d0c6a9b3e2471.json
//! ```
//!
//! A record has the time, the address, the policy's digest, the verdict or the code of the failure, and the evidence itself as it
//! came, so that somebody else can judge it again. It has nothing secret in it: no key, no prompt, no answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::Expectation;
use serde::{Deserialize, Serialize};

#[cfg(feature = "online")]
mod folder;

#[cfg(feature = "online")]
pub(crate) use self::folder::keep;
#[cfg(feature = "online")]
pub use self::folder::{KEPT, RecordFolder};

/// What this session expected of the evidence, beyond what the policy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    #[serde(with = "hexadecimal")]
    pub(crate) nonce: Vec<u8>,
    #[serde(with = "hexadecimal")]
    pub(crate) user_data: Vec<u8>,
    #[serde(with = "hexadecimal")]
    pub(crate) public_key: Vec<u8>,
    pub(crate) pcr16: Sha384Digest,
    pub(crate) pcr17: Sha384Digest,
}

impl Expected {
    /// What the verifier is asked.
    #[must_use]
    pub fn expectation(&self) -> Expectation<'_> {
        Expectation {
            nonce: Some(&self.nonce),
            user_data: Some(&self.user_data),
            public_key: Some(&self.public_key),
            pcr16: Some(self.pcr16),
            pcr17: Some(self.pcr17),
        }
    }
}

/// Evidence as it came, with what was expected of it. Nothing of it is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The attestation document.
    pub document: Vec<u8>,
    /// What was expected of it. Absent when the evidence was refused before that was known.
    pub expected: Option<Expected>,
    /// The release's envelope, when its signatures count under the policy's root.
    pub release: Option<Vec<u8>>,
}

/// The part of a record that is needed to judge its evidence again.
#[derive(Debug)]
pub struct Recorded {
    /// When the evidence was judged.
    pub time: Timestamp,
    /// The evidence.
    pub shown: Shown,
}

impl Recorded {
    /// Reads a record.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct File {
            version: u32,
            time: String,
            document: Option<String>,
            expected: Option<Expected>,
            release_envelope: Option<String>,
        }
        let file: File =
            serde_json::from_slice(bytes).map_err(|error| RecordError::Form(error.to_string()))?;
        if file.version != VERSION {
            return Err(RecordError::Version(file.version));
        }
        let time =
            Timestamp::from_rfc3339(&file.time).map_err(|error| RecordError::Form(error.to_string()))?;
        let decoded =
            |text: String| STANDARD.decode(text).map_err(|error| RecordError::Form(error.to_string()));
        let document = decoded(file.document.ok_or(RecordError::NoEvidence)?)?;
        let release = file.release_envelope.map(decoded).transpose()?;
        Ok(Self { time, shown: Shown { document, expected: file.expected, release } })
    }
}

/// The version of a record's form.
const VERSION: u32 = 1;

/// Why a file is not a record that can be judged again.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It is not JSON of the form of a record.
    #[error("expected a record that `--record` wrote: {0}")]
    Form(String),
    /// It has a version that is not known.
    #[error("expected a record of version {VERSION}, got version {0}")]
    Version(u32),
    /// The verification failed before there was any evidence.
    #[error("the record has no evidence: the verification failed before any came")]
    NoEvidence,
}

mod hexadecimal {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_record_is_told_as_what_it_is() {
        let form = |text: &str| matches!(Recorded::parse(text.as_bytes()), Err(RecordError::Form(_)));
        assert!(form("") && form("[]") && form("{\"version\": 1}"));
        assert!(form("{\"version\": 1, \"time\": \"today\", \"document\": \"hA==\"}"));
        assert!(form("{\"version\": 1, \"time\": \"2026-01-31T12:00:00Z\", \"document\": \"?\"}"));
        let failed = "{\"version\": 1, \"time\": \"2026-01-31T12:00:00Z\", \"code\": \"unreachable\"}";
        assert_eq!(Recorded::parse(failed.as_bytes()).unwrap_err(), RecordError::NoEvidence);
        let later = failed.replace(": 1,", ": 2,");
        assert_eq!(Recorded::parse(later.as_bytes()).unwrap_err(), RecordError::Version(2));
    }
}
