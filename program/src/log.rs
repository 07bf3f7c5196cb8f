//! The log of a program. It is best effort, so it never stops the program's work.
//!
//! Lines go to standard error through a bounded queue and a thread of its own. A reader that is gone, slow or
//! full costs lines, and nothing else: no call blocks, none panics. Lost lines are counted, and once lines
//! flow again the log says how many were lost.
//!
//! The variable [`LEVEL_VARIABLE`] chooses what is logged, in the syntax of `tracing_subscriber::EnvFilter`,
//! for example `debug` or `info,cleanroom_host::relay=trace`.

mod queue;

use std::io::{self, IsTerminal as _};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use self::queue::{Line, Queue};

/// The environment variable that chooses what is logged.
pub const LEVEL_VARIABLE: &str = "CLEANROOM_LOG";

/// The longest that a program waits at its end for its last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// One log in one process, as `tracing` has it.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people, with colours on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Format {
    /// The format for a program that was called with (`true`) or without `--json`.
    #[must_use]
    pub fn json_if(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The variable does not say what to log.
    #[error(
        "the environment variable {LEVEL_VARIABLE} is not understood: {0}; expected for example `info` or \
         `debug`"
    )]
    Level(String),
    /// This process has a log already.
    #[error("this process has a log already")]
    Twice,
    /// The system refused a thread.
    #[error("cannot start the log's thread: {0}")]
    Thread(#[source] io::Error),
}

/// The running log. Dropping it at the program's end waits for the last lines, for at most one second.
///
/// `std::process::exit` does not drop it: call [`Log::flush`] before.
#[derive(Debug)]
#[must_use = "the last lines are written when it is dropped"]
pub struct Log {
    queue: Arc<Queue>,
}

impl Log {
    /// Waits until every line is written or lost, for at most one second.
    pub fn flush(&self) {
        self.queue.flush(LAST_LINES);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Starts the log of this process. `default` is the level when [`LEVEL_VARIABLE`] is not set, for example
/// `info`.
///
/// # Errors
/// [`StartError`], before anything is logged.
pub fn start(format: Format, default: &str) -> Result<Log, StartError> {
    let filter = match std::env::var(LEVEL_VARIABLE) {
        Ok(text) => EnvFilter::try_new(text),
        Err(std::env::VarError::NotPresent) => EnvFilter::try_new(default),
        Err(error @ std::env::VarError::NotUnicode(_)) => return Err(StartError::Level(error.to_string())),
    };
    let filter = filter.map_err(|error| StartError::Level(error.to_string()))?;
    let queue = Arc::new(Queue::new());
    if QUEUE.set(Arc::clone(&queue)).is_err() {
        return Err(StartError::Twice);
    }
    let lines = {
        let queue = Arc::clone(&queue);
        move || Line::new(Arc::clone(&queue))
    };
    // By default tracing reports its own trouble with `eprintln!`, which panics where standard error is
    // closed.
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(lines)
        .log_internal_errors(false);
    let started = match format {
        Format::Json => log.json().try_init(),
        Format::Text => log.with_ansi(colours()).try_init(),
    };
    started.map_err(|_| StartError::Twice)?;
    queue::write_on_thread(Arc::clone(&queue), io::stderr(), report).map_err(StartError::Thread)?;
    Ok(Log { queue })
}

/// Lines of this process's log that were lost so far. For metrics.
#[must_use]
pub fn lost_lines() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.lost())
}

/// `text` in one line: an error that shows where it lies in a file has several, and a line of a log is one thing.
#[must_use]
pub fn one_line(text: &impl std::fmt::Display) -> String {
    text.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Colours on a terminal, unless the user wants none (<https://no-color.org>).
fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn report(lost: u64) {
    tracing::warn!(lost, "log lines were lost because standard error could not take them");
}
