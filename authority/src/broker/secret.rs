//! `broker secret`: makes a model's key and splits it among brokers.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{Broker, Brokers, Id, List, Weights};
use cleanroom_key_release::{DataKey, Purpose, Secret, SplitError};
use cleanroom_program::file;
use serde_json::json;
use zeroize::Zeroizing;

use super::share_file::{HeldShare, hex};
use crate::Outcome;
use crate::failure::Failure;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make the key of one model's weights, and a share of it for each broker.
    ///
    /// The folder gets `data.key`, which `seal --key` takes; NAME.share for each broker; and `weights.json`,
    /// which `release draft --weights` takes. Seal the model, and give each broker its share over a channel
    /// that you trust. Then remove `data.key` and the shares. Any NEEDED brokers together can rebuild the
    /// key. Fewer brokers learn nothing about it.
    #[command(after_help = NEW_EXAMPLES)]
    New(New),
    /// Show the purpose of a share and the commitment that a release must list for it, but never the share
    /// itself.
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// The share's file.
        file: PathBuf,
    },
}

const NEW_EXAMPLES: &str = "\
Examples:
  cleanroom-authority broker secret new --out keys --needed 2 \\
      --broker bank --broker utility --broker regulator \\
      --model-sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

const SHOW_EXAMPLES: &str = "\
Examples:
  cleanroom-authority broker secret show bank.share";

#[derive(Args)]
pub(crate) struct New {
    /// The digest of the weights before they are sealed.
    #[arg(long, value_name = "SHA256")]
    model_sha256: Sha256Digest,
    /// How many brokers together can make the key.
    #[arg(long, value_name = "NUMBER")]
    needed: usize,
    /// A broker's name, or a name for AWS KMS (`broker kms seal`). Give it once for each; at most 16.
    #[arg(long = "broker", value_name = "NAME", required = true)]
    brokers: Vec<Id>,
    /// The folder for the files. It must not have any of them yet.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

impl Command {
    pub(crate) fn run(self) -> Result<Outcome, Failure> {
        match self {
            Self::New(new) => new.run(),
            Self::Show { file } => {
                let held = HeldShare::read(&file)?;
                let (commitment, purpose) = (held.commitment(), Purpose::Weights.word());
                let text = format!(
                    "a share for broker {}\n  purpose     {purpose}\n  model       SHA-256 {}\n  commitment  {commitment}",
                    held.broker, held.model
                );
                let json = json!({ "broker": held.broker, "purpose": purpose, "model_sha256": held.model,
                    "commitment": commitment });
                Ok(Outcome { text, json })
            }
        }
    }
}

impl New {
    fn run(self) -> Result<Outcome, Failure> {
        let Self { model_sha256: model, needed, mut brokers, out } = self;
        brokers.sort();
        if brokers.windows(2).any(|pair| pair.first() == pair.get(1)) {
            return Err(Failure::usage("a broker is named twice; each holds one share"));
        }
        // A name is a file's name here.
        if let Some(name) = brokers.iter().find(|name| name.as_str().contains('/')) {
            return Err(Failure::usage(format!("{name}: the name of a broker has no / here")));
        }
        let failed = |error: SplitError| match error {
            SplitError::Numbers { .. } => Failure::usage(error.to_string()),
            SplitError::Random => Failure::Environment(error.to_string()),
        };
        let secret = Secret::generate().map_err(failed)?;
        let shares = secret.split(needed, brokers.len()).map_err(failed)?;
        let key = DataKey::derive(&secret, Purpose::Weights, &model);
        let key = key.ok_or_else(|| Failure::Environment("the cryptographic library failed".to_owned()))?;

        file::create_folder(&out, 0o700)?;
        let mut of = Vec::new();
        for (broker, share) in brokers.into_iter().zip(shares) {
            let held = HeldShare { model, broker: broker.clone(), share };
            held.write(&out.join(format!("{broker}.share")))?;
            of.push(Broker { name: broker, sha256: held.commitment() });
        }
        let mut text = Zeroizing::new(String::with_capacity(65));
        text.push_str(&hex(key.as_bytes()));
        text.push('\n');
        file::create_secret(&out.join("data.key"), text.as_bytes())?;
        let of = List::new(of).ok_or_else(|| Failure::usage("a model has at most 16 brokers"))?;
        let weights = Weights { brokers: Brokers { needed: needed as u64, of } };
        let mut bytes =
            serde_json::to_vec_pretty(&weights).map_err(|error| Failure::Environment(error.to_string()))?;
        bytes.push(b'\n');
        // Last: where it is, everything is.
        file::create_new(&out.join("weights.json"), &bytes, file::PUBLIC)?;
        Ok(outcome(&out, &model, &weights))
    }
}

fn outcome(out: &Path, model: &Sha256Digest, weights: &Weights) -> Outcome {
    let Weights { brokers } = weights;
    let names: Vec<&str> = brokers.of.iter().map(|broker| broker.name.as_str()).collect();
    let folder = out.display();
    let text = format!(
        "a key for the model {model} in {folder}\n  \
         data.key      seal the model with it (seal --key), then remove it\n  \
         NAME.share    for {}: give each its own, then remove them\n  \
         weights.json  for release draft --weights: {} of {} make the key",
        names.join(", "),
        brokers.needed,
        names.len()
    );
    Outcome { text, json: json!({ "folder": folder.to_string(), "model_sha256": model, "weights": weights }) }
}
