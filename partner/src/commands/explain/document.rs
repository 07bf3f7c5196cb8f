//! An attestation document, for people.

use std::path::Path;

use cleanroom_attestation::chain::{self, CertificateView, Position};
use cleanroom_attestation::document::{Document, Pcrs};
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::{Axis, Check, Expectation, appraise};
use serde::Serialize;

use crate::commands::document_file;
use crate::outcome::{Failure, Outcome};
use crate::output::{self, Mark, Page, Terminal, printable};

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

pub(super) fn explain(path: &Path, terminal: &mut Terminal) -> Result<Outcome, Failure> {
    let bytes = document_file::read(path)?;
    let document = Document::parse(&bytes).map_err(|error| Failure {
        outcome: Outcome::Refused,
        code: error.code(),
        message: format!(
            "{} is neither an enclave image nor an attestation document: {error} [{}]",
            path.display(),
            error.code()
        ),
    })?;
    let policy = Policy::from_toml(ANY_GENUINE).map_err(|error| Failure {
        outcome: Outcome::Usage,
        code: "policy",
        message: format!("this build does not know the roots of AWS: {error}"),
    })?;
    let verdict = appraise(&bytes, &policy, &Expectation::default(), document.timestamp(), None);
    let mut genuine = verdict.checks().to_vec();
    genuine.retain(|check| check.axis() == Axis::Platform && check.rejection() != Some("debug-enclave"));
    let explanation = Explanation::of(&bytes, &document, &genuine);
    terminal.report(&explanation, &page(path, &explanation))?;
    Ok(Outcome::Pass)
}

/// What is in a document. **Only what `genuine` says is verified**, at the document's own time and under AWS's roots.
#[derive(Serialize)]
struct Explanation<'a> {
    length: usize,
    module_id: &'a str,
    timestamp: Timestamp,
    debug: bool,
    genuine: &'a [Check],
    certificates: Vec<CertificateView>,
    pcrs: &'a Pcrs,
    nonce: Option<String>,
    user_data: Option<String>,
    public_key: Option<String>,
}

impl<'a> Explanation<'a> {
    fn of(bytes: &[u8], document: &'a Document<'_>, genuine: &'a [Check]) -> Self {
        Self {
            length: bytes.len(),
            module_id: document.module_id(),
            timestamp: document.timestamp(),
            debug: document
                .pcrs()
                .enclave()
                .is_some_and(cleanroom_attestation::document::EnclavePcrs::is_debug),
            genuine,
            certificates: chain::describe(document),
            pcrs: document.pcrs(),
            nonce: document.nonce().map(hex::encode),
            user_data: document.user_data().map(hex::encode),
            public_key: document.public_key().map(hex::encode),
        }
    }
}

fn page(path: &Path, explanation: &Explanation<'_>) -> Page {
    let mut page = Page::new();
    page.heading(format!("Attestation document {}", printable(&path.display().to_string())));
    page.field("length", output::bytes(explanation.length as u64));
    page.field("module", printable(explanation.module_id));
    page.field("time stamp", explanation.timestamp.to_string());
    if explanation.debug {
        page.field(
            "DEBUG",
            "PCR 0, 1 or 2 is zero or absent: no image is proven, its operator can read its console",
        );
    }

    page.heading("Genuine at its own time, under a root of AWS?");
    for check in explanation.genuine {
        match check.rejection() {
            None => page.check(Mark::Ok, printable(check.what()), printable(check.actual())),
            Some(code) => {
                let found = format!("{}\n{code}", printable(check.actual()));
                page.check(Mark::Fail, printable(check.what()), found);
            }
        }
    }

    page.heading("Certificates, root first");
    for certificate in &explanation.certificates {
        let name = match certificate.position {
            Position::Leaf => "leaf".to_owned(),
            Position::Bundle(0) => "root".to_owned(),
            Position::Bundle(index) => format!("CA {index}"),
        };
        page.field(name, describe(certificate));
    }

    let (kind, registers) = registers(explanation.pcrs);
    page.heading(format!("Registers of {kind}"));
    for (index, value, meaning) in registers {
        page.field(format!("PCR{index}"), format!("{value}\n{meaning}").trim_end().to_owned());
    }

    page.heading("What the enclave put in");
    for (name, value) in [
        ("nonce", &explanation.nonce),
        ("user data", &explanation.user_data),
        ("public key", &explanation.public_key),
    ] {
        page.field(name, contents(value.as_deref()));
    }
    page
}

fn describe(certificate: &CertificateView) -> String {
    match &certificate.contents {
        Err(reason) => format!("unreadable: {}\nSHA-256 {}", printable(reason), certificate.sha256),
        Ok(contents) => format!(
            "{}\nfrom {} to {}\nSHA-256 {}",
            printable(&contents.subject),
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
                shown.map(|(index, value)| (index, value.to_string(), meaning(index))).collect(),
            )
        }
        Pcrs::NitroTpm(pcrs) => {
            let shown = pcrs.iter().filter(|(_, value)| !value.is_zero());
            ("a NitroTPM", shown.map(|(index, value)| (index, value.to_string(), "")).collect())
        }
    }
}

const fn meaning(index: u8) -> &'static str {
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
