//! What several rooms behind a balancer give, and what the way through it costs, with the programs that people run:
//!
//! ```text
//! streams ─► cleanroom connect ─► HAProxy or Envoy ─► cleanroom-host ─► enclave     (one to three of each host)
//! ```
//!
//! 1. [`share`]: tokens of one, two and three rooms behind one name, against the sum of what each gives when it is asked
//!    directly;
//! 2. [`set_up`]: a session through the balancer against one to the host itself;
//! 3. [`relay`]: the host's relay against `HAProxy`, as carriers of bytes and of connections: speed, and processor time;
//! 4. [`memory`]: idle sessions and streams under way.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made has failed")]

mod load;
mod memory;
mod process;
mod relay;
mod report;
mod set_up;
mod share;

use std::process::ExitCode;

use cleanroom_tests::balancer::Program;

use report::Report;

const USAGE: &str = "\
usage: scripts/bench fleet [--only PART] [--rounds N] [--pairs N] [--set-ups N] [--sessions N] [--streams N]

  --only PART     share, set-up, relay, relay-cost or memory; all by default
  --rounds N      rounds of each side, in turn, of share (default 3), and three times as many of relay
  --pairs N       short pairs of relay-cost (default 32); a minute, and other programs may run meanwhile
  --set-ups N     session set-ups of each way (default 200)
  --sessions N    idle sessions (default 1000)
  --streams N     streams at once (default 300)

HAProxy must be installed (Debian: haproxy). Envoy is measured as well if its program `envoy` is in PATH.

Exit code 0 when every target is met, 1 when one is missed, 2 when nothing could be measured.";

/// What `--only` takes.
const PARTS: [&str; 5] = ["share", "set-up", "relay", "relay-cost", "memory"];

/// The balancers.
const BALANCERS: [(&str, Program); 2] = [("HAProxy", Program::HaProxy), ("Envoy", Program::Envoy)];

/// The lines of `[traffic]` that make a stream one frame in `cadence`, which has about one token.
fn paced(cadence: &str) -> String {
    format!("[traffic]\nstep = 256\ncadence = \"{cadence}\"\n")
}

/// All clients are on this machine, with and without a balancer, so hosts see one.
const MANY_CONNECTIONS: [&str; 4] = ["--max-connections", "2000", "--max-connections-per-client", "2000"];

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("fleet: {problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // A failure of a measurement is not a missed target.
    let Ok(met) = std::panic::catch_unwind(|| measure(&arguments)) else { return ExitCode::from(2) };
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn measure(arguments: &Arguments) -> bool {
    let mut report = Report::default();
    report.machine();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        if arguments.has("share") {
            share::measure(&mut report, arguments.rounds).await;
        }
        if arguments.has("set-up") {
            set_up::measure(&mut report, arguments.set_ups).await;
        }
        if arguments.has("relay") {
            relay::measure(&mut report, 3 * arguments.rounds).await;
        }
        if arguments.has("relay-cost") {
            relay::measure_cost(&mut report, arguments.pairs).await;
        }
        if arguments.has("memory") {
            memory::measure(&mut report, arguments.sessions, arguments.streams).await;
        }
    });
    report.conclude()
}

struct Arguments {
    only: Option<String>,
    rounds: usize,
    pairs: usize,
    set_ups: usize,
    sessions: usize,
    streams: usize,
}

impl Arguments {
    /// `None` when help is asked for.
    fn parse(mut given: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut arguments =
            Self { only: None, rounds: 3, pairs: 32, set_ups: 200, sessions: 1000, streams: 300 };
        while let Some(name) = given.next() {
            if name == "--help" || name == "-h" {
                return Ok(None);
            }
            let value = given.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number = || match value.parse() {
                Ok(number) if number > 0 => Ok(number),
                _ => Err(format!("expected a number above 0 after {name}, got {value}")),
            };
            match name.as_str() {
                "--only" if PARTS.contains(&value.as_str()) => arguments.only = Some(value),
                "--only" => return Err(format!("expected one of {}, got {value}", PARTS.join(", "))),
                "--rounds" => arguments.rounds = number()?,
                "--pairs" => arguments.pairs = number()?,
                "--set-ups" => arguments.set_ups = number()?,
                "--sessions" => arguments.sessions = number()?,
                "--streams" => arguments.streams = number()?,
                _ => return Err(format!("unknown option {name}")),
            }
        }
        Ok(Some(arguments))
    }

    fn has(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }
}
