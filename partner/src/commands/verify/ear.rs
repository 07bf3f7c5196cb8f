//! The verdict as an attestation result, for other people's programs.

use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use clap::Args;
use cleanroom_attestation::verdict::Verdict;
use cleanroom_channel::identity::Identity;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;

use crate::commands::audit::write_file;
use crate::outcome::{Failure, usage};
use crate::setup::load_key;

/// Where the result goes.
#[derive(Args)]
#[group(skip)]
pub(super) struct EarArguments {
    /// Write the verdict, with the document, as an EAT Attestation Result in a conceptual message wrapper (CMW, RFC 9999),
    /// signed with your key. The result follows a draft (draft-ietf-rats-ear-04), and changes with it
    #[arg(long, value_name = "FILE")]
    ear: Option<PathBuf>,
}

/// A file for a result, and the key that signs it.
pub(super) struct EarFile {
    path: PathBuf,
    identity: Identity,
}

impl EarArguments {
    /// Reads the key, if there is something to sign.
    pub(super) fn open(&self, key: &Path) -> Result<Option<EarFile>, Failure> {
        let open = |path: &PathBuf| Ok(EarFile { path: path.clone(), identity: load_key(key)? });
        self.ear.as_ref().map(open).transpose()
    }
}

/// Writes the result, if somebody wants it. A verdict that fails has one, too.
pub(super) fn write(file: Option<&EarFile>, verdict: &Verdict, document: &[u8]) -> Result<(), Failure> {
    let Some(EarFile { path, identity }) = file else { return Ok(()) };
    let sign = |message: &[u8]| sign(identity, message);
    let result = cleanroom_standards::ear(verdict, document, &identity.key_digest(), sign);
    let result =
        result.ok_or_else(|| usage("key", "the key could not sign the attestation result".to_owned()))?;
    write_file(path, result.as_bytes())
}

/// An ES384 signature in the form of JSON Web Signatures: r and s, 48 bytes each.
fn sign(identity: &Identity, message: &[u8]) -> Option<Vec<u8>> {
    let pem = identity.to_pem();
    let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).ok()?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, key.secret_pkcs8_der()).ok()?;
    key.sign(&SystemRandom::new(), message).ok().map(|signature| signature.as_ref().to_vec())
}
