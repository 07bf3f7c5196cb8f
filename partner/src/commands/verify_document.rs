//! `cleanroom verify --document`: the verdict on a document in a file, without any network.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use cleanroom_attestation::chain::Tier;
use cleanroom_attestation::digest::{Sha256Digest, Sha384Digest};
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::{self, Axis, AxisStatus, Expectation, Verdict, appraise};

use super::{document_file, party};
use crate::cli::{Failure, Outcome};
use crate::output::{Mark, Page, Terminal, printable};

/// Judge an attestation document against your policy, offline.
///
/// Everything that is checked is printed with what was expected and what was found. The verdict has one answer for each
/// question (platform, image, deployment, model, freshness, session); what nobody asked about is `not asked`, never passed.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct VerifyDocument {
    /// The document: its bytes, or hexadecimal or base64 of them; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    document: PathBuf,

    /// Your policy: trust anchors, images and all else that you accept.
    #[arg(long, value_name = "FILE", default_value = "trust.toml")]
    policy: PathBuf,

    /// Refuse the policy file unless its SHA-256 is this one.
    #[arg(long, value_name = "SHA256")]
    policy_sha256: Option<Sha256Digest>,

    /// The time to judge at, like 2026-01-31T12:00:00Z. Without it, this machine's clock.
    #[arg(long, value_name = "TIME", value_parser = timestamp)]
    at: Option<Timestamp>,

    /// The challenge that you sent, whole.
    #[arg(long, value_name = "HEX", value_parser = hexadecimal)]
    nonce: Option<Hexadecimal>,

    /// The user data that you expect.
    #[arg(long, value_name = "HEX", value_parser = hexadecimal)]
    user_data: Option<Hexadecimal>,

    /// The public key that you expect.
    #[arg(long, value_name = "HEX", value_parser = hexadecimal)]
    public_key: Option<Hexadecimal>,

    /// The value of PCR16 that you expect: the model.
    #[arg(long, value_name = "HEX")]
    pcr16: Option<Sha384Digest>,

    /// The value of PCR17 that you expect: the receipt key.
    #[arg(long, value_name = "HEX")]
    pcr17: Option<Sha384Digest>,
}

const EXAMPLES: &str = "\
Examples:
  cleanroom verify --document evidence.cbor --policy trust.toml --nonce 00112233445566778899aabbccddeeff
  cleanroom verify --document evidence.cbor --at 2026-01-31T12:00:00Z --json

A policy:
  version = 1
  [[trust_anchor]]
  name = \"aws\"
  [[image]]                  # what `cleanroom measure IMAGE --toml NAME` prints
  name = \"cleanroom 0.1.0\"
  pcr0 = \"...\"
  pcr1 = \"...\"
  pcr2 = \"...\"
  [freshness]
  max_age = \"5m\"";

/// Bytes that were given in hexadecimal. A type of its own, because clap takes a `Vec` for a repeated argument.
#[derive(Debug, Clone)]
struct Hexadecimal(Vec<u8>);

fn hexadecimal(text: &str) -> Result<Hexadecimal, String> {
    match hex::decode(text) {
        Ok(bytes) if !bytes.is_empty() => Ok(Hexadecimal(bytes)),
        _ => Err("expected an even number of hexadecimal digits".into()),
    }
}

fn timestamp(text: &str) -> Result<Timestamp, String> {
    Timestamp::from_rfc3339(text).map_err(|error| error.to_string())
}

impl VerifyDocument {
    pub(crate) fn run(self, terminal: &mut Terminal) -> Result<Outcome, Failure> {
        let policy = party::load_policy(&self.policy, self.policy_sha256)?;
        let document = document_file::read(&self.document)?;
        let at = match self.at {
            Some(at) => at,
            None => now()?,
        };
        let bytes = |value: &'_ Option<Hexadecimal>| value.as_ref().map(|value| value.0.clone());
        let (nonce, user_data, public_key) =
            (bytes(&self.nonce), bytes(&self.user_data), bytes(&self.public_key));
        let expected = Expectation {
            nonce: nonce.as_deref(),
            user_data: user_data.as_deref(),
            public_key: public_key.as_deref(),
            pcr16: self.pcr16,
            pcr17: self.pcr17,
        };
        let verdict = appraise(&document, &policy, &expected, at, None);
        terminal.report(&verdict, &page(&verdict))?;
        Ok(outcome(&verdict))
    }
}

fn now() -> Result<Timestamp, Failure> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok();
    since.and_then(|since| u64::try_from(since.as_millis()).ok()).map(Timestamp::from_millis).ok_or_else(
        || Failure {
            outcome: Outcome::Usage,
            code: "clock",
            message: "this machine's clock stands before 1970; set it, or give a time with --at".into(),
        },
    )
}

/// The exit code of a verdict.
pub(crate) fn outcome(verdict: &Verdict) -> Outcome {
    match verdict.outcome() {
        verdict::Outcome::Pass => Outcome::Pass,
        verdict::Outcome::Partial => Outcome::Partial,
        verdict::Outcome::Fail => Outcome::Refused,
    }
}

/// A verdict for people.
pub(crate) fn page(verdict: &Verdict) -> Page {
    let mut page = Page::new();
    page.heading(match verdict.outcome() {
        verdict::Outcome::Pass => "PASS: everything was asked and holds",
        verdict::Outcome::Partial => "PARTIAL: nothing failed, and something was not asked about",
        verdict::Outcome::Fail => "FAIL: do not trust this document",
    });
    if let Err(rejection) = verdict.accepted() {
        page.field("because", printable(&rejection.to_string()));
    }
    if verdict.tier() == Some(Tier::Development) {
        page.field("DEVELOPMENT", "no hardware vouches for this: the policy trusts a development root");
    }
    if verdict.debug() {
        page.field("DEBUG", "no image is proven, and the enclave's operator can read its console");
    }
    for axis in Axis::ALL {
        page.heading(axis.as_str());
        if verdict.axis(axis) == AxisStatus::NotAsked {
            // Without a tier the document is not genuine, and nothing else about it was looked at.
            let why = if verdict.tier().is_none() {
                "not reached: the document is not genuine"
            } else {
                hint(axis)
            };
            page.check(Mark::NotAsked, why, "");
        }
        for check in verdict.checks().iter().filter(|check| check.axis() == axis) {
            let (expected, actual) = (printable(check.expected()), printable(check.actual()));
            match check.rejection() {
                None => page.check(Mark::Ok, printable(check.what()), actual),
                Some(code) => page.check(
                    Mark::Fail,
                    printable(check.what()),
                    format!("{code}\nexpected  {expected}\ngot       {actual}"),
                ),
            }
        }
    }
    page
}

/// How to ask about an axis.
const fn hint(axis: Axis) -> &'static str {
    match axis {
        Axis::Platform | Axis::Image => "every policy asks about it",
        Axis::Deployment => "name the deployment in the policy's [deployment]",
        Axis::Model => "give --pcr16",
        Axis::Freshness => "give --nonce, or max_age in the policy's [freshness]",
        Axis::Session => "give --user-data, --public-key or --pcr17",
    }
}
