//! `cleanroom explain`: what is in an enclave image or an attestation document, for people.

mod document;
mod image;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::outcome::{Failure, Outcome};
use crate::output::Terminal;

/// Show what is in an enclave image or an attestation document, and what is wrong with it.
///
/// Explaining is not verifying: nothing is compared with a policy of yours. The exit code says whether the file is well
/// formed. A document is besides judged at its own time under the roots that AWS published.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Explain {
    /// An enclave image file; or a document: its bytes, or hexadecimal or base64 of them.
    file: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  cleanroom explain cleanroom.eif
  cleanroom explain evidence.cbor
  cleanroom explain evidence.cbor --json";

impl Explain {
    pub(crate) fn run(self, terminal: &mut Terminal) -> Result<Outcome, Failure> {
        let start = start_of(&self.file).map_err(|error| Failure::unreadable(&self.file, &error))?;
        if start == *b".eif" {
            return image::explain(&self.file, terminal);
        }
        document::explain(&self.file, terminal)
    }
}

/// The file's first four bytes, or as many as there are.
fn start_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    File::open(path)?.take(4).read_to_end(&mut start)?;
    Ok(start)
}
