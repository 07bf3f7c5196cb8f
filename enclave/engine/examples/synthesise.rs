//! Writes a model of random weights in `Q8_0`, for benchmarks: the speed of a shape does not depend on what it learned.
//!
//! ```text
//! synthesise TOKENIZER.gguf OUT.gguf [--width 1024] [--layers 32] [--feed-forward 3584] [--heads 16] [--kv-heads 8]
//!            [--head-width 64] [--context 4096]
//! ```
//!
//! Tokenizer and chat template are those of the given model.

#[path = "../tests/support/gguf_writer.rs"]
#[expect(dead_code, reason = "shared with tests that write broken files")]
mod gguf_writer;

use std::process::ExitCode;

use cleanroom_engine::gguf::{Array, Gguf, Value};
use gguf_writer::{GgufWriter, Meta};

type Error = Box<dyn std::error::Error>;

const F32: u32 = 0;
const Q8_0: u32 = 8;

struct Shape {
    width: u64,
    layers: u64,
    feed_forward: u64,
    heads: u64,
    kv_heads: u64,
    head_width: u64,
    context: u64,
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
    let (tokenizer, out, shape) = arguments()?;
    let source = std::fs::read(tokenizer)?;
    let source = Gguf::parse(&source)?;
    let vocabulary =
        source.strings("tokenizer.ggml.tokens")?.ok_or("the model has no tokenizer")?.len() as u64;
    let writer = tensors(copy_tokenizer(metadata(&shape), &source)?, &shape, vocabulary);
    std::fs::write(out, writer.bytes())?;
    Ok(())
}

fn metadata(shape: &Shape) -> GgufWriter {
    let mut writer = GgufWriter::default()
        .meta("general.architecture", Meta::Str("llama".into()))
        .meta("general.name", Meta::Str("synthetic".into()))
        .meta("llama.rope.freq_base", Meta::F32(10_000.0))
        .meta("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5));
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
        writer = writer.meta(&format!("llama.{key}"), Meta::U32(value as u32));
    }
    writer
}

fn copy_tokenizer(mut writer: GgufWriter, source: &Gguf<'_>) -> Result<GgufWriter, Error> {
    for (key, value) in source.metadata().filter(|(key, _)| key.starts_with("tokenizer.")) {
        let value = match value {
            Value::String(text) => Meta::Str((*text).into()),
            Value::Bool(flag) => Meta::Bool(*flag),
            Value::Unsigned(number) => Meta::U32(u32::try_from(*number)?),
            Value::Array(Array::Strings(texts)) => {
                Meta::Strs(texts.iter().map(|text| (*text).into()).collect())
            }
            Value::Array(array) => Meta::I32s(array.i32s().ok_or("an array that is not copied")?.collect()),
            Value::Signed(_) | Value::F32(_) | Value::F64(_) => {
                return Err("a value that is not copied".into());
            }
        };
        writer = writer.meta(key, value);
    }
    Ok(writer)
}

fn tensors(mut writer: GgufWriter, shape: &Shape, vocabulary: u64) -> GgufWriter {
    let mut random = Random(7);
    let (queries, keys) = (shape.heads * shape.head_width, shape.kv_heads * shape.head_width);
    let mut matrix = |writer: GgufWriter, name: &str, columns: u64, rows: u64| {
        writer.tensor(name, &[columns, rows], Q8_0, random.q8(columns, rows))
    };
    let norm = |writer: GgufWriter, name: &str| {
        writer.tensor(name, &[shape.width], F32, 1_f32.to_le_bytes().repeat(shape.width as usize))
    };
    writer = matrix(writer, "token_embd.weight", shape.width, vocabulary);
    for layer in 0..shape.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        writer = norm(writer, &name("attn_norm"));
        writer = matrix(writer, &name("attn_q"), shape.width, queries);
        writer = matrix(writer, &name("attn_k"), shape.width, keys);
        writer = matrix(writer, &name("attn_v"), shape.width, keys);
        writer = matrix(writer, &name("attn_output"), queries, shape.width);
        writer = norm(writer, &name("ffn_norm"));
        writer = matrix(writer, &name("ffn_gate"), shape.width, shape.feed_forward);
        writer = matrix(writer, &name("ffn_up"), shape.width, shape.feed_forward);
        writer = matrix(writer, &name("ffn_down"), shape.feed_forward, shape.width);
    }
    writer = norm(writer, "output_norm.weight");
    matrix(writer, "output.weight", shape.width, vocabulary)
}

/// Xorshift64*, enough to keep weights from being equal.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Blocks with a scale that keeps the sums of a row near one: quants of about ±73 times 2^-6/√columns.
    fn q8(&mut self, columns: u64, rows: u64) -> Vec<u8> {
        let exponent = 15 - 6 - (64 - columns.leading_zeros()) / 2;
        let scale = ((exponent as u16) << 10).to_le_bytes();
        let mut bytes = Vec::with_capacity((columns * rows / 32 * 34) as usize);
        for _ in 0..columns * rows / 32 {
            bytes.extend(scale);
            for _ in 0..4 {
                bytes.extend(self.next().to_le_bytes());
            }
        }
        bytes
    }
}

fn arguments() -> Result<(String, String, Shape), Error> {
    let mut shape = Shape {
        width: 1024,
        layers: 32,
        feed_forward: 3584,
        heads: 16,
        kv_heads: 8,
        head_width: 64,
        context: 4096,
    };
    let mut positional = Vec::new();
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let place = match argument.as_str() {
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
        *place = given.next().ok_or(format!("{argument} needs a value"))?.parse()?;
    }
    let [tokenizer, out] = <[String; 2]>::try_from(positional)
        .map_err(|_| "expected a model with a tokenizer, and an output file")?;
    Ok((tokenizer, out, shape))
}
