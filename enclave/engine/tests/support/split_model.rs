//! A model in another file, or in several, with the same settings and tensors.

#![allow(dead_code, reason = "each test program uses its own part of this")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "only tests use this; in them a panic is the report")]

use cleanroom_engine::gguf::{Array, Gguf, TensorType, Value};

use super::gguf_writer::{GgufWriter, Meta};

/// The settings and tensors of a model with F32, F16, BF16 and `Q8_0` weights, to be written again.
pub(crate) fn copied(file: &[u8]) -> GgufWriter {
    let file = Gguf::parse(file).unwrap();
    let mut writer = GgufWriter::default();
    for (key, value) in file.metadata() {
        let value = match value {
            Value::String(text) => Meta::Str((*text).into()),
            Value::Bool(flag) => Meta::Bool(*flag),
            Value::Unsigned(number) => Meta::U32((*number).try_into().unwrap()),
            Value::F32(number) => Meta::F32(*number),
            Value::Array(Array::Strings(texts)) => {
                Meta::Strs(texts.iter().map(|text| (*text).into()).collect())
            }
            Value::Array(array) => match array.i32s() {
                Some(numbers) => Meta::I32s(numbers.collect()),
                None => Meta::F32s(array.f32s().unwrap().collect()),
            },
            Value::Signed(_) | Value::F64(_) => panic!("not in the demo model"),
        };
        writer = writer.meta(key, value);
    }
    for (name, tensor) in file.tensors() {
        let dimensions: Vec<u64> = tensor.dimensions.map(|length| length as u64).into();
        let kept = dimensions.iter().rposition(|length| *length != 1).unwrap() + 1;
        let type_number = match tensor.tensor_type {
            TensorType::F32 => 0,
            TensorType::F16 => 1,
            TensorType::BF16 => 30,
            TensorType::Q8_0 => 8,
            other => panic!("{other} is not copied"),
        };
        writer = writer.tensor(name, &dimensions[..kept], type_number, file.numbers(tensor).to_vec());
    }
    writer
}

/// The same model in two files, as `llama-gguf-split` makes them: the first has the settings.
pub(crate) fn parts(file: &[u8]) -> [GgufWriter; 2] {
    let mut first = copied(file);
    let tensors = first.tensors.split_off(first.tensors.len() / 2);
    let second = GgufWriter { tensors, ..GgufWriter::default() };
    [part(first, 0, 2), part(second, 1, 2)]
}

/// Says in 16 bits which part a file is, as these files do.
pub(crate) fn part(mut file: GgufWriter, number: u16, count: u16) -> GgufWriter {
    file.metadata.retain(|(key, _)| !key.starts_with("split."));
    file.meta("split.no", Meta::Raw(2, number.to_le_bytes().into()))
        .meta("split.count", Meta::Raw(2, count.to_le_bytes().into()))
}
