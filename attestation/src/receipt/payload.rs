//! The payload of a receipt.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use super::commitment::Commitment;
use crate::channel::ModelId;
use crate::digest::{Sha256Digest, Sha384Digest};
use crate::safeguard::SafeguardVerdict;

/// An enclave's statement about one request. It has no text of either side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The version of this form: 1.
    pub version: u32,
    /// The request's id, as it stands in the response's header `request-id`.
    pub id: ReceiptId,
    /// The boot that gave it: SHA-256 of the receipt key.
    pub boot: Sha256Digest,
    /// Its place in the boot's log.
    pub index: u64,
    /// The transcript of the session that the request came on.
    pub session: Sha384Digest,
    /// SHA-256 of the partner's key.
    pub partner: Sha256Digest,
    /// The how-manieth of this partner's receipts of this boot it is, from 1.
    pub number: u64,
    /// The one before it: SHA-256 of its payload. Absent in the first.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub previous_sha256: Option<Sha256Digest>,
    /// The model.
    pub model: ModelId,
    /// The identity of its weights.
    pub model_sha256: Sha256Digest,
    /// The newest release that the enclave held. Absent without release control.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub release_sha256: Option<Sha256Digest>,
    /// The last lease that it had. Absent without release control.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub lease_sha256: Option<Sha256Digest>,
    /// The request's body, as far as it was read.
    pub request: Commitment,
    /// The response's body, as far as it left.
    pub response: Commitment,
    /// How the request ended.
    pub finish: Finish,
    /// Why, for every end but the regular one: a word of a closed list.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub code: Option<String>,
    /// How it was judged. Absent when no release names a policy, or the request was refused before it was judged.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub safeguard: Option<SafeguardVerdict>,
    /// The sealed record of the exchange. Absent when none is kept.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub record_sha256: Option<Sha256Digest>,
    /// When the request began: milliseconds since 1970 by the security module's clock.
    pub started_ms: u64,
    /// When it ended.
    pub ended_ms: u64,
}

/// A member that is there has a value: `null` is none.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// The answer is whole.
    Finished,
    /// The partner's end was gone before the answer was whole.
    Aborted,
    /// There is no answer, and the response says why.
    Refused,
    /// A halt, the end of a lease, or a limit cut an answer that had begun.
    Halted,
    /// The enclave could not complete the answer.
    Failed,
}

impl Finish {
    /// Each of them.
    pub const ALL: [Self; 5] = [Self::Finished, Self::Aborted, Self::Refused, Self::Halted, Self::Failed];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Aborted => "aborted",
            Self::Refused => "refused",
            Self::Halted => "halted",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Finish {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The id of a request: 1 to 64 letters, digits, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ReceiptId(String);

impl ReceiptId {
    /// The longest id, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ReceiptId {
    type Err = ReceiptIdError;

    fn from_str(text: &str) -> Result<Self, ReceiptIdError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let fits = !text.is_empty() && text.len() <= Self::MAX_BYTES && text.bytes().all(plain);
        if fits { Ok(Self(text.to_owned())) } else { Err(ReceiptIdError) }
    }
}

impl<'de> Deserialize<'de> for ReceiptId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for ReceiptId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Some text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a receipt's id: 1 to 64 letters, digits, - and _")]
pub struct ReceiptIdError;

/// The longest code, in bytes.
const MAX_CODE_BYTES: usize = 64;

impl Receipt {
    /// The payload's bytes: indented JSON with a final newline.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        // A type of strings and numbers serialises always.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Reads a payload, **unverified**. `None` when it is not one of this version.
    #[must_use]
    pub fn from_payload(payload: &[u8]) -> Option<Self> {
        let receipt: Self = serde_json::from_slice(payload).ok()?;
        let Self { version, number, previous_sha256, finish, code, safeguard, started_ms, ended_ms, .. } =
            &receipt;
        let is_code = |code: &String| {
            let plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
            !code.is_empty() && code.len() <= MAX_CODE_BYTES && code.bytes().all(plain)
        };
        let is_sound = *version == 1
            && *number >= 1
            && previous_sha256.is_some() == (*number > 1)
            && code.as_ref().is_none_or(is_code)
            && safeguard.as_ref().is_none_or(SafeguardVerdict::is_sound)
            && (*finish != Finish::Finished || code.is_none())
            && started_ms <= ended_ms;
        is_sound.then_some(receipt)
    }
}
