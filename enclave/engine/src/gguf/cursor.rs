//! A position in the file that cannot leave it.

use super::GgufError;

pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// The next `count` bytes; `what` names them in the error.
    pub(super) fn bytes(&mut self, count: u64, what: &'static str) -> Result<&'a [u8], GgufError> {
        let rest = self.rest();
        let truncated = || GgufError::Truncated { what, needed: count, left: rest.len() as u64 };
        let count = usize::try_from(count).map_err(|_| truncated())?;
        let taken = rest.get(..count).ok_or_else(truncated)?;
        self.position += count;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let bytes = self.bytes(N as u64, what)?;
        bytes.try_into().map_err(|_| GgufError::Truncated {
            what,
            needed: N as u64,
            left: bytes.len() as u64,
        })
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A length-prefixed UTF-8 string of at most `limit` bytes.
    pub(super) fn string(&mut self, what: &'static str, limit: u64) -> Result<&'a str, GgufError> {
        let length = self.u64(what)?;
        if length > limit {
            return Err(GgufError::TooLong { what, found: length, limit });
        }
        std::str::from_utf8(self.bytes(length, what)?).map_err(|_| GgufError::Utf8 { what })
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.position..).unwrap_or_default()
    }
}
