//! `key`: make and show keys.

use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Subcommand, ValueEnum};
use cleanroom_attestation::release::PublicKey;
use serde_json::json;
use zeroize::Zeroizing;

use crate::Outcome;
use crate::failure::Failure;
use crate::files;
use crate::signer::{Signer, public_key};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a key: FILE (private, readable by you alone) and FILE.pub (to give away).
    New {
        /// Where the private key goes; must not exist.
        #[arg(value_name = "FILE")]
        out: PathBuf,
        /// How it signs.
        #[arg(long, value_enum, default_value_t = Kind::Ed25519)]
        algorithm: Kind,
    },
    /// Show a key's algorithm, id and public part.
    Show {
        /// A private or a public key in PEM.
        file: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Kind {
    /// Ed25519.
    Ed25519,
    /// ECDSA P-384 with SHA-384: what most hardware modules can hold.
    P384,
}

impl Command {
    pub(crate) fn run(self) -> Result<Outcome, Failure> {
        match self {
            Self::New { out, algorithm } => new(&out, algorithm),
            Self::Show { file } => {
                let key =
                    public_key(&file).or_else(|_| Signer::from_file(&file).map(|signer| signer.public()))?;
                Ok(describe(&key, None))
            }
        }
    }
}

fn new(out: &Path, algorithm: Kind) -> Result<Outcome, Failure> {
    let random = SystemRandom::new();
    let made = match algorithm {
        // Version 1 of PKCS#8, which other tools read as well.
        Kind::Ed25519 => Ed25519KeyPair::generate_pkcs8v1(&random),
        Kind::P384 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, &random),
    };
    let made = made.map_err(|_| Failure::Environment("no random numbers to make a key from".to_owned()))?;
    files::write_new(out, pem("PRIVATE KEY", made.as_ref()).as_bytes(), 0o600)?;
    let key = Signer::from_file(out)?.public();
    let mut public = out.as_os_str().to_owned();
    public.push(".pub");
    files::write_new(Path::new(&public), pem("PUBLIC KEY", key.spki()).as_bytes(), 0o644)?;
    Ok(describe(&key, Some((out, Path::new(&public)))))
}

fn describe(key: &PublicKey, written: Option<(&Path, &Path)>) -> Outcome {
    let mut text = format!("{} key\n  id    {}\n  spki  {key}\n", key.algorithm(), key.id());
    let mut json = json!({ "algorithm": key.algorithm().to_string(), "id": key.id(), "spki": key });
    if let Some((private, public)) = written {
        text += &format!("wrote {} (keep it) and {} (give it away)", private.display(), public.display());
        json["private"] = private.display().to_string().into();
        json["public"] = public.display().to_string().into();
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
