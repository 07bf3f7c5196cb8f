//! The engine behind a clean room, where its evidence commits to one.

use std::path::PathBuf;

use clap::Args;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::engine::Engine;

use crate::outcome::{Failure, usage};

/// The longest configuration that is read, in bytes; as long as an enclave's own.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Which engine the model is expected to be behind.
#[derive(Args)]
#[group(skip)]
pub(super) struct EngineArguments {
    /// Show the engine that this configuration of the enclave names, if the evidence commits to it. The identity of a model
    /// behind such an engine is of weights and engine together
    #[arg(long, value_name = "CONFIG", requires_all = ["address", "weights"])]
    engine: Option<PathBuf>,

    /// The digest of the weights alone, for `--engine`
    #[arg(long, value_name = "SHA256", value_parser = Sha256Digest::from_written, requires = "engine")]
    weights: Option<Sha256Digest>,
}

impl EngineArguments {
    /// The engine, and the identity that the model has behind it.
    pub(super) fn load(&self) -> Result<Option<(Engine, Sha256Digest)>, Failure> {
        let (Some(path), Some(weights)) = (&self.engine, &self.weights) else { return Ok(None) };
        let wrong = |problem: &str| usage("engine-config", format!("{}: {problem}", path.display()));
        let length = std::fs::metadata(path).map_err(|error| Failure::unreadable(path, &error))?.len();
        if length > MAX_CONFIG_BYTES {
            return Err(wrong("expected a configuration of at most 1 MiB"));
        }
        let text = std::fs::read_to_string(path).map_err(|error| Failure::unreadable(path, &error))?;
        let engine = Engine::of_config(&text).map_err(|problem| wrong(&problem))?;
        let engine =
            engine.ok_or_else(|| wrong("expected [engine], which this configuration does not have"))?;
        let identity = engine.identity(weights);
        Ok(Some((engine, identity)))
    }
}
