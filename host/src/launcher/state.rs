//! The folder in which a host keeps its files while it runs.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::LaunchError;

/// A folder that this process alone uses, until it is dropped.
pub struct StateFolder {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
}

impl StateFolder {
    /// Makes the folder if it is not there, and takes it.
    ///
    /// # Errors
    /// [`LaunchError::InUse`] when another host has it, [`LaunchError::State`] when the system refuses.
    pub fn take(path: &Path) -> Result<Self, LaunchError> {
        let failed = |source| LaunchError::State { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        // Sockets are looked up by path, so it must not depend on the current folder.
        let path = fs::canonicalize(path).map_err(failed)?;
        let lock = File::create(path.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(LaunchError::InUse(path)),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in the folder.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Puts a file into the folder, whole or not at all, and gives its path.
    pub(super) fn write(&self, name: &str, mode: u32, contents: &[u8]) -> Result<PathBuf, LaunchError> {
        let path = self.join(name);
        let write = || -> io::Result<()> {
            let temporary = self.join(&format!("{name}.new"));
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
            file.write_all(contents)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        match write() {
            Ok(()) => Ok(path),
            Err(source) => Err(LaunchError::State { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_folder_belongs_to_one_host_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let taken = StateFolder::take(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(StateFolder::take(&path), Err(LaunchError::InUse(_))));
        drop(taken);
        StateFolder::take(&path).unwrap();
    }

    #[test]
    fn files_are_replaced_even_when_they_are_read_only() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::take(folder.path()).unwrap();
        for contents in ["one", "two"] {
            let path = state.write("configuration", 0o400, contents.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), contents);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
        }
    }
}
