//! A model of several files, such as a split GGUF, as one run of bytes: an index, then each file. The form is
//! that of `docs/protocol.md`, section 6. Names do not matter here: each file of a split GGUF says which part
//! it is.

use std::io::Read;

use super::{ModelError, source::read};
use crate::gguf::Gguf;

/// What an index begins with, with the length in front.
const BEGINNING: [u8; 21] = *b"\0\0\0\x11cleanroom/files/1";
/// Index and files are each followed by zeros up to a multiple of this, in bytes.
pub(super) const CHUNK_BYTES: u64 = 16_384;
/// Most files of one model.
const MAX_FILES: u32 = 4096;
/// The longest name of a file, in bytes.
const MAX_NAME_BYTES: u32 = 255;

/// What a model begins with, read in search of an index.
pub(super) struct Beginning {
    bytes: [u8; BEGINNING.len()],
    count: usize,
}

impl Beginning {
    /// Reads the first bytes of a model of `length` bytes.
    pub(super) fn read(file: &mut dyn Read, length: u64) -> Result<Self, ModelError> {
        let mut bytes = [0; BEGINNING.len()];
        let count = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
        read(file, &mut bytes[..count])?;
        Ok(Self { bytes, count })
    }

    /// Whether an index follows.
    pub(super) fn is_index(&self) -> bool {
        self.bytes == BEGINNING
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.count]
    }
}

/// Reads the rest of the index of a model of `length` bytes, and the zeros behind it. Returns the lengths of the
/// files.
pub(super) fn lengths(file: &mut dyn Read, length: u64) -> Result<Vec<u64>, ModelError> {
    let problem = |problem: &'static str| ModelError::Files { problem };
    let mut index = Index { file, length: BEGINNING.len() as u64 };
    let count = index.u32()?;
    if !(1..=MAX_FILES).contains(&count) {
        return Err(problem("expected 1 to 4096 files"));
    }
    // Grows with what was read.
    let mut lengths = Vec::new();
    for _ in 0..count {
        let name = index.u32()?;
        if name > MAX_NAME_BYTES {
            return Err(problem("expected names of at most 255 bytes"));
        }
        index.bytes(&mut [0; MAX_NAME_BYTES as usize][..name as usize])?;
        let mut length = [0; 8];
        index.bytes(&mut length)?;
        lengths.push(u64::from_be_bytes(length));
    }
    let padding = index.length.next_multiple_of(CHUNK_BYTES) - index.length;
    index.bytes(&mut [0; CHUNK_BYTES as usize][..padding as usize])?;
    let padded = |total: u64, length: &u64| total.checked_add(length.checked_next_multiple_of(CHUNK_BYTES)?);
    match lengths.iter().try_fold(index.length, padded) {
        Some(expected) if expected == length => Ok(lengths),
        _ => Err(problem("the lengths of the files do not add up to that of the model")),
    }
}

/// An index that is being read.
struct Index<'r> {
    file: &'r mut dyn Read,
    /// Bytes read.
    length: u64,
}

impl Index<'_> {
    fn bytes(&mut self, output: &mut [u8]) -> Result<(), ModelError> {
        self.length += output.len() as u64;
        read(self.file, output)
    }

    fn u32(&mut self) -> Result<u32, ModelError> {
        let mut bytes = [0; 4];
        self.bytes(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }
}

/// Refuses a file that is not part `index` (the first is 0) of `count`, by what it says of itself.
pub(super) fn check_part(file: &Gguf<'_>, index: usize, count: usize) -> Result<(), ModelError> {
    let (number, of) = (file.u32("split.no")?, file.u32("split.count")?);
    let right = match (number, of) {
        // A file whose parts were put together again has a count of 0.
        (None | Some(0), None | Some(0)) => count == 1,
        (Some(number), Some(of)) => number as usize == index && of as usize == count,
        _ => false,
    };
    if right {
        return Ok(());
    }
    let found = match (number, of) {
        (Some(number), Some(of)) => format!("part {} of {of}", u64::from(number) + 1),
        _ => "a file that does not say which part it is".into(),
    };
    Err(ModelError::Part { place: index + 1, count, found })
}
