//! `cleanroom explain`: what is in an image or an attestation document, for people.

mod boot_image;
mod document;
mod image;

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use clap::Args;

use super::{document_file, measure};
use crate::outcome::{Failure, Outcome};
use crate::output::Terminal;

/// Show the contents of an image or an attestation document, and its faults
///
/// Explaining is not verifying: this command compares nothing with your policy. It judges a document at the
/// document's own time, under the roots that AWS published. It shows every readable part of a refused
/// document and the reason for the refusal, and exits with code 1. It exits with code 2 for a file that is
/// neither an image nor a document in a known form.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Explain {
    /// An enclave image, a unified kernel image, or a document: its bytes, or hexadecimal, base64, PEM, a data URI or JSON with one of these in it.
    /// `-` reads standard input
    file: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  cleanroom explain cleanroom.eif
  cleanroom explain cleanroom.efi
  cleanroom explain evidence.cbor
  cleanroom explain evidence.cbor --json
  curl -s https://cleanroom.example/attestation | cleanroom explain -";

impl Explain {
    pub(crate) fn run(self, terminal: &mut Terminal) -> Result<Outcome, Failure> {
        let path = &self.file;
        let mut source = document_file::open(path)?;
        let start = document_file::start_of(path, &mut source)?;
        if start == *b".eif" {
            // A file is opened again, because its length makes a progress bar possible.
            return if path == Path::new("-") {
                image::explain_source(path, &mut Cursor::new(start).chain(source), terminal)
            } else {
                image::explain(path, terminal)
            };
        }
        if start.starts_with(measure::boot_image::MAGIC) {
            return boot_image::explain(path, Cursor::new(start).chain(source), terminal);
        }
        let contents = document_file::contents(path, Cursor::new(start).chain(source))?;
        let what = "is neither an enclave image, which begins with `.eif`, nor a unified kernel image, which begins with `MZ`, \
                    nor an attestation document";
        let bytes = document_file::document(contents)
            .map_err(|found| document_file::not_understood(path, what, &found))?;
        document::explain(path, &bytes, terminal)
    }
}
