//! `LP`: the encoding of every hashed or framed value.

/// The concatenation of `LP(field)` for each field: a `u32` big-endian length in bytes, then the bytes.
///
/// An absent field is `LP` of nothing, four zero bytes, so that the number of fields never depends on a deployment.
#[must_use]
pub fn length_prefixed(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(fields.iter().map(|field| field.len().saturating_add(4)).sum());
    for field in fields {
        bytes.extend_from_slice(&length_prefix(field));
        bytes.extend_from_slice(field);
    }
    bytes
}

/// The four bytes that stand before `field`.
pub(super) fn length_prefix(field: &[u8]) -> [u8; 4] {
    // A field of 4 GiB cannot be framed; saturating keeps the function total, and the frame limits refuse it long before.
    u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes()
}

/// Reads fields that [`length_prefixed`] wrote.
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields of `bytes`, of which none has been read yet.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next field, if it is whole and at most `limit` bytes.
    pub fn next(&mut self, limit: usize) -> Option<&'a [u8]> {
        let (prefix, rest) = self.rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*prefix)).ok()?;
        if length > limit {
            return None;
        }
        let (field, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(field)
    }

    /// Whether every byte was read.
    #[must_use]
    pub const fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }
}
