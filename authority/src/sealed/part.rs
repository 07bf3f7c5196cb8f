//! The file of a sealed model while it is incomplete. The complete file gets the final name.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use cleanroom_program::file;
use cleanroom_sealing::{HEADER_BYTES, Header, SealError};

use crate::failure::Failure;

/// A sealed file that is not finished. It may hold what an earlier run wrote.
///
/// A salt must not seal two different models. So what is there is never written again: it is compared with
/// what this run would write, byte by byte, and a difference ends the run. Only what follows it is written.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    /// How many bytes an earlier run left, less those that were compared already.
    left: u64,
    /// The header that it left.
    header: Option<Header>,
}

impl Part {
    /// Opens or makes the file, for this process alone.
    pub(super) fn open(path: PathBuf) -> Result<Self, Failure> {
        let failed = |error| Failure::File { verb: "write", path: path.clone(), error };
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        if file.try_lock().is_err() {
            return Err(Failure::Environment(format!(
                "{} is being written by another process",
                path.display()
            )));
        }
        let mut left = file.metadata().map_err(failed)?.len();
        let mut header = None;
        if left < HEADER_BYTES as u64 {
            // No chunk was sealed yet.
            file.set_len(0).map_err(failed)?;
            left = 0;
        } else {
            let mut bytes = [0; HEADER_BYTES];
            file.read_exact(&mut bytes).map_err(failed)?;
            header = Header::parse(&bytes).ok();
            std::io::Seek::rewind(&mut file).map_err(failed)?;
        }
        Ok(Self { path, file, left, header })
    }

    /// The header that an earlier run wrote.
    pub(super) const fn header(&self) -> Option<Header> {
        self.header
    }

    /// Takes the next bytes of the sealed file.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let there = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let (old, new) = bytes.split_at(there);
        let mut found = vec![0; old.len()];
        let failed = |verb| move |error| (verb, error);
        let done = self.file.read_exact(&mut found).map_err(failed("read"));
        let done = done.and_then(|()| {
            if found == old { self.file.write_all(new).map_err(failed("write")) } else { Ok(()) }
        });
        done.map_err(|(verb, error)| Failure::File { verb, path: self.path.clone(), error })?;
        if found != old {
            return Err(self.changed());
        }
        self.left = self.left.saturating_sub(there as u64);
        Ok(())
    }

    /// Gives the finished file its name. It has `length` bytes.
    pub(super) fn put_in_place(self, out: &Path, length: u64) -> Result<(), Failure> {
        let failed = |error| Failure::File { verb: "read", path: self.path.clone(), error };
        if self.left > 0 || self.file.metadata().map_err(failed)?.len() != length {
            return Err(self.changed());
        }
        file::publish(&self.path, out)?;
        Ok(())
    }

    /// The reason why this run cannot go on where an earlier one stopped.
    pub(super) fn refused(&self, error: &SealError) -> Failure {
        Failure::Refused {
            what: self.path.display().to_string(),
            code: error.code(),
            problem: format!(
                "an earlier run began this file with another key; remove it to begin again ({error})"
            ),
        }
    }

    fn changed(&self) -> Failure {
        Failure::Refused {
            what: self.path.display().to_string(),
            code: "model-changed",
            problem:
                "an earlier run began this file with another model, or it is damaged; remove it to begin again"
                    .to_owned(),
        }
    }
}
