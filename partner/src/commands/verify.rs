//! `cleanroom verify`: the verdict on a clean room, or on a document in a file.

mod document;
#[cfg(feature = "online")]
mod ear;
#[cfg(feature = "online")]
mod engine;
mod listing;
#[cfg(feature = "online")]
mod room;

use clap::Args;

#[cfg(not(feature = "online"))]
use super::policy_file::PolicyFile;
#[cfg(feature = "online")]
use super::relying_party::PartyArguments;
#[cfg(feature = "online")]
use crate::address::Address;
#[cfg(feature = "online")]
use crate::outcome::usage;
use crate::outcome::{Failure, Outcome};
use crate::output::Terminal;

/// Judge a clean room, or a document in a file, against your policy
///
/// The report lists each check with its expected and its actual value. The verdict answers each question
/// (platform, image, deployment, model, freshness, session) by itself. A question that you did not ask is
/// `not asked`, never passed.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Verify {
    /// The clean room's host: HOST:PORT or unix:PATH
    #[cfg(feature = "online")]
    #[arg(required_unless_present = "document", conflicts_with = "document")]
    address: Option<Address>,

    #[cfg(feature = "online")]
    #[command(flatten)]
    party: PartyArguments,

    #[cfg(not(feature = "online"))]
    #[command(flatten)]
    policy: PolicyFile,

    #[command(flatten)]
    document: document::Document,

    #[cfg(feature = "online")]
    #[command(flatten)]
    ear: ear::EarArguments,

    #[cfg(feature = "online")]
    #[command(flatten)]
    engine: engine::EngineArguments,
}

#[cfg(feature = "online")]
macro_rules! online_examples {
    () => {
        "
  cleanroom verify cleanroom.example:8443
  cleanroom verify unix:/run/cleanroom.sock --policy trust.toml --json
  cleanroom verify cleanroom.example:8443 --record records/
  cleanroom verify cleanroom.example:8443 --ear result.cmw.json
  cleanroom verify cleanroom.example:8443 --engine enclave.toml \\
      --weights e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    };
}
#[cfg(not(feature = "online"))]
macro_rules! online_examples {
    () => {
        ""
    };
}

const EXAMPLES: &str = concat!(
    "Examples:",
    online_examples!(),
    "
  cleanroom verify --document evidence.cbor --nonce 00112233445566778899aabbccddeeff
  cleanroom verify --document evidence.cbor --at 2026-01-31T12:00:00Z --json
  cleanroom verify --document records/20260131T120000.000Z-proven-5f1d0c6a9b3e2471.json --as-recorded

A policy:
  version = 1
  [[trust_anchor]]
  name = \"aws\"
  [[image]]                  # what `cleanroom measure IMAGE --toml NAME` prints
  name = \"cleanroom 0.1.0\"
  pcr0 = \"...\"
  pcr1 = \"...\"
  pcr2 = \"...\"
  [[model]]
  id = \"demo\"
  sha256 = \"...\"
  [freshness]
  max_age = \"5m\""
);

impl Verify {
    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`] when a file of the user's own is wrong, or nobody answers.
    pub fn run(self, terminal: &mut Terminal) -> Result<Outcome, Failure> {
        #[cfg(feature = "online")]
        if let Some(address) = &self.address {
            let (party, model) = self.party.load()?;
            let dialer = self.party.dialer(vec![address.clone()])?;
            let ear = self.ear.open(self.party.key())?;
            let engine = self.engine.load()?;
            return room::run(address, &dialer, (&party, &model), engine.as_ref(), ear.as_ref(), terminal);
        }
        #[cfg(feature = "online")]
        if self.party.keeps_records() {
            let message = "expected --record with an address; a document in a file is a record already";
            return Err(usage("usage", message.to_owned()));
        }
        #[cfg(feature = "online")]
        let policy = self.party.policy();
        #[cfg(not(feature = "online"))]
        let policy = &self.policy;
        let policy = policy.load()?;
        #[cfg(feature = "online")]
        let ear = self.ear.open(self.party.key())?;
        let Some((verdict, document)) = self.document.judge(&policy)? else { return Ok(Outcome::Usage) };
        #[cfg(feature = "online")]
        ear::write(ear.as_ref(), &verdict, &document)?;
        #[cfg(not(feature = "online"))]
        drop(document);
        terminal.report(&verdict, &listing::listing(&verdict))?;
        Ok(listing::outcome(&verdict))
    }
}
