//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Parser;

/// Serves a model inside an EC2 instance that is the enclave itself, with a NitroTPM as its security module.
///
/// Partners connect to TCP port 5000. Port 5001 takes what the authorities sign, and port 5002 the model's bytes; both come from
/// `cleanroom-host run --tier nitrotpm` on another machine. Nobody who connects is trusted.
///
/// The program commits to the model and to its receipt key in registers 14 and 15 of the TPM. Registers 4, 7 and 12 say what was
/// started, so they are the firmware's to write. A TPM's registers are set back only with the machine: a second start of this
/// program on the same TPM halts.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The TPM: a device, or the Unix socket of a software TPM.
    #[arg(long, value_name = "FILE", default_value = cleanroom_nitrotpm::DEVICE)]
    pub(crate) tpm: PathBuf,

    /// The configuration. The image has it, so registers 4 and 12 prove it; of another file nothing is proven.
    #[arg(long, value_name = "FILE", default_value = "/app/enclave.toml")]
    pub(crate) config: PathBuf,

    /// The address of this machine at which the three ports are.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0")]
    pub(crate) address: IpAddr,
}

const AFTER_HELP: &str = "\
Exit status:
  0   drained
  1   failed, or was ended by a second signal; a new start of the machine can help
  2   the command line is wrong
  78  refused its configuration, its model or its TPM, and would refuse them again

SIGTERM ends it in order, a second one at once. Its console is standard error.

Example: the whole tier on one machine, without hardware
  cleanroom-host software-tpm --state tpm --measure cleanroom-instance
  cleanroom-instance --tpm tpm/tpm.sock --config enclave.toml --address 127.0.0.1
  cleanroom-host run --tier nitrotpm --instance 127.0.0.1 --model model.gguf --listen 127.0.0.1:8443";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_example_parses() {
        let problems = cleanroom_program::examples::problems(&Arguments::command());
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }

    #[test]
    fn the_command_line_is_consistent_and_an_image_needs_none() {
        Arguments::command().debug_assert();
        let none = Arguments::try_parse_from(["x"]).unwrap();
        assert_eq!(none.tpm.to_str(), Some("/dev/tpm0"));
        assert_eq!(none.config.to_str(), Some("/app/enclave.toml"));
        assert!(none.address.is_unspecified());
        assert!(Arguments::try_parse_from(["x", "--address", "localhost"]).is_err());
    }
}
