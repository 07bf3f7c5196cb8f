//! The enclave's console: kept in a file of bounded size, and its last line for the operator.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The longest that a log grows before it is put aside and a new one begun, in bytes. One old log is kept.
const LOG_MAX: u64 = 8 * 1024 * 1024;

/// The longest line that is shown, in bytes; the log has it whole.
const LINE_MAX: usize = 512;

/// How long the host reads on after the enclave's end, in case somebody else holds its console open.
pub(super) const CONSOLE_LINGER: Duration = Duration::from_secs(1);

/// How long a log that could not be written is left alone before it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Where the console goes.
pub(super) struct Console {
    path: PathBuf,
    log_max: u64,
    /// Lines are shown to the operator as they come, too.
    echo: bool,
}

/// The last line that the console said.
#[derive(Clone, Default)]
pub(super) struct LastWords(Arc<Mutex<String>>);

impl Console {
    /// Keeps the console in the file at `path`.
    pub(super) fn new(path: &Path, echo: bool) -> Self {
        Self { path: path.to_owned(), log_max: LOG_MAX, echo }
    }

    /// Copies `reader` into the log until its end, in a task of its own.
    pub(super) fn keep_in_background(
        self: &Arc<Self>,
        reader: impl AsyncRead + Unpin + Send + 'static,
        last: LastWords,
    ) -> JoinHandle<()> {
        let console = Arc::clone(self);
        tokio::spawn(async move {
            console.keep(reader, last).await;
        })
    }

    /// Copies `reader` into the log until its end.
    ///
    /// The host reads on even if the log cannot be written, because an enclave whose console nobody reads
    /// stands still. It counts lost bytes, and the log says how many are missing once it can be written
    /// again.
    pub(super) async fn keep(&self, mut reader: impl AsyncRead + Unpin, last: LastWords) {
        let mut log = Log::new(&self.path, self.log_max);
        // The file is there from the beginning, even if nothing is said.
        log.write(b"");
        let mut buffer = vec![0; 4096];
        let mut line = Vec::new();
        loop {
            let count = match reader.read(&mut buffer).await {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::warn!(error = %error.kind(), "the enclave's console cannot be read any more");
                    0
                }
            };
            let bytes = buffer.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                return self.say(&mut line, &last);
            }
            log.write(bytes);
            for byte in bytes {
                if *byte == b'\n' {
                    self.say(&mut line, &last);
                } else if line.len() < LINE_MAX {
                    line.push(*byte);
                }
            }
        }
    }

    /// Takes a line that is complete.
    fn say(&self, line: &mut Vec<u8>, last: &LastWords) {
        let text = printable(line);
        line.clear();
        if !text.is_empty() {
            if self.echo {
                tracing::info!("enclave | {text}");
            }
            last.set(text);
        }
    }
}

/// A file that grows to a length, is put aside then, and is begun anew. It never fails: it loses bytes and
/// counts them.
struct Log<'a> {
    path: &'a Path,
    max: u64,
    /// The file and its length.
    file: Option<(File, u64)>,
    /// When to try again, after a failure.
    retry: Option<Instant>,
    /// Bytes that were lost since the log was last written.
    lost: u64,
}

impl<'a> Log<'a> {
    const fn new(path: &'a Path, max: u64) -> Self {
        Self { path, max, file: None, retry: None, lost: 0 }
    }

    fn write(&mut self, bytes: &[u8]) {
        let now = Instant::now();
        if self.retry.is_some_and(|retry| now < retry) {
            self.lost += bytes.len() as u64;
            return;
        }
        match self.try_write(bytes) {
            Ok(()) => self.retry = None,
            Err(error) => {
                if self.retry.is_none() {
                    let path = self.path.display();
                    tracing::warn!(error = %error.kind(), %path, "the enclave's console cannot be kept; trying on");
                }
                self.retry = Some(now + RETRY);
                self.file = None;
                self.lost += bytes.len() as u64;
            }
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (mut file, mut length) = match self.file.take() {
            Some(open) => open,
            None => open(self.path)?,
        };
        if length + bytes.len() as u64 > self.max {
            fs::rename(self.path, self.path.with_extension("log.old"))?;
            (file, length) = open(self.path)?;
        }
        if self.lost > 0 {
            let note = format!("\ncleanroom-host: {} bytes of the console are missing here\n", self.lost);
            file.write_all(note.as_bytes())?;
            length += note.len() as u64;
            self.lost = 0;
        }
        file.write_all(bytes)?;
        self.file = Some((file, length + bytes.len() as u64));
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let length = log.metadata()?.len();
    Ok((log, length))
}

impl LastWords {
    pub(super) fn get(&self) -> Option<String> {
        let text = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(text).filter(|text| !text.is_empty())
    }

    fn set(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}

/// A line as it may be put on a terminal: no control characters, which could rewrite what stands there.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text: String =
        text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn keep(log_max: u64, said: &[u8]) -> (String, Option<String>, Option<String>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        let console = Console { path: path.clone(), log_max, echo: false };
        let last = LastWords::default();
        console.keep(said, last.clone()).await;
        let old = fs::read_to_string(folder.path().join("console.log.old")).ok();
        (fs::read_to_string(path).unwrap(), old, last.get())
    }

    #[tokio::test]
    async fn everything_is_kept_and_the_last_line_is_remembered() {
        let (log, old, last) = keep(LOG_MAX, b"one\ntwo\n\n").await;
        assert_eq!((log.as_str(), old, last.as_deref()), ("one\ntwo\n\n", None, Some("two")));
        assert_eq!(keep(LOG_MAX, b"one\nunfinished").await.2.as_deref(), Some("unfinished"));
        assert_eq!(keep(LOG_MAX, b"").await.2, None);
    }

    #[tokio::test]
    async fn last_words_are_short_and_without_control_characters() {
        let (_, _, last) = keep(LOG_MAX, b"red \x1b[31mtext\x07\r\n").await;
        assert_eq!(last.as_deref(), Some("red  [31mtext"));
        let (log, _, last) = keep(LOG_MAX, &[b'x'; 3 * LINE_MAX]).await;
        assert_eq!((log.len(), last.unwrap().len()), (3 * LINE_MAX, LINE_MAX));
    }

    #[tokio::test]
    async fn the_log_is_bounded() {
        let (log, old, last) = keep(10_000, &b"0123456789\n".repeat(5000)).await;
        assert!(log.len() <= 10_000 && old.unwrap().len() <= 10_000);
        assert_eq!(last.as_deref(), Some("0123456789"));
    }

    /// `/dev/full` is a file on a full disk.
    #[tokio::test(start_paused = true)]
    async fn a_log_that_cannot_be_written_loses_lines_and_goes_on_when_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let (mut enclave, console) = tokio::io::duplex(4096);
        let last = LastWords::default();
        let keep = {
            let (path, last) = (path.clone(), last.clone());
            async move { Console { path, log_max: LOG_MAX, echo: false }.keep(console, last).await }
        };
        let story = async move {
            use tokio::io::AsyncWriteExt as _;
            enclave.write_all(b"lost\n").await.unwrap();
            tokio::time::sleep(RETRY / 2).await;
            // The disk has room again, but is not tried yet.
            fs::remove_file(&path).unwrap();
            enclave.write_all(b"lost too\n").await.unwrap();
            tokio::time::sleep(RETRY).await;
            enclave.write_all(b"kept\n").await.unwrap();
            drop(enclave);
            path
        };
        let ((), path) = tokio::join!(keep, story);
        let log = fs::read_to_string(path).unwrap();
        assert_eq!(log, "\ncleanroom-host: 14 bytes of the console are missing here\nkept\n");
        assert_eq!(last.get().as_deref(), Some("kept"));
    }
}
