//! The reasons why a command fails.

use std::path::PathBuf;

use cleanroom_attestation::release::{KeyError, ReleaseError};
use cleanroom_program::file::{FileError, SecretError};

use crate::Outcome;

/// The exit status for a command line that is wrong.
pub(crate) const WRONG_USAGE: u8 = 2;
/// The exit status when a file, a command, a key or a service failed.
pub(crate) const FAILED: u8 = 3;

/// Why a command failed. Every message says what was expected, what came, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A document breaks a rule, lacks signatures, or is out of date.
    #[error("{what}: {problem}")]
    Refused { what: String, code: &'static str, problem: String },
    /// The command did its work, and what was asked about is not so.
    #[error("{problem}")]
    Unmet { outcome: Box<Outcome>, code: &'static str, problem: String },
    /// The arguments do not fit together.
    #[error("{0}")]
    Usage(String),
    /// A file could not be read or written.
    #[error("cannot {verb} {}: {error}", path.display())]
    File { verb: &'static str, path: PathBuf, error: std::io::Error },
    /// A file could not be kept.
    #[error(transparent)]
    Kept(#[from] FileError),
    /// A private key could not be read, or others than its owner can read it.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A command, a key or a service failed.
    #[error("{0}")]
    Environment(String),
}

impl Failure {
    pub(crate) fn refused(what: &(impl std::fmt::Display + ?Sized), error: &ReleaseError) -> Self {
        Self::Refused { what: what.to_string(), code: error.code(), problem: error.to_string() }
    }

    pub(crate) fn key(path: &std::path::Path, error: &KeyError) -> Self {
        Self::Refused { what: path.display().to_string(), code: "key", problem: error.to_string() }
    }

    pub(crate) fn usage(problem: impl Into<String>) -> Self {
        Self::Usage(problem.into())
    }

    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } | Self::Unmet { .. } => 1,
            Self::Usage(_) => WRONG_USAGE,
            Self::File { .. } | Self::Kept(_) | Self::Secret(_) | Self::Environment(_) => FAILED,
        }
    }

    const fn code(&self) -> &'static str {
        match self {
            Self::Refused { code, .. } | Self::Unmet { code, .. } => code,
            Self::Usage(_) => "usage",
            Self::File { .. } | Self::Kept(_) => "file",
            Self::Secret(SecretError::Exposed { .. }) => "key-exposed",
            Self::Secret(_) => "key-unreadable",
            Self::Environment(_) => "environment",
        }
    }

    /// The reason without the names of files, for strangers.
    pub(crate) fn public(&self) -> String {
        match self {
            Self::Refused { code, problem, .. } => format!("{code}: {problem}"),
            Self::File { .. } | Self::Kept(_) | Self::Secret(_) => "a file cannot be read".to_owned(),
            Self::Unmet { .. } | Self::Usage(_) | Self::Environment(_) => {
                "the documents cannot be read".to_owned()
            }
        }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let mut json = match self {
            Self::Unmet { outcome, .. } => outcome.json.clone(),
            _ => serde_json::json!({}),
        };
        crate::add(
            &mut json,
            "error",
            serde_json::json!({ "code": self.code(), "message": self.to_string() }),
        );
        json
    }

    /// What a command reports to people although it fails.
    pub(crate) fn report(&self) -> Option<&str> {
        match self {
            Self::Unmet { outcome, .. } => Some(&outcome.text),
            _ => None,
        }
    }
}
