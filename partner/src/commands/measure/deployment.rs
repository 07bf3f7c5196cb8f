//! The registers of a deployment: of a signing certificate, of the parent's role, and of the parent itself.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_attestation::measurement::{SigningCertificate, of_name};
use serde::Serialize;

use super::signer;
use crate::clock::now;
use crate::outcome::{Failure, Outcome};
use crate::output::{Listing, printable};

/// The longest certificate file, in bytes.
const MAX_CERTIFICATE_FILE: u64 = 64 << 10;

/// What a deployment is bound to, beside its image.
#[derive(Args)]
pub(super) struct DeploymentArguments {
    /// PCR8 of images that this certificate signs: PEM or DER
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,

    /// PCR3 of enclaves whose parent instance has this IAM role, by its ARN
    #[arg(long, value_name = "ARN", value_parser = role)]
    role: Option<String>,

    /// PCR4 of enclaves on this parent instance, by its id
    #[arg(long, value_name = "ID", value_parser = instance)]
    instance: Option<String>,
}

/// The registers that were asked for.
#[derive(Default, Serialize)]
pub(super) struct Deployment {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pcr3: Option<Sha384Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pcr4: Option<Sha384Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pcr8: Option<Sha384Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signing_certificate: Option<SigningCertificate>,
}

impl DeploymentArguments {
    /// Computes the registers.
    ///
    /// # Errors
    ///
    /// [`Failure`] when the certificate cannot be read or is not one that signs images.
    pub(super) fn measure(self) -> Result<Deployment, Failure> {
        let certificate = self.certificate.as_deref().map(read_certificate).transpose()?;
        Ok(Deployment {
            pcr3: self.role.as_deref().map(of_name),
            pcr4: self.instance.as_deref().map(of_name),
            pcr8: certificate.as_ref().map(SigningCertificate::pcr8),
            role: self.role,
            instance: self.instance,
            signing_certificate: certificate,
        })
    }
}

impl Deployment {
    /// Registers without their origin.
    #[cfg(test)]
    pub(super) fn of_registers(
        pcr3: Option<Sha384Digest>,
        pcr4: Option<Sha384Digest>,
        pcr8: Option<Sha384Digest>,
    ) -> Self {
        Self { pcr3, pcr4, pcr8, ..Self::default() }
    }

    /// Whether nothing was asked for.
    pub(super) const fn is_empty(&self) -> bool {
        self.pcr3.is_none() && self.pcr4.is_none() && self.pcr8.is_none()
    }

    pub(super) fn add_to(&self, listing: &mut Listing) {
        let registers = [
            ("PCR3", self.pcr3, self.role.as_deref()),
            ("PCR4", self.pcr4, self.instance.as_deref()),
            ("PCR8", self.pcr8, Some("the certificate below")),
        ];
        for (name, value, of) in registers {
            if let Some(value) = value {
                listing.field(name, format!("{value}\n{}", printable(of.unwrap_or_default())));
            }
        }
        if let Some(certificate) = &self.signing_certificate {
            listing.heading("Signing certificate");
            signer::fields(listing, certificate, now());
        }
    }
}

fn read_certificate(path: &Path) -> Result<SigningCertificate, Failure> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_CERTIFICATE_FILE + 1).read_to_end(&mut bytes));
    let length = read.map_err(|error| Failure::unreadable(path, &error))?;
    let refused = |code: &'static str, problem: String| Failure {
        outcome: Outcome::Usage,
        code,
        message: format!("{} is not a certificate that signs images: {problem}", path.display()),
    };
    if length as u64 > MAX_CERTIFICATE_FILE {
        return Err(refused("too-long", format!("expected at most {MAX_CERTIFICATE_FILE} bytes")));
    }
    // DER begins with a sequence, which no text does.
    let certificate = if bytes.first() == Some(&0x30) {
        SigningCertificate::from_der(&bytes)
    } else {
        SigningCertificate::from_pem(&bytes)
    };
    certificate.map_err(|error| refused(error.code(), error.to_string()))
}

/// `arn:PARTITION:iam::ACCOUNT:role/PATH/NAME`. The register is of every character, so what is not exactly a role's ARN would
/// only give a value that no enclave has.
fn role(text: &str) -> Result<String, String> {
    let expected = || {
        let got = if text.starts_with("arn:") && text.contains(":assumed-role/") {
            "the ARN of a session; PCR3 is of the role itself".to_owned()
        } else if text.starts_with("arn:") && text.contains(":instance-profile/") {
            "the ARN of an instance profile; PCR3 is of the role in it".to_owned()
        } else {
            format!("{text:?}")
        };
        format!("expected a role's ARN like arn:aws:iam::123456789012:role/name, got {got}")
    };
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let ["arn", partition, "iam", "", account, role] = parts.as_slice() else { return Err(expected()) };
    let name = role.strip_prefix("role/").unwrap_or_default();
    let account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    if !account
        || !partition.starts_with("aws")
        || name.is_empty()
        || !text.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Err(expected());
    }
    Ok(text.to_owned())
}

/// `i-` and 8 or 17 hexadecimal digits.
fn instance(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("i-").unwrap_or_default();
    let right = matches!(digits.len(), 8 | 17)
        && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if right {
        Ok(text.to_owned())
    } else {
        Err(format!("expected an instance id like i-0123456789abcdef0, in lower case, got {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_aws_measures() {
        assert!(role("arn:aws:iam::123456789012:role/path/to/Name+=,.@-_").is_ok());
        assert!(role("arn:aws-us-gov:iam::123456789012:role/name").is_ok());
        for wrong in [
            "",
            "name",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam::12345678901:role/name",
            "arn:aws:iam::123456789012:user/name",
            "arn:aws:iam::123456789012:role/na me",
            "arn:aws:s3:::bucket",
        ] {
            assert!(role(wrong).is_err(), "{wrong}");
        }
        let session = role("arn:aws:sts::123456789012:assumed-role/name/i-0123456789abcdef0").unwrap_err();
        assert!(session.contains("of the role itself"), "{session}");
        let profile = role("arn:aws:iam::123456789012:instance-profile/name").unwrap_err();
        assert!(profile.contains("the role in it"), "{profile}");
        assert!(instance("i-0123456789abcdef0").is_ok() && instance("i-01234567").is_ok());
        for wrong in [
            "",
            "i-",
            "i-0123456789ABCDEF0",
            "i-0123456789abcdef",
            "0123456789abcdef0",
            "i-0123456789abcdef0\n",
        ] {
            assert!(instance(wrong).is_err(), "{wrong}");
        }
    }
}
