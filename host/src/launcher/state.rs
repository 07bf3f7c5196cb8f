//! The folder in which a host keeps its files while it runs.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use cleanroom_program::file::{self, FileError};
use cleanroom_program::lock::{FolderLock, LockError};

use super::LaunchError;

/// A folder that this process alone uses, until it is dropped.
pub struct StateFolder {
    lock: FolderLock,
}

impl StateFolder {
    /// Makes the folder if it is not there, and takes it. Nothing else in it is touched.
    ///
    /// # Errors
    /// [`LaunchError::InUse`] when another host has it, [`LaunchError::State`] when the system refuses.
    pub fn take(path: &Path) -> Result<Self, LaunchError> {
        let failed = |source| LaunchError::State { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        // Sockets are looked up by path, so it must not depend on the current folder.
        let path = fs::canonicalize(path).map_err(failed)?;
        match FolderLock::take(&path) {
            Ok(lock) => Ok(Self { lock }),
            Err(LockError::InUse { folder, holder }) => Err(LaunchError::InUse { folder, holder }),
            Err(LockError::Refused { folder, source }) => Err(LaunchError::State { path: folder, source }),
        }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.lock.folder()
    }

    /// A path in the folder.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Puts a file into the folder, whole or not at all, and gives its path. A file that has these contents
    /// already is left as it is, so that a full disk does not keep an unchanged enclave from starting again.
    pub(super) fn write(&self, name: &str, mode: u32, contents: &[u8]) -> Result<PathBuf, LaunchError> {
        let path = self.join(name);
        match file::replace_if_changed(&path, contents, mode) {
            Ok(_) => Ok(path),
            Err(FileError { path, source, .. }) => Err(LaunchError::State { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    #[test]
    fn a_folder_belongs_to_one_host_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let taken = StateFolder::take(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(StateFolder::take(&path), Err(LaunchError::InUse { holder: Some(_), .. })));
        drop(taken);
        StateFolder::take(&path).unwrap();
    }

    /// The lock belongs to the open file, of which a child that is between fork and exec has a copy. This
    /// process opens such a copy by hand, through `/proc`, and keeps it.
    #[test]
    fn a_folder_is_free_once_it_is_dropped_even_if_a_child_has_a_copy_of_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        let taken = StateFolder::take(folder.path()).unwrap();
        let lock = fs::canonicalize(folder.path()).unwrap().join("lock");
        let own = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let number = own
            .filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == lock))
            .find_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .unwrap();
        // A shell is started with the descriptor as its standard input, and lives until its pipe is closed.
        let mut child = holder_of(number);
        drop(taken);
        let again = StateFolder::take(folder.path());
        drop(child.stdin.take());
        child.wait().unwrap();
        again.unwrap();
    }

    /// A child that inherits descriptor `number` of this process, as every child does until it runs its own
    /// program.
    fn holder_of(number: u32) -> std::process::Child {
        use std::io::Read as _;
        use std::os::fd::{AsFd as _, OwnedFd};
        let copy: OwnedFd = {
            let process =
                rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
                    .unwrap();
            rustix::process::pidfd_getfd(
                process.as_fd(),
                number as i32,
                rustix::process::PidfdGetfdFlags::empty(),
            )
            .unwrap()
        };
        let mut child = std::process::Command::new("sh")
            .args(["-c", "echo ready; read line"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::from(copy))
            .spawn()
            .unwrap();
        let mut ready = [0; 5];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        child
    }

    #[test]
    fn files_are_replaced_even_when_they_are_read_only_and_left_alone_when_they_are_right() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::take(folder.path()).unwrap();
        let mut nodes = Vec::new();
        for contents in ["one", "two", "two"] {
            let path = state.write("configuration", 0o400, contents.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), contents);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
            nodes.push(fs::metadata(&path).unwrap().ino());
        }
        assert_eq!(nodes[1], nodes[2], "a file that is right already was written again");
    }
}
