//! The faults of a file.

/// Why a file was refused. Names and keys are shown escaped, so a hostile one cannot write to a terminal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says what it and its fields mean")]
pub enum GgufError {
    #[error("the file is cut short: {what} needs {needed} bytes, {left} are left")]
    Truncated { what: &'static str, needed: u64, left: u64 },
    #[error("expected a GGUF file, but it does not start with the bytes \"GGUF\"")]
    Magic,
    #[error("expected GGUF version 3, found {found}; convert the model again with current tools")]
    Version { found: u32 },
    #[error("{found} {what}, the limit is {limit}")]
    TooMany { what: &'static str, found: u64, limit: u64 },
    #[error("{what} of {found} bytes, the limit is {limit}")]
    TooLong { what: &'static str, found: u64, limit: u64 },
    #[error("{what} is not UTF-8")]
    Utf8 { what: &'static str },
    #[error("metadata {key:?}: expected a value type from 0 to 12, found {found}")]
    ValueType { key: String, found: u32 },
    #[error("metadata {key:?}: arrays of arrays are not supported")]
    NestedArray { key: String },
    #[error("metadata {key:?}: expected a boolean of 0 or 1, found {found}")]
    Bool { key: String, found: u8 },
    #[error("metadata {key:?} occurs twice")]
    DuplicateKey { key: String },
    #[error("metadata {key:?}: expected {expected}")]
    WrongType { key: String, expected: &'static str },
    #[error("expected general.alignment to be a power of two from 8 to 65536, found {found}")]
    Alignment { found: u64 },
    #[error("tensor {name:?} occurs twice")]
    DuplicateTensor { name: String },
    #[error("tensor {name:?}: expected 1 to 4 dimensions, found {found}")]
    DimensionCount { name: String, found: u32 },
    #[error("tensor {name:?}: a dimension is zero")]
    EmptyDimension { name: String },
    #[error("tensor {name:?}: its size does not fit into 64 bits")]
    TensorSize { name: String },
    #[error(
        "tensor {name:?}: type {found} ({number}) is not supported; supported are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL, IQ4_XS and MXFP4"
    )]
    TensorType { name: String, number: u32, found: &'static str },
    #[error("tensor {name:?}: rows of {found} numbers are not whole blocks of {block}")]
    RowLength { name: String, found: usize, block: usize },
    #[error("tensor {name:?}: offset {offset} is not a multiple of the alignment {alignment}")]
    Misaligned { name: String, offset: u64, alignment: u32 },
    #[error(
        "tensor {name:?}: {size} bytes at offset {offset} lie outside the {available} bytes of tensor data"
    )]
    OutOfBounds { name: String, offset: u64, size: u64, available: u64 },
    #[error("tensors {first:?} and {second:?} overlap")]
    Overlap { first: String, second: String },
}
