//! `broker kms`: a share that AWS KMS holds in a broker's place.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use cleanroom_key_release::seal_to_kms;
use cleanroom_kms::{KeyArn, PrincipalArn, SealedForKms, key_policy};
use cleanroom_program::file;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;

use super::share_file::HeldShare;
use crate::Outcome;
use crate::chain::RootArguments;
use crate::failure::Failure;
use crate::files;

/// The longest file of a public key, in bytes.
const KEY_FILE_LIMIT: usize = 4 << 10;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Seal a share to a key of KMS, so that KMS can hold it in a broker's place.
    ///
    /// The file is for hosts: `cleanroom-host run --kms-share`. Nothing in it is secret. Remove the share
    /// afterwards; only KMS opens the file. The key of KMS must be an RSA key for encryption, and its policy
    /// the one that `broker kms policy` prints.
    #[command(after_help = SEAL_EXAMPLES)]
    Seal(Seal),
    /// Print the policy of a key of KMS: for documents of the release's images alone, and for one host's
    /// role.
    ///
    /// Whoever may change the policy can let anybody have the share. So the key belongs into an account of
    /// the authority, and never into the host's. KMS compares images and deployments. It knows neither
    /// denials nor dates, and no newer release: put a new policy into force with each release that changes
    /// images. Instances with a NitroTPM get nothing.
    #[command(after_help = POLICY_EXAMPLES)]
    Policy(PolicyArguments),
}

const SEAL_EXAMPLES: &str = "\
Examples:
  aws kms create-key --key-usage ENCRYPT_DECRYPT --key-spec RSA_3072 --policy file://policy.json
  aws kms get-public-key --key-id ARN --query PublicKey --output text > aws.pub
  cleanroom-authority broker kms seal keys/aws.share --public-key aws.pub --out aws.kms.json \\
      --key-arn arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

const POLICY_EXAMPLES: &str = "\
Examples:
  cleanroom-authority broker kms policy --root roots --release release.json \\
      --administrator arn:aws:iam::111122223333:role/keys \\
      --host arn:aws:iam::444455556666:role/cleanroom-host > policy.json
  aws kms put-key-policy --key-id ARN --policy-name default --policy file://policy.json";

#[derive(Args)]
pub(crate) struct Seal {
    /// The share, as `broker secret new` writes it.
    share: PathBuf,
    /// The public half of the key: Base64, as `aws kms get-public-key` prints it, or PEM.
    #[arg(long, value_name = "FILE")]
    public_key: PathBuf,
    /// The key's ARN. An alias does not do, because its owner can point it at another key.
    #[arg(long, value_name = "ARN")]
    key_arn: KeyArn,
    /// The file for hosts. It must not exist.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Args)]
pub(crate) struct PolicyArguments {
    #[command(flatten)]
    root: RootArguments,
    /// The release whose images may have the share.
    #[arg(long, value_name = "FILE")]
    release: PathBuf,
    /// Who manages the key and cannot use it: the ARN of a role or user of the authority.
    #[arg(long, value_name = "ARN")]
    administrator: PrincipalArn,
    /// The role of the instance on which the enclave runs: its ARN.
    #[arg(long, value_name = "ARN")]
    host: PrincipalArn,
}

impl Command {
    pub(crate) fn run(self) -> Result<Outcome, Failure> {
        match self {
            Self::Seal(seal) => seal.run(),
            Self::Policy(policy) => policy.run(),
        }
    }
}

impl Seal {
    fn run(self) -> Result<Outcome, Failure> {
        let Self { share: path, public_key, key_arn: key, out } = self;
        let held = HeldShare::read(&path)?;
        let refused = |problem: String| Failure::Refused {
            what: public_key.display().to_string(),
            code: "kms-key",
            problem,
        };
        let der = files::read(&public_key, KEY_FILE_LIMIT)?;
        let der = read_public_key(&der).ok_or_else(|| {
            refused("expected a public key: Base64, as `aws kms get-public-key` prints it, or PEM".to_owned())
        })?;
        let ciphertext = seal_to_kms(&held.share, &der).map_err(|error| refused(error.to_string()))?;
        let commitment = held.commitment();
        let HeldShare { model, broker, share: _ } = held;
        let sealed = SealedForKms { model, broker, key, ciphertext };
        file::create_new(&out, &sealed.to_bytes(), file::PUBLIC)?;
        let SealedForKms { model, broker, key, ciphertext: _ } = &sealed;
        let text = format!(
            "the share of {broker} in {}, for hosts (--kms-share)\n  opened by   {key}\n  model       SHA-256 {model}\n  \
             commitment  {commitment}",
            out.display()
        );
        let json = json!({ "file": out.display().to_string(), "broker": broker, "kms_key": key,
            "model_sha256": model, "commitment": commitment });
        Ok(Outcome { text, json })
    }
}

impl PolicyArguments {
    fn run(self) -> Result<Outcome, Failure> {
        let Self { root, release: path, administrator, host } = self;
        let state = root.state_with(Some(&path), None)?;
        let refused = |problem: String| Failure::Refused {
            what: path.display().to_string(),
            code: "kms-policy",
            problem,
        };
        let release = state.release().ok_or_else(|| refused("it was not accepted".to_owned()))?;
        let policy =
            key_policy(release, &administrator, &host).map_err(|error| refused(error.to_string()))?;
        let text =
            serde_json::to_string_pretty(&policy).map_err(|error| Failure::Environment(error.to_string()))?;
        Ok(Outcome { text, json: policy })
    }
}

/// The DER of a public key in PEM or in Base64.
fn read_public_key(text: &[u8]) -> Option<Vec<u8>> {
    if text.starts_with(b"-----") {
        return SubjectPublicKeyInfoDer::from_pem_slice(text).ok().map(|der| der.as_ref().to_vec());
    }
    STANDARD.decode(text.trim_ascii()).ok()
}
