//! Keys that sign: in a file, or in a device that a command talks to.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use clap::Args;
use cleanroom_attestation::release::{Algorithm, Id, PublicKey, RootKey};
use cleanroom_program::file;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::files;

/// The largest key file, in bytes.
const KEY_FILE_LIMIT: usize = 16 << 10;
/// What the first line of every private key in PEM contains, encrypted ones and older forms included.
const LABEL: &[u8] = b"PRIVATE KEY-----";

/// The key that signs.
#[derive(Args, Debug, Clone)]
pub(crate) struct SignerArguments {
    /// A private key: PKCS#8 in PEM, Ed25519 or P-384, as `key new` writes it. Only its owner may be able to
    /// read it.
    #[arg(long, value_name = "FILE", required_unless_present = "sign_with", conflicts_with = "sign_with")]
    key: Option<PathBuf>,
    /// A shell command that signs, for a key in a device. It reads the bytes to sign from standard input and
    /// writes the signature to standard output: raw Ed25519 (64 bytes), or ECDSA with SHA-384 in DER. There
    /// is no time limit, so that you can enter a PIN; for a service, put `timeout 10` in front. For example:
    /// pkcs11-tool --module LIB --sign --id 01 --mechanism ECDSA-SHA384 --signature-format openssl
    #[arg(long, value_name = "COMMAND", requires = "name")]
    sign_with: Option<String>,
    /// The name, in the root, of the key that --sign-with uses.
    #[arg(long = "as", value_name = "NAME", requires = "sign_with")]
    name: Option<Id>,
}

/// A key that signs, or a command that does it.
pub(crate) enum Signer {
    Ed25519(Box<Ed25519KeyPair>),
    P384(Box<EcdsaKeyPair>),
    Command { command: String, public: PublicKey },
}

impl SignerArguments {
    /// The signer, and its key among `candidates`.
    pub(crate) fn find<'a>(&self, candidates: &[&'a RootKey]) -> Result<(Signer, &'a RootKey), Failure> {
        let names = || candidates.iter().map(|key| key.name.as_str()).collect::<Vec<_>>().join(", ");
        let not_one = |key: &str| Failure::Refused {
            what: key.to_owned(),
            code: "not-in-the-role",
            problem: format!(
                "the root does not let this key sign this document; the keys that may: {}",
                names()
            ),
        };
        match (&self.key, &self.sign_with, &self.name) {
            (Some(path), ..) => {
                let signer = Signer::from_file(path)?;
                let public = signer.public();
                let key = candidates.iter().find(|key| key.spki == public);
                let key =
                    key.ok_or_else(|| not_one(&format!("{} (key id {})", path.display(), public.id())))?;
                Ok((signer, key))
            }
            (None, Some(command), Some(name)) => {
                let key =
                    candidates.iter().find(|key| key.name == *name).ok_or_else(|| not_one(name.as_str()))?;
                Ok((Signer::Command { command: command.clone(), public: key.spki.clone() }, key))
            }
            _ => Err(Failure::usage("expected a signing key: --key FILE, or --sign-with COMMAND --as NAME")),
        }
    }
}

impl Signer {
    /// Reads PKCS#8 in PEM.
    pub(crate) fn from_file(path: &Path) -> Result<Self, Failure> {
        let pem = file::read_secret(path, KEY_FILE_LIMIT)?;
        let refused = |problem: &str| Failure::Refused {
            what: path.display().to_string(),
            code: "key",
            problem: format!(
                "{problem}; expected an unencrypted PKCS#8 private key in PEM (BEGIN PRIVATE KEY), Ed25519 or \
                 P-384, as `cleanroom-authority key new` writes it"
            ),
        };
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|error| refused(&error.to_string()))?;
        let der = der.secret_pkcs8_der();
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            return Ok(Self::Ed25519(Box::new(pair)));
        }
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, der);
        pair.map(|pair| Self::P384(Box::new(pair))).map_err(|error| refused(&error.to_string()))
    }

    pub(crate) fn public(&self) -> PublicKey {
        let (algorithm, raw) = match self {
            Self::Ed25519(pair) => (Algorithm::Ed25519, pair.public_key().as_ref()),
            Self::P384(pair) => (Algorithm::P384, pair.public_key().as_ref()),
            Self::Command { public, .. } => return public.clone(),
        };
        #[expect(
            clippy::expect_used,
            reason = "a key pair of these two kinds has a public key of these two kinds"
        )]
        PublicKey::from_raw(algorithm, raw).expect("the library's own encoding of its own key")
    }

    /// Signs `message`. The caller verifies the signature before it uses it: a command may return anything.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Self::P384(pair) => pair
                .sign(&SystemRandom::new(), message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| Failure::Environment("the P-384 key could not sign".to_owned())),
            Self::Command { command, .. } => run(command, message),
        }
    }
}

/// Runs a shell command with `message` on its standard input, and returns its output.
fn run(command: &str, message: &[u8]) -> Result<Vec<u8>, Failure> {
    /// More bytes than any signature has.
    const OUTPUT_LIMIT: u64 = 1024;
    let failed = |problem: String| Failure::Environment(format!("the signing command `{command}` {problem}"));
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = shell.spawn().map_err(|error| failed(format!("did not start: {error}")))?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let mut signature = Vec::new();
    let read = std::thread::scope(|scope| {
        // A command that does not read all of its input makes a wrong signature, which is found out later.
        scope.spawn(move || input.map(|mut input| input.write_all(message)));
        output.map_or(Ok(0), |output| output.take(OUTPUT_LIMIT).read_to_end(&mut signature))
    });
    let status = child.wait().map_err(|error| failed(format!("was lost: {error}")))?;
    if !status.success() {
        return Err(failed(format!("failed ({status}); run it by hand with any input to see why")));
    }
    read.map_err(|error| failed(format!("gave no signature: {error}")))?;
    Ok(signature)
}

/// Whether a file holds a private key in PEM, whatever its permissions.
pub(crate) fn is_private_key(path: &Path) -> Result<bool, Failure> {
    let bytes = Zeroizing::new(files::read(path, KEY_FILE_LIMIT)?);
    Ok(bytes.windows(LABEL.len()).any(|window| window == LABEL))
}

/// Reads a public key: `SubjectPublicKeyInfo` in PEM.
pub(crate) fn public_key(path: &Path) -> Result<PublicKey, Failure> {
    PublicKey::from_spki(&public_key_der(path)?).map_err(|error| Failure::key(path, &error))
}

/// Reads a public key of any kind: the DER of a `SubjectPublicKeyInfo`, out of PEM.
pub(crate) fn public_key_der(path: &Path) -> Result<Vec<u8>, Failure> {
    let pem = files::read(path, KEY_FILE_LIMIT)?;
    let der = SubjectPublicKeyInfoDer::from_pem_slice(&pem).map_err(|error| Failure::Refused {
        what: path.display().to_string(),
        code: "key",
        problem: format!(
            "{error}; expected a public key in PEM (BEGIN PUBLIC KEY), as `key new` writes next to the private one"
        ),
    })?;
    Ok(der.as_ref().to_vec())
}
