//! The command line: which subcommands there are, and how one is run.

use std::ffi::OsString;
use std::process::ExitCode;

#[cfg(feature = "online")]
use clap::CommandFactory as _;
use clap::{Parser, Subcommand};

use crate::commands::{audit, conformance, explain, measure, receipts, verify};
#[cfg(feature = "online")]
use crate::commands::{chat, connect, key, manual, probe};
use crate::outcome::{Failure, Outcome, usage};
use crate::output::Terminal;

const EXIT_CODES: &str = "\
Exit codes:
  0  pass         everything that was asked is proven
  1  refused      something failed a check: a verdict, an image, a document
  2  usage        the command line or a file of your own, such as the policy, is wrong
  3  partial      nothing failed, but something was not asked about
  4  unreachable  a file could not be read or a peer could not be reached; nothing was judged
  5  opened       nothing failed, and a sealed record was opened (`audit`)

Colours appear on terminals only, and never when NO_COLOR is set.";

/// Prove who sees your data before you send any.
///
/// A clean room is an AI model inside a hardware enclave that somebody else operates. This program checks, on
/// your own machine and against your own policy, that a clean room is what it claims to be.
#[derive(Parser)]
#[command(name = "cleanroom", version, max_term_width = 100, after_long_help = EXIT_CODES)]
struct Arguments {
    /// Print one JSON object instead of text.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[cfg(feature = "online")]
    Key(key::Key),
    Verify(verify::Verify),
    #[cfg(feature = "online")]
    Probe(probe::Probe),
    #[cfg(feature = "online")]
    Connect(connect::Connect),
    #[cfg(feature = "online")]
    Chat(chat::Chat),
    Receipts(receipts::Receipts),
    Audit(audit::Audit),
    Measure(measure::Measure),
    Explain(explain::Explain),
    Conformance(conformance::Conformance),
    #[cfg(feature = "online")]
    #[command(hide = true, after_help = manual::EXAMPLES, after_long_help = manual::EXAMPLES)]
    Manual(manual::Manual),
}

impl Command {
    fn run(self, terminal: &mut Terminal) -> Result<Outcome, Failure> {
        match self {
            #[cfg(feature = "online")]
            Self::Key(command) => command.run(terminal),
            #[cfg(feature = "online")]
            Self::Probe(command) => command.run(terminal),
            #[cfg(feature = "online")]
            Self::Connect(command) => command.run(terminal),
            #[cfg(feature = "online")]
            Self::Chat(command) => command.run(terminal),
            Self::Receipts(command) => command.run(terminal),
            Self::Audit(command) => command.run(terminal),
            Self::Measure(command) => command.run(terminal),
            Self::Explain(command) => command.run(terminal),
            Self::Conformance(command) => command.run(terminal),
            Self::Verify(command) => command.run(terminal),
            #[cfg(feature = "online")]
            Self::Manual(command) => manual::run(&command, &Arguments::command()),
        }
    }
}

/// Runs the program on a command line whose first element is the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let arguments = match Arguments::try_parse_from(&arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go to standard output and are no error; the rest goes to standard error.
            let asked_for = !error.use_stderr();
            if !asked_for && says(&arguments, "--json") && !says(&arguments, "--nagios") {
                Terminal::standard(true).failure(&Failure {
                    outcome: Outcome::Usage,
                    code: "usage",
                    message: error.to_string().trim_end().to_owned(),
                });
                return exit_code(Outcome::Usage);
            }
            let printed = error.print().is_ok();
            if asked_for && printed {
                return exit_code(Outcome::Pass);
            }
            #[cfg(feature = "online")]
            if says(&arguments, "--nagios") {
                return ExitCode::from(probe::PLUGIN_UNKNOWN);
            }
            return exit_code(Outcome::Usage);
        }
    };
    let mut terminal = Terminal::standard(arguments.json);
    #[cfg(feature = "online")]
    let arguments = match arguments {
        Arguments { command: Command::Probe(probe), .. } if probe.is_plugin() => {
            return probe.run_as_plugin(&mut terminal);
        }
        arguments => arguments,
    };
    let result = arguments.command.run(&mut terminal);
    exit_code(result.unwrap_or_else(|failure| {
        terminal.failure(&failure);
        failure.outcome
    }))
}

/// Runs the program on a command line as [`run`] does with `--json`, and gives the outcome and the JSON instead
/// of printing it.
///
/// # Errors
/// [`Failure`] as the program reports it; a command line that cannot be read is one.
pub fn json(arguments: impl IntoIterator<Item = OsString>) -> Result<(Outcome, String), Failure> {
    let arguments = Arguments::try_parse_from(arguments)
        .map_err(|error| usage("usage", error.to_string().trim_end().to_owned()))?;
    let (mut terminal, captured) = Terminal::captured();
    let outcome = arguments.command.run(&mut terminal)?;
    Ok((outcome, captured.text()))
}

/// Whether a command line that could not be read has this option. What stands behind `--` is no option.
fn says(arguments: &[OsString], option: &str) -> bool {
    arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == option)
}

fn exit_code(outcome: Outcome) -> ExitCode {
    ExitCode::from(outcome as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(not(feature = "online"))]
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn help_documents_every_exit_code() {
        let help = Arguments::command().render_long_help().to_string();
        let outcomes = [
            Outcome::Pass,
            Outcome::Refused,
            Outcome::Usage,
            Outcome::Partial,
            Outcome::Unreachable,
            Outcome::Opened,
        ];
        for outcome in outcomes {
            let line = format!("{}  {}", outcome as u8, format!("{outcome:?}").to_lowercase());
            assert!(help.contains(&line), "{line}");
        }
    }

    #[test]
    fn every_command_teaches_with_examples() {
        let problems = cleanroom_program::examples::problems(&Arguments::command());
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
}
