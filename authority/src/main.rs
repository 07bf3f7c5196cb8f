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

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use cleanroom_program::output;

use crate::failure::{FAILED, Failure};

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

impl Outcome {
    /// The outcome of a service, which has said everything while it ran.
    fn silent() -> Self {
        Self { text: String::new(), json: serde_json::Value::Null }
    }
}

fn main() -> ExitCode {
    let Arguments { json, command } = Arguments::parse();
    match run(command, json) {
        Ok(outcome) if outcome.text.is_empty() => ExitCode::SUCCESS,
        Ok(outcome) => {
            let text = if json { outcome.json.to_string() } else { outcome.text };
            match output::print(text.trim_end()) {
                Ok(()) => ExitCode::SUCCESS,
                // The command did its work. The status says that its result reached nobody.
                Err(error) => {
                    output::complain(format_args!("error: {error}"));
                    ExitCode::from(error.exit_status(FAILED))
                }
            }
        }
        Err(failure) => {
            if json {
                // The status tells the same to a caller that does not read.
                let _ = output::print(failure.json());
            }
            output::complain(format_args!("error: {failure}"));
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(command: Command, json: bool) -> Result<Outcome, Failure> {
    match command {
        Command::Key(command) => command.run(),
        Command::Root(command) => command.run(),
        Command::Release(command) => command.run(),
        Command::Halt(halt) => halt.run(),
        Command::Resume(resume) => resume.run(),
        Command::Lease(command) => command.run(json),
        Command::Status(status) => status.run(),
        Command::Trust(trust) => trust.run(),
    }
}
