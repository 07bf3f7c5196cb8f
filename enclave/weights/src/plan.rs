//! The plan of a transfer: its ranges, and the checks of their bytes.

use cleanroom_attestation::model::CHUNK_BYTES;
use cleanroom_link::store::{self, Description, Form};
use cleanroom_sealing::{
    ChunkCipher, HEADER_BYTES, Header, Key, Layout, SEALED_CHUNK_BYTES, SealError, TAG_BYTES, WEIGHTS,
};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Limits, WeightsError};

/// Chunks of one range.
pub(crate) const RANGE_CHUNKS: u64 = 64;
/// Chunks of one step: they are read, opened and hashed before the next ones are read, so all of this happens in the
/// processor's cache. An even number, because chunks are hashed in pairs.
const STEP_CHUNKS: usize = 4;
/// Chunks of one piece: a power of two, so that a piece is a whole subtree of the model's identity. A piece of 32 MiB is
/// more than the system's allocator keeps for later, so one that was dropped is free memory at once.
pub(crate) const PIECE_CHUNKS: u64 = 2048;

/// A model to fetch.
pub(crate) struct Plan {
    pub(crate) description: Description,
    /// Bytes of the weights themselves.
    pub(crate) length: u64,
    /// What opens them, if they are sealed.
    cipher: Option<(ChunkCipher, Layout)>,
}

/// Bytes of the store that belong together, and where the weights in them go.
pub(crate) struct Range {
    /// The first chunk.
    first: u64,
    /// From which byte of the store on.
    pub(crate) offset: u64,
    /// How many bytes of the store.
    pub(crate) stored: usize,
}

/// A part of a range that is read at once.
pub(crate) struct Step {
    /// The first chunk.
    first: u64,
    /// How many bytes of the store.
    pub(crate) stored: usize,
    /// How many bytes of the weights.
    pub(crate) plain: usize,
}

impl Plan {
    /// Of weights as they are.
    pub(crate) fn plain(description: Description, limits: &Limits) -> Result<Self, WeightsError> {
        match description.form {
            Form::Sealed => Err(WeightsError::NotPlain),
            Form::Plain => {
                let length = within(limits, description.length)?;
                Ok(Self { description, length, cipher: None })
            }
        }
    }

    /// Of a sealed file: its length is one that a sealed file can have, and its commitment is one to `key`.
    pub(crate) async fn sealed<S>(
        description: Description,
        limits: &Limits,
        key: &Key,
        stream: &mut S,
    ) -> Result<Self, WeightsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if description.form == Form::Plain {
            return Err(WeightsError::NotSealed);
        }
        let layout = Layout::of_sealed(description.length)?;
        let length = within(limits, layout.plain_length())?;
        let mut header = [0; HEADER_BYTES];
        let asked = store::ask(stream, 0, &mut header);
        match tokio::time::timeout(limits.range_time, asked).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(WeightsError::Stalled { failures: limits.attempts }),
        }
        let cipher = ChunkCipher::to_open(key, &Header::parse(&header)?, WEIGHTS)?;
        Ok(Self { description, length, cipher: Some((cipher, layout)) })
    }

    /// How many pieces there are. Weights of no bytes have one.
    pub(crate) const fn pieces(&self) -> u64 {
        let pieces = self.length.div_ceil(PIECE_CHUNKS * CHUNK_BYTES as u64);
        if pieces == 0 { 1 } else { pieces }
    }

    /// The length of a piece in bytes.
    pub(crate) fn piece_bytes(&self, piece: u64) -> u64 {
        let most = PIECE_CHUNKS * CHUNK_BYTES as u64;
        self.length.saturating_sub(piece.saturating_mul(most)).min(most)
    }

    /// The range after the first `filled` bytes of a piece.
    ///
    /// The last chunk of a sealed file is shorter than the others and may hold nothing. It proves the file's length, so it
    /// is fetched all the same, with what stands before it.
    pub(crate) fn next(&self, piece: u64, filled: usize) -> Option<Range> {
        let filled = filled as u64;
        let left = self.piece_bytes(piece).saturating_sub(filled);
        let plain = left.min(RANGE_CHUNKS * CHUNK_BYTES as u64);
        let first = piece.saturating_mul(PIECE_CHUNKS).saturating_add(filled / CHUNK_BYTES as u64);
        let is_last = plain == left && piece.saturating_add(1) == self.pieces();
        let (offset, stored) = match &self.cipher {
            None => (first.saturating_mul(CHUNK_BYTES as u64), plain),
            Some((_, layout)) => {
                let offset = layout.sealed_chunk(first)?.start;
                let until = if is_last {
                    layout.sealed_length()
                } else {
                    layout.sealed_chunk(first.saturating_add(plain / CHUNK_BYTES as u64))?.start
                };
                (offset, until.saturating_sub(offset))
            }
        };
        Some(Range { first, offset, stored: usize::try_from(stored).ok()? })
    }

    /// The steps of a range, in order. A range of no bytes has none.
    pub(crate) fn steps(&self, range: &Range) -> impl Iterator<Item = Step> + use<> {
        let tag = if self.is_sealed() { TAG_BYTES } else { 0 };
        let (chunk, mut first, mut left) = (CHUNK_BYTES + tag, range.first, range.stored);
        core::iter::from_fn(move || {
            let stored = left.min(STEP_CHUNKS * chunk);
            let chunks = stored.div_ceil(chunk);
            let step = Step { first, stored, plain: stored.saturating_sub(chunks.saturating_mul(tag)) };
            first = first.saturating_add(chunks as u64);
            left = left.saturating_sub(stored);
            (stored > 0).then_some(step)
        })
    }

    /// Whether ranges are opened from another buffer, because they are sealed.
    pub(crate) const fn is_sealed(&self) -> bool {
        self.cipher.is_some()
    }

    /// Opens a step's chunks, each into its place.
    pub(crate) fn open(&self, step: &Step, stored: &[u8], output: &mut [u8]) -> Result<(), SealError> {
        let Some((cipher, _)) = &self.cipher else { return Err(SealError::Library) };
        let mut output = output;
        for (number, sealed) in (step.first..).zip(stored.chunks(SEALED_CHUNK_BYTES)) {
            let length = sealed.len().saturating_sub(TAG_BYTES);
            let (chunk, rest) = output.split_at_mut_checked(length).ok_or(SealError::Damaged { number })?;
            cipher.open_into(number, sealed, chunk)?;
            output = rest;
        }
        Ok(())
    }
}

const fn within(limits: &Limits, length: u64) -> Result<u64, WeightsError> {
    if length <= limits.bytes {
        Ok(length)
    } else {
        Err(WeightsError::TooLarge { announced: length, limit: limits.bytes })
    }
}
