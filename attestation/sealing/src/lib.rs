//! The format of sealed files: C2SP chunked encryption, in the instance that is called Cobblestone-256.
//!
//! The specification is <https://c2sp.org/chunked-encryption>, at commit `6f65019` of `github.com/C2SP/C2SP`.
//! A sealed file is
//!
//! ```text
//! salt (24 bytes) ‖ commitment (32 bytes) ‖ sealed chunk 0 ‖ sealed chunk 1 ‖ …
//! key (32) ‖ base nonce (12) ‖ commitment (32) = HKDF-Expand-SHA-512(input key,
//!     "c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM" ‖ 0x00 ‖ salt ‖ context)
//! sealed chunk n = AES-256-GCM(key, base nonce XOR n as 12 bytes big-endian, chunk n) ‖ tag (16 bytes)
//! ```
//!
//! Every chunk has 16 KiB but the last, which is shorter and may be empty. So the end of the file is
//! authenticated: a file that was cut at any place, or made longer, does not open. A chunk opens only at its
//! own place. The commitment tells a wrong key before any chunk is decrypted, and lets no file open under two
//! keys.
//!
//! * [`Sealer`] and [`Opener`] work on a stream, piece by piece.
//! * [`ChunkCipher`] works on single chunks, for random access and for several chunks at once.
//! * [`Layout`] says where which chunk is.
//!
//! This crate does no I/O and draws no random numbers: the caller gives a salt.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

mod cipher;
mod layout;
mod stream;

pub use cipher::{ChunkCipher, Header, Key, Salt};
pub use layout::Layout;
pub use stream::{Opener, Sealer};

/// The length of every chunk but the last, in bytes.
pub const CHUNK_BYTES: usize = 16 * 1024;
/// The length of a chunk's authentication tag, in bytes.
pub const TAG_BYTES: usize = 16;
/// The length of a whole chunk when it is sealed, in bytes.
pub const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;
/// The length of the salt and the commitment before the first chunk, in bytes.
pub const HEADER_BYTES: usize = 56;
/// A file has fewer chunks than this.
pub const MAX_CHUNKS: u64 = 1 << 38;

/// The context of sealed model weights. It keeps a key's files for different purposes apart.
pub const WEIGHTS: &[u8] = b"cleanroom/weights/1";

/// Why a file cannot be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The file ends before its header or in the middle of a tag. No sealed file has this length.
    #[error(
        "{length} bytes are no sealed file: expected 56 bytes of header, then chunks of 16400 bytes, then one of 16 to \
         16399 bytes"
    )]
    Length {
        /// The length of the file, in bytes.
        length: u64,
    },
    /// The file ends after a whole chunk, so at least its last chunk is missing.
    #[error(
        "the sealed file is cut off: it ends after {chunks} whole chunks, and the last chunk is always shorter"
    )]
    Truncated {
        /// How many whole chunks there are.
        chunks: u64,
    },
    /// The commitment is not the one of this key.
    #[error(
        "the key does not open this file: it was sealed with another key or for another purpose, or its first 56 bytes \
         are damaged"
    )]
    WrongKey,
    /// A chunk is not what was sealed at this place.
    #[error("chunk {number} is damaged, was moved from another place, or belongs to another file")]
    Damaged {
        /// The chunk, counted from zero.
        number: u64,
    },
    /// The file has more chunks than the format can number.
    #[error("a sealed file holds less than 4 PiB")]
    TooLong,
    /// The cryptographic library refused. This happens for no input.
    #[error("the cryptographic library failed")]
    Library,
}

impl SealError {
    /// The stable code of the reason.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Length { .. } => "sealed-length",
            Self::Truncated { .. } => "sealed-truncated",
            Self::WrongKey => "sealed-wrong-key",
            Self::Damaged { .. } => "sealed-damaged",
            Self::TooLong => "sealed-too-long",
            Self::Library => "library",
        }
    }
}

#[cfg(test)]
mod tests;
