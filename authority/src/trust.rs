//! `trust`: the policy that partners of a simulated clean room need, from what the authority measures itself.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::measurement::{of_name, of_program};
use cleanroom_attestation::model::ModelDigester;
use cleanroom_attestation::policy::Policy;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::Outcome;
use crate::failure::Failure;
use crate::files;

/// The largest program, configuration and root that are read, in bytes.
const MAX_PROGRAM_BYTES: usize = 1 << 30;
const MAX_CONFIG_BYTES: usize = 1 << 20;
const MAX_ROOT_BYTES: usize = 16 << 10;

/// Write the `trust.toml` of a simulated clean room: its root, its program and configuration, its models
#[derive(Args)]
pub(crate) struct Trust {
    /// The development root of the host, a certificate in PEM
    #[arg(long, value_name = "FILE")]
    development_root: PathBuf,

    /// The enclave's program
    #[arg(long, value_name = "FILE")]
    program: PathBuf,

    /// The enclave's command line, its arguments with one space between them
    #[arg(long, value_name = "TEXT", default_value = "")]
    command_line: String,

    /// The enclave's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// The parent instance that the clean room must be on
    #[arg(long, value_name = "ID")]
    instance_id: Option<String>,

    /// A model and the file that it is in; may be repeated
    #[arg(long, value_name = "ID=FILE", required = true)]
    model: Vec<Model>,

    /// How old evidence may be, and how long a session may rest on it
    #[arg(long, value_name = "TIME", default_value = "5m")]
    max_age: String,
}

#[derive(Clone)]
struct Model {
    id: ModelId,
    file: PathBuf,
}

impl FromStr for Model {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, file) = text.split_once('=').ok_or("expected ID=FILE")?;
        let id = ModelId::new(id).map_err(|error| error.to_string())?;
        Ok(Self { id, file: file.into() })
    }
}

impl Trust {
    pub(crate) fn run(&self) -> Result<Outcome, Failure> {
        let root = files::read(&self.development_root, MAX_ROOT_BYTES)?;
        let root = CertificateDer::from_pem_slice(&root).map_err(|_| {
            Failure::usage(format!("{}: expected a certificate in PEM", self.development_root.display()))
        })?;
        let root = Sha256Digest::of(&[&root]);
        let program = files::read(&self.program, MAX_PROGRAM_BYTES)?;
        let config = files::read(&self.config, MAX_CONFIG_BYTES)?;
        let [pcr0, pcr1, pcr2] = of_program(&program, &self.command_line, &config);

        let mut policy = format!(
            "version = 1\n\n\
             [[trust_anchor]]\nname = \"development\"\ntier = \"development\"\nsha256 = \"{root}\"\n\n\
             [[image]]\nname = \"simulated\"\npcr0 = \"{pcr0}\"\npcr1 = \"{pcr1}\"\npcr2 = \"{pcr2}\"\n"
        );
        if let Some(instance_id) = &self.instance_id {
            let _ = write!(policy, "\n[deployment]\npcr4 = [\"{}\"]\n", of_name(instance_id));
        }
        for Model { id, file } in &self.model {
            let _ = write!(policy, "\n[[model]]\nid = \"{id}\"\nsha256 = \"{}\"\n", model_digest(file)?);
        }
        let _ = write!(policy, "\n[freshness]\nmax_age = \"{0}\"\nmax_session = \"{0}\"\n", self.max_age);
        Policy::from_toml(&policy).map_err(|error| Failure::usage(error.to_string()))?;
        Ok(Outcome { json: serde_json::json!({ "policy": policy }), text: policy })
    }
}

/// A model's identity, in memory that does not grow with the model.
fn model_digest(path: &Path) -> Result<Sha256Digest, Failure> {
    let failed = |error| Failure::File { verb: "read", path: path.to_owned(), error };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mut digester = ModelDigester::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(digester.finish()),
            count => digester.update(buffer.get(..count).unwrap_or_default()),
        }
    }
}
