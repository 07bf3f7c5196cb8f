//! Where which chunk of a sealed file is.

use core::ops::Range;

use crate::{CHUNK_BYTES, HEADER_BYTES, MAX_CHUNKS, SEALED_CHUNK_BYTES, SealError, TAG_BYTES};

/// The lengths of a file and of its chunks.
///
/// A length that a host claims is proven only by the last chunk: it opens at no other place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Chunks of 16 KiB. One more follows, which is shorter.
    whole: u64,
    /// The length of the last chunk before it is sealed, in bytes.
    last: u64,
}

impl Layout {
    /// The layout of a file with `length` bytes before it is sealed.
    ///
    /// # Errors
    /// [`SealError::TooLong`] from 4 PiB on.
    pub fn of_plain(length: u64) -> Result<Self, SealError> {
        let chunk = CHUNK_BYTES as u64;
        let layout = Self { whole: length / chunk, last: length % chunk };
        if layout.whole < MAX_CHUNKS { Ok(layout) } else { Err(SealError::TooLong) }
    }

    /// The layout of a sealed file of `length` bytes.
    ///
    /// # Errors
    /// [`SealError::Length`], [`SealError::Truncated`] or [`SealError::TooLong`]: no sealed file has this
    /// length.
    pub fn of_sealed(length: u64) -> Result<Self, SealError> {
        let invalid = SealError::Length { length };
        let chunks = length.checked_sub(HEADER_BYTES as u64).ok_or(invalid)?;
        let (whole, last) = (chunks / SEALED_CHUNK_BYTES as u64, chunks % SEALED_CHUNK_BYTES as u64);
        if last == 0 {
            return Err(SealError::Truncated { chunks: whole });
        }
        let last = last.checked_sub(TAG_BYTES as u64).ok_or(invalid)?;
        if whole < MAX_CHUNKS { Ok(Self { whole, last }) } else { Err(SealError::TooLong) }
    }

    /// The length of the file before it is sealed, in bytes.
    #[must_use]
    pub const fn plain_length(&self) -> u64 {
        self.whole.saturating_mul(CHUNK_BYTES as u64).saturating_add(self.last)
    }

    /// The length of the sealed file, in bytes.
    #[must_use]
    pub const fn sealed_length(&self) -> u64 {
        self.start_of(self.whole).saturating_add(self.last).saturating_add(TAG_BYTES as u64)
    }

    /// The number of chunks, the last one included.
    #[must_use]
    pub const fn chunks(&self) -> u64 {
        self.whole.saturating_add(1)
    }

    /// Where in the sealed file chunk `number` is, in bytes. `None` if there is no such chunk.
    #[must_use]
    pub fn sealed_chunk(&self, number: u64) -> Option<Range<u64>> {
        let end =
            if number < self.whole { self.start_of(number.saturating_add(1)) } else { self.sealed_length() };
        (number < self.chunks()).then(|| self.start_of(number)..end)
    }

    const fn start_of(&self, number: u64) -> u64 {
        number.saturating_mul(SEALED_CHUNK_BYTES as u64).saturating_add(HEADER_BYTES as u64)
    }
}
