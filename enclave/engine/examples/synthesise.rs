//! Writes a model of random weights, for benchmarks and comparisons: the speed of a shape does not depend on what it learned.
//!
//! ```text
//! synthesise TOKENIZER.gguf OUT.gguf [--architecture NAME] [--weights TYPE] [--vocabulary N] [--tied]
//!            [--width 1024] [--layers 32] [--feed-forward 3584] [--heads 16] [--kv-heads 8] [--head-width 64]
//!            [--context 4096]
//! ```
//!
//! NAME is `llama`, `mistral3`, `qwen2`, `qwen3`, `gemma2`, `gemma3` or `phi3`. Windows are 32 positions long, shorter than in
//! published files, so that short prompts reach beyond them. TYPE is a name of `TensorType` in lower case, such as `f16`, `q8_0` (the default) or `q4_k`; or `q4_k_m`: the mixture that
//! published files of that name have. Tokenizer and chat template are those of the given model; a larger vocabulary is filled up
//! with unused tokens.

#[path = "../tests/support/gguf_writer.rs"]
#[expect(dead_code, reason = "shared with tests that write broken files")]
mod gguf_writer;
#[path = "../tests/support/random_weights.rs"]
mod random_weights;

use std::process::ExitCode;

use cleanroom_engine::gguf::{Array, Gguf, TensorType, Value};
use gguf_writer::{GgufWriter, Meta};
use random_weights::Random;

type Error = Box<dyn std::error::Error>;

struct Shape {
    architecture: String,
    weights: Weights,
    tied: bool,
    vocabulary: u64,
    width: u64,
    layers: u64,
    feed_forward: u64,
    heads: u64,
    kv_heads: u64,
    head_width: u64,
    context: u64,
}

/// The types of the matrices.
#[derive(Clone, Copy)]
enum Weights {
    All(TensorType),
    Q4KM,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("synthesise: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Error> {
    let (tokenizer, out, mut shape) = arguments()?;
    let source = std::fs::read(tokenizer)?;
    let source = Gguf::parse(&source)?;
    let tokens = source.strings("tokenizer.ggml.tokens")?.ok_or("the model has no tokenizer")?.len() as u64;
    shape.vocabulary = shape.vocabulary.max(tokens);
    let writer = copy_tokenizer(metadata(&shape), &source, (shape.vocabulary - tokens) as usize)?;
    std::fs::write(out, tensors(writer, &shape).bytes())?;
    Ok(())
}

fn metadata(shape: &Shape) -> GgufWriter {
    let architecture = &shape.architecture;
    let mut writer = GgufWriter::default()
        .meta("general.architecture", Meta::Str(architecture.clone()))
        .meta("general.name", Meta::Str("synthetic".into()))
        .meta(&format!("{architecture}.rope.freq_base"), Meta::F32(10_000.0))
        .meta(&format!("{architecture}.attention.layer_norm_rms_epsilon"), Meta::F32(1e-5));
    writer = settings(writer, architecture);
    for (key, value) in [
        ("context_length", shape.context),
        ("embedding_length", shape.width),
        ("block_count", shape.layers),
        ("feed_forward_length", shape.feed_forward),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.kv_heads),
        ("attention.key_length", shape.head_width),
        ("attention.value_length", shape.head_width),
        ("rope.dimension_count", shape.head_width),
    ] {
        writer = writer.meta(&format!("{architecture}.{key}"), Meta::U32(value as u32));
    }
    writer
}

/// What files of one architecture say beside their shape.
fn settings(writer: GgufWriter, architecture: &str) -> GgufWriter {
    const WINDOW: u32 = 32;
    let key = |name: &str| format!("{architecture}.{name}");
    match architecture {
        "gemma2" => writer
            .meta(&key("attention.sliding_window"), Meta::U32(WINDOW))
            .meta(&key("attn_logit_softcapping"), Meta::F32(50.0))
            .meta(&key("final_logit_softcapping"), Meta::F32(30.0)),
        "gemma3" => writer.meta(&key("attention.sliding_window"), Meta::U32(WINDOW)),
        // As Phi 4 has it: llama.cpp reads a window of this architecture over.
        "phi3" => writer.meta(&key("attention.sliding_window"), Meta::U32(0)),
        "mistral3" => writer
            .meta(&key("rope.scaling.type"), Meta::Str("yarn".into()))
            .meta(&key("rope.scaling.factor"), Meta::F32(16.0))
            .meta(&key("rope.scaling.original_context_length"), Meta::U32(WINDOW))
            .meta(&key("rope.scaling.yarn_log_multiplier"), Meta::F32(1.0))
            .meta(&key("attention.temperature_scale"), Meta::F32(0.1)),
        _ => writer,
    }
}

fn copy_tokenizer(mut writer: GgufWriter, source: &Gguf<'_>, unused: usize) -> Result<GgufWriter, Error> {
    for (key, value) in source.metadata().filter(|(key, _)| key.starts_with("tokenizer.")) {
        let value = match value {
            Value::String(text) => Meta::Str((*text).into()),
            Value::Bool(flag) => Meta::Bool(*flag),
            Value::Unsigned(number) => Meta::U32(u32::try_from(*number)?),
            Value::Array(Array::Strings(texts)) => {
                let more = if key == "tokenizer.ggml.tokens" { unused } else { 0 };
                let fill = (0..more).map(|index| format!("<unused {index}>"));
                Meta::Strs(texts.iter().map(|text| (*text).into()).chain(fill).collect())
            }
            Value::Array(array) => match (array.i32s(), array.f32s()) {
                (Some(numbers), _) => {
                    let more = if key == "tokenizer.ggml.token_type" { unused } else { 0 };
                    Meta::I32s(numbers.chain(std::iter::repeat_n(UNUSED, more)).collect())
                }
                (_, Some(numbers)) => Meta::F32s(numbers.chain(std::iter::repeat_n(0.0, unused)).collect()),
                _ => return Err("an array that is not copied".into()),
            },
            Value::Signed(_) | Value::F32(_) | Value::F64(_) => {
                return Err("a value that is not copied".into());
            }
        };
        writer = writer.meta(key, value);
    }
    Ok(writer)
}

/// The token type of what neither text nor template produces.
const UNUSED: i32 = 5;

fn tensors(mut writer: GgufWriter, shape: &Shape) -> GgufWriter {
    let mut random = Random::new(7);
    let (queries, keys) = (shape.heads * shape.head_width, shape.kv_heads * shape.head_width);
    let architecture = shape.architecture.as_str();
    let gemma = matches!(architecture, "gemma2" | "gemma3");
    let head_norms = matches!(architecture, "qwen3" | "gemma3");
    let (biases, joined) = (architecture == "qwen2", architecture == "phi3");
    let mut matrix = |writer: GgufWriter, name: &str, columns: u64, rows: u64, size: f32| {
        let kind = shape.weights.of(name, shape.layers);
        let data = random.matrix(kind, columns as usize, rows as usize, size / (columns as f32).sqrt());
        writer.tensor(name, &[columns, rows], random_weights::number(kind), data)
    };
    let mut vectors = Random::new(11);
    let mut vector = |writer: GgufWriter, name: &str, length: u64, middle: f32| {
        let data = (0..length).flat_map(|_| (middle + vectors.signed() * 0.1).to_le_bytes()).collect();
        writer.tensor(name, &[length], 0, data)
    };
    writer = matrix(writer, "token_embd.weight", shape.width, shape.vocabulary, 1.0);
    for layer in 0..shape.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        writer = vector(writer, &name("attn_norm"), shape.width, 1.0);
        if joined {
            writer = matrix(writer, &name("attn_qkv"), shape.width, queries + 2 * keys, 1.0);
        } else {
            writer = matrix(writer, &name("attn_q"), shape.width, queries, 1.0);
            writer = matrix(writer, &name("attn_k"), shape.width, keys, 1.0);
            writer = matrix(writer, &name("attn_v"), shape.width, keys, 1.0);
        }
        if biases {
            for (part, length) in [("attn_q", queries), ("attn_k", keys), ("attn_v", keys)] {
                writer = vector(writer, &format!("blk.{layer}.{part}.bias"), length, 0.0);
            }
        }
        if head_norms {
            writer = vector(writer, &name("attn_q_norm"), shape.head_width, 1.0);
            writer = vector(writer, &name("attn_k_norm"), shape.head_width, 1.0);
        }
        writer = matrix(writer, &name("attn_output"), queries, shape.width, 1.0);
        writer = vector(writer, &name("ffn_norm"), shape.width, 1.0);
        if joined {
            writer = matrix(writer, &name("ffn_up"), shape.width, 2 * shape.feed_forward, 1.0);
        } else {
            writer = matrix(writer, &name("ffn_gate"), shape.width, shape.feed_forward, 1.0);
            writer = matrix(writer, &name("ffn_up"), shape.width, shape.feed_forward, 1.0);
        }
        if gemma {
            writer = vector(writer, &name("post_attention_norm"), shape.width, 1.0);
            writer = vector(writer, &name("post_ffw_norm"), shape.width, 1.0);
        }
        writer = matrix(writer, &name("ffn_down"), shape.feed_forward, shape.width, 1.0);
    }
    writer = vector(writer, "output_norm.weight", shape.width, 1.0);
    // Files of the Gemma kinds have no other.
    if shape.tied || gemma {
        return writer;
    }
    // Scores of a trained model differ by several units.
    matrix(writer, "output.weight", shape.width, shape.vocabulary, 3.0)
}

impl Weights {
    /// `Q4_K_M` keeps the output and, in some layers, values and the way down at six bits.
    fn of(self, name: &str, layers: u64) -> TensorType {
        let Weights::All(kind) = self else {
            let layer: u64 = name.split('.').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
            let eighth = layers / 8;
            let better = layer < eighth || layer >= layers - eighth || layer.saturating_sub(eighth) % 3 == 2;
            let spared = name.contains("attn_v") || name.contains("ffn_down");
            return if name == "output.weight" || spared && better {
                TensorType::Q6_K
            } else {
                TensorType::Q4_K
            };
        };
        kind
    }

    fn named(name: &str) -> Result<Self, Error> {
        if name == "q4_k_m" {
            return Ok(Weights::Q4KM);
        }
        let named = |kind: &TensorType| kind.to_string().to_lowercase() == name;
        let kind = TensorType::ALL.into_iter().find(named);
        Ok(Weights::All(kind.ok_or_else(|| format!("unknown weights {name}"))?))
    }
}

fn arguments() -> Result<(String, String, Shape), Error> {
    let mut shape = Shape {
        architecture: "llama".into(),
        weights: Weights::All(TensorType::Q8_0),
        tied: false,
        vocabulary: 0,
        width: 1024,
        layers: 32,
        feed_forward: 3584,
        heads: 16,
        kv_heads: 8,
        head_width: 64,
        context: 4096,
    };
    let mut positional = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        let place = match argument.as_str() {
            "--architecture" => {
                shape.architecture = value()?;
                continue;
            }
            "--weights" => {
                shape.weights = Weights::named(&value()?)?;
                continue;
            }
            "--tied" => {
                shape.tied = true;
                continue;
            }
            "--vocabulary" => &mut shape.vocabulary,
            "--width" => &mut shape.width,
            "--layers" => &mut shape.layers,
            "--feed-forward" => &mut shape.feed_forward,
            "--heads" => &mut shape.heads,
            "--kv-heads" => &mut shape.kv_heads,
            "--head-width" => &mut shape.head_width,
            "--context" => &mut shape.context,
            _ => {
                positional.push(argument);
                continue;
            }
        };
        *place = value()?.parse()?;
    }
    let [tokenizer, out] = <[String; 2]>::try_from(positional)
        .map_err(|_| "expected a model with a tokenizer, and an output file")?;
    Ok((tokenizer, out, shape))
}
