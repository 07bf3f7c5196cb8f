//! What runs inside the enclave: trusted with data.
//!
//! Two processes, so that whatever reads what strangers write cannot reach what proves the enclave:
//!
//! ```text
//!                       ┌ worker: plaintext; a filter of system calls, no rights, another user ────────┐
//! host's relay ─────────┼─► serve (bounded accept) ─► channel (TLS) ─► api (OpenAI over HTTP) ─► engine│
//!                       └───────────────────────────────│▲──────────────▲──────────────────────────────┘
//!                       questions, typed by purpose     ▼│              │ what is released and leased
//!                       ┌ keeper: keys ──────────────────┴──────────────┴──────────────────────────────┐
//! host's agent, model ──┼─► control ─► release ─► desk: receipt key, security_module ─► /dev/nsm       │
//!                       └──────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! [`keeper::run`] identifies the weights and commits to them before [`worker::run`] parses a byte of them. `docs/threat-model.md`
//! argues the split. What differs between platforms comes in from the programs; [`run`] is both halves in one process.

#![forbid(unsafe_code)]

pub mod admission;
pub mod api;
pub mod channel;
pub mod commitment;
pub mod config;
pub mod console;
pub mod keeper;
pub mod memory;
pub mod model_port;
pub mod nitro;
pub mod process;
mod public_attestation;
pub mod receipt_key;
pub mod release;
pub mod security_module;
pub mod serve;
mod wire;
pub mod worker;

use std::future::Future;
use std::io;
use std::pin::pin;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::ReleaseError;
use tokio::net::UnixStream;

use crate::commitment::CommitmentError;
use crate::config::ConfigError;
use crate::keeper::{KeeperPlatform, WorkerEnd};
use crate::model_port::ModelBytes;
use crate::process::Ending;
pub use crate::public_attestation::Facts;
use crate::receipt_key::ReceiptKeyError;
use crate::release::Clock;
use crate::security_module::{Device, SecurityModuleError};
use crate::serve::Listener;
use crate::worker::Seat;

/// What an enclave gets from the platform that it runs on.
pub struct Platform<D, L> {
    /// The security module.
    pub device: D,
    /// Where partners' connections arrive.
    pub listener: L,
    /// Where the host hands in releases, denials and leases. Needed when the configuration names a root.
    pub control: Option<L>,
    /// The machine's own clock.
    pub clock: Clock,
    /// The measured configuration.
    pub config: String,
    /// The model file. Untrusted: its digest is committed before anything is served.
    pub model: Vec<u8>,
}

/// Keeper and worker in one process, without what confines the worker: for tests and measurements, on the same code and the same
/// protocol.
///
/// # Errors
/// [`Halt`]: the reason why it does not serve.
pub async fn run<D, L, F>(platform: Platform<D, L>, shutdown: F) -> Result<(), Halt>
where
    D: Device,
    L: Listener,
    F: Future<Output = ()>,
{
    let Platform { device, listener, control, clock, config, model } = platform;
    let (ours, theirs) = UnixStream::pair().map_err(Halt::Listen)?;
    let seat = Seat { keeper: theirs, clock: clock.clone(), confine: || Ok(()), listener: || Ok(listener) };
    let (open, model) = (|| Ok(()), ModelBytes::from(model));
    let platform = KeeperPlatform { device, control, clock, config, model, worker: ours, open };
    let (mut keeper, worker) = (pin!(keeper::run(platform, shutdown)), pin!(worker::run(seat)));
    tokio::select! {
        biased;
        result = &mut keeper => result,
        // The keeper has been told why.
        _ = worker => keeper.await,
    }
}

/// Why an enclave does not serve.
#[derive(Debug, thiserror::Error)]
pub enum Halt {
    /// The configuration is not one.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The weights are not the ones that the configuration names.
    #[error("expected a model with the digest {expected}, got {actual}")]
    OtherModel {
        /// What the configuration names.
        expected: Sha256Digest,
        /// What the host handed over.
        actual: Sha256Digest,
    },
    /// The configuration's root is none.
    #[error("the [release] root of the configuration is not one: {0}")]
    Root(#[source] ReleaseError),
    /// The platform has no control connection, and the configuration needs one.
    #[error(
        "the configuration names a release root, and the host gave no control connection to hand releases in"
    )]
    NoControl,
    /// The security module could not be started.
    #[error(transparent)]
    SecurityModule(#[from] SecurityModuleError),
    /// No receipt key could be made.
    #[error(transparent)]
    ReceiptKey(#[from] ReceiptKeyError),
    /// The commitments could not be made.
    #[error(transparent)]
    Commitment(#[from] CommitmentError),
    /// Nobody could be let in.
    #[error("partners' connections cannot be taken: {0}")]
    Listen(#[source] io::Error),
    /// The worker cannot serve, or no longer does.
    #[error(transparent)]
    Worker(#[from] WorkerEnd),
    /// The worker's process has ended.
    #[error(transparent)]
    Ended(#[from] Ending),
}

impl Halt {
    /// Whether the enclave broke. Everything else is a refusal of what it was given, and would be one again.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        matches!(
            self,
            Self::Ended(_)
                | Self::Worker(
                    WorkerEnd::Gone
                        | WorkerEnd::Protocol(_)
                        | WorkerEnd::OutOfTurn(_)
                        | WorkerEnd::Unconfirmed
                )
        )
    }
}
