//! `trust`: writes the policy that partners of a clean room under a development root need.

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
      --instance-id i-0c1ea2200cc1ea220 --model demo=demo.gguf > trust.toml
  cleanroom-authority trust --development-root tpm/development-root.pem --image cleanroom.efi \\
      --model demo=demo.gguf > trust.toml";

#[derive(Args)]
pub(crate) struct Trust {
    /// The development root of the host: a certificate in PEM.
    #[arg(long, value_name = "FILE")]
    development_root: PathBuf,

    /// Pin this release root. Its authorities then decide which images and models run, and where.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["program", "image", "config", "instance_id", "model"])]
    release_root: Option<PathBuf>,

    /// The model of the release that is used when a request names none.
    #[arg(long, value_name = "ID", requires = "release_root")]
    use_model: Option<ModelId>,

    /// The enclave's program.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["release_root", "image"])]
    program: Option<PathBuf>,

    /// An image instead of a program: its file, or its registers as `release draft --image` takes them.
    #[arg(long, value_name = "FILE|PCR0,PCR1,PCR2", conflicts_with = "program")]
    image: Option<String>,

    /// The enclave's command line: its arguments with one space between them.
    #[arg(long, value_name = "TEXT", default_value = "")]
    command_line: String,

    /// The enclave's configuration.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["release_root", "image"])]
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
        let image = match (&self.program, &self.config, &self.image) {
            (Some(program), Some(config), None) => {
                measured::Image::Enclave(measured::program(program, config, &self.command_line)?)
            }
            (None, _, Some(image)) => {
                measured::image(&image.split(',').map(str::to_owned).collect::<Vec<_>>())?
            }
            _ => return Err(Failure::usage("expected --program and --config, --image, or --release-root")),
        };
        let mut text = match image {
            measured::Image::Enclave([pcr0, pcr1, pcr2]) => format!(
                "\n[[image]]\nname = \"{}\"\npcr0 = \"{pcr0}\"\npcr1 = \"{pcr1}\"\npcr2 = \"{pcr2}\"\n",
                if self.image.is_some() { "image" } else { "simulated" }
            ),
            measured::Image::NitroTpm([pcr4, pcr7, pcr12]) => format!(
                "\n[[nitrotpm_image]]\nname = \"image\"\npcrs.4 = \"{pcr4}\"\npcrs.7 = \"{pcr7}\"\n\
                 pcrs.12 = \"{pcr12}\"\n"
            ),
        };
        if let Some(instance_id) = &self.instance_id {
            let _ = write!(text, "\n[deployment]\npcr4 = [\"{}\"]\n", of_name(instance_id));
        }
        for Model { id, file } in &self.model {
            let digest = match &self.config {
                Some(config) => measured::model_under(file, config)?,
                None => measured::model_file(file)?,
            };
            let _ = write!(text, "\n[[model]]\nid = \"{id}\"\nsha256 = \"{digest}\"\n");
        }
        Ok(text)
    }
}
