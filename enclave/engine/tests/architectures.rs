//! Tiny models of each architecture against the scores that transformers computes of them, and the settings that
//! only some architectures have. `data/architecture_vectors.py` makes models and scores.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/gguf_writer.rs"]
mod gguf_writer;
#[path = "support/split_model.rs"]
mod split_model;

use std::num::NonZeroUsize;

use cleanroom_engine::{EvaluatedToken, Evaluator, Instructions, Model, ModelError};
use gguf_writer::{GgufWriter, Meta};
use split_model::copied;

macro_rules! data {
    ($name:literal) => {
        include_bytes!(concat!("data/architectures/", $name))
    };
}

const GEMMA2: &[u8] = data!("gemma2.gguf");
const GEMMA3: &[u8] = data!("gemma3.gguf");
const PHI3: &[u8] = data!("phi3.gguf");
const MISTRAL3: &[u8] = data!("mistral3.gguf");
const MISTRAL: &[u8] = data!("mistral.gguf");
const QWEN3_MOE: &[u8] = data!("qwen3moe.gguf");
const GPT_OSS: &[u8] = data!("gpt-oss.gguf");
const ALL: [&[u8]; 7] = [GEMMA2, GEMMA3, PHI3, MISTRAL3, MISTRAL, QWEN3_MOE, GPT_OSS];

/// The tokens whose scores are in the texts: every one in so many.
const SCORED: usize = 17;
/// How far scores of a few units may be from the reference: keys and values are rounded to eleven bits, and transformers
/// computes angles in single precision.
const NEAR: f32 = 0.02;

/// A prompt, and after some positions the scores of some tokens.
struct Vectors {
    prompt: Vec<u32>,
    scores: Vec<(usize, Vec<f32>)>,
}

fn vectors(text: &[u8]) -> Vectors {
    let mut lines = std::str::from_utf8(text).unwrap().lines();
    let prompt = lines.next().unwrap().split(' ').map(|token| token.parse().unwrap()).collect();
    let numbers = |line: &str| -> (usize, Vec<f32>) {
        let (position, scores) = line.split_once(' ').unwrap();
        (position.parse().unwrap(), scores.split(' ').map(|score| score.parse().unwrap()).collect())
    };
    Vectors { prompt, scores: lines.map(numbers).collect() }
}

/// The scores after every token of a prompt that is computed in pieces of `piece` tokens.
fn scores(model: &Model, prompt: &[u32], piece: usize) -> Vec<Vec<f32>> {
    let mut evaluator = Evaluator::new(model, NonZeroUsize::MIN, NonZeroUsize::MIN).unwrap();
    let mut scores = Vec::new();
    for tokens in prompt.chunks(piece) {
        let tokens: Vec<_> =
            tokens.iter().map(|token| EvaluatedToken { sequence: 0, token: *token, scored: true }).collect();
        evaluator.append(&tokens, |_, found| scores.push(found.to_vec())).unwrap();
    }
    scores
}

/// The largest distance between the scores of a model and those of the reference.
fn distance(model: &Model, reference: &Vectors) -> f32 {
    let found = scores(model, &reference.prompt, usize::MAX);
    let mut largest = 0.0_f32;
    for (position, expected) in &reference.scores {
        let found = found[*position].iter().step_by(SCORED);
        assert_eq!(found.len(), expected.len());
        found.zip(expected).for_each(|(found, expected)| largest = largest.max((found - expected).abs()));
    }
    largest
}

#[test]
fn scores_are_those_of_the_reference_implementation() {
    let cases: [(&str, &[u8], &[u8]); 7] = [
        ("gemma2", GEMMA2, data!("gemma2.txt")),
        ("gemma3", GEMMA3, data!("gemma3.txt")),
        ("phi3", PHI3, data!("phi3.txt")),
        ("mistral3", MISTRAL3, data!("mistral3.txt")),
        ("mistral", MISTRAL, data!("mistral.txt")),
        ("qwen3moe", QWEN3_MOE, data!("qwen3moe.txt")),
        ("gpt-oss", GPT_OSS, data!("gpt-oss.txt")),
    ];
    for (name, file, text) in cases {
        let model = Model::from_gguf(file).unwrap();
        let reference = vectors(text);
        let spread = reference
            .scores
            .iter()
            .flat_map(|(_, scores)| scores)
            .fold(0.0_f32, |most, score| most.max(score.abs()));
        assert!(spread > 1.0, "{name}: scores of at most {spread}");
        let distance = distance(&model, &reference);
        println!("{name}: {distance} of {spread}");
        assert!(distance < NEAR, "{name}: {distance} of {spread}");
    }
}

#[test]
fn a_context_that_is_not_longer_than_the_original_one_has_the_short_factors() {
    let reference = vectors(data!("phi3-short.txt"));
    let model = |context| Model::from_gguf(PHI3).unwrap().with_context_limit(context);
    assert!(distance(&model(32), &reference) < NEAR);
    assert!(distance(&model(33), &reference) > 5.0 * NEAR);
}

#[test]
fn scores_depend_neither_on_the_pieces_of_a_prompt_nor_on_the_processor() {
    let prompt: Vec<u32> = (0..90).map(|index| 4 + index * 7 % 250).collect();
    for file in ALL {
        let model = Model::from_gguf(file).unwrap();
        let whole = scores(&model, &prompt, usize::MAX);
        for piece in [1, 5, 32, 33] {
            assert_eq!(scores(&model, &prompt, piece), whole);
        }
        let scalar = Model::from_gguf(file).unwrap().with_instructions(Instructions::Compiled);
        assert_eq!(scores(&scalar, &prompt, 11), whole);
    }
}

/// A file with one setting changed or added.
fn changed(file: &[u8], key: &str, value: Meta) -> GgufWriter {
    let mut writer = copied(file);
    writer.metadata.retain(|(known, _)| known != key);
    writer.meta(key, value)
}

fn refusal(writer: &GgufWriter) -> ModelError {
    Model::from_gguf(&writer.bytes()).err().unwrap()
}

#[test]
fn each_setting_changes_the_scores_or_is_refused() {
    let prompt: Vec<u32> = (0..70).map(|index| 4 + index * 5 % 250).collect();
    let last = |file: &[u8]| scores(&Model::from_gguf(file).unwrap(), &prompt, 128).pop().unwrap();
    for (file, key, value) in [
        (GEMMA2, "gemma2.attention.sliding_window", Meta::U32(13)),
        (GEMMA2, "gemma2.attention.sliding_window", Meta::U32(0)),
        (GEMMA2, "gemma2.attention.sliding_window_pattern", Meta::U32(3)),
        (GEMMA2, "gemma2.attn_logit_softcapping", Meta::F32(5.0)),
        (GEMMA2, "gemma2.final_logit_softcapping", Meta::F32(5.0)),
        (GEMMA2, "gemma2.rope.freq_base_swa", Meta::F32(100.0)),
        (GEMMA3, "gemma3.attention.sliding_window", Meta::U32(13)),
        (GEMMA3, "gemma3.attention.sliding_window_pattern", Meta::U32(2)),
        (GEMMA3, "gemma3.attn_logit_softcapping", Meta::F32(1.0)),
        (GEMMA3, "gemma3.final_logit_softcapping", Meta::F32(5.0)),
        (GEMMA3, "gemma3.rope.freq_base", Meta::F32(500.0)),
        (GEMMA3, "gemma3.rope.freq_base_swa", Meta::F32(500.0)),
        (GEMMA3, "gemma3.rope.scaling.factor", Meta::F32(2.0)),
        (PHI3, "phi3.attention.sliding_window", Meta::U32(0)),
        (PHI3, "phi3.rope.scaling.attn_factor", Meta::F32(1.5)),
        (PHI3, "phi3.rope.scaling.original_context_length", Meta::U32(128)),
        (MISTRAL3, "mistral3.attention.temperature_scale", Meta::F32(0.1)),
        (MISTRAL3, "mistral3.rope.scaling.yarn_log_multiplier", Meta::F32(0.5)),
        (MISTRAL3, "mistral3.rope.scaling.yarn_beta_slow", Meta::F32(0.1)),
        (MISTRAL, "llama.attention.sliding_window", Meta::U32(0)),
        (QWEN3_MOE, "qwen3moe.expert_used_count", Meta::U32(3)),
        (GPT_OSS, "gpt-oss.expert_used_count", Meta::U32(1)),
        (GPT_OSS, "gpt-oss.attention.sliding_window", Meta::U32(13)),
        (GPT_OSS, "gpt-oss.attention.sliding_window_pattern", Meta::U32(0)),
    ] {
        let with = changed(file, key, value).bytes();
        assert_ne!(last(&with), last(file), "{key}");
    }
    for (file, key, value) in [
        (GEMMA2, "gemma2.attn_logit_softcapping", Meta::F32(0.0)),
        (GEMMA2, "gemma2.final_logit_softcapping", Meta::F32(f32::NAN)),
        (GEMMA2, "gemma2.rope.freq_base_swa", Meta::F32(-1.0)),
        (PHI3, "phi3.rope.scaling.attn_factor", Meta::F32(f32::INFINITY)),
        (PHI3, "phi3.rope.scaling.type", Meta::Str("su".into())),
        (MISTRAL3, "mistral3.attention.temperature_scale", Meta::F32(-0.1)),
        (MISTRAL3, "mistral3.rope.scaling.factor", Meta::F32(0.0)),
    ] {
        let refused = refusal(&changed(file, key, value));
        assert!(matches!(&refused, ModelError::Unsupported { key: found, .. } if found == key), "{refused}");
    }
    for (file, key) in [
        (GEMMA3, "gemma3.attention.temperature_scale"),
        (PHI3, "phi3.attn_logit_softcapping"),
        (PHI3, "phi3.attention.sliding_window_pattern"),
        (MISTRAL3, "mistral3.attention.sliding_window"),
    ] {
        let refused = refusal(&changed(file, key, Meta::U32(1)));
        assert!(
            matches!(&refused, ModelError::UnknownHyperparameter { key: found } if found == key),
            "{refused}"
        );
    }
    let long = changed(PHI3, "phi3.rope.scaling.type", Meta::Str("longrope".into()));
    assert_eq!(last(&long.bytes()), last(PHI3));
    let both = long.meta("phi3.rope.scaling.factor", Meta::F32(4.0));
    assert!(matches!(refusal(&both), ModelError::Unsupported { .. }));
}

#[test]
fn counts_of_experts_out_of_range_are_refused() {
    for (key, found) in
        [("expert_count", 0), ("expert_count", 513), ("expert_used_count", 0), ("expert_used_count", 5)]
    {
        let key = format!("qwen3moe.{key}");
        let refused = refusal(&changed(QWEN3_MOE, &key, Meta::U32(found)));
        assert!(matches!(&refused, ModelError::OutOfRange { key: named, .. } if *named == key), "{refused}");
    }
    let mut without = copied(QWEN3_MOE);
    without.metadata.retain(|(key, _)| key != "qwen3moe.expert_feed_forward_length");
    assert!(matches!(refusal(&without), ModelError::MissingKey { .. }));
    let fewer = changed(QWEN3_MOE, "qwen3moe.expert_count", Meta::U32(3));
    assert!(matches!(refusal(&fewer), ModelError::Shape { expected: [32, 32, 3, 1] | [32, 3, 1, 1], .. }));
}

#[test]
fn files_of_gemma_2_that_do_not_say_their_caps_and_window_have_the_usual_ones() {
    let prompt: Vec<u32> = (10..60).collect();
    let all = |file: &GgufWriter| scores(&Model::from_gguf(&file.bytes()).unwrap(), &prompt, 128);
    let mut without = copied(GEMMA2);
    without.metadata.retain(|(key, _)| !(key.ends_with("softcapping") || key.ends_with("sliding_window")));
    let mut with = without.clone();
    with = with.meta("gemma2.attn_logit_softcapping", Meta::F32(50.0));
    with = with.meta("gemma2.final_logit_softcapping", Meta::F32(30.0));
    with = with.meta("gemma2.attention.sliding_window", Meta::U32(4096));
    assert_eq!(all(&without), all(&with));
}

#[test]
fn tensors_of_each_architecture_must_be_there_and_no_others() {
    for (file, name) in [
        (GEMMA2, "blk.3.post_attention_norm.weight"),
        (GEMMA2, "blk.0.post_ffw_norm.weight"),
        (GEMMA3, "blk.6.attn_q_norm.weight"),
        (PHI3, "blk.1.attn_qkv.weight"),
        (PHI3, "rope_factors_long.weight"),
        (PHI3, "rope_factors_short.weight"),
        (MISTRAL3, "blk.1.attn_k.weight"),
        (QWEN3_MOE, "blk.1.ffn_down_exps.weight"),
        (QWEN3_MOE, "blk.0.ffn_gate_inp.weight"),
        (GPT_OSS, "blk.1.attn_sinks.weight"),
        (GPT_OSS, "blk.0.attn_output.bias"),
        (GPT_OSS, "blk.0.ffn_up_exps.bias"),
        (GPT_OSS, "blk.0.ffn_gate_inp.bias"),
    ] {
        let mut writer = copied(file);
        writer.tensors.retain(|tensor| tensor.name != name);
        assert_eq!(refusal(&writer), ModelError::MissingTensor { name: name.into() });
    }
    for (file, name, length) in [
        (GEMMA2, "blk.0.attn_q_norm.weight", 16),
        (GEMMA2, "rope_freqs.weight", 8),
        (PHI3, "rope_freqs.weight", 3),
        (MISTRAL, "rope_factors_long.weight", 4),
        (MISTRAL3, "blk.0.post_ffw_norm.weight", 32),
    ] {
        let writer = copied(file).tensor(name, &[length], 0, vec![0; length as usize * 4]);
        assert!(matches!(refusal(&writer), ModelError::UnexpectedTensor { name: found } if found == name));
    }
    let mut short = copied(PHI3);
    let joined = short.tensors.iter_mut().find(|tensor| tensor.name == "blk.0.ffn_up.weight").unwrap();
    joined.dimensions[1] -= 1;
    assert!(matches!(refusal(&short), ModelError::Shape { expected: [32, 64, 1, 1], .. }));
}
