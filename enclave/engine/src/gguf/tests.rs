use super::*;
use crate::gguf_writer::{GgufWriter, Meta};

fn valid() -> GgufWriter {
    GgufWriter::default()
        .meta("general.architecture", Meta::Str("llama".into()))
        .meta("number", Meta::U32(7))
        .meta("tokens", Meta::Strs(vec!["a".into(), "b".into()]))
        .meta("types", Meta::I32s(vec![1, -3]))
        .tensor("a", &[2, 3], 0, vec![0; 24])
        .tensor("b", &[32], 8, vec![0; 34])
}

fn refusal(writer: &GgufWriter) -> GgufError {
    Gguf::parse(&writer.bytes()).err().expect("the file must be refused")
}

#[test]
fn reads_what_a_valid_file_says() {
    let bytes = valid().bytes();
    let file = Gguf::parse(&bytes).unwrap();
    assert_eq!(file.string("general.architecture"), Ok(Some("llama")));
    assert_eq!(file.u32("number"), Ok(Some(7)));
    assert_eq!(file.u32("absent"), Ok(None));
    assert_eq!(file.strings("tokens").unwrap(), Some(&["a", "b"][..]));
    assert_eq!(file.i32s("types").unwrap().unwrap().collect::<Vec<_>>(), [1, -3]);
    let tensor = file.tensor("a").unwrap();
    assert_eq!(
        (tensor.tensor_type, tensor.dimensions, file.numbers(tensor).len()),
        (TensorType::F32, [2, 3, 1, 1], 24)
    );
    assert_eq!(file.tensors().count(), 2);
    assert_eq!(file.metadata().count(), 4);
}

#[test]
fn refuses_another_format_and_version() {
    assert_eq!(refusal(&GgufWriter { magic: *b"GGML", ..valid() }), GgufError::Magic);
    assert_eq!(refusal(&GgufWriter { version: 2, ..valid() }), GgufError::Version { found: 2 });
}

#[test]
fn refuses_counts_above_the_limit_before_reading_on() {
    let huge = Some(u64::MAX);
    assert!(matches!(
        refusal(&GgufWriter { tensor_count: huge, ..valid() }),
        GgufError::TooMany { what: "tensors", .. }
    ));
    assert!(matches!(
        refusal(&GgufWriter { metadata_count: huge, ..valid() }),
        GgufError::TooMany { what: "metadata pairs", .. }
    ));
    let count_only = |element: u32, count: u64| {
        let mut raw = element.to_le_bytes().to_vec();
        raw.extend(count.to_le_bytes());
        refusal(&GgufWriter::default().meta("array", Meta::Raw(9, raw)))
    };
    assert!(matches!(count_only(8, u64::MAX), GgufError::TooMany { what: "array elements", .. }));
    // Within the limit, but the file does not have them.
    assert!(matches!(count_only(8, MAX_ARRAY_ELEMENTS), GgufError::Truncated { .. }));
    assert!(matches!(count_only(10, MAX_ARRAY_ELEMENTS), GgufError::Truncated { .. }));
}

#[test]
fn refuses_lengths_above_the_limit() {
    let long = |length: u64| Meta::Raw(8, length.to_le_bytes().to_vec());
    assert!(matches!(
        refusal(&GgufWriter::default().meta("s", long(MAX_STRING_BYTES + 1))),
        GgufError::TooLong { what: "a metadata value", .. }
    ));
    assert!(matches!(
        refusal(&GgufWriter::default().meta("s", long(MAX_STRING_BYTES))),
        GgufError::Truncated { .. }
    ));
    assert!(matches!(
        refusal(&GgufWriter::default().meta(&"k".repeat(257), Meta::U32(1))),
        GgufError::TooLong { what: "a metadata key", .. }
    ));
    assert!(matches!(
        refusal(&GgufWriter::default().tensor(&"t".repeat(65), &[1], 0, vec![0; 4])),
        GgufError::TooLong { what: "a tensor name", .. }
    ));
}

#[test]
fn refuses_malformed_values() {
    let mut not_utf8 = 1_u64.to_le_bytes().to_vec();
    not_utf8.push(0xff);
    assert!(matches!(
        refusal(&GgufWriter::default().meta("s", Meta::Raw(8, not_utf8))),
        GgufError::Utf8 { .. }
    ));
    assert!(matches!(
        refusal(&GgufWriter::default().meta("b", Meta::Raw(7, vec![2]))),
        GgufError::Bool { found: 2, .. }
    ));
    assert!(matches!(
        refusal(&GgufWriter::default().meta("v", Meta::Raw(13, vec![0; 8]))),
        GgufError::ValueType { found: 13, .. }
    ));
    let array_of = |element: u32| {
        let mut raw = element.to_le_bytes().to_vec();
        raw.extend(0_u64.to_le_bytes());
        refusal(&GgufWriter::default().meta("a", Meta::Raw(9, raw)))
    };
    assert!(matches!(array_of(9), GgufError::NestedArray { .. }));
    assert!(matches!(array_of(99), GgufError::ValueType { found: 99, .. }));
}

#[test]
fn refuses_duplicates() {
    assert!(
        matches!(refusal(&valid().meta("number", Meta::U32(8))), GgufError::DuplicateKey { key } if key == "number")
    );
    assert!(matches!(
        refusal(&valid().tensor("a", &[1], 0, vec![0; 4])),
        GgufError::DuplicateTensor { name } if name == "a"
    ));
}

#[test]
fn refuses_odd_alignments() {
    for found in [0, 4, 24, 1 << 17] {
        let file = valid().meta("general.alignment", Meta::U32(found));
        assert_eq!(refusal(&file), GgufError::Alignment { found: found.into() });
    }
    let file = valid().meta("general.alignment", Meta::Str("32".into()));
    assert!(matches!(refusal(&file), GgufError::WrongType { .. }));
}

#[test]
fn refuses_impossible_shapes() {
    let shape = |dimensions: &[u64], number| {
        refusal(&GgufWriter::default().tensor("t", dimensions, number, vec![0; 4]))
    };
    assert!(matches!(shape(&[], 0), GgufError::DimensionCount { found: 0, .. }));
    assert!(matches!(shape(&[1; 5], 0), GgufError::DimensionCount { found: 5, .. }));
    assert!(matches!(shape(&[4, 0], 0), GgufError::EmptyDimension { .. }));
    assert!(matches!(shape(&[1 << 32, 1 << 32], 0), GgufError::TensorSize { .. }));
    assert!(matches!(shape(&[1 << 62], 0), GgufError::TensorSize { .. }));
    assert!(matches!(shape(&[33], 8), GgufError::RowLength { found: 33, block: 32, .. }));
}

#[test]
fn refuses_unsupported_tensor_types_by_name() {
    let refused = refusal(&GgufWriter::default().tensor("t", &[256], 16, vec![0; 66]));
    assert_eq!(
        refused.to_string(),
        "tensor \"t\": type IQ2_XXS (16) is not supported; supported are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL, IQ4_XS and MXFP4"
    );
    assert!(matches!(
        refusal(&GgufWriter::default().tensor("t", &[256], 4000, vec![0; 144])),
        GgufError::TensorType { found: "an unknown type", number: 4000, .. }
    ));
}

#[test]
fn refuses_tensors_outside_the_data_or_on_top_of_each_other() {
    let placed = |offset: u64| {
        let mut file = valid();
        file.tensors[1].offset = Some(offset);
        refusal(&file)
    };
    assert!(matches!(placed(64), GgufError::OutOfBounds { .. }));
    assert!(matches!(placed(1 << 40), GgufError::OutOfBounds { .. }));
    assert!(matches!(placed(u64::MAX - 31), GgufError::TensorSize { .. }));
    assert!(matches!(placed(0), GgufError::Overlap { .. }));
    assert!(matches!(placed(33), GgufError::Misaligned { .. }));
}

#[test]
fn refuses_values_of_another_type_than_asked_for() {
    let bytes = valid().bytes();
    let file = Gguf::parse(&bytes).unwrap();
    assert!(matches!(file.string("number"), Err(GgufError::WrongType { .. })));
    assert!(matches!(file.u32("tokens"), Err(GgufError::WrongType { .. })));
    assert!(matches!(file.f32("number"), Err(GgufError::WrongType { .. })));
    assert!(matches!(file.bool("number"), Err(GgufError::WrongType { .. })));
    assert!(matches!(file.strings("types"), Err(GgufError::WrongType { .. })));
    assert!(file.i32s("tokens").is_err());
}

#[test]
fn every_truncation_is_refused() {
    let bytes = valid().bytes();
    // The last tensor ends 30 bytes before the padded end of the file.
    for length in 0..bytes.len() - 30 {
        assert!(Gguf::parse(&bytes[..length]).is_err(), "accepted {length} of {} bytes", bytes.len());
    }
}
