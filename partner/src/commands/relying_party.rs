//! The options of every command that talks to a clean room: who asks, under which policy, for which model.

use std::path::{Path, PathBuf};

use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::policy::{ModelReference, Policy};
use cleanroom_channel::identity::Identity;
use cleanroom_program::file::{SecretError, read_secret};

use super::policy_file::{PolicyFile, usage};
use crate::address::Address;
use crate::channel::RelyingParty;
use crate::dial::{Dialer, ProxyChoice};
use crate::outcome::{Failure, Outcome};
use crate::session::SessionError;

/// The longest key file, in bytes.
const MAX_KEY_BYTES: usize = 16 * 1024;

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
}

impl PartyArguments {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Failure`] names the file and what is wrong with it.
    pub(super) fn load(&self) -> Result<(RelyingParty, ModelId), Failure> {
        let policy = self.policy.load()?;
        let identity = load_key(&self.key)?;
        let model = self.model(&policy)?;
        let party = RelyingParty::new(&identity, policy, model.clone())
            .map_err(|error| usage("setup", error.to_string()))?;
        Ok((party, model))
    }

    /// How the hosts at `addresses` are reached.
    ///
    /// # Errors
    /// [`Failure`] when the proxy cannot be used.
    pub(super) fn dialer(&self, addresses: Vec<Address>) -> Result<Dialer, Failure> {
        let proxy = match self.proxy.as_deref() {
            Some("none") => Ok(ProxyChoice::none()),
            Some(url) => url.parse().map(|proxy| ProxyChoice::of(proxy, "")),
            None => ProxyChoice::from_environment(|name| std::env::var(name).ok()),
        };
        let proxy = proxy.map_err(|error| usage("proxy", error.to_string()))?;
        Ok(Dialer::new(addresses, proxy))
    }

    /// The policy file alone.
    pub(super) fn policy(&self) -> &PolicyFile {
        &self.policy
    }

    fn model(&self, policy: &Policy) -> Result<ModelId, Failure> {
        if let Some(model) = &self.model {
            return Ok(model.clone());
        }
        if let Some(trust) = policy.release() {
            let id = trust.model().ok_or_else(|| {
                usage(
                    "model",
                    "the policy pins a release root and names no model; \
                     add `model` to [release], or give --model"
                        .to_owned(),
                )
            })?;
            return ModelId::new(id).map_err(|error| usage("model", error.to_string()));
        }
        let mut ids: Vec<&str> = policy.models().iter().map(ModelReference::id).collect();
        ids.dedup();
        match ids.as_slice() {
            [id] => ModelId::new(id).map_err(|error| usage("model", error.to_string())),
            [] => Err(usage("model", "the policy has no [[model]]; add the one that you accept".to_owned())),
            ids => Err(usage(
                "model",
                format!("the policy has several models; choose --model {}", ids.join(" or ")),
            )),
        }
    }
}

/// Reads a key file that [`super::key`] wrote.
pub(super) fn load_key(path: &Path) -> Result<Identity, Failure> {
    let pem = read_secret(path, MAX_KEY_BYTES).map_err(|error| match error {
        SecretError::File(error) => Failure::unreadable(path, &error.source),
        SecretError::Exposed { .. } => usage("key-exposed", error.to_string()),
        SecretError::TooLarge { .. } => usage("too-long", error.to_string()),
    })?;
    let wrong = |problem: String| usage("key", format!("{}: {problem}", path.display()));
    let pem = std::str::from_utf8(&pem).map_err(|error| wrong(error.to_string()))?;
    Identity::from_pem(pem).map_err(|error| wrong(error.to_string()))
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
