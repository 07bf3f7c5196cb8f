//! Sealing and opening a stream, piece by piece.

use zeroize::Zeroize as _;

use crate::{
    CHUNK_BYTES, ChunkCipher, HEADER_BYTES, Header, Key, SEALED_CHUNK_BYTES, Salt, SealError, TAG_BYTES,
};

/// Seals a stream. It holds at most one chunk.
#[derive(Debug)]
pub struct Sealer {
    cipher: ChunkCipher,
    number: u64,
    chunk: Vec<u8>,
}

impl Sealer {
    /// Begins a file, and appends its header to `out`. See [`ChunkCipher::to_seal`] about the salt.
    ///
    /// # Errors
    /// [`SealError::Library`].
    pub fn new(key: &Key, salt: &Salt, context: &[u8], out: &mut Vec<u8>) -> Result<Self, SealError> {
        let (cipher, header) = ChunkCipher::to_seal(key, salt, context)?;
        out.extend_from_slice(&header.to_bytes());
        Ok(Self { cipher, number: 0, chunk: Vec::with_capacity(SEALED_CHUNK_BYTES) })
    }

    /// Takes the next bytes of the file, and appends to `out` every chunk that is whole.
    ///
    /// # Errors
    /// [`SealError::TooLong`].
    pub fn update(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(CHUNK_BYTES.saturating_sub(self.chunk.len()).min(bytes.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if self.chunk.len() == CHUNK_BYTES {
                self.close(out)?;
            }
        }
        Ok(())
    }

    /// Ends the file, and appends its last chunk to `out`.
    ///
    /// # Errors
    /// [`SealError::TooLong`].
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), SealError> {
        self.close(out)
    }

    fn close(&mut self, out: &mut Vec<u8>) -> Result<(), SealError> {
        self.cipher.seal(self.number, &mut self.chunk)?;
        self.number = self.number.saturating_add(1);
        out.extend_from_slice(&self.chunk);
        self.chunk.clear();
        Ok(())
    }
}

impl Drop for Sealer {
    fn drop(&mut self) {
        // The beginning of a chunk that was never sealed.
        self.chunk.zeroize();
    }
}

/// Opens a stream. It holds at most one chunk, and gives out nothing before it is authenticated.
///
/// What it gave out is part of the file; that it is *all* of the file is known when [`Opener::finish`]
/// succeeds.
#[derive(Debug)]
pub struct Opener {
    cipher: ChunkCipher,
    number: u64,
    sealed: Vec<u8>,
}

impl Opener {
    /// Begins to open the file that has this header, with the bytes that follow it.
    ///
    /// # Errors
    /// [`SealError::WrongKey`].
    pub fn new(key: &Key, header: &Header, context: &[u8]) -> Result<Self, SealError> {
        let cipher = ChunkCipher::to_open(key, header, context)?;
        Ok(Self { cipher, number: 0, sealed: Vec::with_capacity(SEALED_CHUNK_BYTES) })
    }

    /// Takes the next bytes of the sealed file, and gives every whole chunk to `out` when it is
    /// authenticated.
    ///
    /// # Errors
    /// [`SealError::Damaged`] or [`SealError::TooLong`]. The file must not be read on then.
    pub fn update(&mut self, mut bytes: &[u8], mut out: impl FnMut(&[u8])) -> Result<(), SealError> {
        while !bytes.is_empty() {
            let room = SEALED_CHUNK_BYTES.saturating_sub(self.sealed.len()).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            self.sealed.extend_from_slice(now);
            bytes = later;
            if self.sealed.len() == SEALED_CHUNK_BYTES {
                self.close(&mut out)?;
            }
        }
        Ok(())
    }

    /// Ends the file, and gives its last chunk to `out`.
    ///
    /// # Errors
    /// [`SealError::Truncated`], [`SealError::Length`] or [`SealError::Damaged`]: this is not the end of the
    /// file.
    pub fn finish(mut self, mut out: impl FnMut(&[u8])) -> Result<(), SealError> {
        match self.sealed.len() {
            0 => Err(SealError::Truncated { chunks: self.number }),
            1..TAG_BYTES => {
                let whole = self.number.saturating_mul(SEALED_CHUNK_BYTES as u64);
                let rest = (HEADER_BYTES as u64).saturating_add(self.sealed.len() as u64);
                Err(SealError::Length { length: whole.saturating_add(rest) })
            }
            _ => self.close(&mut out),
        }
    }

    fn close(&mut self, out: &mut impl FnMut(&[u8])) -> Result<(), SealError> {
        let opened = self.cipher.open(self.number, &mut self.sealed)?;
        out(opened);
        self.number = self.number.saturating_add(1);
        self.sealed.clear();
        Ok(())
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        // The last chunk is opened in place.
        self.sealed.zeroize();
    }
}
