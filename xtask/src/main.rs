//! `cargo xtask`: the repository's own checks, and a list of its scripts.
//!
//! Each check prints one line for each fault, `file:line: what is wrong`, and ends with exit code 1 when there is any.

mod cycles;
mod dependencies;
mod docs;
mod plain_text;
mod repository;
mod scripts;

use std::path::Path;
use std::process::ExitCode;

use repository::Repository;

const HELP: &str = "\
Checks of the repository itself, and a list of its scripts.

Usage: cargo xtask COMMAND

Commands:
  dependencies  compare the crates' dependencies with the table in docs/architecture.md
  docs          find every file, test, flag, command and link that a page names and that does not exist
  cycles        find modules of one crate that import each other in a circle
  plain-text    find fields that own plain text where prompts and answers pass
  all           run the four checks
  help          this text

Exit codes: 0 nothing is wrong, 1 something is wrong, 2 the command line is wrong or a check could not run.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [command] = arguments.as_slice() else { return usage() };
    let checks: &[(&str, Check)] = &[
        ("dependencies", dependencies::check),
        ("docs", docs::check),
        ("cycles", cycles::check),
        ("plain-text", plain_text::check),
    ];
    let chosen: Vec<_> = checks.iter().filter(|(name, _)| command == "all" || command == name).collect();
    let repository = Repository::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    if matches!(command.as_str(), "help" | "-h" | "--help") {
        print!("{HELP}\n{}", scripts::list(&repository));
        return ExitCode::SUCCESS;
    }
    if chosen.is_empty() {
        return usage();
    }
    let mut faults = 0;
    for (name, check) in chosen {
        match check(&repository) {
            Ok(outcome) => {
                for fault in &outcome.faults {
                    println!("{fault}");
                }
                faults += outcome.faults.len();
                println!("{name}: {}, {} faults", outcome.summary, outcome.faults.len());
            }
            Err(reason) => {
                eprintln!("cargo xtask {name}: {reason}");
                return ExitCode::from(2);
            }
        }
    }
    if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage() -> ExitCode {
    eprint!("{HELP}");
    ExitCode::from(2)
}

/// What a check looked at, and what is wrong with it.
struct Outcome {
    summary: String,
    faults: Vec<String>,
}

type Check = fn(&Repository) -> Result<Outcome, String>;
