//! The enclave's console: kept in a file of bounded size, and its last line for the operator.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::task::JoinHandle;

/// The longest that a log grows before it is put aside and a new one begun, in bytes. One old log is kept.
const LOG_MAX: u64 = 8 * 1024 * 1024;

/// The longest line that is shown, in bytes; the log has it whole.
const LINE_MAX: usize = 512;

/// How long the host reads on after the enclave's end, in case somebody else holds its console open.
pub(super) const CONSOLE_LINGER: Duration = Duration::from_secs(1);

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
            if let Err(error) = console.keep(reader, last).await {
                tracing::warn!(error = %error.kind(), "the enclave's console is not kept any more");
            }
        })
    }

    /// Copies `reader` into the log until its end.
    pub(super) async fn keep(&self, mut reader: impl AsyncRead + Unpin, last: LastWords) -> io::Result<()> {
        let (mut log, mut length) = self.open()?;
        let mut buffer = vec![0; 4096];
        let mut line = Vec::new();
        loop {
            let count = reader.read(&mut buffer).await?;
            let bytes = buffer.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                self.say(&mut line, &last);
                return Ok(());
            }
            if length + count as u64 > self.log_max {
                fs::rename(&self.path, self.path.with_extension("log.old"))?;
                (log, length) = self.open()?;
            }
            log.write_all(bytes)?;
            length += count as u64;
            for byte in bytes {
                if *byte == b'\n' {
                    self.say(&mut line, &last);
                } else if line.len() < LINE_MAX {
                    line.push(*byte);
                }
            }
        }
    }

    fn open(&self) -> io::Result<(File, u64)> {
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        let length = log.metadata()?.len();
        Ok((log, length))
    }

    /// Takes a line that is complete.
    fn say(&self, line: &mut Vec<u8>, last: &LastWords) {
        let text = printable(line);
        line.clear();
        if !text.is_empty() {
            if self.echo {
                // The console of the operator may be gone; the log is there.
                let _ = writeln!(io::stderr(), "enclave | {text}");
            }
            last.set(text);
        }
    }
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
        console.keep(said, last.clone()).await.unwrap();
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
}
