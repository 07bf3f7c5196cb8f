//! The policy that a command judges by, read from a file of the user's own.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::policy::{MAX_POLICY_LENGTH, Policy};
use zeroize::Zeroizing;

use crate::outcome::{Failure, Outcome};

/// Where the policy is.
#[derive(clap::Args)]
pub(super) struct PolicyFile {
    /// Your policy: trust anchors, accepted images and models
    #[arg(long, value_name = "FILE", default_value = "trust.toml")]
    policy: PathBuf,

    /// Refuse a policy file whose SHA-256 is not this one
    #[arg(long, value_name = "SHA256", value_parser = Sha256Digest::from_written)]
    policy_sha256: Option<Sha256Digest>,
}

impl PolicyFile {
    /// Reads the policy.
    ///
    /// # Errors
    /// [`Failure`] says what is wrong with the file.
    pub(super) fn load(&self) -> Result<Policy, Failure> {
        let path = &self.policy;
        let text = read(path, MAX_POLICY_LENGTH as u64)?;
        let actual = Sha256Digest::of(&[text.as_bytes()]);
        if let Some(expected) = self.policy_sha256.filter(|expected| *expected != actual) {
            let message =
                format!("{}: expected the policy with SHA-256 {expected}, got {actual}", path.display());
            return Err(usage("policy-pin", message));
        }
        Policy::from_toml(&text)
            .map_err(|error| usage("policy", format!("{} is not a valid policy: {error}", path.display())))
    }
}

/// A text file of at most `limit` bytes; it may hold a key, so its memory is cleared after use.
pub(super) fn read(path: &Path, limit: u64) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    let read =
        fs::File::open(path).and_then(|file| file.take(limit.saturating_add(1)).read_to_string(&mut text));
    let length = read.map_err(|error| Failure::unreadable(path, &error))?;
    if length as u64 > limit {
        return Err(usage(
            "too-long",
            format!("{} is too long: expected at most {limit} bytes", path.display()),
        ));
    }
    Ok(text)
}

/// A file of the user's own, or the command line, is wrong.
pub(super) fn usage(code: &'static str, message: String) -> Failure {
    Failure { outcome: Outcome::Usage, code, message }
}
