//! The end of a command: its exit code, or the reason why it has no result.

use std::fmt;
use std::io;
use std::path::Path;

use serde::Serialize;

/// How a command ended. The numbers are part of the interface: scripts branch on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Outcome {
    /// Everything that was asked is proven.
    Pass = 0,
    /// Something failed a check: a verdict, an image, a document.
    Refused = 1,
    /// The command line or a file of the user's own (a policy) is wrong.
    Usage = 2,
    /// Nothing failed, and something was not asked about.
    Partial = 3,
    /// A file could not be read or a peer could not be reached; nothing was judged.
    Unreachable = 4,
    /// Nothing failed, and a sealed record was opened.
    Opened = 5,
}

/// Why a command could not come to a result.
#[derive(Debug)]
pub struct Failure {
    /// The exit code it leads to.
    pub outcome: Outcome,
    /// A stable name in kebab case, for scripts.
    pub code: &'static str,
    /// What was expected, what came, what to do.
    pub message: String,
}

impl Failure {
    /// A file could not be read.
    #[must_use]
    pub fn unreadable(path: &Path, error: &io::Error) -> Self {
        Self {
            outcome: Outcome::Unreachable,
            code: "unreadable",
            message: format!("{} could not be read: {error}", path.display()),
        }
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

/// A file of the user's own, or the command line, is wrong.
#[must_use]
pub fn usage(code: &'static str, message: String) -> Failure {
    Failure { outcome: Outcome::Usage, code, message }
}
