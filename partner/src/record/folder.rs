//! The folder of records: how they are written, and which of them stay.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::Verdict;
use cleanroom_program::file::{FileError, Operation, PRIVATE, create_folder, create_new, remove};
use serde::Serialize;

use super::{Expected, Shown, VERSION};
use crate::channel::{Appraised, RelyingParty};
use crate::clock::now;
use crate::permission::Permitted;
use crate::session::SessionError;

/// How many records stay of clean rooms that were proven, and as many of verifications that failed. When there are more, the
/// oldest are removed.
pub const KEPT: usize = 10_000;

/// The longest release envelope that is kept, in bytes.
const MAX_RELEASE: usize = 64 * 1024;

/// The end of a clean room's proof in a record's name.
const PROVEN: &str = "proven";

/// A folder of records.
#[derive(Debug, Clone)]
pub struct RecordFolder(PathBuf);

/// One record, as it is written.
#[derive(Serialize)]
struct Record<'a> {
    version: u32,
    /// When the evidence was judged, or when the verification failed.
    time: Timestamp,
    /// The host's address.
    address: &'a str,
    model: &'a str,
    policy_sha256: &'a Sha256Digest,
    /// SHA-256 of the partner's public key.
    partner_key_sha256: Sha256Digest,
    /// `proven`, `refused` or `unreachable`.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// What the authorities permit.
    #[serde(skip_serializing_if = "Option::is_none")]
    release: Option<&'a Permitted>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<&'a Verdict>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<&'a Expected>,
    /// Base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    release_envelope: Option<String>,
    /// Base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<String>,
}

/// Writes the record of a verification, if this partner keeps records, and gives the verification back.
///
/// # Errors
/// The verification's own, or that a successful one could not be recorded.
pub(crate) async fn keep<S>(
    party: &RelyingParty,
    address: &str,
    verified: Result<Appraised<S>, SessionError>,
) -> Result<Appraised<S>, SessionError> {
    let Some(folder) = party.records().cloned() else { return verified };
    let (time, outcome, text) = record(party, address, &verified);
    let written = tokio::task::spawn_blocking(move || {
        text.map_err(|source| folder.failed(source)).and_then(|text| folder.write(time, outcome, &text))
    });
    let Err(error) = written.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    else {
        return verified;
    };
    tracing::error!("a verification could not be recorded: {error}");
    verified.and(Err(SessionError::Unrecorded(error)))
}

/// The time, the outcome and the text of a record.
fn record<S>(
    party: &RelyingParty,
    address: &str,
    verified: &Result<Appraised<S>, SessionError>,
) -> (Timestamp, &'static str, io::Result<String>) {
    let refused = verified.as_ref().ok().and_then(|appraised| appraised.accepted().err());
    let (outcome, code, message) = match (verified, &refused) {
        (Ok(_), None) => (PROVEN, None, None),
        (Ok(_), Some(refused)) => ("refused", Some(refused.code()), Some(refused.to_string())),
        (Err(error), _) => {
            let outcome = if error.is_refusal() { "refused" } else { "unreachable" };
            (outcome, Some(error.code()), Some(error.to_string()))
        }
    };
    let (verdict, shown) = match verified {
        Ok(appraised) => (Some(appraised.verdict()), Some(appraised.shown())),
        Err(SessionError::Refused { verdict, shown, .. }) => (verdict.as_deref(), Some((**shown).clone())),
        Err(_) => (None, None),
    };
    let permitted = verified.as_ref().ok().and_then(Appraised::permitted);
    let Shown { document, expected, release } =
        shown.unwrap_or_else(|| Shown { document: Vec::new(), expected: None, release: None });
    let record = Record {
        version: VERSION,
        time: verdict.map_or_else(now, Verdict::judged_at),
        address,
        model: party.model().as_str(),
        policy_sha256: party.policy().sha256(),
        partner_key_sha256: party.key_digest(),
        outcome,
        code,
        message,
        release: permitted.and_then(|permitted| permitted.as_ref().ok()),
        verdict,
        expected: expected.as_ref(),
        release_envelope: release
            .filter(|release| release.len() <= MAX_RELEASE)
            .map(|release| STANDARD.encode(release)),
        document: Some(STANDARD.encode(&document)).filter(|document| !document.is_empty()),
    };
    let text = serde_json::to_string_pretty(&record).map(|text| text + "\n").map_err(io::Error::other);
    (record.time, outcome, text)
}

impl RecordFolder {
    /// The folder at `path`, which is made if it is not there.
    ///
    /// # Errors
    /// The system refuses.
    pub fn create(path: &Path) -> Result<Self, FileError> {
        create_folder(path, 0o700)?;
        Ok(Self(path.to_owned()))
    }

    fn failed(&self, source: io::Error) -> FileError {
        FileError { operation: Operation::Write, path: self.0.clone(), source }
    }

    /// Writes a record, and removes the oldest ones of its kind above [`KEPT`]. It returns when file and folder are on the disk.
    fn write(&self, time: Timestamp, outcome: &str, text: &str) -> Result<(), FileError> {
        let time: String = time.to_string().chars().filter(|sign| !matches!(sign, '-' | ':')).collect();
        let mut number = [0; 8];
        // A record that exists is never written over, so the number only has to be a new one most of the time.
        let _ = aws_lc_rs::rand::fill(&mut number);
        let name = format!("{time}-{outcome}-{}.json", hex::encode(number));
        create_new(&self.0.join(name), text.as_bytes(), PRIVATE)?;
        self.remove_oldest(outcome == PROVEN, KEPT)
    }

    /// Removes the oldest records of one kind until `kept` are left. Files with other names stay.
    fn remove_oldest(&self, proven: bool, kept: usize) -> Result<(), FileError> {
        // The record is there. A folder that cannot be listed is the next one's problem.
        let Ok(entries) = fs::read_dir(&self.0) else { return Ok(()) };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| is_proven(name) == Some(proven)).collect();
        let Some(surplus) = names.len().checked_sub(kept).filter(|surplus| *surplus > 0) else {
            return Ok(());
        };
        names.sort_unstable();
        names.iter().take(surplus).try_for_each(|name| remove(&self.0.join(name)))
    }
}

/// Whether a record with this name is of a clean room that was proven; `None` when it is no record's name.
fn is_proven(name: &str) -> Option<bool> {
    let mut parts = name.strip_suffix(".json")?.split('-');
    let (time, outcome, number) = (parts.next()?, parts.next()?, parts.next()?);
    let is_record = parts.next().is_none()
        && time.len() == "20260131T120000.000Z".len()
        && time.ends_with('Z')
        && number.len() == 16
        && number.bytes().all(|digit| digit.is_ascii_hexdigit());
    match outcome {
        PROVEN if is_record => Some(true),
        "refused" | "unreachable" if is_record => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &RecordFolder) -> Vec<String> {
        let entries = fs::read_dir(&folder.0).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn failures_push_out_no_proof_and_nothing_else_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let folder = RecordFolder::create(&place.path().join("records")).unwrap();
        let minute = |minute: u64| Timestamp::from_millis(1_769_860_800_000 + minute * 60_000);
        fs::write(folder.0.join("notes.json"), "mine").unwrap();
        folder.write(minute(0), PROVEN, "{}").unwrap();
        for number in 1..5 {
            folder.write(minute(number), "unreachable", "{}").unwrap();
        }
        folder.write(minute(5), "refused", "{}").unwrap();
        folder.remove_oldest(false, 2).unwrap();
        folder.remove_oldest(true, 2).unwrap();
        let names = names(&folder);
        let starts: Vec<&str> =
            names.iter().map(|name| name.rsplit_once('-').map_or("", |(start, _)| start)).collect();
        let expected = [
            "20260131T120000.000Z-proven",
            "20260131T120400.000Z-unreachable",
            "20260131T120500.000Z-refused",
            "",
        ];
        assert_eq!(starts, expected);
        assert_eq!(names[3], "notes.json");
    }

    #[test]
    fn two_records_of_one_moment_are_two_files() {
        let place = tempfile::tempdir().unwrap();
        let folder = RecordFolder::create(place.path()).unwrap();
        for _ in 0..2 {
            folder.write(Timestamp::from_millis(0), PROVEN, "{}").unwrap();
        }
        assert_eq!(names(&folder).len(), 2);
    }
}
