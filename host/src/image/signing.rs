//! Signs images: with a key in a file, or with a program that has access to one.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm,
};
use cleanroom_attestation::measurement::{Curve, SignatureError, SignatureRequest};
use cleanroom_attestation::time::Timestamp;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;

use super::{ImageFileError, read};

/// A certificate and the means to sign with its key.
#[derive(Debug)]
pub struct Signer {
    certificate: Vec<u8>,
    key: Key,
}

#[derive(Debug)]
enum Key {
    /// A private key in PEM form, PKCS#8 or SEC 1.
    File(PathBuf),
    /// A command for the shell. It gets the digest, raw, on standard input and gives the signature, raw, on
    /// standard output.
    Command(String),
}

/// A certificate that ends within this time is worth a warning: Nitro starts no image whose certificate has
/// ended.
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);

impl Signer {
    /// Signs with the private key in the file `key`, in PEM form. `certificate` is a PEM file; it goes into
    /// the image whole.
    ///
    /// # Errors
    ///
    /// [`SigningError`] when the certificate cannot be read.
    pub fn with_key(certificate: &Path, key: &Path) -> Result<Self, SigningError> {
        Ok(Self { certificate: read(certificate)?, key: Key::File(key.to_owned()) })
    }

    /// Signs with the output of `command`, which the shell runs: a security token's tool, or a cloud's.
    ///
    /// # Errors
    ///
    /// [`SigningError`] when the certificate cannot be read.
    pub fn with_command(certificate: &Path, command: &str) -> Result<Self, SigningError> {
        Ok(Self { certificate: read(certificate)?, key: Key::Command(command.to_owned()) })
    }

    /// The certificate's file.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The signature section for `request`, verified. Adds to `warnings` what is no reason to stop.
    ///
    /// # Errors
    ///
    /// [`SigningError`] when the certificate is not in force at `now`, or the signature is not made or not by
    /// its key.
    pub fn sign(
        &self,
        request: &SignatureRequest,
        now: Timestamp,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<u8>, SigningError> {
        match request.certificate().validity {
            Some((not_before, not_after)) if now < not_before || now > not_after => {
                return Err(SigningError::NotInForce { not_before, not_after, now });
            }
            Some((_, not_after)) if not_after.since(now).is_none_or(|left| left < SOON) => warnings.push(format!(
                "the signing certificate ends at {not_after}: Nitro will not start this image after that, however often it ran"
            )),
            Some(_) => {}
            None => warnings.push("the signing certificate's validity cannot be read".to_owned()),
        }
        let curve = request.certificate().curve;
        let message = request.to_be_signed();
        let signature = match &self.key {
            Key::File(path) => sign_with_key(path, curve, &message)?,
            Key::Command(command) => sign_with_command(command, curve, &message)?,
        };
        Ok(request.section(&signature)?)
    }
}

fn sign_with_key(path: &Path, curve: Curve, message: &[u8]) -> Result<Vec<u8>, SigningError> {
    let unusable = || SigningError::Key { path: path.to_owned(), curve };
    let pem = zeroize::Zeroizing::new(read(path)?);
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| unusable())?;
    let pair =
        EcdsaKeyPair::from_private_key_der(algorithm(curve), key.secret_der()).map_err(|_| unusable())?;
    let signature = pair.sign(&SystemRandom::new(), message).map_err(|_| unusable())?;
    Ok(signature.as_ref().to_vec())
}

fn sign_with_command(command: &str, curve: Curve, message: &[u8]) -> Result<Vec<u8>, SigningError> {
    let failed = |source| SigningError::CommandStart { source };
    let (name, hash) = hash(curve);
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .env("CLEANROOM_SIGN_HASH", name)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // A program that does not read its input has not signed it, and the verification will say so.
        match input.write_all(digest::digest(hash, message).as_ref()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(failed(error)),
            _ => {}
        }
    }
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        return Err(SigningError::CommandStatus { status: output.status.to_string() });
    }
    if output.stdout.is_empty() {
        return Err(SigningError::NoOutput);
    }
    Ok(output.stdout)
}

fn algorithm(curve: Curve) -> &'static EcdsaSigningAlgorithm {
    match curve {
        Curve::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
        Curve::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        Curve::P521 => &ECDSA_P521_SHA512_FIXED_SIGNING,
    }
}

fn hash(curve: Curve) -> (&'static str, &'static digest::Algorithm) {
    match curve {
        Curve::P256 => ("SHA256", &digest::SHA256),
        Curve::P384 => ("SHA384", &digest::SHA384),
        Curve::P521 => ("SHA512", &digest::SHA512),
    }
}

/// Why an image is not signed.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The certificate or the key cannot be read.
    #[error(transparent)]
    File(#[from] ImageFileError),
    /// The certificate is not in force.
    #[error(
        "expected a certificate that is in force at {now}, it is from {not_before} to {not_after}: Nitro would not start the image"
    )]
    NotInForce {
        /// When it begins.
        not_before: Timestamp,
        /// When it ends.
        not_after: Timestamp,
        /// When it was to sign.
        now: Timestamp,
    },
    /// The key cannot sign for the certificate.
    #[error("expected a private key on {curve}, as the certificate has it, in PEM form (PKCS#8 or SEC 1) in `{}`", path.display())]
    Key {
        /// The key's file.
        path: PathBuf,
        /// The certificate's curve.
        curve: Curve,
    },
    /// The signing command could not be run.
    #[error("could not run the signing command: {source}")]
    CommandStart {
        /// What the system said.
        source: io::Error,
    },
    /// The signing command failed.
    #[error("the signing command failed: {status}")]
    CommandStatus {
        /// How it ended.
        status: String,
    },
    /// The signing command gave nothing.
    #[error("expected a signature on the signing command's standard output, got nothing")]
    NoOutput,
    /// The certificate is of no use, or the signature is not by its key.
    #[error("{source} [{}]", source.code())]
    Signature {
        /// Why.
        source: Box<SignatureError>,
    },
}

impl From<SignatureError> for SigningError {
    fn from(source: SignatureError) -> Self {
        Self::Signature { source: Box::new(source) }
    }
}

#[cfg(test)]
mod tests;
