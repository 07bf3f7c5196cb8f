//! The options of every command that judges by a policy in a file of the user's own.

use std::path::PathBuf;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::policy::Policy;

use crate::outcome::Failure;
use crate::policy_file::load;

/// Where the policy is.
#[derive(Clone, clap::Args)]
pub(super) struct PolicyFile {
    /// Your policy: trust anchors, accepted images and models
    #[arg(long, value_name = "FILE", default_value = "trust.toml")]
    pub(super) policy: PathBuf,

    /// Refuse a policy file whose SHA-256 is not this one
    #[arg(long, value_name = "SHA256", value_parser = Sha256Digest::from_written)]
    pub(super) policy_sha256: Option<Sha256Digest>,
}

impl PolicyFile {
    /// Reads the policy.
    ///
    /// # Errors
    /// [`Failure`] says what is wrong with the file.
    pub(super) fn load(&self) -> Result<Policy, Failure> {
        load(&self.policy, self.policy_sha256)
    }
}
