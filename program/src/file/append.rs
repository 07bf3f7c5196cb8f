//! A file to which lines are added, and from which nothing is ever taken away.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::{FileError, Operation, folder_of, run, sync_folder, write_bytes};

/// A file that only grows. What [`Appender::append`] returned for is on the disk.
#[derive(Debug)]
pub struct Appender {
    file: File,
    path: PathBuf,
    /// Bytes of whole entries.
    length: u64,
}

impl Appender {
    /// Opens the file and gives what is in it, or makes it. When this returns, the file's name is on the disk, and no other
    /// process can open it so until this is dropped.
    ///
    /// # Errors
    /// The system refuses, or the file has more than `limit` bytes.
    pub fn open(path: &Path, mode: u32, limit: u64) -> Result<(Self, Vec<u8>), FileError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(mode);
        let mut file = run(Operation::Open, path, || {
            let file = options.open(path)?;
            match file.try_lock() {
                Ok(()) => Ok(file),
                Err(TryLockError::WouldBlock) => {
                    Err(std::io::Error::other("another process writes into it; end that process first"))
                }
                Err(TryLockError::Error(error)) => Err(error),
            }
        })?;
        let mut bytes = Vec::new();
        run(Operation::Read, path, || {
            (&mut file).take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > limit {
                let problem = format!(
                    "it has more than {limit} bytes; move it away, and the program creates a new one"
                );
                return Err(std::io::Error::other(problem));
            }
            Ok(())
        })?;
        run(Operation::SyncFile, path, || file.sync_all())?;
        sync_folder(folder_of(path))?;
        Ok((Self { file, path: path.to_owned(), length: bytes.len() as u64 }, bytes))
    }

    /// Forgets everything behind the first `length` bytes: an entry that a power cut left half.
    ///
    /// # Errors
    /// The system refuses.
    pub fn keep(&mut self, length: u64) -> Result<(), FileError> {
        self.length = length;
        run(Operation::Write, &self.path, || self.file.set_len(length))?;
        run(Operation::SyncFile, &self.path, || self.file.sync_all())
    }

    /// Adds an entry. After an error the file is as it was before, or has a part of the entry that the next call overwrites.
    ///
    /// # Errors
    /// The system refuses.
    pub fn append(&mut self, entry: &[u8]) -> Result<(), FileError> {
        run(Operation::Open, &self.path, || {
            self.file.set_len(self.length)?;
            self.file.seek(SeekFrom::Start(self.length)).map(drop)
        })?;
        write_bytes(&mut self.file, &self.path, entry)?;
        run(Operation::SyncFile, &self.path, || self.file.sync_all())?;
        self.length = self.length.saturating_add(entry.len() as u64);
        Ok(())
    }

    /// Bytes of whole entries.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }
}
