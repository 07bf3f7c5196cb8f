//! A reader for the subset of CBOR (RFC 8949) that attestation documents use.
//!
//! It borrows and never allocates, so a length that is claimed costs nothing. Heads must be the shortest that hold their
//! argument (RFC 8949 section 4.2.1), strings must be whole, and nothing is skipped unread: every byte of a document is
//! either understood or a reason to refuse it.

use super::DocumentError;

/// The eight major types of RFC 8949 section 3.1, the last one reduced to what can occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    Unsigned(u64),
    Negative(u64),
    Bytes(u64),
    Text(u64),
    Array(u64),
    Map(u64),
    /// A map of indefinite length, ended by [`Head::Break`].
    OpenMap,
    Tag(u64),
    Null,
    Break,
    /// `false`, `true`, `undefined`, floating point and other simple values, none of which a document may have.
    Simple,
}

impl Head {
    const fn kind(self) -> &'static str {
        match self {
            Self::Unsigned(_) => "an unsigned integer",
            Self::Negative(_) => "a negative integer",
            Self::Bytes(_) => "a byte string",
            Self::Text(_) => "a text string",
            Self::Array(_) => "an array",
            Self::Map(_) => "a map",
            Self::OpenMap => "a map of indefinite length",
            Self::Tag(_) => "a tag",
            Self::Null => "null",
            Self::Break => "a break",
            Self::Simple => "a simple or floating-point value",
        }
    }
}

#[derive(Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    length: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, length: bytes.len() }
    }

    /// How many bytes have been read.
    pub(super) const fn offset(&self) -> usize {
        self.length - self.rest.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What comes next, without reading it.
    pub(super) fn peek(&self) -> Result<Head, DocumentError> {
        Reader { rest: self.rest, length: self.length }.head()
    }

    pub(super) fn head(&mut self) -> Result<Head, DocumentError> {
        let offset = self.offset();
        let initial = self.byte()?;
        let (major, information) = (initial >> 5, initial & 0x1f);
        let argument = match information {
            0..=23 => u64::from(information),
            24 => u64::from(self.byte()?),
            25 => u64::from(u16::from_be_bytes(self.array()?)),
            26 => u64::from(u32::from_be_bytes(self.array()?)),
            27 => u64::from_be_bytes(self.array()?),
            31 => return Self::indefinite(major, offset),
            _ => return Err(DocumentError::ReservedHead { offset }),
        };
        // The argument of a simple value is not a number, so "shortest" does not apply to it.
        let shortest = match information {
            24 => argument > 23,
            25 => argument > u64::from(u8::MAX),
            26 => argument > u64::from(u16::MAX),
            27 => argument > u64::from(u32::MAX),
            _ => true,
        };
        if !shortest && major != 7 {
            return Err(DocumentError::NonShortestHead { offset });
        }
        Ok(match major {
            0 => Head::Unsigned(argument),
            1 => Head::Negative(argument),
            2 => Head::Bytes(argument),
            3 => Head::Text(argument),
            4 => Head::Array(argument),
            5 => Head::Map(argument),
            6 => Head::Tag(argument),
            _ if information == 22 => Head::Null,
            _ => Head::Simple,
        })
    }

    fn indefinite(major: u8, offset: usize) -> Result<Head, DocumentError> {
        match major {
            2 | 3 => Err(DocumentError::ChunkedString { offset }),
            4 => Err(DocumentError::IndefiniteLength { offset }),
            5 => Ok(Head::OpenMap),
            7 => Ok(Head::Break),
            _ => Err(DocumentError::ReservedHead { offset }),
        }
    }

    /// A byte string.
    pub(super) fn bytes(&mut self, item: &'static str) -> Result<&'a [u8], DocumentError> {
        let offset = self.offset();
        match self.head()? {
            Head::Bytes(length) => self.take(length),
            other => Err(unexpected(item, "a byte string", other, offset)),
        }
    }

    /// A text string's bytes. Whether they are UTF-8 is for the caller, who compares them with ASCII.
    pub(super) fn text(&mut self, item: &'static str) -> Result<&'a [u8], DocumentError> {
        let offset = self.offset();
        match self.head()? {
            Head::Text(length) => self.take(length),
            other => Err(unexpected(item, "a text string", other, offset)),
        }
    }

    pub(super) fn unsigned(&mut self, item: &'static str) -> Result<u64, DocumentError> {
        let offset = self.offset();
        match self.head()? {
            Head::Unsigned(value) => Ok(value),
            other => Err(unexpected(item, "an unsigned integer", other, offset)),
        }
    }

    /// The number of elements of an array.
    pub(super) fn array_length(&mut self, item: &'static str) -> Result<u64, DocumentError> {
        let offset = self.offset();
        match self.head()? {
            Head::Array(length) => Ok(length),
            other => Err(unexpected(item, "an array", other, offset)),
        }
    }

    /// The number of entries of a map of definite length.
    pub(super) fn map_length(&mut self, item: &'static str) -> Result<u64, DocumentError> {
        let offset = self.offset();
        match self.head()? {
            Head::Map(length) => Ok(length),
            Head::OpenMap => Err(DocumentError::IndefiniteLength { offset }),
            other => Err(unexpected(item, "a map", other, offset)),
        }
    }

    /// The next `length` bytes.
    pub(super) fn take(&mut self, length: u64) -> Result<&'a [u8], DocumentError> {
        let taken = usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let (taken, rest) = taken.ok_or(DocumentError::Truncated { offset: self.offset() })?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, DocumentError> {
        let (byte, rest) =
            self.rest.split_first().ok_or(DocumentError::Truncated { offset: self.offset() })?;
        self.rest = rest;
        Ok(*byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DocumentError> {
        let (array, rest) =
            self.rest.split_first_chunk().ok_or(DocumentError::Truncated { offset: self.offset() })?;
        self.rest = rest;
        Ok(*array)
    }
}

pub(super) const fn unexpected(
    item: &'static str,
    expected: &'static str,
    actual: Head,
    offset: usize,
) -> DocumentError {
    DocumentError::UnexpectedType { item, expected, actual: actual.kind(), offset }
}
