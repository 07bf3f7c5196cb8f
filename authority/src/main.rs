//! The authorities' program: it makes releases, leases and denials. `docs/release.md` describes the documents
//! and the ceremonies.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod broker;
mod chain;
mod changes;
mod failure;
mod files;
mod halt;
mod issuer;
mod key;
mod measured;
mod metrics;
mod opening;
mod publisher;
mod release;
mod report;
mod root;
mod safeguard;
mod sealed;
mod search;
mod serve;
mod service;
mod signer;
mod status;
mod trust;
mod witness;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use cleanroom_program::manual::Manual;
use cleanroom_program::output::{self, OutputError};

use crate::failure::{FAILED, Failure, WRONG_USAGE};

/// Release, lease and halt the models of a clean room that several organisations
/// run together.
///
/// Each authority holds two keys. The offline key signs roots, releases and
/// denials. The online key signs leases. Documents are files: one authority writes
/// a draft, each signs it in turn, and nobody needs to be online for that.
///
///   key new            make a key
///   root new, sign     agree on whose keys count
///   release draft,     say what may run, for whom, and until when
///     sign, verify
///   lease serve        let enclaves run that release, one minute at a time
///   halt, resume       stop a model or partners at once; go on with the next release
///   trust              write a policy for the partners of a simulated clean room
///   broker secret new  make a model's key, and shares of it
///   broker serve       release a share to enclaves that prove what they are
///   broker kms seal,   let AWS KMS hold a share
///     policy
///   opening key,       give one sealed record to one receiver together
///     draft, sign,
///     show, receive
///   witness serve      cosign the logs of enclaves, so that nobody is shown another one
///   seal, inspect,     keep a model's weights in a file that only a key opens
///     verify
///   report             show overseers who may do what, who signed that, and what happened
///   safeguard check,   write a policy of what the model may be asked, and try it
///     test
///   search             look for a model's weights where they must not be
#[derive(Parser)]
#[command(name = "cleanroom-authority", version, verbatim_doc_comment, after_help = AFTER_HELP)]
struct Arguments {
    /// Print the result as one JSON object, errors included.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit status:
  0    done
  1    refused: a signature, a rule or a date
  2    the command line is wrong
  3    a file, a command, a key or a service failed
  141  the result was not read: standard output was closed

Example: three authorities release a model together
  cleanroom-authority key new offline.pem
  cleanroom-authority root new --room grid-forecast --expires 2028-01-01T00:00:00Z \\
      --authority bank=bank.pub,bank-online.pub --authority utility=utility.pub,utility-online.pub \\
      --authority regulator=regulator.pub,regulator-online.pub
  cleanroom-authority root sign root.draft.json --key offline.pem
`cleanroom-authority COMMAND --help` shows examples of each command.";

#[derive(Subcommand)]
enum Command {
    /// Make keys and show them.
    #[command(subcommand)]
    Key(key::Command),
    /// Roots say whose keys count, for what, and how many are needed.
    #[command(subcommand)]
    Root(root::Command),
    /// Releases say what may run, for whom, and within which limits.
    #[command(subcommand)]
    Release(release::Command),
    /// Halt a model, a partner, or the partners with an attribute at once. Any one authority can do this
    /// alone.
    #[command(after_help = halt::HALT_EXAMPLES)]
    Halt(halt::Halt),
    /// Draft the release that lifts a halt. Like every release, it needs the signatures of a quorum.
    #[command(after_help = halt::RESUME_EXAMPLES)]
    Resume(halt::Resume),
    /// Leases let enclaves run the release for a short time.
    #[command(subcommand)]
    Lease(serve::Command),
    /// Brokers hold the shares of a sealed model's key, and release them to attested enclaves.
    #[command(subcommand)]
    Broker(broker::Command),
    /// Openings give one sealed record to one receiver, when a quorum has signed them.
    #[command(subcommand)]
    Opening(opening::Command),
    /// Witnesses cosign the logs of enclaves.
    #[command(subcommand)]
    Witness(witness::Command),
    /// Show what is in force, from files or from a lease service.
    #[command(after_help = status::EXAMPLES)]
    Status(status::Status),
    /// Show who may do what until when, who signed that, and what happened, from this authority's files.
    ///
    /// For overseers. The exit status is 1 if a file does not count or is damaged.
    #[command(after_help = report::EXAMPLES)]
    Report(Box<report::Report>),
    /// Write the `trust.toml` of a simulated clean room's partners.
    ///
    /// The file pins the development root, and either the release root or what this command measures itself.
    #[command(after_help = trust::EXAMPLES)]
    Trust(trust::Trust),
    /// Policies of safeguards say which exchanges are flagged, refused or ended.
    #[command(subcommand)]
    Safeguard(safeguard::Command),
    #[command(flatten)]
    Sealed(sealed::Command),
    /// Look for a model's weights in files, folders, and the memory of processes.
    #[command(after_help = search::EXAMPLES)]
    Search(search::Search),
    /// Write manual pages and shell completions. Packages are made with it.
    #[command(hide = true, after_help = MANUAL_EXAMPLE)]
    Manual(Manual),
}

const MANUAL_EXAMPLE: &str = "\
Example:
  cleanroom-authority manual target/manual";

/// Adds a member to a JSON object.
fn add(json: &mut serde_json::Value, name: &str, value: impl Into<serde_json::Value>) {
    if let Some(members) = json.as_object_mut() {
        members.insert(name.to_owned(), value.into());
    }
}

/// What a command reports: for people, and for programs.
#[derive(Debug)]
struct Outcome {
    text: String,
    json: serde_json::Value,
}

impl Outcome {
    /// Adds a member to what programs read.
    fn add(&mut self, name: &str, value: impl Into<serde_json::Value>) {
        add(&mut self.json, name, value);
    }

    /// The outcome of a service, which has said everything while it ran.
    fn silent() -> Self {
        Self { text: String::new(), json: serde_json::Value::Null }
    }
}

fn main() -> ExitCode {
    let Arguments { json, command } = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return command_line_error(&error),
    };
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
            if let (false, Some(text)) = (json, failure.report()) {
                let _ = output::print(text.trim_end());
            }
            if json {
                // The status tells the same to a caller that does not read.
                let _ = output::print(failure.json());
            }
            output::complain(format_args!("error: {failure}"));
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Prints help, the version, or what is wrong with the command line.
fn command_line_error(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
        let message = error.render().to_string();
        let _ = output::print(Failure::usage(message.trim_end()).json());
    }
    let printed = error.print();
    if error.use_stderr() {
        ExitCode::from(WRONG_USAGE)
    } else {
        printed.map_or_else(
            |error| ExitCode::from(OutputError::from(error).exit_status(FAILED)),
            |()| ExitCode::SUCCESS,
        )
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
        Command::Broker(command) => command.run(json),
        Command::Opening(command) => command.run(),
        Command::Witness(command) => command.run(json),
        Command::Status(status) => status.run(),
        Command::Report(report) => report.run(),
        Command::Trust(trust) => trust.run(),
        Command::Safeguard(command) => command.run(),
        Command::Sealed(command) => command.run(),
        Command::Search(search) => search.run(),
        Command::Manual(manual) => {
            manual.write(&Arguments::command()).map_err(|error| Failure::Environment(error.to_string()))?;
            Ok(Outcome::silent())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_examples_that_parse() {
        Arguments::command().debug_assert();
        let problems = cleanroom_program::examples::problems(&Arguments::command());
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
}
