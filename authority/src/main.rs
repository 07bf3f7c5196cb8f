//! The authorities' program: releases, leases, halting. `docs/release.md` describes the documents and the ceremonies.

mod chain;
mod changes;
mod failure;
mod files;
mod halt;
mod issuer;
mod key;
mod measured;
mod metrics;
mod release;
mod root;
mod serve;
mod service;
mod signer;
mod status;
mod trust;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::Failure;

/// Releases, leases and halting for a clean room that several organisations run together.
///
/// Each authority holds two keys: an offline one (roots, releases, denials) and an online one (leases). Documents travel as
/// files: one authority drafts, each signs in turn, and nobody needs to be online for it.
///
///   key new            make a key
///   root new, sign     agree on whose keys count
///   release draft,     say what may run, for whom, until when
///     sign, verify
///   lease serve        let enclaves run that release, a minute at a time
///   halt, resume       stop a model or a partner at once; let it go on with the next release
///   trust              write the policy of a clean room's partners
#[derive(Parser)]
#[command(
    name = "cleanroom-authority",
    version,
    verbatim_doc_comment,
    after_help = "Exit status: 0 done; 1 refused (a signature, rule or date); 2 wrong usage; 3 a file, command or service failed."
)]
struct Arguments {
    /// Print the result as one JSON object.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make and show keys.
    #[command(subcommand)]
    Key(key::Command),
    /// Roots: whose keys count, for what, and how many.
    #[command(subcommand)]
    Root(root::Command),
    /// Releases: what may run, for whom, under which limits.
    #[command(subcommand)]
    Release(release::Command),
    /// Halt a model or a partner at once. One authority alone can.
    Halt(halt::Halt),
    /// Draft the release that lifts what was halted. It needs the quorum's signatures like every release.
    Resume(halt::Resume),
    /// Leases: let enclaves run the release.
    #[command(subcommand)]
    Lease(serve::Command),
    /// What is in force, from files or from a lease service.
    Status(status::Status),
    Trust(trust::Trust),
}

/// What a command has to say: for people, and for programs.
struct Outcome {
    text: String,
    json: serde_json::Value,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(outcome) => {
            let text = if arguments.json { outcome.json.to_string() } else { outcome.text };
            // Whoever started the program may have stopped listening; what it did is done all the same.
            let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
            ExitCode::SUCCESS
        }
        Err(failure) => {
            if arguments.json {
                let _ = writeln!(std::io::stdout(), "{}", failure.json());
            }
            let _ = writeln!(std::io::stderr(), "error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(command: Command) -> Result<Outcome, Failure> {
    match command {
        Command::Key(command) => command.run(),
        Command::Root(command) => command.run(),
        Command::Release(command) => command.run(),
        Command::Halt(halt) => halt.run(),
        Command::Resume(resume) => resume.run(),
        Command::Lease(command) => command.run(),
        Command::Status(status) => status.run(),
        Command::Trust(trust) => trust.run(),
    }
}
