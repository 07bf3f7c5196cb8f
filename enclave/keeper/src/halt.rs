//! The reasons for which the keeper ends the enclave.

use std::io;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::ReleaseError;
use cleanroom_config::ConfigError;
use cleanroom_weights::WeightsError;

use crate::commitment::CommitmentError;
use crate::receipt_key::ReceiptKeyError;
use crate::security_module::SecurityModuleError;
use crate::worker_link::WorkerEnd;

/// Why the keeper ends the enclave.
#[derive(Debug, thiserror::Error)]
pub enum Halt {
    /// The configuration is not one.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The weights cannot be had.
    #[error("{} ({})", .0, .0.code())]
    Weights(#[from] WeightsError),
    /// The weights are not the ones that the configuration names.
    #[error("expected a model with the digest {expected}, got {actual}")]
    OtherModel {
        /// The digest in the configuration.
        expected: Sha256Digest,
        /// The digest of what the host handed over.
        actual: Sha256Digest,
    },
    /// The configuration's root is not a root.
    #[error("the [release] root of the configuration is invalid: {0}")]
    Root(#[source] ReleaseError),
    /// The platform has no control connection, and the configuration needs one.
    #[error(
        "the configuration names a release root, and the host gave no control connection to hand releases in"
    )]
    NoControl,
    /// The security module could not be started.
    #[error(transparent)]
    SecurityModule(#[from] SecurityModuleError),
    /// The receipt key could not be made.
    #[error(transparent)]
    ReceiptKey(#[from] ReceiptKeyError),
    /// The commitments could not be made.
    #[error(transparent)]
    Commitment(#[from] CommitmentError),
    /// Partners' connections cannot be taken.
    #[error("partners' connections cannot be taken: {0}")]
    Listen(#[source] io::Error),
    /// The worker cannot serve, or no longer does.
    #[error(transparent)]
    Worker(#[from] WorkerEnd),
}

impl Halt {
    /// Whether the enclave broke. In every other case it refused what it was given, and would refuse it again.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        match self {
            Self::Weights(error) => error.is_failure(),
            Self::Worker(end) => !matches!(end, WorkerEnd::Failed(_)),
            _ => false,
        }
    }
}
