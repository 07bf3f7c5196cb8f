//! Runs an enclave: two processes, so that a process that reads bytes from strangers cannot reach the keys that prove the
//! enclave.
//!
//! ```text
//!                ┌ worker: plaintext; a filter of system calls, no rights, another user ┐
//! partners ──────┼─► TLS ─► API ─► backend                                              │
//!                └───────────│▲─────────▲───────────────────────────────────────────────┘
//!     questions, by purpose  ▼│         │ releases, leases, denials
//!                ┌ keeper: keys ────────┴───────────────────────────────────────────────┐
//! host ──────────┼─► control, store ─► release control ─► attester ─► /dev/nsm          │
//!                └──────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! [`cleanroom_keeper::run`] fetches the weights, identifies them and commits to them before [`cleanroom_worker::run`] parses a byte of
//! them. `docs/threat-model.md` argues the split. The programs of the platforms are thin: [`program::main`] is all that they
//! share. [`run`] is both halves in one process, for tests and measurements.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

pub mod console;
mod engine;
pub mod memory;
pub mod process;
pub mod program;
mod store;

use std::future::Future;
use std::pin::pin;

use cleanroom_guard::Clock;
use cleanroom_keeper::security_module::Device;
use cleanroom_keeper::{self as keeper, KeeperPlatform};
use cleanroom_link::listener::Listener;
use cleanroom_worker::{self as worker, WorkerInputs};
use tokio::net::UnixStream;

use crate::engine::AnyLoader;
use crate::process::Ending;
use crate::store::InMemoryStore;

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
/// [`Halt`]: the reason why the enclave does not serve.
pub async fn run<D, L, F>(platform: Platform<D, L>, shutdown: F) -> Result<(), Halt>
where
    D: Device,
    L: Listener,
    F: Future<Output = ()>,
{
    let Platform { device, listener, control, clock, config, model } = platform;
    let (ours, theirs) = UnixStream::pair().map_err(keeper::Halt::Listen)?;
    let inputs = WorkerInputs {
        keeper: theirs,
        clock: clock.clone(),
        loader: AnyLoader::Native,
        confine: || Ok(()),
        listener: || Ok(listener),
    };
    let (open, store, model_limit) = (|| Ok(()), InMemoryStore::new(model), u64::MAX);
    let platform = KeeperPlatform { device, control, clock, config, store, model_limit, worker: ours, open };
    let (mut keeper, worker) = (pin!(keeper::run(platform, shutdown)), pin!(worker::run(inputs)));
    tokio::select! {
        biased;
        result = &mut keeper => Ok(result?),
        // The keeper has been told why.
        _ = worker => Ok(keeper.await?),
    }
}

/// Why an enclave does not serve.
#[derive(Debug, thiserror::Error)]
pub enum Halt {
    /// The keeper says why.
    #[error(transparent)]
    Keeper(#[from] keeper::Halt),
    /// The worker's process has ended.
    #[error(transparent)]
    Ended(#[from] Ending),
}

impl Halt {
    /// Whether the enclave broke. In every other case it refused what it was given, and would refuse it again.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        match self {
            Self::Keeper(halt) => halt.is_failure(),
            Self::Ended(_) => true,
        }
    }
}
