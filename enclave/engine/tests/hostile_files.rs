//! Model files that are cut, corrupted or made to mislead: always a typed error or a working model, never a panic.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/gguf_writer.rs"]
#[expect(dead_code, reason = "shared with unit tests and examples")]
mod gguf_writer;

use cleanroom_engine::{
    ChatMessage, Model, ModelError,
    gguf::{Array, Gguf, GgufError, Value},
};
use gguf_writer::{GgufWriter, Meta};

const DEMO: &[u8] = include_bytes!("../../../models/demo.gguf");
/// Where the demo model's tensor data begins: everything before is header.
const HEADER: usize = 45_824;

#[test]
fn a_cut_file_is_refused() {
    for part in 0..64 {
        let length = DEMO.len() * part / 64;
        assert!(Model::from_gguf(&DEMO[..length]).is_err(), "accepted {length} bytes");
    }
}

#[test]
fn a_corrupt_header_never_panics() {
    let mut file = DEMO.to_vec();
    let mut refused = 0;
    // Every byte where lengths, counts and types stand, then a sample of the rest.
    let positions = (0..2_048).chain((2_048..HEADER).step_by(61));
    for position in positions {
        let original = file[position];
        for flip in [0xff, 0x80, 0x01] {
            file[position] = original ^ flip;
            match Model::from_gguf(&file) {
                Ok(model) => {
                    // A changed token text or name may well be a valid model; it must then work.
                    let _ = model.prompt_from_chat(&[ChatMessage { role: "user", content: "Hello!" }]);
                }
                Err(_) => refused += 1,
            }
        }
        file[position] = original;
    }
    assert!(refused > 1_000, "only {refused} corruptions were noticed");
}

/// The demo model's metadata and tensors, to be changed in one place.
fn demo() -> GgufWriter {
    let file = Gguf::parse(DEMO).unwrap();
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
            Value::Array(array) => Meta::I32s(array.i32s().unwrap().collect()),
            Value::Signed(_) | Value::F64(_) => panic!("not in the demo model"),
        };
        writer = writer.meta(key, value);
    }
    for (name, tensor) in file.tensors() {
        let dimensions: Vec<u64> = tensor.dimensions.map(|length| length as u64).into();
        let kept = dimensions.iter().rposition(|length| *length != 1).unwrap() + 1;
        let type_number = if tensor.tensor_type.block_length() == 32 { 8 } else { 0 };
        writer = writer.tensor(name, &dimensions[..kept], type_number, tensor.bytes.to_vec());
    }
    writer
}

fn refusal(writer: &GgufWriter) -> ModelError {
    Model::from_gguf(&writer.bytes()).err().expect("the model must be refused")
}

/// Why the demo model is refused with this value at this key.
fn with_meta(key: &str, value: Meta) -> ModelError {
    let mut writer = demo();
    writer.metadata.retain(|(name, _)| name != key);
    refusal(&writer.meta(key, value))
}

#[test]
fn the_demo_model_survives_rewriting() {
    assert_eq!(Model::from_gguf(&demo().bytes()).unwrap().facts().parameters, 3_915_520);
}

#[test]
fn other_architectures_are_refused_by_name() {
    let refused = with_meta("general.architecture", Meta::Str("gemma3".into()));
    assert_eq!(
        refused.to_string(),
        "architecture \"gemma3\" is not supported; supported are llama (with mistral), qwen2 and qwen3"
    );
    let mut writer = demo();
    writer.metadata.retain(|(name, _)| name != "general.architecture");
    assert_eq!(refusal(&writer), ModelError::MissingKey { key: "general.architecture".into() });
}

#[test]
fn hyperparameters_out_of_range_are_refused() {
    for (key, found) in [
        ("llama.context_length", 1),
        ("llama.context_length", u32::MAX),
        ("llama.embedding_length", 0),
        ("llama.embedding_length", 1 << 17),
        ("llama.block_count", 0),
        ("llama.block_count", 1 << 20),
        ("llama.feed_forward_length", 0),
        ("llama.attention.head_count", 0),
        ("llama.attention.head_count_kv", 0),
        ("llama.attention.head_count_kv", 9),
        ("llama.attention.key_length", 0),
        ("llama.attention.key_length", 1 << 20),
        ("llama.rope.dimension_count", 0),
        ("llama.rope.dimension_count", 33),
    ] {
        assert!(
            matches!(with_meta(key, Meta::U32(found)), ModelError::OutOfRange { key: k, .. } if k == key),
            "{key} {found}"
        );
    }
}

#[test]
fn hyperparameters_that_do_not_fit_together_are_refused() {
    for (key, value) in [
        ("llama.attention.head_count_kv", Meta::U32(3)),
        ("llama.attention.value_length", Meta::U32(16)),
        ("llama.attention.key_length", Meta::U32(20)),
        ("llama.rope.dimension_count", Meta::U32(31)),
        ("llama.rope.freq_base", Meta::F32(0.0)),
        ("llama.rope.freq_base", Meta::F32(f32::NAN)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(-1.0)),
        ("llama.vocab_size", Meta::U32(1457)),
        ("llama.rope.scaling.type", Meta::Str("yarn".into())),
        ("llama.expert_count", Meta::U32(8)),
        ("llama.attention.causal", Meta::Bool(false)),
    ] {
        // Head widths are checked before what follows from them.
        assert!(
            matches!(with_meta(key, value), ModelError::Unsupported { .. } | ModelError::OutOfRange { .. }),
            "{key}"
        );
    }
    assert!(matches!(
        with_meta("llama.context_length", Meta::Str("512".into())),
        ModelError::Gguf(GgufError::WrongType { .. })
    ));
}

#[test]
fn what_would_be_ignored_is_refused() {
    assert!(matches!(
        with_meta("llama.attention.sliding_window", Meta::U32(64)),
        ModelError::UnknownHyperparameter { key } if key == "llama.attention.sliding_window"
    ));
    let bias = demo().tensor("blk.0.attn_q.bias", &[256], 0, vec![0; 1024]);
    assert!(matches!(refusal(&bias), ModelError::UnexpectedTensor { name } if name == "blk.0.attn_q.bias"));
}

#[test]
fn tensors_must_be_there_in_the_right_shape() {
    let without = |name: &str| {
        let mut writer = demo();
        writer.tensors.retain(|tensor| tensor.name != name);
        refusal(&writer)
    };
    for name in ["token_embd.weight", "output_norm.weight", "blk.5.ffn_down.weight", "blk.0.attn_norm.weight"]
    {
        assert!(matches!(without(name), ModelError::MissingTensor { name: n } if n == name));
    }
    let mut transposed = demo();
    let down = transposed.tensors.iter_mut().find(|tensor| tensor.name == "blk.3.ffn_down.weight").unwrap();
    down.dimensions.reverse();
    assert!(matches!(refusal(&transposed), ModelError::Shape { found: [256, 512, 1, 1], .. }));
    assert!(matches!(with_meta("llama.feed_forward_length", Meta::U32(544)), ModelError::Shape { .. }));
    let mut halved = demo();
    let norm = halved.tensors.iter_mut().find(|tensor| tensor.name == "output_norm.weight").unwrap();
    (norm.type_number, norm.data) = (1, vec![0; 512]);
    assert!(matches!(refusal(&halved), ModelError::VectorType { .. }));
}

#[test]
fn a_template_that_does_not_parse_is_refused() {
    assert!(matches!(
        with_meta("tokenizer.chat_template", Meta::Str("{% if".into())),
        ModelError::Template(_)
    ));
}
