//! An attestation document, for people.

use std::path::Path;

use cleanroom_attestation::chain::{self, CertificateView, Position};
use cleanroom_attestation::document::{EnclavePcrs, Pcrs, Survey};
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::{Axis, Check, Expectation, appraise};
use serde::Serialize;

use crate::outcome::{Failure, Outcome};
use crate::output::{self, Listing, Mark, Terminal, printable};

/// Trusts the roots that AWS published and accepts whatever is under them. Only for display: of the verdict that it leads to,
/// nothing is used but whether the document is genuine.
const ANY_GENUINE: &str = r#"
version = 1
[[trust_anchor]]
name = "aws"
[[trust_anchor]]
name = "aws-us-gov"
[[image]]
name = "any"
debug = true
"#;

pub(super) fn explain(path: &Path, bytes: &[u8], terminal: &mut Terminal) -> Result<Outcome, Failure> {
    let survey = Survey::of(bytes);
    let policy = Policy::from_toml(ANY_GENUINE).map_err(|error| Failure {
        outcome: Outcome::Usage,
        code: "policy",
        message: format!("this build does not know the roots of AWS: {error}"),
    })?;
    let at = survey.timestamp.unwrap_or(Timestamp::from_seconds(0));
    let verdict = appraise(bytes, &policy, &Expectation::default(), at, None);
    let mut genuine = verdict.checks().to_vec();
    genuine.retain(|check| check.axis() == Axis::Platform && check.rejection() != Some("debug-enclave"));
    let explanation = Explanation::of(bytes, &survey, &genuine);
    terminal.report(&explanation, &listing(path, &explanation))?;
    Ok(if explanation.refused.is_none() { Outcome::Pass } else { Outcome::Refused })
}

/// What is in a document. **Only what `genuine` says is verified**, at the document's own time and under AWS's roots.
#[derive(Serialize)]
struct Explanation<'a> {
    length: usize,
    /// Why the bytes are not an attestation document. What follows is then what could be read of them.
    refused: Option<Refused>,
    /// Names of fields that could not be read.
    unread: &'a [String],
    module_id: Option<&'a str>,
    timestamp: Option<Timestamp>,
    debug: bool,
    genuine: &'a [Check],
    certificates: Vec<CertificateView>,
    pcrs: Option<&'a Pcrs>,
    nonce: Option<String>,
    user_data: Option<String>,
    public_key: Option<String>,
}

#[derive(Serialize)]
struct Refused {
    code: &'static str,
    message: String,
}

impl<'a> Explanation<'a> {
    fn of(bytes: &[u8], survey: &'a Survey<'_>, genuine: &'a [Check]) -> Self {
        let refused = survey.refusal.as_ref();
        Self {
            length: bytes.len(),
            refused: refused.map(|error| Refused { code: error.code(), message: error.to_string() }),
            unread: &survey.unread,
            module_id: survey.module_id,
            timestamp: survey.timestamp,
            debug: survey.pcrs.as_ref().and_then(Pcrs::enclave).is_some_and(EnclavePcrs::is_debug),
            genuine,
            certificates: chain::describe_certificates(&survey.cabundle, survey.certificate),
            pcrs: survey.pcrs.as_ref(),
            nonce: survey.nonce.map(hex::encode),
            user_data: survey.user_data.map(hex::encode),
            public_key: survey.public_key.map(hex::encode),
        }
    }
}

/// What stands for a value that the document does not have or that could not be read.
const UNKNOWN: &str = "(none that can be read)";

fn listing(path: &Path, explanation: &Explanation<'_>) -> Listing {
    let mut listing = Listing::new();
    listing.heading(format!("Attestation document {}", printable(&path.display().to_string())));
    if let Some(Refused { code, message }) = &explanation.refused {
        listing.field(
            "REFUSED",
            format!("{code}: {}\nno verifier takes it; this is what can be read of it", printable(message)),
        );
    }
    listing.field("length", output::bytes(explanation.length as u64));
    listing.field("module", printable(explanation.module_id.unwrap_or(UNKNOWN)));
    listing.field("time stamp", explanation.timestamp.map_or(UNKNOWN.to_owned(), |time| time.to_string()));
    if !explanation.unread.is_empty() {
        let names: Vec<String> =
            explanation.unread.iter().map(|name| format!("`{}`", printable(name))).collect();
        listing.field("not understood", names.join(", "));
    }
    if explanation.debug {
        listing.field(
            "DEBUG",
            "PCR 0, 1 or 2 is zero or absent: no image is proven, its operator can read its console",
        );
    }
    checks(&mut listing, explanation);
    certificates(&mut listing, explanation);
    if let Some(pcrs) = explanation.pcrs {
        let (kind, registers) = registers(pcrs);
        listing.heading(format!("Registers of {kind}"));
        for (index, value, meaning) in registers {
            listing.field(format!("PCR{index}"), format!("{value}\n{meaning}").trim_end().to_owned());
        }
    }
    inputs(&mut listing, explanation);
    listing
}

fn checks(listing: &mut Listing, explanation: &Explanation<'_>) {
    listing.heading("Genuine at its own time, under a root of AWS?");
    for check in explanation.genuine {
        match check.rejection() {
            None => listing.check(Mark::Ok, check.what(), printable(check.actual())),
            Some(code) => {
                let found = format!("{}\n{code}", printable(check.actual()));
                listing.check(Mark::Fail, check.what(), found);
            }
        }
    }
}

fn certificates(listing: &mut Listing, explanation: &Explanation<'_>) {
    listing.heading("Certificates, root first");
    for certificate in &explanation.certificates {
        let name = match certificate.position {
            Position::Leaf => "leaf".to_owned(),
            Position::Bundle(0) => "root".to_owned(),
            Position::Bundle(index) => format!("CA {index}"),
        };
        listing.field(name, describe(certificate));
    }
}

fn inputs(listing: &mut Listing, explanation: &Explanation<'_>) {
    listing.heading("What the enclave put in");
    for (name, value) in [
        ("nonce", &explanation.nonce),
        ("user data", &explanation.user_data),
        ("public key", &explanation.public_key),
    ] {
        listing.field(name, contents(value.as_deref()));
    }
}

fn describe(certificate: &CertificateView) -> String {
    match &certificate.contents {
        Err(reason) => format!("unreadable: {}\nSHA-256 {}", printable(reason), certificate.sha256),
        Ok(contents) => format!(
            "{}\nissued by {}\nfrom {} to {}\nSHA-256 {}",
            printable(&contents.subject),
            printable(&contents.issuer),
            contents.not_before,
            contents.not_after,
            certificate.sha256
        ),
    }
}

/// The kind of registers, and each that says something: its index, its value, its meaning.
fn registers(pcrs: &Pcrs) -> (&'static str, Vec<(u8, String, &'static str)>) {
    match pcrs {
        Pcrs::NitroEnclave(pcrs) => {
            // Registers that nobody extended are zero and left out, unless zero is what they say.
            let said = |index: u8, zero: bool| !zero || matches!(index, 0..=4 | 8);
            let shown = pcrs.iter().filter(|(index, value)| said(*index, value.is_zero()));
            (
                "a Nitro enclave",
                shown.map(|(index, value)| (index, value.to_string(), enclave_meaning(index))).collect(),
            )
        }
        Pcrs::NitroTpm(pcrs) => {
            // Zero in 12 says that nothing was added to the image at boot; 17 to 22 begin at all ones.
            let said = |index: u8, value: &[u8; 48]| match index {
                4 | 7 | 12 => true,
                17..=22 => *value != [0xff; 48],
                _ => *value != [0; 48],
            };
            let shown = pcrs.iter().filter(|(index, value)| said(*index, value.as_bytes()));
            (
                "a NitroTPM",
                shown.map(|(index, value)| (index, value.to_string(), tpm_meaning(index))).collect(),
            )
        }
    }
}

const fn enclave_meaning(index: u8) -> &'static str {
    match index {
        0 => "the whole image",
        1 => "kernel, command line and first ramdisk",
        2 => "the application",
        3 => "the IAM role of the parent instance",
        4 => "the parent instance's id",
        8 => "the certificate that signed the image",
        16 => "in a clean room: the model",
        17 => "in a clean room: the receipt key",
        _ => "set by the enclave itself",
    }
}

/// As the TCG PC Client Platform Firmware Profile has them, and the UAPI group's registry for Linux.
pub(super) const fn tpm_meaning(index: u8) -> &'static str {
    match index {
        0 => "the firmware",
        1 => "the firmware's configuration",
        2 => "drivers that the firmware loaded",
        3 => "their configuration",
        4 => "the boot loader, or the unified kernel image",
        5 => "the boot loader's configuration, and the partition table",
        6 => "events of the platform's manufacturer",
        7 => "Secure Boot: whether it is on, and its keys",
        8 => "command lines, as a boot loader measures them",
        9 => "files and initial ramdisks that were loaded",
        10 => "files, as the kernel measures them (IMA)",
        11 => "the parts of a unified kernel image",
        12 => "what was added at boot beside the image: command lines, credentials; zero for nothing",
        13 => "system extensions of the initial ramdisk",
        14 => "keys that an owner enrolled (shim)",
        15 => "the machine's identity and volumes",
        _ => "",
    }
}

/// Bytes for people, with their text if they are plain text.
fn contents(value: Option<&str>) -> String {
    let Some(value) = value else { return "absent".into() };
    if value.is_empty() {
        return "empty".into();
    }
    let lines: Vec<&str> = (0..value.len())
        .step_by(96)
        .filter_map(|start| value.get(start..value.len().min(start + 96)))
        .collect();
    let text = hex::decode(value).ok().filter(|bytes| bytes.iter().all(|byte| matches!(byte, b' '..=b'~')));
    let text = text.and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.map(|text| format!("\nas text: {text}")).unwrap_or_default();
    format!("{}{text}\n({} bytes)", lines.join("\n"), value.len() / 2)
}
