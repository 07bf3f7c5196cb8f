//! The engine against llama.cpp, candle and transformers, on the same files.
//!
//! ```text
//! bench-engine speed FILE…          prefill, decode, four sequences; exit code 0 when every target is met
//! bench-engine agree PYTHON FILE…   scores of the same tokens: agreement of the first choice, divergence
//! bench-engine answers FILE         greedy answers to some questions
//! bench-engine tokens FILE CORPUS…  tokens of every line and piece of some text files
//! ```

mod agree;
#[cfg(feature = "candle")]
mod candle;
mod contestant;
mod exact;
mod limit;
mod speed;
mod tokens;

use std::{error::Error, process::ExitCode};

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-engine: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, files) = arguments.split_first().ok_or("expected a command; see the head of main.rs")?;
    match (command.as_str(), files) {
        ("speed", [_, ..]) => speed::run(files),
        (speed::WITH_THREADS, [threads, files @ ..]) => speed::with_threads(threads.parse()?, files),
        ("agree", [python, files @ ..]) => agree::run(python, files),
        ("answers", [file]) => agree::answers(file),
        ("tokens", [file, corpus @ ..]) => tokens::run(file, corpus),
        _ => Err("unknown command, or files are missing".into()),
    }
}
