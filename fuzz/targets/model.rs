//! Bytes as a model file: a typed error, or a model that makes prompts and computes scores. Never a panic.

#![no_main]

use std::num::NonZeroUsize;

use cleanroom_engine::gguf::Gguf;
use cleanroom_engine::{ChatMessage, EvaluatedToken, Evaluator, Model};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let parsed = Gguf::parse(input).is_ok();
    let Ok(model) = Model::from_gguf(input) else { return };
    let several = input.starts_with(b"\0\0\0\x11cleanroom/files/1");
    assert!(parsed || several, "a model was read from what is neither a GGUF file nor several files");
    let model = model.with_context_limit(16);
    let _ = model.prompt_from_chat(&[ChatMessage::new("user", "ab <end> \u{20ac}")]);
    let tokens = model.tokens_of_text("ab <end> \u{20ac}");
    let tokens: Vec<EvaluatedToken> = tokens
        .iter()
        .take(4)
        .map(|token| EvaluatedToken { sequence: 0, token: *token, scored: true })
        .collect();
    let mut evaluator =
        Evaluator::new(&model, NonZeroUsize::MIN, NonZeroUsize::MIN).expect("no thread is started");
    let mut scored = 0;
    evaluator
        .append(&tokens, |_, scores| {
            assert_eq!(scores.len(), model.facts().vocabulary as usize);
            scored += 1;
        })
        .expect("the tokens are the model's own and fit the context");
    assert_eq!(scored, tokens.len());
});
