//! Which engine is faster: interleaved rounds on the same file, with the same tokens.

use std::{hint::black_box, thread, time::Instant};

use cleanroom_engine::{Model, gguf::Gguf};

use crate::contestant::{Contestant, Llama, Ours, Outcome, Piece, SEQUENCES, best, prompt};

const ROUNDS: usize = 3;
const PROMPT: usize = 256;
const DECODED: usize = 16;
/// What must be reached, as a multiple of llama.cpp's speed, where the processor has AVX-512 VNNI, and where it has not: there
/// both engines multiply with the same instructions.
const TARGETS: [(&str, f64, f64); 3] =
    [("prefill", 1.8, 1.0), ("decode", 1.05, 1.0), ("four sequences", 1.5, 1.0)];

pub fn run(files: &[String]) -> Outcome<bool> {
    let vnni = cfg!(target_arch = "x86_64") && std::arch::is_x86_feature_detected!("avx512vnni");
    let mut backend = Llama::backend()?;
    let mut met = true;
    println!(
        "medians of {ROUNDS} interleaved rounds, in tokens per second; targets for a processor {} AVX-512 VNNI",
        if vnni { "with" } else { "without" }
    );
    println!("load of the machine: {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    let bandwidths = [1, 2].map(bandwidth);
    for file in files {
        let llama = Llama::load(backend, file)?;
        let bytes = std::fs::read(file)?;
        let model = Model::from_gguf(&bytes)?;
        let per_token = bytes_per_token(&bytes)?;
        drop(bytes);
        for threads in [1, 2] {
            println!("\n{} {}, {threads} thread(s)", model.facts().architecture, model.facts().weights);
            let rates = rounds(&model, &llama, threads)?;
            for ((what, with, without), rates) in TARGETS.iter().zip(rates) {
                let target = if vnni { *with } else { *without };
                let ratio = median(rates.iter().map(|[ours, theirs]| ours / theirs).collect());
                let [ours, theirs] = [0, 1].map(|side| median(rates.iter().map(|pair| pair[side]).collect()));
                met &= ratio >= target;
                let verdict = if ratio >= target { "met" } else { "MISSED" };
                print!(
                    "  {what:15} {ours:8.1}   llama.cpp {theirs:8.1}   ratio {ratio:5.2}   target {target:4.2} {verdict}"
                );
                if *what == "decode" {
                    let reading = ours * per_token / 1e9;
                    print!("   reads {reading:.1} of {:.1} GB/s", bandwidths[threads - 1]);
                }
                println!();
            }
        }
        backend = llama.into_backend();
    }
    Ok(met)
}

/// For each of the targets, what both reached in every round.
fn rounds(model: &Model, llama: &Llama, threads: usize) -> Outcome<[Vec<[f64; 2]>; 3]> {
    let (mut ours, mut theirs) = (Ours::new(model, threads)?, llama.start(threads)?);
    let vocabulary = model.facts().vocabulary;
    let mut rates = [const { Vec::new() }; 3];
    for round in 0..=ROUNDS {
        let measured = [measure(&mut ours, vocabulary)?, measure(&mut theirs, vocabulary)?];
        // The first round warms up.
        if round > 0 {
            for (index, rates) in rates.iter_mut().enumerate() {
                rates.push([measured[0][index], measured[1][index]]);
            }
        }
    }
    Ok(rates)
}

fn measure(contestant: &mut dyn Contestant, vocabulary: u32) -> Outcome<[f64; 3]> {
    contestant.clear();
    let long = prompt(1, PROMPT, vocabulary);
    let mut next = [0_u32; SEQUENCES];
    let start = Instant::now();
    contestant
        .append(&[Piece { sequence: 0, tokens: &long, all: false }], &mut |scores| next[0] = best(scores))?;
    let prefill = PROMPT as f64 / start.elapsed().as_secs_f64();

    let start = Instant::now();
    for _ in 0..DECODED {
        let token = [next[0]];
        contestant.append(&[Piece { sequence: 0, tokens: &token, all: false }], &mut |scores| {
            next[0] = best(scores)
        })?;
    }
    let decode = DECODED as f64 / start.elapsed().as_secs_f64();

    for sequence in 1..SEQUENCES {
        let short = prompt(sequence as u32, PROMPT / 8, vocabulary);
        contestant.append(&[Piece { sequence, tokens: &short, all: false }], &mut |scores| {
            next[sequence] = best(scores)
        })?;
    }
    let start = Instant::now();
    for _ in 0..DECODED {
        let tokens = next.map(|token| [token]);
        let pieces: [Piece<'_>; SEQUENCES] =
            std::array::from_fn(|sequence| Piece { sequence, tokens: &tokens[sequence], all: false });
        let mut chosen = Vec::with_capacity(SEQUENCES);
        contestant.append(&pieces, &mut |scores| chosen.push(best(scores)))?;
        next.copy_from_slice(&chosen);
    }
    let four = (DECODED * SEQUENCES) as f64 / start.elapsed().as_secs_f64();
    Ok([prefill, decode, four])
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Bytes of weights that each new token needs: all but the embedding, of which it needs one row.
fn bytes_per_token(file: &[u8]) -> Outcome<f64> {
    let file = Gguf::parse(file)?;
    let untied = file.tensor("output.weight").is_some();
    let needed = file.tensors().filter(|(name, _)| !(untied && *name == "token_embd.weight"));
    Ok(needed.map(|(_, tensor)| tensor.bytes.len() as f64).sum())
}

/// Gigabytes per second that so many threads read from memory: the best of several passes over far more than the caches.
fn bandwidth(threads: usize) -> f64 {
    const WORDS: usize = 1 << 25;
    let memory: Vec<Vec<u64>> = (0..threads).map(|thread| vec![thread as u64 + 1; WORDS / threads]).collect();
    let mut best = f64::INFINITY;
    for _ in 0..8 {
        let start = Instant::now();
        thread::scope(|scope| {
            for part in &memory {
                scope.spawn(|| black_box(part.iter().fold(0_u64, |sum, word| sum.wrapping_add(*word))));
            }
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    (WORDS * 8) as f64 / best / 1e9
}
