//! A Unix socket's path that one process listens on.
//!
//! Binding a Unix socket fails while its file is there, whether or not somebody still listens. So a program
//! that starts again must remove the old file first, and must never remove one on which somebody listens. The
//! claim is a lock on a file beside the socket, `PATH.lock`: it is taken before anything is touched. Then the
//! socket is stale if nobody answers on it. The lock's file stays behind, since removing it would let two
//! processes hold two locks.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use tokio::net::{UnixListener, UnixSocket, UnixStream};

/// Connections that may wait to be accepted; the system may allow fewer (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// A socket on which this process alone listens. Dropping it removes the socket's file and gives the path
/// back.
#[derive(Debug)]
pub struct ClaimedListener {
    listener: UnixListener,
    path: PathBuf,
    lock: File,
}

impl ClaimedListener {
    /// Claims `path` and listens on it. `mode` is the permissions of the socket, less the process's umask: who
    /// may write to it may connect.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] when somebody listens there, or when what is there is no socket. Nothing
    /// has changed then. Otherwise what the system says.
    pub async fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(lock_path(path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use("another process holds the lock beside it")),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let bound = match remove_if_stale(path).await {
            Ok(()) => listen(path, mode),
            Err(error) => Err(error),
        };
        match bound {
            Ok(listener) => Ok(Self { listener, path: path.to_owned(), lock }),
            Err(error) => {
                let _ = lock.unlock();
                Err(error)
            }
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// What the system says.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ClaimedListener {
    fn drop(&mut self) {
        // The claim is still held, so the file is this process's own.
        let _ = fs::remove_file(&self.path);
        // A child that is being started holds copies of all descriptors for a moment. It must not hold the
        // claim.
        let _ = self.lock.unlock();
    }
}

/// A socket that has its permissions from its first moment on: Linux gives a socket's file those of the open
/// socket (unix(7)).
fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    socket.bind(path)?;
    let actual = fs::symlink_metadata(path)?.permissions().mode() & 0o777;
    if actual & !mode != 0 {
        let problem = format!("the system gave the socket the permissions {actual:o} instead of {mode:o}");
        return Err(io::Error::other(problem));
    }
    socket.listen(BACKLOG)
}

/// Removes a socket on which nobody listens. The caller holds the claim.
async fn remove_if_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(in_use("a file that is no socket is there")),
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // Anything else may be a program that is busy.
        _ => Err(in_use("another program listens on it")),
    }
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

fn in_use(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refused(path: &Path) -> String {
        let error = ClaimedListener::bind(path, 0o600).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        error.to_string()
    }

    #[tokio::test]
    async fn a_socket_on_which_somebody_listens_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay.sock");
        let first = ClaimedListener::bind(&path, 0o600).await.unwrap();
        assert_eq!(refused(&path).await, "another process holds the lock beside it");
        // The refused start left the socket to its owner.
        UnixStream::connect(&path).await.unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(first);
        assert!(!path.exists());
        drop(ClaimedListener::bind(&path, 0o600).await.unwrap());

        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(refused(&path).await, "another program listens on it");
        UnixStream::connect(&path).await.unwrap();
        drop(other);
        drop(ClaimedListener::bind(&path, 0o600).await.unwrap());

        fs::write(&path, "precious").unwrap();
        assert_eq!(refused(&path).await, "a file that is no socket is there");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_copy_of_the_locks_descriptor_does_not_keep_the_claim() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay.sock");
        let first = ClaimedListener::bind(&path, 0o600).await.unwrap();
        // What a child between fork and exec holds.
        let copy = first.lock.try_clone().unwrap();
        drop(first);
        drop(ClaimedListener::bind(&path, 0o600).await.unwrap());
        drop(copy);
    }
}
