//! What runs inside the enclave: trusted with data.
//!
//! ```text
//! host's relay ─► serve (bounded accept) ─► channel (TLS, evidence) ─► api (OpenAI over HTTP) ─► engine
//!                 control ─► release ─┤ (what the authorities permit)
//!                                               │
//!                                        security_module ─► /dev/nsm
//! ```
//!
//! [`run`] is the whole life of an enclave: read the measured configuration, identify the weights, commit to them in the
//! security module, and only then serve. What differs between platforms comes in as a [`Platform`].

#![forbid(unsafe_code)]

pub mod admission;
pub mod api;
pub mod channel;
pub mod commitment;
pub mod config;
pub mod console;
pub mod memory;
pub mod model_port;
pub mod nitro;
mod public_attestation;
pub mod receipt_key;
pub mod release;
pub mod security_module;
pub mod serve;

use std::future::Future;
use std::sync::Arc;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::model::model_digest;
use cleanroom_attestation::release::ReleaseError;
use cleanroom_channel::identity::IdentityError;
use cleanroom_engine::{Engine, EngineConfig, Model, ModelError, StartError};
use zeroize::Zeroizing;

use crate::admission::partners_share;
use crate::api::Service;
use crate::channel::Attester;
use crate::commitment::CommitmentError;
use crate::config::{Config, ConfigError};
use crate::receipt_key::{ReceiptKey, ReceiptKeyError};
use crate::release::{Clock, Guard};
use crate::security_module::{Device, SecurityModule, SecurityModuleError};
use crate::serve::{Listener, Server};

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

/// The life of an enclave, from its configuration to the end of its last session after `shutdown`.
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
    let config = Config::from_toml(&config)?;

    // The engine has a copy of its own that it erases when the model is revoked; this one must not outlive it.
    let model = Zeroizing::new(model);
    let digest = model_digest(&model);
    if let Some(expected) = config.model_sha256.filter(|expected| *expected != digest) {
        return Err(Halt::OtherModel { expected, actual: digest });
    }
    let weights = Model::from_gguf(&model)?;
    drop(model);
    tracing::info!(model = %config.model, digest = %digest, "model loaded");

    let security_module = SecurityModule::start(device)?;
    let receipt_key = ReceiptKey::generate()?;
    let committed = commitment::commit(&security_module, digest, &receipt_key).await?;
    tracing::info!("commitments made, locked and read back");

    let limits = &config.limits;
    let engine = Engine::start(
        Arc::new(weights),
        EngineConfig {
            threads: limits.threads,
            max_sequences: limits.sequences,
            max_per_owner: partners_share(limits.sequences),
            max_queued: limits.queued,
            kv_memory: limits.kv_memory.get(),
            prefix_time: limits.prefix_time,
        },
    )?;
    let mut service = Service::new(engine, config.model.clone(), digest, limits).shaped(config.traffic);
    let mut attester =
        Attester::new(committed, config.model.clone(), security_module.clone(), receipt_key.clone())?;
    let guard = match &config.release_root {
        None => None,
        Some(root) => {
            let guard = Guard::new(root, config.model.clone(), digest, clock, security_module, receipt_key);
            let guard = guard.map_err(Halt::Root)?;
            service = service.guarded(Arc::clone(&guard));
            attester = attester.guarded(Arc::clone(&guard));
            Some((guard, control.ok_or(Halt::NoControl)?))
        }
    };
    let service = Arc::new(service);
    let control = async {
        match guard {
            Some((guard, control)) => release::serve(control, guard, || service.release_changed()).await,
            None => std::future::pending().await,
        }
    };
    let server = Server::new(Arc::new(attester), Arc::clone(&service), config);
    tracing::info!("serving");
    tokio::select! {
        () = server.serve(listener, shutdown) => {}
        () = control => {}
    }
    tracing::info!("drained");
    Ok(())
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
    /// The model file cannot be used.
    #[error("the model file cannot be used: {0}")]
    Model(#[from] ModelError),
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
    /// The engine could not be started.
    #[error("the engine cannot be started: {0}")]
    Engine(#[from] StartError),
    /// No TLS key could be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}
