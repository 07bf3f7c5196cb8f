//! The console lines of PID 1: a closed list.

use std::fmt;
use std::io::{self, Write as _};

use crate::application::Whole;
use crate::halt::Halt;

/// One line of the console.
pub(crate) enum Line<'a> {
    /// The machine is set up.
    Started,
    /// The application is what the manifest lists.
    ApplicationWhole(Whole),
    /// The kernel's pool holds the security module's randomness.
    EntropyMixedIn,
    /// The parent answered.
    Heartbeat,
    /// The application runs.
    ApplicationStarted,
    /// The end, and why.
    Halted(&'a Halt),
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => formatter.write_str("started"),
            Self::ApplicationWhole(Whole { files, bytes }) => {
                write!(formatter, "the application is whole: {files} files, {bytes} bytes")
            }
            Self::EntropyMixedIn => formatter.write_str("the security module's randomness is mixed in"),
            Self::Heartbeat => formatter.write_str("the parent answered the heartbeat"),
            Self::ApplicationStarted => formatter.write_str("the application runs"),
            Self::Halted(reason) => write!(formatter, "halted: {reason}"),
        }
    }
}

/// Puts a line on the console. A console that is gone is no reason to stop.
pub(crate) fn say(line: &Line<'_>) {
    let _ = writeln!(io::stderr(), "init: {line}");
}

/// A panic says where it happened and nothing of what it was about.
pub(crate) fn keep_panics_short() {
    std::panic::set_hook(Box::new(|panic| {
        let (file, line) = panic.location().map_or(("", 0), |at| (at.file(), at.line()));
        let _ = writeln!(io::stderr(), "init: halted: a defect at {file}:{line}");
    }));
}
