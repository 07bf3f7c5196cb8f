//! The options of every command that talks to a clean room: who asks, under which policy, for which model.

use std::path::{Path, PathBuf};

use cleanroom_attestation::channel::ModelId;

use super::policy_file::PolicyFile;
use crate::address::Address;
use crate::channel::RelyingParty;
use crate::dial::Dialer;
use crate::outcome::{Failure, Outcome};
use crate::session::SessionError;
use crate::setup::Setup;

/// Who asks, under which policy, for which model.
#[derive(clap::Args)]
pub(super) struct PartyArguments {
    #[command(flatten)]
    policy: PolicyFile,

    /// Your key, made by `cleanroom key new`
    #[arg(long, value_name = "FILE", default_value = "cleanroom.key")]
    key: PathBuf,

    /// The model to use; not needed when the policy has only one
    #[arg(long, value_name = "ID")]
    model: Option<ModelId>,

    /// The HTTP proxy to reach the host through: `http://[USER:PASSWORD@]HOST:PORT`, or `none`. Without this
    /// option, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` decide. This machine's own addresses are always
    /// reached directly
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,

    /// Keep a record of each verification in this folder, one file for each, also of those that fail. A
    /// verification whose record cannot be written does not count. The newest 10000 records of proven clean
    /// rooms stay, and the newest 10000 of failures. `cleanroom verify --document RECORD --as-recorded` judges
    /// one again
    #[arg(long, value_name = "FOLDER")]
    record: Option<PathBuf>,
}

impl PartyArguments {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Failure`] names the file and what is wrong with it.
    pub(super) fn load(&self) -> Result<(RelyingParty, ModelId), Failure> {
        self.setup(Vec::new()).load()
    }

    /// Reads the policy again; gives nothing when it is the one of `party`.
    ///
    /// # Errors
    /// [`Failure`] names the file and what is wrong with it.
    pub(super) fn load_again(&self, party: &RelyingParty) -> Result<Option<RelyingParty>, Failure> {
        self.setup(Vec::new()).load_again(party)
    }

    /// How the hosts at `addresses` are reached.
    ///
    /// # Errors
    /// [`Failure`] when the proxy cannot be used.
    pub(super) fn dialer(&self, addresses: Vec<Address>) -> Result<Dialer, Failure> {
        self.setup(addresses).dialer()
    }

    fn setup(&self, addresses: Vec<Address>) -> Setup {
        let PolicyFile { policy, policy_sha256 } = self.policy.clone();
        let (key, model, proxy) = (self.key.clone(), self.model.clone(), self.proxy.clone());
        Setup { addresses, policy, policy_sha256, key, model, proxy, record: self.record.clone() }
    }

    /// Whether records are to be kept.
    pub(super) fn keeps_records(&self) -> bool {
        self.record.is_some()
    }

    /// The file of the key.
    pub(super) fn key(&self) -> &Path {
        &self.key
    }

    /// The policy file alone.
    pub(super) fn policy(&self) -> &PolicyFile {
        &self.policy
    }
}

/// What it means for the exit code that there is no session.
pub(super) fn no_session(error: &SessionError) -> Failure {
    let outcome = if error.is_refusal() { Outcome::Refused } else { Outcome::Unreachable };
    Failure { outcome, code: error.code(), message: format!("{error}. Nothing was sent.") }
}

/// The runtime of commands that talk to the network.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| Failure {
        outcome: Outcome::Unreachable,
        code: "runtime",
        message: format!("the system refused to start threads: {error}"),
    })
}
