//! `key`: makes keys and shows them.

use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Subcommand, ValueEnum};
use cleanroom_attestation::release::PublicKey;
use cleanroom_program::file;
use serde_json::json;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::signer::{Signer, is_private_key, public_key};
use crate::{Outcome, add};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a key pair: FILE is private and only you can read it, FILE.pub is public.
    #[command(after_help = NEW_EXAMPLES)]
    New {
        /// The new file for the private key. An existing file is never overwritten.
        #[arg(value_name = "FILE")]
        out: PathBuf,
        /// The signature algorithm.
        #[arg(long, value_enum, default_value_t = Kind::Ed25519)]
        algorithm: Kind,
    },
    /// Show a key's algorithm, id and public part.
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// A private or a public key in PEM.
        file: PathBuf,
    },
}

const NEW_EXAMPLES: &str = "\
Examples:
  cleanroom-authority key new offline.pem --algorithm p384
  cleanroom-authority key new online.pem                  # give online.pem.pub to the others";

const SHOW_EXAMPLES: &str = "\
Examples:
  cleanroom-authority key show bank.pub
  cleanroom-authority --json key show offline.pem         # the id and the public part, for programs";

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Kind {
    /// Ed25519.
    Ed25519,
    /// ECDSA on P-384 with SHA-384, which most hardware security modules support.
    P384,
}

impl Command {
    pub(crate) fn run(self) -> Result<Outcome, Failure> {
        match self {
            Self::New { out, algorithm } => new(&out, algorithm),
            Self::Show { file } => {
                let key = if is_private_key(&file)? {
                    Signer::from_file(&file)?.public()
                } else {
                    public_key(&file)?
                };
                Ok(describe(&key, None))
            }
        }
    }
}

fn new(out: &Path, algorithm: Kind) -> Result<Outcome, Failure> {
    let random = SystemRandom::new();
    let made = match algorithm {
        // Version 1 of PKCS#8: other tools read it too.
        Kind::Ed25519 => Ed25519KeyPair::generate_pkcs8v1(&random),
        Kind::P384 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, &random),
    };
    let made = made.map_err(|_| Failure::Environment("no random numbers to make a key from".to_owned()))?;
    let mut public = out.as_os_str().to_owned();
    public.push(".pub");
    let public = Path::new(&public);
    // Neither is overwritten, and neither is left without the other.
    for path in [public, out] {
        if path.symlink_metadata().is_ok() {
            return Err(exists(path, out, public));
        }
    }
    file::create_secret(out, pem("PRIVATE KEY", made.as_ref()).as_bytes())?;
    let shown = Signer::from_file(out).and_then(|signer| {
        let key = signer.public();
        file::create_new(public, pem("PUBLIC KEY", key.spki()).as_bytes(), file::PUBLIC)?;
        Ok(key)
    });
    match shown {
        Ok(key) => Ok(describe(&key, Some((out, public)))),
        Err(failure) => {
            // Nobody has this key yet, so nothing is lost with it, and the command can be run again.
            let _ = std::fs::remove_file(out);
            Err(failure)
        }
    }
}

fn exists(path: &Path, out: &Path, public: &Path) -> Failure {
    let other = if path == out { public } else { out };
    let advice = if other.exists() {
        "choose another name"
    } else {
        "an earlier run may have been interrupted before it told you; if nobody has this key, remove the file \
         and run this again"
    };
    Failure::Environment(format!("{} exists already and is not overwritten: {advice}", path.display()))
}

fn describe(key: &PublicKey, written: Option<(&Path, &Path)>) -> Outcome {
    let mut text = format!("{} key\n  id    {}\n  spki  {key}\n", key.algorithm(), key.id());
    let mut json = json!({ "algorithm": key.algorithm().to_string(), "id": key.id(), "spki": key });
    if let Some((private, public)) = written {
        text += &format!(
            "wrote {} (keep it secret) and {} (give it to the others)",
            private.display(),
            public.display()
        );
        add(&mut json, "private", private.display().to_string());
        add(&mut json, "public", public.display().to_string());
    }
    Outcome { text, json }
}

/// RFC 7468: base64 in lines of 64 characters.
fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let base64 = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(base64.len() * 2 + 64));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for (index, character) in base64.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}
