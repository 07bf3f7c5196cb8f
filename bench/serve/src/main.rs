//! Answers to many streams at once, end to end:
//!
//! ```text
//! streams ─► cleanroom connect ─► cleanroom-host ─► enclave ─► engine
//! streams ─► llama-server
//! ```
//!
//! Both serve one GGUF file with as many threads, as processes of their own, and get the same requests from the same client in
//! turn. What runs beside the engine (proxy, relay, TLS, HTTP) has no processors of its own on either side.

mod load;
mod servers;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use load::{Round, Work};
use servers::{Llama, WholePath};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: bench-serve --programs FOLDER --llama-server FILE --model FILE [--streams N,N…] [--rounds N] [--threads N] [--prompt N] [--answer N]

  --programs FOLDER     where cleanroom, cleanroom-host, cleanroom-authority and cleanroom-enclave-simulated are
  --llama-server FILE   the program
  --model FILE          the model of both
  --streams N,N…        requests at once (default 1,8,32)
  --rounds N            rounds of each side, in turn, after one that warms up (default 3)
  --threads N           threads of each engine (default 2)
  --prompt N            words of each prompt (default 32)
  --answer N            tokens of each answer (default 32)

Exit code 0 when the whole path is at least as fast as llama-server everywhere, 1 when not, 2 when nothing could be measured.";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("bench-serve: {error}");
            ExitCode::from(2)
        }
    }
}

struct Arguments {
    programs: PathBuf,
    llama_server: PathBuf,
    model: PathBuf,
    streams: Vec<usize>,
    rounds: usize,
    threads: usize,
    work: Work,
}

impl Arguments {
    fn parse() -> Outcome<Self> {
        let (mut programs, mut llama_server, mut model) = (None, None, None);
        let mut streams = vec![1, 8, 32];
        let (mut rounds, mut threads, mut work) = (3, 2, Work { prompt: 32, answer: 32 });
        let mut given = std::env::args().skip(1);
        while let Some(name) = given.next() {
            let value = given.next().ok_or_else(|| format!("{name} needs a value\n\n{USAGE}"))?;
            match name.as_str() {
                "--programs" => programs = Some(PathBuf::from(value).canonicalize()?),
                "--llama-server" => llama_server = Some(PathBuf::from(value).canonicalize()?),
                "--model" => model = Some(PathBuf::from(value).canonicalize()?),
                "--streams" => streams = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
                "--rounds" => rounds = value.parse()?,
                "--threads" => threads = value.parse()?,
                "--prompt" => work.prompt = value.parse()?,
                "--answer" => work.answer = value.parse()?,
                _ => return Err(format!("unknown option {name}\n\n{USAGE}").into()),
            }
        }
        let missing = |what: &str| format!("{what} is missing\n\n{USAGE}");
        Ok(Self {
            programs: programs.ok_or_else(|| missing("--programs"))?,
            llama_server: llama_server.ok_or_else(|| missing("--llama-server"))?,
            model: model.ok_or_else(|| missing("--model"))?,
            streams,
            rounds,
            threads,
            work,
        })
    }
}

fn run() -> Outcome<bool> {
    let Arguments { programs, llama_server, model, streams, rounds, threads, work } = Arguments::parse()?;
    let most = streams.iter().copied().max().ok_or("no streams")?;
    let ours = WholePath::start(&programs, &model, threads, most)?;
    let theirs = Llama::start(&llama_server, &model, threads, most)?;
    println!(
        "{}: {} threads, prompts of {} words, answers of {} tokens, medians of {rounds} rounds in turn",
        model.file_name().unwrap_or_default().to_string_lossy(),
        threads,
        work.prompt,
        work.answer
    );
    println!("load of the machine: {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    println!(
        "{:>7}  {:>27}  {:>35}  {:>35}",
        "", "tokens/s", "first token, median, ms", "first token, latest, ms"
    );
    let columns = format!("{:>9} {:>12} {:>6}", "path", "llama-server", "ratio");
    let wide = format!("{:>11} {:>14} {:>8}", "path", "llama-server", "ratio");
    println!("{:>7}  {columns}  {wide}  {wide}", "streams");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut as_fast = true;
    for count in streams {
        let mut pairs = Vec::new();
        for round in 0..=rounds {
            let measure = |address: SocketAddr| runtime.block_on(load::round(address, work, count, round));
            // Neither side always comes first.
            let pair = if round % 2 == 0 {
                let ours = measure(ours.address())?;
                [ours, measure(theirs.address())?]
            } else {
                let theirs = measure(theirs.address())?;
                [measure(ours.address())?, theirs]
            };
            if pair[0].prompt_tokens != pair[1].prompt_tokens {
                return Err("the two cut a prompt into different numbers of tokens".into());
            }
            // The first warms up.
            if round > 0 {
                pairs.push(pair);
            }
        }
        let rates = Compared::of(&pairs, |round| round.tokens_per_second());
        let first = Compared::of(&pairs, |round| round.first_median() * 1e3);
        let latest = Compared::of(&pairs, |round| round.first_latest() * 1e3);
        println!(
            "{count:>7}  {:>9.1} {:>12.1} {:>6.2}  {:>11.0} {:>14.0} {:>8.2}  {:>11.0} {:>14.0} {:>8.2}",
            rates.ours,
            rates.theirs,
            rates.ratio,
            first.ours,
            first.theirs,
            first.ratio,
            latest.ours,
            latest.theirs,
            latest.ratio
        );
        as_fast &= rates.ratio >= 1.0 && first.ratio <= 1.0;
    }
    println!(
        "ratios are path / llama-server, medians of the rounds' own: of tokens above 1 is faster, of times below 1 is"
    );
    Ok(as_fast)
}

/// A quantity of both sides.
struct Compared {
    ours: f64,
    theirs: f64,
    ratio: f64,
}

impl Compared {
    fn of(pairs: &[[Round; 2]], quantity: impl Fn(&Round) -> f64) -> Self {
        let values: Vec<[f64; 2]> =
            pairs.iter().map(|pair| [quantity(&pair[0]), quantity(&pair[1])]).collect();
        Self {
            ours: load::median(values.iter().map(|[ours, _]| *ours)),
            theirs: load::median(values.iter().map(|[_, theirs]| *theirs)),
            ratio: load::median(values.iter().map(|[ours, theirs]| ours / theirs)),
        }
    }
}
