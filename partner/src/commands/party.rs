//! The options of every command that talks to a clean room: who asks, under which policy, for which model.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::policy::{MAX_POLICY_LENGTH, ModelReference, Policy};
use cleanroom_channel::identity::Identity;
use zeroize::Zeroizing;

use crate::channel::RelyingParty;
use crate::cli::{Failure, Outcome};
use crate::session::SessionError;

/// The longest key file, in bytes.
const MAX_KEY_BYTES: u64 = 16 * 1024;

/// Who asks, under which policy, for which model.
#[derive(clap::Args)]
pub(super) struct Party {
    /// Your policy: trust anchors, accepted images and models
    #[arg(long, value_name = "FILE", default_value = "trust.toml")]
    policy: PathBuf,

    /// Refuse the policy file unless its SHA-256 is this one
    #[arg(long, value_name = "SHA256")]
    policy_sha256: Option<Sha256Digest>,

    /// Your key, made by `cleanroom key new`
    #[arg(long, value_name = "FILE", default_value = "cleanroom.key")]
    key: PathBuf,

    /// The model to use; not needed when the policy has only one
    #[arg(long, value_name = "ID")]
    model: Option<ModelId>,
}

impl Party {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Failure`] names the file and what is wrong with it.
    pub(super) fn load(&self) -> Result<(RelyingParty, ModelId), Failure> {
        let policy = self.policy()?;
        let identity = load_key(&self.key)?;
        let model = self.model(&policy)?;
        let party = RelyingParty::new(&identity, policy, model.clone())
            .map_err(|error| usage("setup", error.to_string()))?;
        Ok((party, model))
    }

    /// Reads the policy file alone.
    ///
    /// # Errors
    /// [`Failure`] says what is wrong with it.
    pub(super) fn policy(&self) -> Result<Policy, Failure> {
        load_policy(&self.policy, self.policy_sha256)
    }

    fn model(&self, policy: &Policy) -> Result<ModelId, Failure> {
        if let Some(model) = &self.model {
            return Ok(model.clone());
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

pub(super) fn load_policy(path: &Path, pin: Option<Sha256Digest>) -> Result<Policy, Failure> {
    let text = read(path, MAX_POLICY_LENGTH as u64)?;
    let actual = Sha256Digest::of(&[text.as_bytes()]);
    if let Some(expected) = pin.filter(|expected| *expected != actual) {
        let message =
            format!("{}: expected the policy with SHA-256 {expected}, got {actual}", path.display());
        return Err(usage("policy-pin", message));
    }
    Policy::from_toml(&text)
        .map_err(|error| usage("policy", format!("{} is not a valid policy: {error}", path.display())))
}

/// Reads a key file that [`super::key`] wrote.
pub(super) fn load_key(path: &Path) -> Result<Identity, Failure> {
    let pem = read(path, MAX_KEY_BYTES)?;
    Identity::from_pem(&pem).map_err(|error| usage("key", format!("{}: {error}", path.display())))
}

fn read(path: &Path, limit: u64) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    let read =
        fs::File::open(path).and_then(|file| file.take(limit.saturating_add(1)).read_to_string(&mut text));
    let length = read.map_err(|error| Failure::unreadable(path, &error))?;
    if length as u64 > limit {
        return Err(usage(
            "too-long",
            format!("{} is too long: expected at most {limit} bytes", path.display()),
        ));
    }
    Ok(text)
}

pub(super) fn usage(code: &'static str, message: String) -> Failure {
    Failure { outcome: Outcome::Usage, code, message }
}

/// What a session that did not come about means for the exit code.
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
