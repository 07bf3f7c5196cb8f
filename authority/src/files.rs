//! Documents as files. A draft is the payload alone, as people read it. An envelope holds a payload and its
//! signatures.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cleanroom_attestation::policy::{MAX_POLICY_LENGTH, Policy};
use cleanroom_attestation::release::{Envelope, PayloadType};

use crate::failure::Failure;

/// Reads at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: usize) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::File { verb: "read", path: path.to_owned(), error };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > limit {
        let what = path.display().to_string();
        return Err(Failure::Refused {
            what,
            code: "too-large",
            problem: format!("more than {limit} bytes"),
        });
    }
    Ok(bytes)
}

/// Fills `buffer`, or as much of it as there is to read.
pub(crate) fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads a policy, as partners have it in their `trust.toml`.
pub(crate) fn policy(path: &Path) -> Result<Policy, Failure> {
    let refused =
        |problem: String| Failure::Refused { what: path.display().to_string(), code: "policy", problem };
    let bytes = read(path, MAX_POLICY_LENGTH)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| refused("it is not UTF-8".to_owned()))?;
    Policy::from_toml(text).map_err(|error| refused(error.to_string()))
}

/// Opens an envelope, or a draft as an envelope without signatures.
pub(crate) fn open(path: &Path, payload_type: PayloadType) -> Result<(Envelope, Kind), Failure> {
    let bytes = read(path, payload_type.envelope_limit())?;
    let refused = |error| Failure::refused(&path.display(), &error);
    let is_envelope = serde_json::from_slice::<serde_json::Value>(&bytes)
        .is_ok_and(|json| json.get("payloadType").is_some());
    if is_envelope {
        Ok((Envelope::parse(&bytes, payload_type).map_err(refused)?, Kind::Envelope))
    } else {
        Ok((Envelope::unsigned(payload_type, &bytes).map_err(refused)?, Kind::Draft))
    }
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Draft,
    Envelope,
}

/// The default file for the envelope of a document: the same file for an envelope, `x.json` for the draft
/// `x.draft.json`.
pub(crate) fn envelope_path(document: &Path, kind: Kind) -> Result<PathBuf, Failure> {
    if kind == Kind::Envelope {
        return Ok(document.to_owned());
    }
    let name = document.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.strip_suffix(".draft.json") {
        Some(stem) => Ok(document.with_file_name(format!("{stem}.json"))),
        None => Err(Failure::usage(format!(
            "the name of the draft {} does not end in .draft.json, so the envelope has no default name: give one with \
             --out",
            document.display()
        ))),
    }
}

/// The JSON files of a folder, sorted by name; or the file itself. Drafts are left out.
pub(crate) fn json_files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error| Failure::File { verb: "read", path: path.to_owned(), error };
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let is_draft = file.to_string_lossy().ends_with(".draft.json");
        if file.extension().is_some_and(|extension| extension == "json") && !is_draft {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}
