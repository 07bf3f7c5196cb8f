//! The CRC-32 of an image, piece by piece.

use super::layout::{CRC_OFFSET, HEADER_LENGTH};

/// The CRC-32 of some bytes of an image. The field in the header that holds the image's own is left out.
///
/// It is part of measuring an image and not of its measurement: a program that hashes on two threads can have it computed by
/// the one that has time ([`ImageMeasurer::update_with`](super::ImageMeasurer::update_with)).
#[derive(Debug, Clone, Default)]
pub struct Checksum(crc32fast::Hasher);

impl Checksum {
    /// That of `bytes`, which begin at byte `position` of the file.
    #[must_use]
    pub fn of(bytes: &[u8], position: u64) -> Self {
        let offset_in = |target: usize| {
            let distance = (target as u64).saturating_sub(position);
            usize::try_from(distance).unwrap_or(usize::MAX).min(bytes.len())
        };
        let (before, after) = (offset_in(CRC_OFFSET), offset_in(HEADER_LENGTH));
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(bytes.get(..before).unwrap_or_default());
        hasher.update(bytes.get(after..).unwrap_or_default());
        Self(hasher)
    }

    /// That of these bytes and of those that follow them.
    pub(super) fn append(&mut self, next: &Self) {
        self.0.combine(&next.0);
    }

    pub(super) fn finish(self) -> u32 {
        self.0.finalize()
    }
}
