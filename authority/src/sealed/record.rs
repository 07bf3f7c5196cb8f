//! What `seal` writes beside a sealed file.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_sealing::{Header, Layout};
use serde::{Deserialize, Serialize};

use super::files::MAX_INDEX_BYTES;
use super::{hex, with_suffix};
use crate::failure::Failure;

/// The longest record, in bytes: a file in it takes more than in an index.
const LIMIT: u64 = 4 * MAX_INDEX_BYTES as u64;

/// The record of a sealed file, as far as it cannot be read from that file. Nothing proves it.
#[derive(Deserialize)]
pub(super) struct Record {
    bytes: u64,
    commitment: String,
    /// The model's identity.
    pub(super) model_sha256: Sha256Digest,
    /// Its files, if it has several.
    pub(super) files: Option<Vec<Entry>>,
}

/// A file of a model.
#[derive(Deserialize, Serialize)]
pub(super) struct Entry {
    name: String,
    bytes: u64,
}

impl Record {
    /// The record beside a sealed file. None if there is none.
    ///
    /// # Errors
    /// It cannot be read, or it is the record of another file.
    pub(super) fn beside(sealed: &Path, header: &Header, layout: Layout) -> Result<Option<Self>, Failure> {
        let path = with_suffix(sealed, ".json");
        let failed = |error| Failure::File { verb: "read", path: path.clone(), error };
        let mut text = Vec::new();
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.and_then(|file| file.take(LIMIT).read_to_end(&mut text)).map_err(failed)?,
        };
        let record: Self = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
        if record.bytes == layout.plain_length() && record.commitment == hex(&header.commitment) {
            return Ok(Some(record));
        }
        Err(Failure::Refused {
            what: path.display().to_string(),
            code: "record",
            problem: format!(
                "expected the record of {}, got that of another sealed file; seal again, or remove it",
                sealed.display()
            ),
        })
    }

    /// What it says, for people.
    pub(super) fn text(&self) -> String {
        let mut text = format!("  its record says\n  model       SHA-256 {}\n", self.model_sha256);
        let files = self.files.iter().flatten();
        // A name is what a stranger wrote: nothing in it may steer a terminal.
        text.extend(files.map(|Entry { name, bytes }| {
            format!("  file        {} of {bytes} bytes\n", name.escape_debug())
        }));
        text
    }
}
