//! The policy in a file of the user's own.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::policy::{MAX_POLICY_LENGTH, Policy};
use zeroize::Zeroizing;

use crate::outcome::{Failure, Outcome, usage};

/// Reads the policy at `path`, whose SHA-256 must be `pin` if there is one.
///
/// # Errors
/// [`Failure`] says what is wrong with the file.
pub fn load(path: &Path, pin: Option<Sha256Digest>) -> Result<Policy, Failure> {
    let text = read(path, MAX_POLICY_LENGTH as u64).map_err(|failure| advised(path, failure))?;
    let actual = Sha256Digest::of(&[text.as_bytes()]);
    if let Some(expected) = pin.filter(|expected| *expected != actual) {
        let message =
            format!("{}: expected the policy with SHA-256 {expected}, got {actual}", path.display());
        return Err(usage("policy-pin", message));
    }
    Policy::from_toml(&text)
        .map_err(|error| usage("policy", format!("{} is not a valid policy: {error}", path.display())))
}

/// Says what the file is for when there is none, since everybody's first command fails like this.
fn advised(path: &Path, mut failure: Failure) -> Failure {
    if failure.outcome == Outcome::Unreachable && !path.exists() {
        failure.message.push_str(
            "\nThis file is your policy: whose root, which images and which models you accept. --policy names another. \
             `cleanroom measure IMAGE --toml NAME` prints the lines of an image, and `cleanroom-authority trust` \
             writes the policy of a simulated clean room",
        );
    }
    failure
}

/// A text file of at most `limit` bytes; it may hold a key, so its memory is cleared after use.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Zeroizing<String>, Failure> {
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
