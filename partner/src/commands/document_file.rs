//! Attestation documents in files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleanroom_attestation::document::MAX_DOCUMENT_LENGTH;

use crate::outcome::{Failure, Outcome};

/// Hexadecimal, the longest form, with generous white space.
const MAX_FILE_LENGTH: u64 = 4 * MAX_DOCUMENT_LENGTH as u64;

/// Reads a document from a file, or from standard input if `path` is `-`: its bytes, or their hexadecimal or base64 form.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(|error| Failure::unreadable(path, &error))?)
    };
    let mut contents = Vec::new();
    source
        .take(MAX_FILE_LENGTH + 1)
        .read_to_end(&mut contents)
        .map_err(|error| Failure::unreadable(path, &error))?;
    if contents.len() as u64 > MAX_FILE_LENGTH {
        return Err(Failure {
            outcome: Outcome::Refused,
            code: "document-too-long",
            message: format!(
                "{} is too long for an attestation document: expected at most {MAX_FILE_LENGTH} bytes",
                path.display()
            ),
        });
    }
    Ok(decode(contents))
}

/// The document in `contents`. What is not clearly text is taken as it is, for the verifier to judge.
fn decode(contents: Vec<u8>) -> Vec<u8> {
    if !contents.is_ascii() {
        return contents;
    }
    let text: Vec<u8> = contents.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    hex::decode(&text).ok().or_else(|| STANDARD.decode(&text).ok()).unwrap_or(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_forms_are_one_document() {
        let document = vec![0x84, 0x44, 0xa1, 0x01, 0x38, 0x22, 0xa0];
        assert_eq!(decode(document.clone()), document);
        assert_eq!(decode(b"8444 A101\n3822a0\n".to_vec()), document);
        assert_eq!(decode(b"hEShATgioA==\r\n".to_vec()), document);
    }

    #[test]
    fn anything_else_stays_what_it_is() {
        for contents in [&b"not a document!"[..], b"\xff\xfe", b"hEShATgioA="] {
            assert_eq!(decode(contents.to_vec()), contents);
        }
    }

    #[test]
    fn long_files_are_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("long");
        std::fs::write(&path, vec![b'a'; 4 * MAX_DOCUMENT_LENGTH + 1]).unwrap();
        assert_eq!(read(&path).unwrap_err().code, "document-too-long");
        assert_eq!(read(&directory.path().join("absent")).unwrap_err().outcome, Outcome::Unreachable);
    }
}
