//! A copy of everything that crosses between this host and the enclave, for whoever wants to see that it is
//! ciphertext.
//!
//! Each connection becomes two files: `000001-to-enclave` and `000001-from-enclave`. The copy belongs to the
//! process, as its log does: [`begin`] is called once, before the first connection. A copy that would miss
//! bytes is worth nothing, so a connection whose copy cannot be written ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use cleanroom_program::file::{self, FileError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Where copies go, if somebody asked for them.
static CAPTURE: OnceLock<Capture> = OnceLock::new();

struct Capture {
    folder: PathBuf,
    connections: AtomicU64,
}

/// Keeps a copy of every connection to the enclave from now on, in a folder that is made for it. Asking again
/// changes nothing.
///
/// # Errors
/// The folder cannot be made.
pub fn begin(folder: PathBuf) -> Result<(), FileError> {
    file::create_folder(&folder, 0o700)?;
    let _ = CAPTURE.set(Capture { folder, connections: AtomicU64::new(0) });
    Ok(())
}

/// A connection to the enclave, and the files of its copy.
#[derive(Debug)]
pub struct Captured<S> {
    stream: S,
    copy: Option<Copy>,
}

#[derive(Debug)]
struct Copy {
    to_enclave: File,
    from_enclave: File,
}

impl<S> Captured<S> {
    /// A new connection, copied if somebody asked for it.
    ///
    /// # Errors
    /// The files of the copy cannot be made.
    pub(crate) fn new(stream: S) -> io::Result<Self> {
        let copy = CAPTURE.get().map(|capture| {
            let number = capture.connections.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            Copy::in_folder(&capture.folder, number)
        });
        Ok(Self { stream, copy: copy.transpose()? })
    }

    /// The connection itself, which nobody copies; or this, if somebody asked for a copy.
    pub(crate) fn uncopied(self) -> Result<S, Self> {
        if self.copy.is_none() { Ok(self.stream) } else { Err(self) }
    }
}

impl Copy {
    fn in_folder(folder: &Path, number: u64) -> io::Result<Self> {
        let file = |direction: &str| {
            let path = folder.join(format!("{number:06}-{direction}-enclave"));
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
        };
        Ok(Self { to_enclave: file("to")?, from_enclave: file("from")? })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Captured<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(copy) = &mut self.copy {
            copy.from_enclave.write_all(buffer.filled().get(before..).unwrap_or_default())?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Captured<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        if let Some(copy) = &mut self.copy {
            copy.to_enclave.write_all(bytes.get(..count).unwrap_or_default())?;
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn a_copy_has_what_crossed_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let (host, mut enclave) = duplex(4);
        let copy = Copy::in_folder(folder.path(), 7).unwrap();
        let mut host = Captured { stream: host, copy: Some(copy) };
        let spoken = async {
            host.write_all(b"a question").await.unwrap();
            let mut answer = [0; 6];
            host.read_exact(&mut answer).await.unwrap();
            answer
        };
        let heard = async {
            let mut question = [0; 10];
            enclave.read_exact(&mut question).await.unwrap();
            enclave.write_all(b"answer").await.unwrap();
        };
        let (answer, ()) = tokio::join!(spoken, heard);
        assert_eq!(&answer, b"answer");
        let copy = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(copy("000007-to-enclave"), b"a question");
        assert_eq!(copy("000007-from-enclave"), b"answer");
        assert!(host.uncopied().is_err());
    }

    #[tokio::test]
    async fn a_connection_ends_when_its_copy_cannot_be_written() {
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let (host, _enclave) = duplex(4);
        let copy = Copy { to_enclave: full(), from_enclave: full() };
        let mut host = Captured { stream: host, copy: Some(copy) };
        let error = host.write_all(b"a").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
