//! Model files that are cut, corrupted or made to mislead: always a typed error or a working model, never a
//! panic. And files whose settings change results: each is honoured or refused.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/gguf_writer.rs"]
mod gguf_writer;
#[path = "support/random_weights.rs"]
mod random_weights;
#[path = "support/split_model.rs"]
mod split_model;

use std::{
    io::ErrorKind,
    num::NonZeroUsize,
    ops::ControlFlow,
    sync::{Arc, mpsc},
};

use cleanroom_engine::{
    ChatMessage, Engine, EngineConfig, EvaluatedToken, Evaluator, Event, FinishReason, Job, Model,
    ModelError, PromptError, Sink, TokenizerError,
    gguf::{GgufError, TensorType},
};
use gguf_writer::{GgufWriter, Meta};
use split_model::{copied, part, parts};
use zeroize::Zeroizing;

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
                    let _ = model.prompt_from_chat(&[ChatMessage::new("user", "Hello!")]);
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
    copied(DEMO)
}

/// Files as one run of bytes; see `docs/protocol.md`, section 6.
fn run_of(files: &[GgufWriter]) -> Vec<u8> {
    let files: Vec<Vec<u8>> = files.iter().map(GgufWriter::bytes).collect();
    let mut run = b"\0\0\0\x11cleanroom/files/1".to_vec();
    run.extend((files.len() as u32).to_be_bytes());
    for (index, file) in files.iter().enumerate() {
        let name = format!("demo-{:05}-of-{:05}.gguf", index + 1, files.len());
        run.extend((name.len() as u32).to_be_bytes());
        run.extend(name.into_bytes());
        run.extend((file.len() as u64).to_be_bytes());
    }
    run.resize(run.len().next_multiple_of(16_384), 0);
    for file in files {
        run.extend(file);
        run.resize(run.len().next_multiple_of(16_384), 0);
    }
    run
}

fn scores(model: &Model) -> Vec<f32> {
    let mut evaluator = Evaluator::new(model, NonZeroUsize::MIN, NonZeroUsize::MIN).unwrap();
    let token = |token| EvaluatedToken { sequence: 0, token, scored: token == 43 };
    let mut scores = Vec::new();
    let tokens = [40, 41, 42, 43].map(token);
    evaluator.append(&tokens, |_, found| scores.extend_from_slice(found)).unwrap();
    scores
}

#[test]
fn the_parts_of_a_split_model_are_the_model() {
    let run = run_of(&parts(DEMO));
    let longer = [&run, &b"the next frame"[..]].concat();
    let (mut rest, mut last) = (longer.as_slice(), None);
    let model = Model::read_gguf(&mut rest, run.len() as u64, |progress| last = Some(progress)).unwrap();
    assert!(rest.ends_with(b"the next frame"));
    let last = last.unwrap();
    assert_eq!(last.done, last.total);
    let whole = Model::from_gguf(DEMO).unwrap();
    assert_eq!(model.facts().parameters, whole.facts().parameters);
    assert_eq!(model.facts().weights, whole.facts().weights);
    assert_eq!(scores(&model), scores(&whole));
    // Parts that were put together again.
    let merged = Model::from_gguf(&part(demo(), 0, 0).bytes()).unwrap();
    assert_eq!(scores(&merged), scores(&whole));
    assert!(Model::from_gguf(&run_of(&[demo()])).is_ok());
}

#[test]
fn what_is_not_every_part_in_order_is_refused() {
    let refused = |files: &[GgufWriter]| Model::from_gguf(&run_of(files)).err().unwrap();
    let part_of = |error: ModelError| match error {
        ModelError::Part { place, count, found } => (place, count, found),
        other => panic!("{other}"),
    };
    let [first, second] = parts(DEMO);
    assert_eq!(part_of(refusal(&first)), (1, 1, "part 1 of 2".into()));
    assert_eq!(part_of(refused(&[second.clone(), first.clone()])), (1, 2, "part 2 of 2".into()));
    assert_eq!(part_of(refused(&[first.clone(), first.clone()])), (2, 2, "part 1 of 2".into()));
    assert_eq!(part_of(refused(&[first.clone(), demo()])).0, 2);
    let three = [first.clone(), second.clone(), part(GgufWriter::default(), 2, 3)];
    assert_eq!(part_of(refused(&three)), (1, 3, "part 1 of 2".into()));

    let mut less = second.clone();
    let taken = less.tensors.pop().unwrap();
    assert_eq!(refused(&[first.clone(), less]), ModelError::MissingTensor { name: taken.name });
    let mut twice = second.clone();
    twice.tensors.push(first.tensors[0].clone());
    assert!(matches!(
        refused(&[first.clone(), twice]),
        ModelError::Gguf(GgufError::DuplicateTensor { name }) if name == first.tensors[0].name
    ));
    let more = second.tensor("blk.0.attn_q.bias", &[256], 0, vec![0; 1024]);
    assert!(matches!(refused(&[first, more]), ModelError::UnexpectedTensor { .. }));
}

#[test]
fn an_index_of_files_that_misleads_is_refused() {
    let run = run_of(&parts(DEMO));
    let changed = |at: usize, bytes: &[u8]| {
        let mut run = run.clone();
        run[at..at + bytes.len()].copy_from_slice(bytes);
        Model::from_gguf(&run).err().unwrap()
    };
    let count = 21;
    let name = count + 4;
    let length = name + 4 + "demo-00001-of-00002.gguf".len();
    for files in [0_u32, 4097, u32::MAX] {
        assert_eq!(
            changed(count, &files.to_be_bytes()),
            ModelError::Files { problem: "expected 1 to 4096 files" }
        );
    }
    for bytes in [256_u32, u32::MAX] {
        assert_eq!(
            changed(name, &bytes.to_be_bytes()),
            ModelError::Files { problem: "expected names of at most 255 bytes" }
        );
    }
    for bytes in [0_u64, 1, 1 << 40, u64::MAX] {
        assert_eq!(
            changed(length, &bytes.to_be_bytes()),
            ModelError::Files { problem: "the lengths of the files do not add up to that of the model" }
        );
    }
    for part in 1..32 {
        let mut file = &run[..run.len() * part / 33];
        let cut = Model::read_gguf(&mut file, run.len() as u64, |_| {}).err().unwrap();
        assert_eq!(cut, ModelError::Read(ErrorKind::UnexpectedEof), "{part}");
    }
}

fn refusal(writer: &GgufWriter) -> ModelError {
    Model::from_gguf(&writer.bytes()).err().expect("the model must be refused")
}

/// Why the demo model is refused with this value at this key.
fn with_meta(key: &str, value: Meta) -> ModelError {
    refusal(&changed(key, value))
}

#[test]
fn the_demo_model_survives_rewriting() {
    assert_eq!(Model::from_gguf(&demo().bytes()).unwrap().facts().parameters, 3_915_520);
}

/// The demo model with another matrix of this type at the end of the file.
fn with_type(kind: TensorType) -> GgufWriter {
    let mut writer = demo();
    let place = writer.tensors.iter().position(|tensor| tensor.name == "blk.0.ffn_down.weight").unwrap();
    let mut tensor = writer.tensors.remove(place);
    let [columns, rows] = tensor.dimensions[..] else { panic!("no matrix") };
    tensor.type_number = random_weights::number(kind);
    tensor.data = random_weights::Random::new(3).matrix(kind, columns as usize, rows as usize, 0.05);
    writer.tensors.push(tensor);
    writer
}

#[test]
fn a_file_may_mix_all_types_of_weights_and_none_may_be_cut_or_have_part_of_a_block() {
    for kind in TensorType::ALL {
        let file = with_type(kind).bytes();
        let model = Model::from_gguf(&file).unwrap();
        assert!(model.facts().weights.split('+').any(|name| name == kind.to_string()), "{kind}");
        let mut evaluator = Evaluator::new(&model, NonZeroUsize::MIN, NonZeroUsize::MIN).unwrap();
        let tokens = [40, 41].map(|token| EvaluatedToken { sequence: 0, token, scored: true });
        let finite = |_, scores: &[f32]| assert!(scores.iter().all(|score| score.is_finite()), "{kind}");
        evaluator.append(&tokens, finite).unwrap();

        // The padding has at most 31 bytes.
        let cut = Model::from_gguf(&file[..file.len() - 32]).err();
        assert!(matches!(cut, Some(ModelError::Gguf(GgufError::OutOfBounds { .. }))), "{kind}: {cut:?}");
        let block = kind.block_length();
        if block > 1 {
            let mut odd = with_type(kind);
            odd.tensors.last_mut().unwrap().dimensions[0] -= 1;
            let odd = refusal(&odd);
            assert!(
                matches!(odd, ModelError::Gguf(GgufError::RowLength { block: b, .. }) if b == block),
                "{kind}: {odd:?}"
            );
        }
    }
}

#[test]
fn the_seeds_of_the_fuzzer_are_models_that_it_does_not_cut() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/model");
    let seeds: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(seeds.len() >= 6);
    for seed in seeds {
        let bytes = std::fs::read(&seed).unwrap();
        // `-max_len` in scripts/fuzz.
        assert!(bytes.len() <= 50_000, "{}", seed.display());
        let model = Model::from_gguf(&bytes);
        assert!(model.is_ok(), "{}: {}", seed.display(), model.err().unwrap());
    }
}

#[test]
fn other_architectures_are_refused_by_name() {
    let refused = with_meta("general.architecture", Meta::Str("mamba".into()));
    assert_eq!(
        refused.to_string(),
        "architecture \"mamba\" is not supported; supported are llama (with mistral), mistral3, qwen2, qwen3, \
         qwen3moe, gemma2, gemma3, phi3 and gpt-oss"
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
        ("llama.rope.scaling.type", Meta::Str("longrope".into())),
        ("llama.rope.scaling.attn_factor", Meta::F32(0.0)),
        ("llama.rope.scaling.original_context_length", Meta::U32(0)),
        ("llama.attention.sliding_window", Meta::U32(u32::MAX)),
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
    for key in ["llama.logit_scale", "llama.attn_logit_softcapping", "llama.rope.scaling.yarn_attn_factor"] {
        assert!(matches!(
            with_meta(key, Meta::F32(1.0)),
            ModelError::UnknownHyperparameter { key: found } if found == key
        ));
    }
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
fn a_template_that_does_not_parse_stops_chats_and_nothing_else() {
    let writer = changed("tokenizer.chat_template", Meta::Str("fine\n{% if".into()));
    let model = Model::from_gguf(&writer.bytes()).unwrap();
    assert_eq!(model.chat_template().err().map(|error| error.line), Some(2));
    let chat = model.prompt_from_chat(&[ChatMessage::new("user", "Hello!")]);
    assert_eq!(chat.err(), Some(PromptError::UnusableTemplate));
    assert!(!model.prompt_from_text("Hello!").unwrap().is_empty());
    assert_eq!(Model::from_gguf(DEMO).unwrap().chat_template(), Ok(true));
}

/// The demo model with one setting changed or added.
fn changed(key: &str, value: Meta) -> GgufWriter {
    let mut writer = demo();
    writer.metadata.retain(|(known, _)| known != key);
    writer.meta(key, value)
}

#[test]
fn settings_of_the_tokenizer_are_honoured_or_refused() {
    assert!(matches!(
        with_meta("tokenizer.ggml.reverse_words", Meta::Bool(true)),
        ModelError::Tokenizer(TokenizerError::UnknownSetting { key }) if key == "tokenizer.ggml.reverse_words"
    ));
    for key in ["add_sep_token", "remove_extra_whitespaces", "normalizer.lowercase"] {
        let key = format!("tokenizer.ggml.{key}");
        let refused = with_meta(&key, Meta::Bool(true));
        assert!(
            matches!(refused, ModelError::Tokenizer(TokenizerError::Unsupported { key: k, .. }) if k == key)
        );
        assert!(Model::from_gguf(&changed(&key, Meta::Bool(false)).bytes()).is_ok());
    }
    // A text ends with the token that ends a turn; a chat goes on with the assistant's answer.
    let key = "tokenizer.ggml.add_eos_token";
    let [without, with] =
        [false, true].map(|on| Model::from_gguf(&changed(key, Meta::Bool(on)).bytes()).unwrap());
    let tokens = |model: &Model, text: &str| model.prompt_from_text(text).unwrap().len();
    assert_eq!(tokens(&with, "What is attestation?"), tokens(&without, "What is attestation?") + 1);
    assert_eq!(tokens(&with, ""), 0);
    let chat = [ChatMessage::new("user", "Hello!")];
    assert_eq!(with.prompt_from_chat(&chat).unwrap().len(), without.prompt_from_chat(&chat).unwrap().len());
    let mut nameless = changed(key, Meta::Bool(true));
    nameless.metadata.retain(|(known, _)| known != "tokenizer.ggml.eos_token_id");
    assert!(matches!(refusal(&nameless), ModelError::Tokenizer(TokenizerError::NoTokenToAdd)));
}

#[test]
fn a_factor_of_the_rotation_without_a_type_is_linear() {
    let scores = |writer: &GgufWriter| scores(&Model::from_gguf(&writer.bytes()).unwrap());
    let factor = changed("llama.rope.scaling.factor", Meta::F32(4.0));
    let typed = |name: &str| {
        changed("llama.rope.scaling.factor", Meta::F32(4.0))
            .meta("llama.rope.scaling.type", Meta::Str(name.into()))
    };
    assert_eq!(scores(&factor), scores(&typed("linear")));
    assert_eq!(scores(&demo()), scores(&typed("none")));
    assert_ne!(scores(&factor), scores(&demo()));
}

#[test]
fn settings_of_yarn_are_honoured_or_refused() {
    let yarn = |more: &[(&str, Meta)]| {
        let mut writer = demo();
        for (key, value) in [("type", Meta::Str("yarn".into())), ("factor", Meta::F32(4.0))] {
            writer = writer.meta(&format!("llama.rope.scaling.{key}"), value);
        }
        let key = |name: &str| format!("llama.rope.scaling.{name}");
        more.iter().fold(writer, |writer, (name, value)| writer.meta(&key(name), value.clone()))
    };
    let original = || ("original_context_length", Meta::U32(128));
    let plain = scores(&Model::from_gguf(&yarn(&[original()]).bytes()).unwrap());
    assert_ne!(plain, scores(&Model::from_gguf(DEMO).unwrap()));
    for (name, value) in
        [("yarn_beta_fast", 2.0), ("yarn_beta_slow", 8.0), ("yarn_log_multiplier", 1.0), ("attn_factor", 1.5)]
    {
        let found = Model::from_gguf(&yarn(&[original(), (name, Meta::F32(value))]).bytes()).unwrap();
        assert_ne!(scores(&found), plain, "{name}");
        let refused = refusal(&yarn(&[original(), (name, Meta::F32(-1.0))]));
        assert!(matches!(refused, ModelError::Unsupported { .. }), "{name}");
    }
    assert!(matches!(
        refusal(&yarn(&[original(), ("yarn_ext_factor", Meta::F32(0.5))])),
        ModelError::Unsupported { key, .. } if key == "llama.rope.scaling.yarn_ext_factor"
    ));
    let mut without = yarn(&[original()]);
    without.metadata.retain(|(key, _)| key != "llama.rope.scaling.factor");
    assert_eq!(refusal(&without), ModelError::MissingKey { key: "llama.rope.scaling.factor".into() });
}

#[test]
fn a_window_of_a_llama_file_is_honoured() {
    let scores = |window: u32| {
        let writer = changed("llama.attention.sliding_window", Meta::U32(window));
        scores(&Model::from_gguf(&writer.bytes()).unwrap())
    };
    let whole = self::scores(&Model::from_gguf(DEMO).unwrap());
    // Four tokens.
    for window in [0, 4, 1 << 30] {
        assert_eq!(scores(window), whole, "{window}");
    }
    assert_ne!(scores(3), whole);
    assert_ne!(scores(2), scores(3));
}

/// The demo model, in whose usual answer ` which` is a user-defined token of another text, as `</think>` is
/// elsewhere.
fn with_a_user_defined_token() -> (Model, u32) {
    let mut writer = demo();
    let mut entry = |key: &str, change: &mut dyn FnMut(&mut Meta)| {
        writer.metadata.iter_mut().filter(|(known, _)| known == key).for_each(|(_, value)| change(value));
    };
    let mut token = usize::MAX;
    entry("tokenizer.ggml.tokens", &mut |value| {
        let Meta::Strs(texts) = value else { panic!("expected texts") };
        token = texts.iter().position(|text| text == "\u{120}which").unwrap();
        texts[token] = "</think>".into();
    });
    entry("tokenizer.ggml.token_type", &mut |value| {
        let Meta::I32s(types) = value else { panic!("expected numbers") };
        types[token] = 4;
    });
    entry("tokenizer.ggml.merges", &mut |value| {
        let Meta::Strs(merges) = value else { panic!("expected texts") };
        merges.retain(|merge| merge.replace(' ', "") != "\u{120}which" && !merge.contains("\u{120}which"));
    });
    (Model::from_gguf(&writer.bytes()).unwrap(), token as u32)
}

#[test]
fn a_user_defined_token_is_text_in_an_answer_and_ends_it_where_it_is_a_stop_string() {
    struct Heard(mpsc::Sender<Result<String, FinishReason>>);
    impl Sink for Heard {
        fn event(&mut self, event: Event) -> ControlFlow<()> {
            let heard = match event {
                Event::Text(text) => Ok(text.as_str().to_owned()),
                Event::Finished { reason, .. } => Err(reason),
                Event::Embedding(_) => return ControlFlow::Break(()),
            };
            self.0.send(heard).unwrap();
            ControlFlow::Continue(())
        }
    }
    let (model, token) = with_a_user_defined_token();
    let model = Arc::new(model);
    let config = EngineConfig::new(NonZeroUsize::MIN, NonZeroUsize::MIN);
    let engine = Engine::start(Arc::clone(&model), config).unwrap();
    let answer = |stop: &[&str]| {
        let (events, heard) = mpsc::channel();
        let question = [ChatMessage::new("user", "What is attestation?")];
        let mut job = Job::new(model.prompt_from_chat(&question).unwrap(), Box::new(Heard(events)));
        job.max_tokens = Some(9);
        job.stop = stop.iter().map(|stop| Zeroizing::new((*stop).to_owned())).collect();
        let _handle = engine.submit(job).unwrap();
        let heard: Vec<_> = heard.iter().collect();
        let text: String = heard.iter().flatten().map(String::as_str).collect();
        (text, heard.into_iter().find_map(Result::err))
    };
    let (text, _) = answer(&[]);
    assert!(text.starts_with("Attestation proves</think> image"), "{text}");
    let stopped = ("Attestation proves".to_owned(), Some(FinishReason::StopString(0)));
    assert_eq!(answer(&["</think>"]), stopped);
    // In a prompt it stays text, unless the template writes it.
    let prompt = model.tokens_of_text("x</think>y");
    assert!(prompt.len() > 3 && !prompt.contains(&token));
}
