//! A reader of GGUF version 3 files that trusts nothing in them.
//!
//! Layout (little-endian throughout; the specification is `docs/gguf.md` of ggml):
//!
//! ```text
//! "GGUF"  version u32  tensor count u64  metadata count u64
//! metadata: key string, value type u32, value                    string = length u64, UTF-8 bytes
//! tensors:  name string, dimension count u32, dimensions u64…, type u32, offset u64
//! padding to general.alignment, then the tensor data; offsets count from here
//! ```
//!
//! Nothing is allocated from a number in the file before that number was held against a limit and against the
//! bytes that are left. Strings and arrays stay borrowed from the file.

#![deny(clippy::indexing_slicing)]

mod cursor;
mod error;
mod tensor;
#[cfg(test)]
mod tests;
mod value;

use std::collections::{BTreeMap, btree_map::Entry};

use cursor::Cursor;
pub use error::GgufError;
pub use tensor::{Tensor, TensorType};
pub use value::{Array, Value};

/// Most metadata pairs, and most tensors, of one file.
pub const MAX_ENTRIES: u64 = 1 << 16;
/// Most bytes of a metadata key.
pub const MAX_KEY_BYTES: u64 = 256;
/// Most bytes of a tensor name (the specification's own limit).
pub const MAX_TENSOR_NAME_BYTES: u64 = 64;
/// Most bytes of a metadata string; the longest in practice is the chat template.
pub const MAX_STRING_BYTES: u64 = 1 << 20;
/// Most elements of a metadata array; the longest in practice are the merges of a tokenizer.
pub const MAX_ARRAY_ELEMENTS: u64 = 1 << 22;
/// Largest `general.alignment`.
pub const MAX_ALIGNMENT: u32 = 1 << 16;

const MAGIC: [u8; 4] = *b"GGUF";
const VERSION: u32 = 3;
const DEFAULT_ALIGNMENT: u32 = 32;

/// The longest beginning of a file that is read in search of its header's end, in bytes.
pub const MAX_HEADER_BYTES: u64 = 256 << 20;

/// A parsed file, or the beginning of one with the whole header; everything in it borrows those bytes.
pub struct Gguf<'a> {
    bytes: &'a [u8],
    metadata: BTreeMap<&'a str, Value<'a>>,
    tensors: BTreeMap<&'a str, Tensor>,
}

impl<'a> Gguf<'a> {
    /// Reads the header and checks that every tensor lies inside the file and overlaps no other.
    ///
    /// # Errors
    /// [`GgufError`] for anything that is not a well-formed file of supported tensor types.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GgufError> {
        Self::parse_beginning(bytes, bytes.len() as u64)
    }

    /// As [`Gguf::parse`], of a file of `length` bytes that begins with `bytes`.
    ///
    /// # Errors
    /// [`GgufError::Truncated`] also means that the header is longer than `bytes`.
    pub fn parse_beginning(bytes: &'a [u8], length: u64) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(bytes);
        if cursor.bytes(4, "the magic")? != MAGIC {
            return Err(GgufError::Magic);
        }
        let version = cursor.u32("the version")?;
        if version != VERSION {
            return Err(GgufError::Version { found: version });
        }
        let tensor_count = limited("tensors", cursor.u64("the tensor count")?, MAX_ENTRIES)?;
        let metadata_count = limited("metadata pairs", cursor.u64("the metadata count")?, MAX_ENTRIES)?;
        let metadata = read_metadata(&mut cursor, metadata_count)?;
        let alignment = alignment(&metadata)?;
        let tensors = tensor::read_all(&mut cursor, tensor_count, alignment, length)?;
        Ok(Self { bytes, metadata, tensors })
    }

    /// All metadata, ordered by key.
    pub fn metadata(&self) -> impl Iterator<Item = (&'a str, &Value<'a>)> {
        self.metadata.iter().map(|(key, value)| (*key, value))
    }

    /// All tensors, ordered by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&'a str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (*name, tensor))
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The numbers of a tensor, little-endian. Empty if they are not in the bytes that were parsed.
    pub fn numbers(&self, tensor: &Tensor) -> &'a [u8] {
        let place = usize::try_from(tensor.start).ok().zip(usize::try_from(tensor.length).ok());
        let bytes = place.and_then(|(start, length)| self.bytes.get(start..)?.get(..length));
        bytes.unwrap_or_default()
    }

    /// The string at `key`, if the key is there.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] when the value is no string; so for the other accessors.
    pub fn string(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(*text),
            _ => None,
        })
    }

    /// The boolean at `key`, if the key is there.
    ///
    /// # Errors
    /// See [`Gguf::string`].
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a boolean", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    /// The integer at `key`, of any width and sign as long as it fits, if the key is there.
    ///
    /// # Errors
    /// See [`Gguf::string`].
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.typed(key, "an integer from 0 to 4294967295", |value| match value {
            Value::Unsigned(number) => u32::try_from(*number).ok(),
            Value::Signed(number) => u32::try_from(*number).ok(),
            _ => None,
        })
    }

    /// The floating-point number at `key`, if the key is there.
    ///
    /// # Errors
    /// See [`Gguf::string`].
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "a 32-bit floating-point number", |value| match value {
            Value::F32(number) => Some(*number),
            _ => None,
        })
    }

    /// The array of strings at `key`, if the key is there.
    ///
    /// # Errors
    /// See [`Gguf::string`].
    pub fn strings(&self, key: &str) -> Result<Option<&[&'a str]>, GgufError> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        match value {
            Value::Array(Array::Strings(strings)) => Ok(Some(strings)),
            _ => Err(GgufError::WrongType { key: key.into(), expected: "an array of strings" }),
        }
    }

    /// The array of 32-bit signed integers at `key`, if the key is there.
    ///
    /// # Errors
    /// See [`Gguf::string`].
    pub fn i32s(&self, key: &str) -> Result<Option<impl ExactSizeIterator<Item = i32> + use<'a>>, GgufError> {
        self.typed(key, "an array of 32-bit signed integers", |value| match value {
            Value::Array(array) => array.i32s(),
            _ => None,
        })
    }

    /// The array of 32-bit floating-point numbers at `key`, if the key is there.
    ///
    /// # Errors
    /// See [`Gguf::string`].
    pub fn f32s(&self, key: &str) -> Result<Option<impl ExactSizeIterator<Item = f32> + use<'a>>, GgufError> {
        self.typed(key, "an array of 32-bit floating-point numbers", |value| match value {
            Value::Array(array) => array.f32s(),
            _ => None,
        })
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| GgufError::WrongType { key: key.into(), expected })
    }
}

fn limited(what: &'static str, found: u64, limit: u64) -> Result<u64, GgufError> {
    if found > limit { Err(GgufError::TooMany { what, found, limit }) } else { Ok(found) }
}

fn read_metadata<'a>(cursor: &mut Cursor<'a>, count: u64) -> Result<BTreeMap<&'a str, Value<'a>>, GgufError> {
    let mut metadata = BTreeMap::new();
    for _ in 0..count {
        let key = cursor.string("a metadata key", MAX_KEY_BYTES)?;
        let value = value::read(cursor, key)?;
        match metadata.entry(key) {
            Entry::Vacant(slot) => slot.insert(value),
            Entry::Occupied(_) => return Err(GgufError::DuplicateKey { key: key.into() }),
        };
    }
    Ok(metadata)
}

fn alignment(metadata: &BTreeMap<&str, Value<'_>>) -> Result<u32, GgufError> {
    let found = match metadata.get("general.alignment") {
        None => return Ok(DEFAULT_ALIGNMENT),
        Some(Value::Unsigned(number)) => *number,
        Some(_) => {
            return Err(GgufError::WrongType {
                key: "general.alignment".into(),
                expected: "an unsigned integer",
            });
        }
    };
    match u32::try_from(found) {
        Ok(alignment) if alignment.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(&alignment) => {
            Ok(alignment)
        }
        _ => Err(GgufError::Alignment { found }),
    }
}
