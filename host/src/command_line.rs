//! The command line.

mod doctor;
mod limits;
mod relay;
mod run;

use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use cleanroom_program::manual::Manual;

pub(crate) use self::doctor::DoctorArguments;
pub(crate) use self::relay::RelayArguments;
pub(crate) use self::run::{Enclave, RunArguments};
use crate::image_command::ImageCommand;
use crate::software_tpm_command::SoftwareTpmArguments;

/// Runs an enclave and carries its partners' connections, which this program cannot read.
///
/// The host is not trusted: TLS ends inside the enclave, and partners verify the enclave before they send
/// anything. The worst that this program can do is to refuse service.
#[derive(Parser)]
#[command(version, propagate_version = true, after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Write results and logs as JSON, one object a line.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

const AFTER_HELP: &str = "\
Exit status:
  0  did what it was asked, or was asked to stop and drained
  1  could not start, was ended at once by a second signal, or `doctor` found something missing
  2  the command line is wrong
  3  the enclave refused its configuration or model
  4  the enclave failed more often than --max-restarts allows
  5  the images differ (`image diff`)

Logs go to standard error; CLEANROOM_LOG=debug shows more. They name
connections by number and never contain what they carry. When nobody can take
the lines, they are lost and counted, and the program goes on.

Example: try everything on one machine, without hardware
  cleanroom-host doctor
  cleanroom-host run --tier simulated --enclave target/release/cleanroom-enclave-simulated \\
      --config enclave.toml --model model.gguf --listen 127.0.0.1:8443

Example: boot an image in a virtual machine
  cleanroom-host run --tier qemu --image enclave.eif --model model.gguf --listen 127.0.0.1:8443

Example: serve from an AWS Nitro Enclave
  cleanroom-host doctor --tier nitro
  cleanroom-host run --tier nitro --image enclave.eif --model model.gguf --listen 0.0.0.0:8443 --cid 16 --memory 4096 --processors 2

Example: serve from an EC2 instance with a NitroTPM, which is the enclave itself; this machine is another one
  cleanroom-host run --tier nitrotpm --instance 10.0.0.7 --model model.gguf --listen 0.0.0.0:8443";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Start an enclave, keep it running, and relay partners' connections to it.
    #[command(after_help = "\
Example:
  cleanroom-host run --tier simulated --enclave target/release/cleanroom-enclave-simulated \\
      --config enclave.toml --model model.gguf --listen 127.0.0.1:8443

When the enclave is ready, one line (or JSON object) on standard output says
where partners connect. The state folder then has:
  measurements.json     PCR 0, 1 and 2, the development root's fingerprint, the model's digest
  development-root.pem  the root under which this enclave's evidence is signed; made anew at each start
  console.log           what the enclave said

In the nitrotpm tier the enclave is an instance that runs already, or will. This
command gives it the model whenever it boots, hands in what the authorities
sign, and writes none of these files. Partners may connect to the instance
itself (TCP port 5000) as well as to --listen.

SIGTERM or SIGINT drains: no new connections, the enclave finishes what it
does, and everything ends within --drain-timeout. A second signal ends
everything at once.

SIGHUP ends nothing and changes nothing; a line of the log says what is looked
at all the time (files of releases, denials, safeguards and openings) and what
stays until a new start (options).")]
    Run(Box<RunArguments>),

    /// Relay partners' connections to an enclave that somebody else started.
    #[command(after_help = "\
Example: an enclave with context id 16 that listens on port 8443
  cleanroom-host relay --listen 0.0.0.0:8443 --to vsock:16:8443 --metrics 127.0.0.1:9100

SIGTERM or SIGINT drains: no new connections, and the open ones end within
--drain-timeout. A second signal ends everything at once. SIGHUP ends nothing
and changes nothing.")]
    Relay(RelayArguments),

    /// Give one virtual machine or program a TPM with the vendor command of AWS's NitroTPM; for development.
    #[command(after_help = "\
swtpm does what a TPM does. This command stands between QEMU and swtpm, and
answers the vendor command 0x20000001 with attestation documents of the TPM's
registers. It says when a machine can connect, and ends with that machine. The
folder then has:
  tpm.sock              the socket for QEMU
  development-root.pem  the root under which documents are signed; made anew at each start
  tpm2-00.permall       the TPM's state, which stays

With --measure the socket takes a program's TPM commands at once, and this
command ends with that program. Registers are then those of a machine that
firmware has started: 4 has the files, 7 a constant, the others zero. A line
says them as `cleanroom-authority trust --image` takes them.

Examples:
  cleanroom-host software-tpm --state tpm
  qemu-system-x86_64 ... -chardev socket,id=c,path=tpm/tpm.sock -tpmdev emulator,id=t,chardev=c -device tpm-crb,tpmdev=t

  cleanroom-host software-tpm --state tpm --measure cleanroom-instance --measure enclave.toml
  cleanroom-instance --tpm tpm/tpm.sock --config enclave.toml --address 127.0.0.1")]
    SoftwareTpm(SoftwareTpmArguments),

    /// Build enclave images, look into them, compare them.
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },

    /// Check that this machine has everything a tier needs. Each fault comes with the command that fixes it.
    #[command(after_help = "\
Examples:
  cleanroom-host doctor
  cleanroom-host doctor --tier nitro --state /var/lib/cleanroom --memory 4096 --processors 2")]
    Doctor(DoctorArguments),

    /// Write manual pages and shell completions. Packages are made with it.
    #[command(
        hide = true,
        after_help = "\
Example:
  cleanroom-host manual target/manual"
    )]
    Manual(Manual),
}

/// How the enclave runs.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Tier {
    /// A process with a security module in software. It proves nothing about the machine: for demos, tests
    /// and laptops.
    Simulated,
    /// The release image in a virtual machine, with a security module in software. It proves nothing about
    /// the machine either.
    Qemu,
    /// The image in an AWS Nitro Enclave of this EC2 instance.
    Nitro,
    /// An EC2 instance with a NitroTPM, which is the enclave itself. This program runs on another machine, and
    /// starts nothing.
    #[value(name = "nitrotpm")]
    NitroTpm,
}

/// The longest time that an option takes: a year. Longer ones would overflow clocks.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        Ok(_) => Err("expected at most 365 days".to_owned()),
        Err(error) => Err(format!("expected a time like 500ms, 30s or 2h: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_that_parse() {
        let problems = cleanroom_program::examples::problems(&Arguments::command());
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }

    #[test]
    fn times_have_units_and_a_limit() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        for text in ["", "30", "-1s", "366days", "forever"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_enclaves_arguments_come_last_and_are_passed_as_they_are() {
        let line = "x run --tier simulated --enclave e --config c --model m --listen 127.0.0.1:0 -- --json a";
        let arguments = Arguments::try_parse_from(line.split(' ')).ok().unwrap();
        assert!(!arguments.json);
        let Command::Run(run) = arguments.command else { panic!() };
        let Enclave::Simulated(settings) = run.enclave() else { panic!() };
        assert_eq!(settings.arguments, ["--json", "a"]);
    }

    #[test]
    fn each_tier_needs_what_it_starts_from() {
        let refused = |tier: &str| {
            Arguments::try_parse_from(format!("x run --model m --listen 127.0.0.1:0 {tier}").split(' '))
                .is_err()
        };
        assert!(refused("--tier simulated --enclave e"));
        assert!(refused("--tier qemu"));
        assert!(refused("--tier qemu --image i --config c"), "an image has its own configuration");
        assert!(!refused("--tier qemu --image i"));
        assert!(refused("--tier nitro"));
        assert!(!refused("--tier nitro --image i --cid 17"));
        assert!(refused("--tier nitro --image i --cid 3"), "that is the parent's");
        assert!(refused("--tier nitrotpm"));
        assert!(refused("--tier nitrotpm --instance h --image i"), "nobody starts an image here");
        assert!(!refused("--tier nitrotpm --instance h"));
    }
}
