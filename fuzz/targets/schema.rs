//! Text as a JSON Schema: a typed error, or answers that are JSON whenever they end. Never a panic, and never long.
//!
//! The first byte chooses the answers.

#![no_main]

use std::sync::LazyLock;

use cleanroom_engine::{Model, RandomAnswer};
use libfuzzer_sys::fuzz_target;

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    Model::from_gguf(include_bytes!("../corpus/model/llama-q8")).expect("the seed is a model")
});

fuzz_target!(|input: &[u8]| {
    let Some((seed, schema)) = input.split_first() else { return };
    let Ok(schema) = std::str::from_utf8(schema) else { return };
    let Ok(constraint) = MODEL.constrained_to(schema) else { return };
    if let RandomAnswer::Ended(text) = MODEL.random_answer(&constraint, u64::from(*seed), 400) {
        assert!(serde_json::from_slice::<serde_json::Value>(&text).is_ok(), "an answer that is no JSON");
    }
});
