//! The broker's log: one line of JSON for each share that was given or refused, each with the SHA-256 of the line before.

use std::path::Path;

use cleanroom_attestation::channel::{ModelId, Nonce};
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::release::UnixMillis;
use cleanroom_program::file::{Appender, FileError, PRIVATE};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Outcome;
use crate::failure::Failure;

/// The longest log, in bytes: several hundred thousand entries.
const LIMIT: u64 = 256 << 20;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// The first entry is 1.
    number: u64,
    /// SHA-256 of the line before, without its end; zeros before the first.
    previous: Sha256Digest,
    at: UnixMillis,
    #[serde(flatten)]
    entry: Entry,
}

/// What happened to one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) result: Result,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<String>,
    /// What was asked, by the request's own words. Absent when it had none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) asked: Option<Asked>,
    /// What the evidence proves. Absent when it proves nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) enclave: Option<Proven>,
    /// Refusals since the entry before that have none of their own, because there were too many.
    pub(super) left_out: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Result {
    Given,
    Refused,
}

/// What an enclave says that it wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    pub(super) model: ModelId,
    pub(super) model_sha256: Sha256Digest,
    pub(super) root_version: u64,
    pub(super) release_sha256: Sha256Digest,
    pub(super) nonce: Sha256Digest,
    pub(super) document_sha384: Sha384Digest,
    /// What of the retention: `secret DAY`, or `part RECORD`, with the record's SHA-256. Absent for a share of weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) retention: Option<String>,
}

/// What a genuine document says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Proven {
    pub(super) module_id: String,
    pub(super) image: String,
}

/// The nonce as a digest is written: both are 32 bytes.
pub(super) fn written(nonce: &Nonce) -> Sha256Digest {
    Sha256Digest::from_bytes(*nonce.as_bytes())
}

/// The log of a running broker.
pub(super) struct Log {
    file: Appender,
    number: u64,
    last: Sha256Digest,
}

impl Log {
    /// Opens the log and checks all of it, or begins a new one. A line that a power cut left half is taken out: nobody was
    /// answered for it.
    pub(super) fn open(path: &Path) -> std::result::Result<Self, Failure> {
        let (mut file, bytes) = Appender::open(path, PRIVATE, LIMIT)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if whole < bytes.len() {
            tracing::warn!(
                bytes = bytes.len() - whole,
                "the log ended in the middle of an entry, which goes"
            );
            file.keep(whole as u64)?;
        }
        let chain = Chain::read(path, bytes.get(..whole).unwrap_or_default())?;
        Ok(Self { file, number: chain.number, last: chain.last })
    }

    /// Adds an entry. It is on the disk when this returns `Ok`.
    pub(super) fn append(&mut self, at: UnixMillis, entry: Entry) -> std::result::Result<(), FileError> {
        let line = Line { number: self.number + 1, previous: self.last, at, entry };
        // A type of numbers, digests and texts serialises always.
        let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
        let digest = Sha256Digest::of(&[&bytes]);
        bytes.push(b'\n');
        self.file.append(&bytes)?;
        (self.number, self.last) = (line.number, digest);
        Ok(())
    }

    /// Whether there is no room for another share that is given.
    pub(super) const fn is_full(&self) -> bool {
        !has_room(self.file.length(), Result::Given)
    }

    /// Whether a refusal gets an entry still.
    pub(super) const fn takes_refusals(&self) -> bool {
        has_room(self.file.length(), Result::Refused)
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) const fn last(&self) -> Sha256Digest {
        self.last
    }
}

/// Whether a log of this length has room for an entry. Anybody can have requests refused, and whoever runs enclaves can have genuine
/// ones refused. So refusals get half of the log, and the other half is for shares that are given.
const fn has_room(length: u64, result: Result) -> bool {
    let limit = match result {
        Result::Given => LIMIT,
        Result::Refused => LIMIT / 2,
    };
    length < limit - (16 << 10)
}

/// A log whose every line belongs behind the one before.
struct Chain {
    number: u64,
    last: Sha256Digest,
    given: u64,
    refused: u64,
    digests: Vec<Sha256Digest>,
}

impl Chain {
    fn read(path: &Path, bytes: &[u8]) -> std::result::Result<Self, Failure> {
        let mut chain = Self {
            number: 0,
            last: Sha256Digest::from_bytes([0; 32]),
            given: 0,
            refused: 0,
            digests: Vec::new(),
        };
        for text in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let expected = chain.number + 1;
            let refused = |problem: &str| Failure::Refused {
                what: path.display().to_string(),
                code: "log",
                problem: format!("entry {expected}: {problem}"),
            };
            let line: Line = serde_json::from_slice(text).map_err(|_| refused("it is no entry of a log"))?;
            if line.number != expected || line.previous != chain.last {
                return Err(refused("it does not follow the entry before; one was changed, or taken out"));
            }
            match line.entry.result {
                Result::Given => chain.given += 1,
                Result::Refused => chain.refused += 1,
            }
            (chain.number, chain.last) = (expected, Sha256Digest::of(&[text]));
            chain.digests.push(chain.last);
        }
        Ok(chain)
    }
}

/// One entry, for people.
pub(crate) struct Happening {
    pub(crate) at: UnixMillis,
    pub(crate) is_given: bool,
    /// Why it was refused.
    pub(crate) code: Option<String>,
    /// What was given, in words.
    pub(crate) what: String,
    /// To which enclave: its id in the attestation document.
    pub(crate) enclave: Option<String>,
}

/// What a log says, once every line of it belongs behind the one before.
pub(crate) fn happenings(path: &Path) -> std::result::Result<Vec<Happening>, Failure> {
    let bytes = crate::files::read(path, usize::try_from(LIMIT).unwrap_or(usize::MAX))?;
    Chain::read(path, &bytes)?;
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    // Each was read once already.
    let lines = lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok());
    Ok(lines.map(Happening::of).collect())
}

impl Happening {
    fn of(line: Line) -> Self {
        let Entry { result, code, asked, enclave, left_out: _ } = line.entry;
        let what = match asked {
            None => "something".to_owned(),
            Some(Asked { model, retention: None, .. }) => {
                format!("its share of the key of the model {}", model.as_str())
            }
            Some(Asked { model, retention: Some(wanted), .. }) => match wanted.split_once(' ') {
                Some(("part", record)) => format!("its part of the record {record}, which is opened"),
                Some((_, day)) => format!("the secret of {day} for records of the model {}", model.as_str()),
                None => wanted,
            },
        };
        let enclave = enclave.map(|proven| proven.module_id);
        Self { at: line.at, is_given: result == Result::Given, code, what, enclave }
    }
}

/// `broker log verify`.
pub(super) fn verify(path: &Path, contains: Option<Sha256Digest>) -> std::result::Result<Outcome, Failure> {
    let bytes = crate::files::read(path, usize::try_from(LIMIT).unwrap_or(usize::MAX))?;
    let chain = Chain::read(path, &bytes)?;
    if let Some(digest) = contains.filter(|digest| !chain.digests.contains(digest)) {
        return Err(Failure::Refused {
            what: path.display().to_string(),
            code: "log",
            problem: format!("no entry has the digest {digest}; entries were taken out and others put in"),
        });
    }
    let Chain { number, last, given, refused, digests: _ } = chain;
    let text = format!(
        "{number} entries, each behind the one before\n  given    {given}\n  refused  {refused}\n  last     {last}"
    );
    Ok(Outcome { text, json: json!({ "entries": number, "given": given, "refused": refused, "last": last }) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_leave_half_of_the_log_to_shares_that_are_given() {
        assert!(has_room(0, Result::Refused) && has_room(0, Result::Given));
        assert!(!has_room(LIMIT / 2, Result::Refused) && has_room(LIMIT / 2, Result::Given));
        assert!(!has_room(LIMIT, Result::Given));
    }
}
