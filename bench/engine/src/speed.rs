//! Which engine is faster: interleaved rounds on the same file, with the same tokens.

use std::{process::Command, time::Instant};

use cleanroom_engine::{Instructions, Model, gguf::Gguf};

use crate::{
    contestant::{Contestant, Llama, Ours, Outcome, Piece, SEQUENCES, best, prompt},
    limit::{bandwidth, products},
};

const ROUNDS: usize = 3;
const PROMPT: usize = 256;
const DECODED: usize = 16;
/// What must be reached, as a multiple of llama.cpp's speed, with AVX-512 VNNI, and with AVX2: there both engines multiply with the same
/// instructions.
const TARGETS: [(&str, f64, f64); 3] =
    [("prefill", 1.8, 1.0), ("decode", 1.05, 1.0), ("four sequences", 1.5, 1.0)];

/// The command of a process that measures with one number of threads.
pub const WITH_THREADS: &str = "speed-with-threads";

/// Each number of threads is measured in a process of its own, since candle reads it once.
pub fn run(files: &[String]) -> Outcome<bool> {
    println!(
        "medians of {ROUNDS} interleaved rounds, in tokens per second; targets {} AVX-512 VNNI",
        if vnni() { "with" } else { "without" }
    );
    println!(
        "prefill: {PROMPT} tokens; four sequences: {DECODED} tokens each, at once by ours and llama.cpp, one after another by candle"
    );
    let mut met = true;
    for threads in ["1", "2"] {
        let status = Command::new(std::env::current_exe()?)
            .args([WITH_THREADS, threads])
            .args(files)
            .env("CANDLE_NUM_THREADS", threads)
            .env("RAYON_NUM_THREADS", threads)
            .status()?;
        met &= match status.code() {
            Some(0) => true,
            Some(1) => false,
            _ => return Err(format!("measuring with {threads} thread(s) failed: {status}").into()),
        };
    }
    Ok(met)
}

/// The instructions that all contestants may use: those that this program is compiled for, as the others are.
const INSTRUCTIONS: Instructions = if cfg!(target_feature = "avx512vnni") {
    Instructions::Avx512Vnni
} else if cfg!(target_feature = "avx2") {
    Instructions::Avx2
} else {
    Instructions::Compiled
};

fn vnni() -> bool {
    INSTRUCTIONS == Instructions::Avx512Vnni
}

/// Measures all files.
pub fn with_threads(threads: usize, files: &[String]) -> Outcome<bool> {
    let mut backend = Llama::backend()?;
    let mut met = true;
    println!(
        "\n{threads} thread(s), load of the machine {}",
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    );
    let (bandwidth, products) = (bandwidth(threads), products(threads));
    for file in files {
        let llama = Llama::load(backend, file)?;
        let bytes = std::fs::read(file)?;
        let model = Model::from_gguf(&bytes)?.with_instructions(INSTRUCTIONS);
        let (per_token, products_per_token) = (bytes_per_token(&bytes)?, products_per_token(&bytes)?);
        drop(bytes);
        let rounds = {
            let mut contestants: Vec<Box<dyn Contestant + '_>> =
                vec![Box::new(Ours::new(&model, threads)?), Box::new(llama.start(threads)?)];
            #[cfg(feature = "candle")]
            contestants.push(Box::new(crate::candle::Candle::load(file)?));
            rounds(&mut contestants, model.facts().vocabulary)?
        };
        let candle = rounds.first().is_some_and(|round| round.len() > 2);
        let name = format!("{} {}", model.facts().architecture, model.facts().weights);
        print!("{name:22} {:>8} {:>10} {:>6} {:>7} {:>9}", "ours", "llama.cpp", "ratio", "target", "");
        println!("{}", if candle { "   candle  ratio" } else { "" });
        for (index, (what, with, without)) in TARGETS.iter().enumerate() {
            let target = if vnni() { *with } else { *without };
            let rate = |side: usize| median(rounds.iter().map(|round| round[side][index]).collect());
            let ratio = |side: usize| {
                median(rounds.iter().map(|round| round[0][index] / round[side][index]).collect())
            };
            let (ours, to_llama) = (rate(0), ratio(1));
            met &= to_llama >= target;
            let verdict = if to_llama >= target { "met" } else { "MISSED" };
            print!("  {what:20} {ours:8.1} {:10.1} {to_llama:6.2} {target:7.2} {verdict:>9}", rate(1));
            if candle {
                print!(" {:8.1} {:6.2}", rate(2), ratio(2));
            }
            println!();
            if let ("prefill", Some(products)) = (*what, products) {
                println!(
                    "    multiplies {:.3} billion pairs for a token: {:.0} billion a second, llama.cpp {:.0}, of {products:.0} that stay in registers",
                    products_per_token / 1e9,
                    ours * products_per_token / 1e9,
                    rate(1) * products_per_token / 1e9,
                );
            }
            if *what == "decode" {
                let (reading, theirs) = (ours * per_token / 1e9, rate(1) * per_token / 1e9);
                println!(
                    "    reads {:.3} GB of weights for a token: {reading:.1} GB/s, llama.cpp {theirs:.1}, of {bandwidth:.1} that the memory gives",
                    per_token / 1e9
                );
            }
        }
        backend = llama.into_backend();
    }
    Ok(met)
}

/// What each contestant reached of each of the targets, in every round.
fn rounds(contestants: &mut [Box<dyn Contestant + '_>], vocabulary: u32) -> Outcome<Vec<Vec<[f64; 3]>>> {
    let mut rounds = Vec::new();
    for round in 0..=ROUNDS {
        let rates = contestants
            .iter_mut()
            .map(|contestant| measure(contestant.as_mut(), vocabulary))
            .collect::<Outcome<_>>()?;
        // The first round warms up.
        if round > 0 {
            rounds.push(rates);
        }
    }
    Ok(rounds)
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
    Ok(needed.map(|(_, tensor)| tensor.length as f64).sum())
}

/// Products of a weight and an activation that each token of a prompt needs: the layers' matrices once, as only the last token is scored.
/// Attention is not in it.
fn products_per_token(file: &[u8]) -> Outcome<f64> {
    let file = Gguf::parse(file)?;
    let needed = file.tensors().filter(|(name, _)| !matches!(*name, "output.weight" | "token_embd.weight"));
    Ok(needed.map(|(_, tensor)| tensor.dimensions.iter().product::<usize>() as f64).sum())
}
