//! Standard output and standard error, for programs whose reader may be gone or slow.
//!
//! `println!` panics when standard output is closed or full. These functions do not.

use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

/// How long to wait before a descriptor that does not block is tried again.
const AGAIN: Duration = Duration::from_millis(5);
/// How long to wait for a reader whom the program does not need.
const MOMENT: Duration = Duration::from_secs(1);

/// Why a text was not written whole.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The reader is gone, as after `cleanroom … | head -1`. The program's work is not at fault.
    #[error("the reader of standard output is gone")]
    Closed,
    /// The system refused, for example because a disk is full.
    #[error("cannot write standard output: {0}")]
    Failed(#[source] io::Error),
}

impl OutputError {
    /// The exit status by convention: 141 (128 + SIGPIPE) when the reader is gone, which shells and `set -o
    /// pipefail` know; otherwise `failed`, the program's own status for "the system refused".
    #[must_use]
    pub fn exit_status(&self, failed: u8) -> u8 {
        match self {
            Self::Closed => 141,
            Self::Failed(_) => failed,
        }
    }
}

/// Writes one line (a line feed is added) to standard output, at once and whole.
///
/// It waits while a reader is slow, even if somebody made the descriptor non-blocking.
///
/// # Errors
/// [`OutputError`] when not all of it was written.
pub fn print(text: impl Display) -> Result<(), OutputError> {
    write(format!("{text}\n").as_bytes())
}

/// Writes bytes to standard output, at once and whole.
///
/// # Errors
/// [`OutputError`] when not all of them were written.
pub fn write(bytes: &[u8]) -> Result<(), OutputError> {
    // Held so that two threads do not mix their lines, and emptied in case something used `print!`.
    let mut stdout = io::stdout().lock();
    stdout.flush().and_then(|()| write_all(&mut Raw(stdout.as_fd()), bytes)).map_err(OutputError::from)
}

/// Writes one line, with a line feed, to standard output. Gives up after one second if nobody reads. Services
/// announce with it that they are ready.
pub fn announce(text: impl Display) {
    let line = format!("{text}\n");
    for_a_moment(move || _ = write(line.as_bytes()));
}

/// Writes one line (a line feed is added) to standard error, and goes on after one second if nobody reads it.
///
/// There is nowhere to say that nobody does, so nothing is returned. The exit status must tell the same
/// story.
pub fn complain(text: impl Display) {
    let line = format!("{text}\n");
    for_a_moment(move || {
        let stderr = io::stderr().lock();
        let _ = write_all(&mut Raw(stderr.as_fd()), line.as_bytes());
    });
}

/// Waits for `work`, but not for ever: a full pipe blocks its writer for as long as its reader likes.
fn for_a_moment(work: impl FnOnce() + Send + 'static) {
    let (done, waiting) = std::sync::mpsc::channel();
    let work = move || {
        work();
        let _ = done.send(());
    };
    if std::thread::Builder::new().name("output".to_owned()).spawn(work).is_ok() {
        let _ = waiting.recv_timeout(MOMENT);
    }
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Closed } else { Self::Failed(error) }
    }
}

/// A descriptor without the standard library's buffer, which would keep and repeat what it could not write.
struct Raw<'a>(BorrowedFd<'a>);

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(self.0, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `Write::write_all`, which also waits for a descriptor that does not block.
pub(crate) fn write_all(writer: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match writer.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(AGAIN),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes three bytes at a time, and is not ready or interrupted in between.
    #[derive(Default)]
    struct Slow {
        turn: usize,
        taken: Vec<u8>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.turn += 1;
            match self.turn % 3 {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                1 => Err(io::ErrorKind::Interrupted.into()),
                _ => {
                    let count = bytes.len().min(3);
                    self.taken.extend_from_slice(&bytes[..count]);
                    Ok(count)
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_reader_gets_everything_once() {
        let mut slow = Slow::default();
        write_all(&mut slow, b"everything, once").unwrap();
        assert_eq!(slow.taken, b"everything, once");
    }

    #[test]
    fn a_closed_pipe_has_the_status_that_shells_know() {
        let closed = OutputError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(matches!(closed, OutputError::Closed));
        assert_eq!(closed.exit_status(3), 141);
        let full = OutputError::from(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(full.exit_status(3), 3);
    }
}
