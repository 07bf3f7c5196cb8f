//! A model file that comes as a stream: its header first, then the numbers of its tensors in the order of the
//! file. So the file is never in memory beside the weights.

use std::io::Read;

use zeroize::Zeroizing;

use super::ModelError;
use crate::gguf::{Gguf, GgufError, MAX_HEADER_BYTES};

/// How much is read at first in search of the header's end, in bytes.
const FIRST_BYTES: u64 = 1 << 20;
/// How much is read at once of what nobody wants, in bytes.
const SKIPPED_BYTES: u64 = 1 << 16;

/// Reads as much of a file of `length` bytes as it takes to have its header.
pub(super) fn beginning(file: &mut dyn Read, length: u64) -> Result<Zeroizing<Vec<u8>>, ModelError> {
    let mut beginning = Zeroizing::new(Vec::new());
    let mut wanted = FIRST_BYTES;
    loop {
        let (old, new) = (beginning.len(), usize::try_from(wanted.min(length)).unwrap_or(usize::MAX));
        beginning.reserve_exact(new.saturating_sub(old));
        beginning.resize(new, 0);
        read(file, &mut beginning[old..])?;
        match Gguf::parse_beginning(&beginning, length) {
            Ok(_) => return Ok(beginning),
            Err(GgufError::Truncated { .. }) if wanted < length && wanted < MAX_HEADER_BYTES => {
                wanted = wanted.saturating_mul(2);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The numbers of a file's tensors, which can be read once and in the order of the file.
pub(super) struct Numbers<'a> {
    /// The bytes that were read already.
    beginning: &'a [u8],
    rest: &'a mut dyn Read,
    /// Where in the file the next byte of `rest` is.
    position: u64,
}

impl<'a> Numbers<'a> {
    /// Of a file that begins with `beginning`, and goes on with `rest`.
    pub(super) fn new(beginning: &'a [u8], rest: &'a mut dyn Read) -> Self {
        Self { beginning, rest, position: beginning.len() as u64 }
    }

    /// Fills `output` with what begins at `start`, which nothing before it was read from.
    pub(super) fn read(&mut self, start: u64, output: &mut [u8]) -> Result<(), ModelError> {
        let kept = usize::try_from(start).ok().and_then(|start| self.beginning.get(start..));
        let kept = kept.unwrap_or_default();
        let (first, last) = output.split_at_mut(kept.len().min(output.len()));
        first.copy_from_slice(&kept[..first.len()]);
        if last.is_empty() {
            return Ok(());
        }
        self.skip_to(start.saturating_add(first.len() as u64))?;
        read(self.rest, last)?;
        self.position += last.len() as u64;
        Ok(())
    }

    /// Reads over what nobody wants, up to `end`.
    pub(super) fn skip_to(&mut self, end: u64) -> Result<(), ModelError> {
        while self.position < end {
            let mut skipped = [0; SKIPPED_BYTES as usize];
            let count = (end - self.position).min(SKIPPED_BYTES);
            read(self.rest, &mut skipped[..count as usize])?;
            self.position += count;
        }
        Ok(())
    }
}

pub(super) fn read(file: &mut dyn Read, output: &mut [u8]) -> Result<(), ModelError> {
    file.read_exact(output).map_err(|error| ModelError::Read(error.kind()))
}
