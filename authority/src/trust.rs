//! `trust`: writes the policy that partners of a simulated clean room need.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use cleanroom_attestation::channel::ModelId;
use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::measurement::of_name;
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::release::PayloadType;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::Outcome;
use crate::failure::Failure;
use crate::files;
use crate::measured;

/// The largest certificate that is read, in bytes.
const MAX_ROOT_BYTES: usize = 16 << 10;

pub(crate) const EXAMPLES: &str = "\
Examples:
  cleanroom-authority trust --development-root host/development-root.pem --release-root root.json > trust.toml
  cleanroom-authority trust --development-root host/development-root.pem \\
      --program enclave --config enclave.toml \\
      --instance-id i-0c1ea2200cc1ea220 --model demo=demo.gguf > trust.toml";

#[derive(Args)]
pub(crate) struct Trust {
    /// The development root of the host: a certificate in PEM.
    #[arg(long, value_name = "FILE")]
    development_root: PathBuf,

    /// Pin this release root. Its authorities then decide which images and models run, and where.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["program", "config", "instance_id", "model"])]
    release_root: Option<PathBuf>,

    /// The model of the release that is used when a request names none.
    #[arg(long, value_name = "ID", requires = "release_root")]
    use_model: Option<ModelId>,

    /// The enclave's program.
    #[arg(long, value_name = "FILE", required_unless_present = "release_root")]
    program: Option<PathBuf>,

    /// The enclave's command line: its arguments with one space between them.
    #[arg(long, value_name = "TEXT", default_value = "")]
    command_line: String,

    /// The enclave's configuration.
    #[arg(long, value_name = "FILE", required_unless_present = "release_root")]
    config: Option<PathBuf>,

    /// The parent instance on which the clean room must run.
    #[arg(long, value_name = "ID")]
    instance_id: Option<String>,

    /// A model and its file. May be given several times.
    #[arg(long, value_name = "ID=FILE", required_unless_present = "release_root")]
    model: Vec<Model>,

    /// The greatest age of evidence, and the longest time that a session may rest on it.
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
        let mut policy = format!(
            "version = 1\n\n[[trust_anchor]]\nname = \"development\"\ntier = \"development\"\n\
             sha256 = \"{root}\"\n"
        );
        match &self.release_root {
            Some(file) => policy += &self.pinned(file)?,
            None => policy += &self.measured()?,
        }
        let _ = write!(policy, "\n[freshness]\nmax_age = \"{0}\"\nmax_session = \"{0}\"\n", self.max_age);
        Policy::from_toml(&policy).map_err(|error| Failure::usage(error.to_string()))?;
        Ok(Outcome { json: serde_json::json!({ "policy": policy }), text: policy })
    }

    /// The policy's part for a pinned root.
    fn pinned(&self, file: &std::path::Path) -> Result<String, Failure> {
        let root = files::read(file, PayloadType::Root.envelope_limit())?;
        let root = String::from_utf8(root).ok().filter(|root| !root.contains("'''"));
        let root = root.ok_or_else(|| Failure::usage(format!("{}: expected a root", file.display())))?;
        let model = self.use_model.as_ref().map_or_else(String::new, |id| format!("model = \"{id}\"\n"));
        Ok(format!("\n[release]\n{model}root = '''\n{}\n'''\n", root.trim()))
    }

    /// The policy's part for an image, a deployment and models that are measured here.
    fn measured(&self) -> Result<String, Failure> {
        let (Some(program), Some(config)) = (&self.program, &self.config) else {
            return Err(Failure::usage("expected --program and --config, or --release-root"));
        };
        let [pcr0, pcr1, pcr2] = measured::program(program, config, &self.command_line)?;
        let mut text = format!(
            "\n[[image]]\nname = \"simulated\"\npcr0 = \"{pcr0}\"\npcr1 = \"{pcr1}\"\npcr2 = \"{pcr2}\"\n"
        );
        if let Some(instance_id) = &self.instance_id {
            let _ = write!(text, "\n[deployment]\npcr4 = [\"{}\"]\n", of_name(instance_id));
        }
        for Model { id, file } in &self.model {
            let digest = measured::model_under(file, config)?;
            let _ = write!(text, "\n[[model]]\nid = \"{id}\"\nsha256 = \"{digest}\"\n");
        }
        Ok(text)
    }
}
