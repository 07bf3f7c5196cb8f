//! Tensor descriptions, checked against the file and against each other.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

use super::{Cursor, GgufError, MAX_TENSOR_NAME_BYTES};

const MAX_DIMENSIONS: u32 = 4;

/// How the numbers of a tensor are stored. Only what the kernels read; other types are refused by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(non_camel_case_types, reason = "the names are those of the format")]
pub enum TensorType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of IEEE 754 single precision.
    BF16,
    /// Blocks of 32: a half-precision scale, then 32 signed bytes.
    Q8_0,
    /// Blocks of 32: a half-precision scale, then 32 codes of four bits.
    Q4_0,
    /// Blocks of 32: a scale and a minimum of half precision, then 32 codes of four bits.
    Q4_1,
    /// Blocks of 32: a half-precision scale, then 32 codes of five bits.
    Q5_0,
    /// Blocks of 32: a scale and a minimum of half precision, then 32 codes of five bits.
    Q5_1,
    /// Blocks of 32: a half-precision scale, then 32 codes of four bits that stand for numbers of a fixed table.
    IQ4_NL,
    /// Blocks of 32: a power of two as scale, then 32 floating-point numbers of four bits (E2M1). Defined by
    /// the OCP Microscaling Formats Specification.
    MXFP4,
    /// Blocks of 256 codes of four bits that stand for numbers of a fixed table; each 32 with a scale of six bits.
    IQ4_XS,
    /// Blocks of 256 codes of two bits; each 16 with a scale and a minimum of four bits.
    Q2_K,
    /// Blocks of 256 codes of three bits; each 16 with a scale of six bits.
    Q3_K,
    /// Blocks of 256 codes of four bits; each 32 with a scale and a minimum of six bits.
    Q4_K,
    /// Blocks of 256 codes of five bits; each 32 with a scale and a minimum of six bits.
    Q5_K,
    /// Blocks of 256 codes of six bits; each 16 with a scale of eight bits.
    Q6_K,
}

impl TensorType {
    /// Every type that the kernels read.
    pub const ALL: [TensorType; 16] = [
        TensorType::F32,
        TensorType::F16,
        TensorType::BF16,
        TensorType::Q8_0,
        TensorType::Q4_0,
        TensorType::Q4_1,
        TensorType::Q5_0,
        TensorType::Q5_1,
        TensorType::IQ4_NL,
        TensorType::MXFP4,
        TensorType::IQ4_XS,
        TensorType::Q2_K,
        TensorType::Q3_K,
        TensorType::Q4_K,
        TensorType::Q5_K,
        TensorType::Q6_K,
    ];

    /// Numbers in one block; rows are whole blocks.
    pub fn block_length(self) -> usize {
        match self {
            TensorType::F32 | TensorType::F16 | TensorType::BF16 => 1,
            TensorType::Q8_0
            | TensorType::Q4_0
            | TensorType::Q4_1
            | TensorType::Q5_0
            | TensorType::Q5_1
            | TensorType::IQ4_NL
            | TensorType::MXFP4 => 32,
            TensorType::IQ4_XS
            | TensorType::Q2_K
            | TensorType::Q3_K
            | TensorType::Q4_K
            | TensorType::Q5_K
            | TensorType::Q6_K => 256,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            TensorType::F32 => 4,
            TensorType::F16 | TensorType::BF16 => 2,
            TensorType::Q8_0 => 34,
            TensorType::Q4_0 | TensorType::IQ4_NL => 18,
            TensorType::Q4_1 => 20,
            TensorType::Q5_0 => 22,
            TensorType::Q5_1 => 24,
            TensorType::MXFP4 => 17,
            TensorType::IQ4_XS => 136,
            TensorType::Q2_K => 84,
            TensorType::Q3_K => 110,
            TensorType::Q4_K => 144,
            TensorType::Q5_K => 176,
            TensorType::Q6_K => 210,
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TensorType::F32 => "F32",
            TensorType::F16 => "F16",
            TensorType::BF16 => "BF16",
            TensorType::Q8_0 => "Q8_0",
            TensorType::Q4_0 => "Q4_0",
            TensorType::Q4_1 => "Q4_1",
            TensorType::Q5_0 => "Q5_0",
            TensorType::Q5_1 => "Q5_1",
            TensorType::IQ4_NL => "IQ4_NL",
            TensorType::MXFP4 => "MXFP4",
            TensorType::IQ4_XS => "IQ4_XS",
            TensorType::Q2_K => "Q2_K",
            TensorType::Q3_K => "Q3_K",
            TensorType::Q4_K => "Q4_K",
            TensorType::Q5_K => "Q5_K",
            TensorType::Q6_K => "Q6_K",
        })
    }
}

/// A tensor inside the file.
#[derive(Debug, Clone, Copy)]
pub struct Tensor {
    /// How the numbers are stored.
    pub tensor_type: TensorType,
    /// Up to four dimensions, the contiguous one first; unused ones are 1.
    pub dimensions: [usize; MAX_DIMENSIONS as usize],
    /// Where its numbers begin, in bytes from the beginning of the file.
    pub start: u64,
    /// Bytes of its numbers.
    pub length: u64,
}

/// A description whose place in the file has not been looked at yet.
struct Description {
    tensor_type: TensorType,
    dimensions: [usize; MAX_DIMENSIONS as usize],
    offset: u64,
    size: u64,
}

pub(super) fn read_all<'a>(
    cursor: &mut Cursor<'a>,
    count: u64,
    alignment: u32,
    file: u64,
) -> Result<BTreeMap<&'a str, Tensor>, GgufError> {
    let mut descriptions = BTreeMap::new();
    for _ in 0..count {
        let name = cursor.string("a tensor name", MAX_TENSOR_NAME_BYTES)?;
        let description = read_description(cursor, name)?;
        if description.offset % u64::from(alignment) != 0 {
            return Err(GgufError::Misaligned { name: name.into(), offset: description.offset, alignment });
        }
        match descriptions.entry(name) {
            Entry::Vacant(slot) => slot.insert(description),
            Entry::Occupied(_) => return Err(GgufError::DuplicateTensor { name: name.into() }),
        };
    }
    let end = cursor.position() as u64;
    let data = if count > 0 { end.next_multiple_of(u64::from(alignment)) } else { end };
    if data > file {
        let what = "the padding before the tensor data";
        return Err(GgufError::Truncated { what, needed: data - end, left: file.saturating_sub(end) });
    }
    refuse_overlaps(&descriptions)?;
    let placed = |(name, description)| Ok((name, place(name, &description, data, file)?));
    descriptions.into_iter().map(placed).collect()
}

fn read_description(cursor: &mut Cursor<'_>, name: &str) -> Result<Description, GgufError> {
    const WHAT: &str = "a tensor description";
    let count = cursor.u32(WHAT)?;
    if !(1..=MAX_DIMENSIONS).contains(&count) {
        return Err(GgufError::DimensionCount { name: name.into(), found: count });
    }
    let too_large = || GgufError::TensorSize { name: name.into() };
    let mut dimensions = [1_usize; MAX_DIMENSIONS as usize];
    let mut elements = 1_u64;
    for dimension in dimensions.iter_mut().take(count as usize) {
        let length = cursor.u64(WHAT)?;
        if length == 0 {
            return Err(GgufError::EmptyDimension { name: name.into() });
        }
        elements = elements.checked_mul(length).ok_or_else(too_large)?;
        *dimension = usize::try_from(length).map_err(|_| too_large())?;
    }
    let tensor_type = supported(name, cursor.u32(WHAT)?)?;
    let block = tensor_type.block_length();
    let [row, ..] = dimensions;
    if row % block != 0 {
        return Err(GgufError::RowLength { name: name.into(), found: row, block });
    }
    let size =
        (elements / block as u64).checked_mul(tensor_type.block_bytes() as u64).ok_or_else(too_large)?;
    let offset = cursor.u64(WHAT)?;
    offset.checked_add(size).ok_or_else(too_large)?;
    Ok(Description { tensor_type, dimensions, offset, size })
}

/// The tensor's place in a file of `file` bytes, whose data begins at `data`.
fn place(name: &str, description: &Description, data: u64, file: u64) -> Result<Tensor, GgufError> {
    let Description { tensor_type, dimensions, offset, size } = *description;
    let available = file.saturating_sub(data);
    if offset.saturating_add(size) > available {
        return Err(GgufError::OutOfBounds { name: name.into(), offset, size, available });
    }
    Ok(Tensor { tensor_type, dimensions, start: data.saturating_add(offset), length: size })
}

fn refuse_overlaps(descriptions: &BTreeMap<&str, Description>) -> Result<(), GgufError> {
    let mut places: Vec<_> =
        descriptions.iter().map(|(name, d)| (d.offset, d.offset + d.size, *name)).collect();
    places.sort_unstable();
    for pair in places.windows(2) {
        if let [(_, end, first), (start, _, second)] = pair
            && start < end
        {
            return Err(GgufError::Overlap { first: (*first).into(), second: (*second).into() });
        }
    }
    Ok(())
}

fn supported(name: &str, number: u32) -> Result<TensorType, GgufError> {
    match number {
        0 => Ok(TensorType::F32),
        1 => Ok(TensorType::F16),
        2 => Ok(TensorType::Q4_0),
        3 => Ok(TensorType::Q4_1),
        6 => Ok(TensorType::Q5_0),
        7 => Ok(TensorType::Q5_1),
        8 => Ok(TensorType::Q8_0),
        10 => Ok(TensorType::Q2_K),
        11 => Ok(TensorType::Q3_K),
        12 => Ok(TensorType::Q4_K),
        13 => Ok(TensorType::Q5_K),
        14 => Ok(TensorType::Q6_K),
        20 => Ok(TensorType::IQ4_NL),
        23 => Ok(TensorType::IQ4_XS),
        30 => Ok(TensorType::BF16),
        39 => Ok(TensorType::MXFP4),
        _ => Err(GgufError::TensorType { name: name.into(), number, found: type_name(number) }),
    }
}

/// The names of the other values of `ggml_type`, so that a refusal can say what came.
fn type_name(number: u32) -> &'static str {
    match number {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        _ => "an unknown type",
    }
}
