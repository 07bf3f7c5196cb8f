//! `broker`: holds one share of a model's key, and releases it to enclaves that prove what they are.

mod allowed;
mod challenge;
mod days;
mod judge;
mod kms;
mod log;
mod secret;
mod serve;
mod share_file;

use std::path::PathBuf;

use clap::Subcommand;

pub(crate) use self::log::{Happening, happenings};
use crate::Outcome;
use crate::failure::Failure;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a broker: the service that releases this authority's share of a model's
    /// key.
    ///
    /// The broker gives its share to an enclave only if all of these conditions hold:
    /// the enclave's attestation document is genuine, fresh, and of an image of the
    /// release; the enclave holds the newest root and release and a lease in force;
    /// the release names this broker and this share for the model; the model is active
    /// and not halted; and this broker's own list allows image and model. The share is
    /// sealed to a key that only that enclave has. The log has an entry for the share,
    /// on the disk, before the answer leaves.
    ///
    ///   POST /v1/challenge  32 random bytes
    ///   POST /v1/share      an enclave's request; the answer is the sealed share
    ///   POST /v1/retention  an enclave's request for the secret of the day, or for its part of one record
    ///   GET  /v1/status, /metrics, /healthz
    ///
    /// SIGTERM and SIGINT let running requests finish. SIGHUP: reads --policy and
    /// --allow again, and says in a line of the log what came of it; if one of them
    /// cannot be used, both stay as they were. Root, release and denials are looked at
    /// all the time. The log of the program goes to standard error;
    /// `CLEANROOM_LOG=debug` shows more.
    #[command(verbatim_doc_comment, after_help = SERVE_EXAMPLES)]
    Serve(Box<serve::Serve>),
    /// Make and look at shares.
    #[command(subcommand)]
    Secret(secret::Command),
    /// Let AWS KMS hold a share in a broker's place.
    #[command(subcommand)]
    Kms(kms::Command),
    /// Look at the log of a broker.
    #[command(subcommand)]
    Log(LogCommand),
}

#[derive(Subcommand)]
pub(crate) enum LogCommand {
    /// Check that a log is complete and unchanged, and count its entries.
    ///
    /// Each entry contains the SHA-256 of the entry before it. Keep the last digest that this command prints
    /// in another place. Anyone who can write the file can write another chain, but no other chain has this
    /// digest at this place.
    #[command(after_help = LOG_EXAMPLES)]
    Verify {
        /// The log.
        file: PathBuf,
        /// The SHA-256 of an entry that must be in it, as an earlier run printed it.
        #[arg(long, value_name = "SHA256")]
        contains: Option<cleanroom_attestation::digest::Sha256Digest>,
    },
}

const SERVE_EXAMPLES: &str = "\
Examples:
  cleanroom-authority broker serve --root roots --release release.json --denials denials \\
      --policy trust.toml --allow allow.toml --share bank.share --log bank.log
  cleanroom-authority broker serve --listen 0.0.0.0:8710 --root roots --release release.json \\
      --denials denials --policy trust.toml --allow allow.toml --share bank.share --log bank.log

  cleanroom-authority broker serve --root roots --release release.json --denials denials \\
      --policy trust.toml --allow allow.toml --log bank.log --days days --key broker.pem

trust.toml says which security modules are believed: [[trust_anchor]] and
[freshness]. The rest comes from the release. allow.toml is this authority's
own list:

  version = 1
  images = [\"PCR0 in hexadecimal\"]                     # of enclaves
  nitrotpm_images = [\"register 4 in hexadecimal\"]       # of instances with a NitroTPM
  [[model]]
  id = \"forecast-8b\"
  sha256 = \"digest of the weights\"";

const LOG_EXAMPLES: &str = "\
Examples:
  cleanroom-authority broker log verify bank.log
  cleanroom-authority --json broker log verify bank.log \\
      --contains e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

impl Command {
    pub(crate) fn run(self, json: bool) -> Result<Outcome, Failure> {
        match self {
            Self::Serve(serve) => serve.run(json),
            Self::Secret(command) => command.run(),
            Self::Kms(command) => command.run(),
            Self::Log(LogCommand::Verify { file, contains }) => log::verify(&file, contains),
        }
    }
}
