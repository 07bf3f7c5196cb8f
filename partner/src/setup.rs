//! What a partner needs before it can ask: its policy, its key, a model, and the way to the hosts.
//!
//! The program's commands, and programs that link this library, read the same files by this one path.

use std::path::{Path, PathBuf};

use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::policy::{ModelReference, Policy};
use cleanroom_channel::identity::Identity;
use cleanroom_program::file::{SecretError, read_secret};

use crate::address::Address;
use crate::channel::RelyingParty;
use crate::dial::{Dialer, ProxyChoice};
use crate::outcome::{Failure, usage};
use crate::policy_file;
use crate::record::RecordFolder;

/// The longest key file, in bytes.
const MAX_KEY_BYTES: usize = 16 * 1024;

/// Who asks, under which policy, for which model, and where.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The clean room's hosts, the preferred one first.
    pub addresses: Vec<Address>,
    /// The policy's file.
    pub policy: PathBuf,
    /// What SHA-256 of that file must be.
    pub policy_sha256: Option<Sha256Digest>,
    /// The file of the partner's key.
    pub key: PathBuf,
    /// The model to use; not needed when the policy has only one.
    pub model: Option<ModelId>,
    /// The HTTP proxy to reach hosts through, or `none`. Without it the environment decides.
    pub proxy: Option<String>,
    /// The folder in which a record of each verification is kept.
    pub record: Option<PathBuf>,
}

impl Setup {
    /// The usual files in the current folder, and the proxy of the environment.
    #[must_use]
    pub fn new(addresses: Vec<Address>) -> Self {
        let (policy, key) = (PathBuf::from("trust.toml"), PathBuf::from("cleanroom.key"));
        Self { addresses, policy, policy_sha256: None, key, model: None, proxy: None, record: None }
    }

    /// Reads the files.
    ///
    /// # Errors
    /// [`Failure`] names the file and what is wrong with it.
    pub fn load(&self) -> Result<(RelyingParty, ModelId), Failure> {
        let policy = policy_file::load(&self.policy, self.policy_sha256)?;
        let identity = load_key(&self.key)?;
        let model = self.choose_model(&policy)?;
        let mut party = RelyingParty::new(&identity, policy, model.clone())
            .map_err(|error| usage("setup", error.to_string()))?;
        if let Some(folder) = &self.record {
            let folder = RecordFolder::create(folder).map_err(|error| usage("record", error.to_string()))?;
            party = party.with_records(folder);
        }
        Ok((party, model))
    }

    /// Reads the policy again, for the same partner with the same key. Gives nothing when `party` asks under this policy
    /// and for this model already.
    ///
    /// # Errors
    /// [`Failure`] names the file and what is wrong with it.
    pub fn load_again(&self, party: &RelyingParty) -> Result<Option<RelyingParty>, Failure> {
        let policy = policy_file::load(&self.policy, self.policy_sha256)?;
        let model = self.choose_model(&policy)?;
        if policy == *party.policy() && model == *party.model() {
            return Ok(None);
        }
        party.under(policy, model).map(Some).map_err(|error| usage("setup", error.to_string()))
    }

    /// How the hosts are reached.
    ///
    /// # Errors
    /// [`Failure`] when the proxy cannot be used.
    pub fn dialer(&self) -> Result<Dialer, Failure> {
        let proxy = match self.proxy.as_deref() {
            Some("none") => Ok(ProxyChoice::none()),
            Some(url) => url.parse().map(|proxy| ProxyChoice::of(proxy, "")),
            None => ProxyChoice::from_environment(|name| std::env::var(name).ok()),
        };
        let proxy = proxy.map_err(|error| usage("proxy", error.to_string()))?;
        Ok(Dialer::new(self.addresses.clone(), proxy))
    }

    fn choose_model(&self, policy: &Policy) -> Result<ModelId, Failure> {
        if let Some(model) = &self.model {
            return Ok(model.clone());
        }
        if let Some(trust) = policy.release() {
            let id = trust.model().ok_or_else(|| {
                usage(
                    "model",
                    "the policy pins a release root and names no model; \
                     add `model` to [release], or choose one (`--model`)"
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
                format!("the policy has several models; choose one (`--model`): {}", ids.join(" or ")),
            )),
        }
    }
}

/// Reads a key file that `cleanroom key new` wrote.
///
/// # Errors
/// [`Failure`] names the file and what is wrong with it.
pub fn load_key(path: &Path) -> Result<Identity, Failure> {
    let pem = read_secret(path, MAX_KEY_BYTES).map_err(|error| match error {
        SecretError::File(error) => Failure::unreadable(path, &error.source),
        SecretError::Exposed { .. } => usage("key-exposed", error.to_string()),
        SecretError::TooLarge { .. } => usage("too-long", error.to_string()),
    })?;
    let wrong = |problem: String| usage("key", format!("{}: {problem}", path.display()));
    let pem = std::str::from_utf8(&pem).map_err(|error| wrong(error.to_string()))?;
    Identity::from_pem(pem).map_err(|error| wrong(error.to_string()))
}
