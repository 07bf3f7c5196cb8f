//! `witness`: cosigns the logs of enclaves, so that no two readers can be shown two of one.

mod logs;
mod serve;

use clap::Subcommand;

use crate::Outcome;
use crate::failure::Failure;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a witness of enclaves' logs. Anybody can run one.
    ///
    /// A witness cosigns a checkpoint of a log only if that log contains everything
    /// that the witness has cosigned before. What it cosigns is on its disk before the
    /// answer leaves. So a host that shows one log to one auditor and another log to
    /// the next one needs the help of as many witnesses as each of them asks for. Each
    /// boot of an enclave has a log. The witness takes a boot once its evidence is
    /// that of an enclave that --policy accepts, and lists it for good: a boot that
    /// somebody hides is found there.
    ///
    ///   POST /add-checkpoint    a checkpoint; the answer is the cosignature (C2SP tlog-witness)
    ///   POST /v1/boots          the first entry of a log
    ///   GET  /boots             every boot, one in each line
    ///   GET  /BOOT/checkpoint   the newest checkpoint that was cosigned
    ///   GET  /v1/status, /metrics, /healthz
    ///
    /// SIGTERM and SIGINT let running requests finish. SIGHUP: reads --policy again,
    /// and says in a line of the log what came of it; a policy that cannot be used
    /// changes nothing. Logs that are cosigned already stay. The log of the program
    /// goes to standard error; `CLEANROOM_LOG=debug` shows more.
    #[command(verbatim_doc_comment, after_help = SERVE_EXAMPLES)]
    Serve(Box<serve::Serve>),
    /// Show the key of a witness in the form that `cleanroom audit --witness` takes.
    #[command(after_help = KEY_EXAMPLES)]
    Key(serve::Identity),
}

const SERVE_EXAMPLES: &str = "\
Examples:
  cleanroom-authority key new witness.pem
  cleanroom-authority witness serve --key witness.pem --name witness.bank.example \\
      --policy trust.toml --state witness
  cleanroom-authority witness serve --key witness.pem --name witness.bank.example \\
      --policy trust.toml --root roots --release release.json --state witness --listen 0.0.0.0:8720

Keep the folder of --state. A witness that loses it can be shown a log that was
rolled back, and must begin again under another name or key.";

const KEY_EXAMPLES: &str = "\
Examples:
  cleanroom-authority witness key --key witness.pem --name witness.bank.example
  cleanroom-authority --json witness key --key witness.pem --name witness.bank.example";

impl Command {
    pub(crate) fn run(self, json: bool) -> Result<Outcome, Failure> {
        match self {
            Self::Serve(serve) => serve.run(json),
            Self::Key(identity) => {
                let key = identity.key()?.public().to_string();
                Ok(Outcome { json: serde_json::json!({ "witness": key }), text: key })
            }
        }
    }
}
