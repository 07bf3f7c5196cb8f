//! `cleanroom explain`: what is in an enclave image or an attestation document, for people.

mod image;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::{Failure, Outcome};
use crate::output::Terminal;

/// Show what is in an enclave image or an attestation document, and what is wrong with it.
///
/// Explaining is not verifying: nothing is compared with a policy of yours. The exit code says whether the file is well formed.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Explain {
    /// An enclave image file.
    file: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  cleanroom explain cleanroom.eif
  cleanroom explain cleanroom.eif --json";

impl Explain {
    pub(crate) fn run(self, terminal: &mut Terminal) -> Result<Outcome, Failure> {
        let start = start_of(&self.file).map_err(|error| Failure::unreadable(&self.file, &error))?;
        if start == *b".eif" {
            return image::explain(&self.file, terminal);
        }
        Err(Failure {
            outcome: Outcome::Refused,
            code: "unknown-file",
            message: format!("{} is not an enclave image", self.file.display()),
        })
    }
}

/// The file's first four bytes, or as many as there are.
fn start_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    File::open(path)?.take(4).read_to_end(&mut start)?;
    Ok(start)
}
