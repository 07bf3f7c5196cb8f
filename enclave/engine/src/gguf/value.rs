//! Metadata values.

use super::{Cursor, GgufError, MAX_ARRAY_ELEMENTS, MAX_STRING_BYTES};

/// One metadata value. Integers keep their sign but not their width.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// 8 to 64 bits, unsigned.
    Unsigned(u64),
    /// 8 to 64 bits, signed.
    Signed(i64),
    /// 32 bits.
    F32(f32),
    /// 64 bits.
    F64(f64),
    /// One byte, 0 or 1.
    Bool(bool),
    /// At most [`MAX_STRING_BYTES`].
    String(&'a str),
    /// At most [`MAX_ARRAY_ELEMENTS`]; never an array of arrays.
    Array(Array<'a>),
}

/// A metadata array.
#[derive(Debug, Clone, PartialEq)]
pub enum Array<'a> {
    /// Strings, each at most [`MAX_STRING_BYTES`].
    Strings(Vec<&'a str>),
    /// Numbers or booleans as they stand in the file, little-endian.
    Fixed {
        /// The element type's number in the specification.
        element_type: u32,
        /// All elements, one after the other.
        bytes: &'a [u8],
    },
}

impl<'a> Array<'a> {
    /// The elements, if they are 32-bit signed integers.
    pub fn i32s(&self) -> Option<impl ExactSizeIterator<Item = i32> + use<'a>> {
        match self {
            Array::Fixed { element_type: types::I32, bytes } => {
                let (elements, _) = bytes.as_chunks::<4>();
                Some(elements.iter().map(|element| i32::from_le_bytes(*element)))
            }
            _ => None,
        }
    }

    /// The elements, if they are 32-bit floating-point numbers.
    pub fn f32s(&self) -> Option<impl ExactSizeIterator<Item = f32> + use<'a>> {
        match self {
            Array::Fixed { element_type: types::F32, bytes } => {
                let (elements, _) = bytes.as_chunks::<4>();
                Some(elements.iter().map(|element| f32::from_le_bytes(*element)))
            }
            _ => None,
        }
    }
}

/// The value types of the specification (`gguf_metadata_value_type`).
pub(super) mod types {
    pub(crate) const U8: u32 = 0;
    pub(crate) const I8: u32 = 1;
    pub(crate) const U16: u32 = 2;
    pub(crate) const I16: u32 = 3;
    pub(crate) const U32: u32 = 4;
    pub(crate) const I32: u32 = 5;
    pub(crate) const F32: u32 = 6;
    pub(crate) const BOOL: u32 = 7;
    pub(crate) const STRING: u32 = 8;
    pub(crate) const ARRAY: u32 = 9;
    pub(crate) const U64: u32 = 10;
    pub(crate) const I64: u32 = 11;
    pub(crate) const F64: u32 = 12;
}

pub(super) fn read<'a>(cursor: &mut Cursor<'a>, key: &str) -> Result<Value<'a>, GgufError> {
    const WHAT: &str = "a metadata value";
    let value = match cursor.u32("a value type")? {
        types::U8 => Value::Unsigned(u8::from_le_bytes(cursor.array(WHAT)?).into()),
        types::I8 => Value::Signed(i8::from_le_bytes(cursor.array(WHAT)?).into()),
        types::U16 => Value::Unsigned(u16::from_le_bytes(cursor.array(WHAT)?).into()),
        types::I16 => Value::Signed(i16::from_le_bytes(cursor.array(WHAT)?).into()),
        types::U32 => Value::Unsigned(cursor.u32(WHAT)?.into()),
        types::I32 => Value::Signed(i32::from_le_bytes(cursor.array(WHAT)?).into()),
        types::U64 => Value::Unsigned(cursor.u64(WHAT)?),
        types::I64 => Value::Signed(i64::from_le_bytes(cursor.array(WHAT)?)),
        types::F32 => Value::F32(f32::from_le_bytes(cursor.array(WHAT)?)),
        types::F64 => Value::F64(f64::from_le_bytes(cursor.array(WHAT)?)),
        types::BOOL => match cursor.array(WHAT)? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            [found] => return Err(GgufError::Bool { key: key.into(), found }),
        },
        types::STRING => Value::String(cursor.string(WHAT, MAX_STRING_BYTES)?),
        types::ARRAY => Value::Array(read_array(cursor, key)?),
        found => return Err(GgufError::ValueType { key: key.into(), found }),
    };
    Ok(value)
}

fn read_array<'a>(cursor: &mut Cursor<'a>, key: &str) -> Result<Array<'a>, GgufError> {
    const WHAT: &str = "a metadata array";
    let element_type = cursor.u32(WHAT)?;
    let count = super::limited("array elements", cursor.u64(WHAT)?, MAX_ARRAY_ELEMENTS)?;
    let width = match element_type {
        types::U8 | types::I8 | types::BOOL => 1,
        types::U16 | types::I16 => 2,
        types::U32 | types::I32 | types::F32 => 4,
        types::U64 | types::I64 | types::F64 => 8,
        types::STRING => {
            // Each string takes at least its length field: a count the file cannot hold is refused before the
            // allocation.
            let least = count * 8;
            let left = cursor.rest().len() as u64;
            if least > left {
                return Err(GgufError::Truncated { what: WHAT, needed: least, left });
            }
            let strings = (0..count).map(|_| cursor.string(WHAT, MAX_STRING_BYTES));
            return Ok(Array::Strings(strings.collect::<Result<_, _>>()?));
        }
        types::ARRAY => return Err(GgufError::NestedArray { key: key.into() }),
        found => return Err(GgufError::ValueType { key: key.into(), found }),
    };
    Ok(Array::Fixed { element_type, bytes: cursor.bytes(count * width, WHAT)? })
}
