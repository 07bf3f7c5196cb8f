//! Keys, the header, and single chunks.

use core::fmt;

use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

#[cfg(feature = "aws-lc-rs")]
use aws_lc_rs as backend;
#[cfg(not(feature = "aws-lc-rs"))]
use ring as backend;

use backend::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use backend::hkdf::{HKDF_SHA512, KeyType, Prk};

use crate::{CHUNK_BYTES, HEADER_BYTES, MAX_CHUNKS, SEALED_CHUNK_BYTES, SealError, TAG_BYTES};

/// The fixed part of what the key derivation binds, with the name of the cipher and the zero byte that ends
/// it.
const INFO: &[u8] = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0";

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const SALT_BYTES: usize = 24;
const COMMITMENT_BYTES: usize = 32;

/// 24 bytes that never repeat under one key. Draw them at random.
pub type Salt = [u8; SALT_BYTES];

/// The key that a file is sealed with. It must be uniformly random. It is wiped when it is dropped.
pub struct Key(Zeroizing<[u8; KEY_BYTES]>);

impl Key {
    /// The key of these bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(*bytes))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Key(not shown)")
    }
}

/// The first 56 bytes of a sealed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The salt.
    pub salt: Salt,
    /// The commitment to the key.
    pub commitment: [u8; COMMITMENT_BYTES],
}

impl Header {
    /// Reads the header of a file. Bytes after it are ignored.
    ///
    /// # Errors
    /// [`SealError::Length`] when there are fewer than 56 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, SealError> {
        let short = SealError::Length { length: bytes.len() as u64 };
        let (salt, rest) = bytes.split_first_chunk().ok_or(short)?;
        let (commitment, _) = rest.split_first_chunk().ok_or(short)?;
        Ok(Self { salt: *salt, commitment: *commitment })
    }

    /// The 56 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let parts = self.salt.iter().chain(&self.commitment);
        bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
        bytes
    }
}

/// Seals and opens the chunks of one file, in any order. Its key is wiped by the cryptographic library.
pub struct ChunkCipher {
    key: LessSafeKey,
    base_nonce: [u8; NONCE_BYTES],
}

impl fmt::Debug for ChunkCipher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ChunkCipher(not shown)")
    }
}

impl ChunkCipher {
    /// The cipher and the header of a new file. **A salt must never be used twice with one key**, except to
    /// make the same file of the same bytes again.
    ///
    /// # Errors
    /// [`SealError::Library`].
    pub fn to_seal(key: &Key, salt: &Salt, context: &[u8]) -> Result<(Self, Header), SealError> {
        let (cipher, commitment) = Self::derive(key, salt, context)?;
        Ok((cipher, Header { salt: *salt, commitment }))
    }

    /// The cipher of a file that exists. The commitment is checked first, in constant time.
    ///
    /// # Errors
    /// [`SealError::WrongKey`] when this key did not seal the file for this context.
    pub fn to_open(key: &Key, header: &Header, context: &[u8]) -> Result<Self, SealError> {
        let (cipher, commitment) = Self::derive(key, &header.salt, context)?;
        if bool::from(commitment.ct_eq(&header.commitment)) { Ok(cipher) } else { Err(SealError::WrongKey) }
    }

    fn derive(key: &Key, salt: &Salt, context: &[u8]) -> Result<(Self, [u8; COMMITMENT_BYTES]), SealError> {
        /// What the derivation gives: key, base nonce, commitment.
        struct Whole;
        impl KeyType for Whole {
            fn len(&self) -> usize {
                KEY_BYTES + NONCE_BYTES + COMMITMENT_BYTES
            }
        }
        let mut derived = Zeroizing::new([0; KEY_BYTES + NONCE_BYTES + COMMITMENT_BYTES]);
        let info = [INFO, salt.as_slice(), context];
        let expanded = Prk::new_less_safe(HKDF_SHA512, key.0.as_slice());
        let expanded = expanded.expand(&info, Whole).map_err(|_| SealError::Library)?;
        expanded.fill(derived.as_mut_slice()).map_err(|_| SealError::Library)?;
        let (key, rest) = derived.split_first_chunk::<KEY_BYTES>().ok_or(SealError::Library)?;
        let (base_nonce, rest) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(SealError::Library)?;
        let commitment = rest.first_chunk::<COMMITMENT_BYTES>().ok_or(SealError::Library)?;
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| SealError::Library)?;
        Ok((Self { key: LessSafeKey::new(key), base_nonce: *base_nonce }, *commitment))
    }

    /// The base nonce with the chunk's number in its last bytes.
    fn nonce(&self, number: u64) -> Result<Nonce, SealError> {
        if number >= MAX_CHUNKS {
            return Err(SealError::TooLong);
        }
        let mut nonce = self.base_nonce;
        let low = nonce.iter_mut().rev().zip(number.to_be_bytes().into_iter().rev());
        low.for_each(|(byte, of_number)| *byte ^= of_number);
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    /// Seals the chunk in `chunk` in place and appends its tag. A chunk of 16 KiB is not the last one; a
    /// shorter one is.
    ///
    /// # Errors
    /// [`SealError::TooLong`] for a number that the format does not have, [`SealError::Length`] for more than
    /// 16 KiB.
    pub fn seal(&self, number: u64, chunk: &mut Vec<u8>) -> Result<(), SealError> {
        if chunk.len() > CHUNK_BYTES {
            return Err(SealError::Length { length: chunk.len() as u64 });
        }
        let nonce = self.nonce(number)?;
        self.key.seal_in_place_append_tag(nonce, Aad::empty(), chunk).map_err(|_| SealError::Library)
    }

    /// Seals `chunk`, and appends what comes of it to `out`. See [`Self::seal`].
    ///
    /// # Errors
    /// As [`Self::seal`]. What was appended is taken away again then.
    pub fn seal_onto(&self, number: u64, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        if chunk.len() > CHUNK_BYTES {
            return Err(SealError::Length { length: chunk.len() as u64 });
        }
        let nonce = self.nonce(number)?;
        let before = out.len();
        out.extend_from_slice(chunk);
        let place = out.get_mut(before..).unwrap_or_default();
        match self.key.seal_in_place_separate_tag(nonce, Aad::empty(), place) {
            Ok(tag) => {
                out.extend_from_slice(tag.as_ref());
                Ok(())
            }
            Err(_) => {
                place.zeroize();
                out.truncate(before);
                Err(SealError::Library)
            }
        }
    }

    /// Opens the sealed chunk in `sealed` in place and gives its bytes.
    ///
    /// Whether a chunk is the last one is its caller's to check: the last one, and no other, has fewer than
    /// 16 KiB. [`crate::Layout`] and [`crate::Opener`] do.
    ///
    /// # Errors
    /// [`SealError::Damaged`]; `sealed` holds nothing of use then.
    pub fn open<'a>(&self, number: u64, sealed: &'a mut [u8]) -> Result<&'a mut [u8], SealError> {
        if sealed.len() < TAG_BYTES || sealed.len() > SEALED_CHUNK_BYTES {
            return Err(SealError::Damaged { number });
        }
        let nonce = self.nonce(number)?;
        self.key.open_in_place(nonce, Aad::empty(), sealed).map_err(|_| SealError::Damaged { number })
    }

    /// Opens the sealed chunk `sealed` into `opened`, which must be 16 bytes shorter. See [`Self::open`].
    ///
    /// # Errors
    /// [`SealError::Damaged`]; `opened` holds nothing of use then.
    pub fn open_into(&self, number: u64, sealed: &[u8], opened: &mut [u8]) -> Result<(), SealError> {
        let damaged = SealError::Damaged { number };
        let (chunk, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(damaged)?;
        if chunk.len() > CHUNK_BYTES || chunk.len() != opened.len() {
            return Err(damaged);
        }
        let nonce = self.nonce(number)?;
        self.gather(nonce, chunk, tag, opened).map_err(|_| damaged)
    }

    #[cfg(feature = "aws-lc-rs")]
    fn gather(
        &self,
        nonce: Nonce,
        chunk: &[u8],
        tag: &[u8],
        opened: &mut [u8],
    ) -> Result<(), backend::error::Unspecified> {
        self.key.open_separate_gather(nonce, Aad::empty(), chunk, tag, opened)
    }

    #[cfg(not(feature = "aws-lc-rs"))]
    fn gather(
        &self,
        nonce: Nonce,
        chunk: &[u8],
        tag: &[u8],
        opened: &mut [u8],
    ) -> Result<(), backend::error::Unspecified> {
        let mut sealed = Zeroizing::new([chunk, tag].concat());
        let plain = self.key.open_in_place(nonce, Aad::empty(), &mut sealed)?;
        opened.copy_from_slice(plain);
        Ok(())
    }
}
