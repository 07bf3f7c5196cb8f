//! `cleanroom manual`: manual pages and completions, for packages.

use clap::Command;
pub use cleanroom_program::manual::Manual;

use crate::outcome::{Failure, Outcome};

/// How it is called.
pub const EXAMPLES: &str = "\
Example:
  cleanroom manual target/manual";

/// Writes the pages and completions of `program`.
///
/// # Errors
/// [`Failure`] when the folder cannot be written.
pub fn run(manual: &Manual, program: &Command) -> Result<Outcome, Failure> {
    match manual.write(program) {
        Ok(()) => Ok(Outcome::Pass),
        Err(error) => {
            Err(Failure { outcome: Outcome::Unreachable, code: "manual", message: error.to_string() })
        }
    }
}
