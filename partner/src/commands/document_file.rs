//! Attestation documents in files.

mod forms;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

pub(crate) use self::forms::NotUnderstood;
use crate::outcome::{Failure, Outcome};

/// The longest file, in bytes: a document in its longest form with a great deal around it.
const MAX_FILE_LENGTH: u64 = 1 << 20;

/// What stands at the end of each message about a file that was not understood.
const UNDERSTOOD: &str = "A document is understood as its bytes (CBOR), or as hexadecimal, base64, PEM, a data URI, or a \
                          member of a JSON object that has one of these forms.";

/// Reads a document from a file, or from standard input if `path` is `-`, in any form that is understood.
///
/// # Errors
///
/// [`Failure`] when the file cannot be read, or when nothing in it looks like a document: nothing was judged then.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let contents = contents(path, open(path)?)?;
    forms::document(contents).map_err(|found| not_understood(path, "is not an attestation document", &found))
}

/// A file, or standard input if `path` is `-`.
pub(crate) fn open(path: &Path) -> Result<Box<dyn Read + Send>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    Ok(Box::new(File::open(path).map_err(|error| Failure::unreadable(path, &error))?))
}

/// The source's first four bytes, or as many as there are. They tell what a file is.
pub(crate) fn start_of(path: &Path, source: &mut impl Read) -> Result<Vec<u8>, Failure> {
    let mut start = Vec::new();
    source.take(4).read_to_end(&mut start).map_err(|error| Failure::unreadable(path, &error))?;
    Ok(start)
}

/// Everything that `source` has to say, if that is not too much.
pub(crate) fn contents(path: &Path, source: impl Read) -> Result<Vec<u8>, Failure> {
    let mut contents = Vec::new();
    source
        .take(MAX_FILE_LENGTH + 1)
        .read_to_end(&mut contents)
        .map_err(|error| Failure::unreadable(path, &error))?;
    if contents.len() as u64 > MAX_FILE_LENGTH {
        let found = NotUnderstood::TooLong { expected: MAX_FILE_LENGTH };
        return Err(not_understood(path, "is not an attestation document", &found));
    }
    Ok(contents)
}

/// The document in a file's contents.
pub(crate) fn document(contents: Vec<u8>) -> Result<Vec<u8>, NotUnderstood> {
    forms::document(contents)
}

/// The file is the user's to correct: nothing in it was judged.
pub(crate) fn not_understood(path: &Path, what: &str, found: &NotUnderstood) -> Failure {
    Failure {
        outcome: Outcome::Usage,
        code: "document-not-understood",
        message: format!("{} {what}: it has {found}. {UNDERSTOOD}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_are_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("long");
        std::fs::write(&path, vec![b'a'; usize::try_from(MAX_FILE_LENGTH).unwrap() + 1]).unwrap();
        let failure = read(&path).unwrap_err();
        assert_eq!((failure.outcome, failure.code), (Outcome::Usage, "document-not-understood"));
        assert!(failure.message.contains("more than 1048576 bytes"), "{failure}");
        assert_eq!(read(&directory.path().join("absent")).unwrap_err().outcome, Outcome::Unreachable);
    }
}
