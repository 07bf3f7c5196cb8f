//! A folder that one process uses alone.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

/// The lock's file in the folder. It stays there: removing it would let two processes hold two locks.
const NAME: &str = "lock";

/// Why a folder could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "the folder {} is in use by another process{}; end that process first, or choose another folder",
        .folder.display(),
        .holder.map_or(String::new(), |id| format!(" (id {id})"))
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The process that has it, as it wrote itself into the lock's file.
        holder: Option<u32>,
    },
    /// The system refused.
    #[error("cannot lock the folder {}: {source}", .folder.display())]
    Refused {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A folder that this process alone uses, until this is dropped or the process ends in whatever way.
///
/// The lock is a `flock`, which belongs to the open file and not to the process: a child that another thread
/// forks holds a copy until it runs its own program. So the lock is given back explicitly, and is free once
/// this is dropped.
#[derive(Debug)]
pub struct FolderLock {
    folder: PathBuf,
    file: File,
}

impl FolderLock {
    /// Takes `folder`, which must exist. Does not wait.
    ///
    /// Take the lock before anything else that touches the folder.
    ///
    /// # Errors
    /// [`LockError`], which names the folder and what to do.
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let refused = |source| LockError::Refused { folder: folder.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(folder.join(NAME)).map_err(refused)?;
        match file.try_lock() {
            Ok(()) => {
                // For the message above only. A full disk does not keep the program from running.
                let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
                Ok(Self { folder: folder.to_owned(), file })
            }
            Err(TryLockError::WouldBlock) => {
                Err(LockError::InUse { folder: folder.to_owned(), holder: holder(&mut file) })
            }
            Err(TryLockError::Error(source)) => Err(refused(source)),
        }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // If it fails, the end of the last copy of the descriptor gives the lock back.
        let _ = self.file.unlock();
    }
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_holder_who_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path()).unwrap();
        assert_eq!(lock.folder(), folder.path());
        let error = FolderLock::take(folder.path()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, LockError::InUse { holder: Some(id), .. } if id == std::process::id()));
        assert!(text.contains(&folder.path().display().to_string()), "{text}");
        drop(lock);
        drop(FolderLock::take(folder.path()).unwrap());
        assert!(matches!(FolderLock::take(&folder.path().join("none")), Err(LockError::Refused { .. })));
    }

    #[test]
    fn a_copy_of_the_descriptor_does_not_keep_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path()).unwrap();
        // What a child between fork and exec holds.
        let copy = lock.file.try_clone().unwrap();
        drop(lock);
        let again = FolderLock::take(folder.path()).unwrap();
        drop(copy);
        assert!(FolderLock::take(folder.path()).is_err());
        drop(again);
    }
}
