//! What the attested channel costs, measured in one run:
//!
//! 1. setting up an attested session against a plain rustls mutual-TLS handshake of the same profile;
//! 2. memory that an idle attested session takes inside the enclave;
//! 3. tokens through the whole path (client, proxy, relay, enclave) against the engine called directly;
//! 4. tokens through the whole path with receipts against the same path without.

mod clean_room;
mod clock;
mod limits;
mod memory;
mod private_tls;
mod process;
mod report;
mod set_up;
mod whole_path;

use std::error::Error;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use report::Report;

const USAGE: &str = "\
usage: bench-channel [--json] [--only PART] [--model FILE] [--small-model FILE] [--set-ups N] [--sessions N] [--rounds N] [--threads N]

  --json               one JSON object instead of text
  --only PART          set-up, memory, path or receipts; all by default
  --model FILE         the model of path and receipts (default: ../target/bench/model.gguf)
  --small-model FILE   the model of the enclave whose memory is measured (default: ../models/demo.gguf)
  --set-ups N          session set-ups of each kind (default 400)
  --sessions N         idle sessions (default 200)
  --rounds N           answers on each side (default 16)
  --threads N          threads of each engine (default: all processors, of which the rest of the path then takes its share)

Exit code 0 when every target is met, 1 when one is missed, 2 when nothing could be measured.";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("bench-channel: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool, Box<dyn Error>> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    match given.as_slice() {
        [process::SERVE_ENCLAVE, socket, model, limits] => {
            process::serve_enclave(Path::new(socket), Path::new(model), limits)?;
            Ok(true)
        }
        [process::SERVE_PLAIN, socket] => {
            process::serve_plain(Path::new(socket))?;
            Ok(true)
        }
        given => measure(&Arguments::parse(given)?),
    }
}

fn measure(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let mut report = Report::new(arguments.json);
    if arguments.has(Part::SetUp) {
        set_up::measure(&mut report, arguments.set_ups)?;
    }
    if arguments.has(Part::Memory) {
        memory::measure(&mut report, &arguments.small_model, arguments.sessions)?;
    }
    if arguments.has(Part::Path) {
        whole_path::measure(&mut report, &arguments.model, arguments.rounds, arguments.threads)?;
    }
    if arguments.has(Part::Receipts) {
        whole_path::receipts::measure(&mut report, &arguments.model, arguments.rounds, arguments.threads)?;
    }
    Ok(report.conclude())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    SetUp,
    Memory,
    Path,
    Receipts,
}

struct Arguments {
    json: bool,
    only: Option<Part>,
    model: PathBuf,
    small_model: PathBuf,
    set_ups: usize,
    sessions: usize,
    rounds: usize,
    threads: Option<NonZeroUsize>,
}

impl Arguments {
    fn parse(given: &[&str]) -> Result<Self, Box<dyn Error>> {
        let clean_room = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut arguments = Self {
            json: false,
            only: None,
            model: clean_room.join("target/bench/model.gguf"),
            small_model: clean_room.join("models/demo.gguf"),
            set_ups: 400,
            sessions: 200,
            rounds: 16,
            threads: None,
        };
        let mut given = given.iter();
        while let Some(argument) = given.next() {
            let mut value = || given.next().ok_or(format!("{argument} needs a value\n\n{USAGE}"));
            match *argument {
                "--json" => arguments.json = true,
                "--only" => {
                    arguments.only = Some(match *value()? {
                        "set-up" => Part::SetUp,
                        "memory" => Part::Memory,
                        "path" => Part::Path,
                        "receipts" => Part::Receipts,
                        other => {
                            let parts = "set-up, memory, path or receipts";
                            return Err(format!("expected {parts}, got `{other}`").into());
                        }
                    });
                }
                "--model" => arguments.model = value()?.into(),
                "--small-model" => arguments.small_model = value()?.into(),
                "--set-ups" => arguments.set_ups = value()?.parse()?,
                "--sessions" => arguments.sessions = value()?.parse()?,
                "--rounds" => arguments.rounds = value()?.parse()?,
                "--threads" => arguments.threads = Some(value()?.parse()?),
                other => return Err(format!("unknown argument `{other}`\n\n{USAGE}").into()),
            }
        }
        Ok(arguments)
    }

    fn has(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }
}
