//! The verdict on a document in a file, without any network.

use std::path::{Path, PathBuf};

use clap::Args;
use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_attestation::policy::Policy;
use cleanroom_attestation::release::{Release, Verified};
use cleanroom_attestation::time::Timestamp;
use cleanroom_attestation::verdict::{Expectation, Verdict, appraise};

use crate::clock::{self, now};
use crate::commands::document_file;
use crate::outcome::{Failure, usage};
use crate::record::{Expected, Recorded};

/// A document in a file, and what it is expected to say.
#[derive(Args)]
#[group(skip)]
pub(super) struct Document {
    /// Judge this document instead of a clean room: its bytes, or hexadecimal, base64, PEM, a data URI or JSON with one of
    /// these in it. `-` reads standard input
    #[arg(long, value_name = "FILE", required = cfg!(not(feature = "online")))]
    document: Option<PathBuf>,

    /// The time to judge at: 2026-01-31T12:00:00Z, 2026-01-31T13:00:00+01:00 or 1769860800 (Unix time in seconds, or in
    /// milliseconds with 13 digits). Without it, this machine's clock
    #[arg(long, value_name = "TIME", value_parser = clock::parse, requires = "document")]
    at: Option<Timestamp>,

    /// The document is a record that `--record` wrote: judge it at the time when it was written, and against all that
    /// was expected then. Believe a record of somebody else only if you have its time and its nonce from elsewhere
    #[arg(
        long,
        requires = "document",
        conflicts_with_all = ["at", "nonce", "user_data", "public_key", "pcr16", "pcr17"]
    )]
    as_recorded: bool,

    /// The challenge that you sent, whole
    #[arg(long, value_name = "HEX", value_parser = hexadecimal, requires = "document")]
    nonce: Option<Hexadecimal>,

    /// The user data that you expect
    #[arg(long, value_name = "HEX", value_parser = hexadecimal, requires = "document")]
    user_data: Option<Hexadecimal>,

    /// The public key that you expect
    #[arg(long, value_name = "HEX", value_parser = hexadecimal, requires = "document")]
    public_key: Option<Hexadecimal>,

    /// The value of PCR16 that you expect: the model. In a document of a NitroTPM it is what register 14 held before it was
    /// closed; the value that the closed register has is computed from it
    #[arg(long, value_name = "HEX", value_parser = Sha384Digest::from_written, requires = "document")]
    pcr16: Option<Sha384Digest>,

    /// The value of PCR17 that you expect: the receipt key. In a document of a NitroTPM it is what register 15 held before
    /// it was closed
    #[arg(long, value_name = "HEX", value_parser = Sha384Digest::from_written, requires = "document")]
    pcr17: Option<Sha384Digest>,
}

/// Bytes that were given in hexadecimal, with or without `0x` and colons. A type of its own, because clap takes a `Vec` for a repeated argument.
#[derive(Debug, Clone)]
struct Hexadecimal(Vec<u8>);

fn hexadecimal(text: &str) -> Result<Hexadecimal, String> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text).replace(':', "");
    match hex::decode(&digits) {
        Ok(bytes) if !bytes.is_empty() => Ok(Hexadecimal(bytes)),
        _ => {
            let count = digits.chars().count();
            Err(format!("expected an even number of hexadecimal digits, got {count} characters"))
        }
    }
}

impl Document {
    /// The verdict under `policy`, and the document; nothing when none was named.
    pub(super) fn judge(&self, policy: &Policy) -> Result<Option<(Verdict, Vec<u8>)>, Failure> {
        let Some(path) = &self.document else { return Ok(None) };
        if self.as_recorded {
            return recorded(path, policy).map(Some);
        }
        let document = document_file::read(path)?;
        let at = self.at.unwrap_or_else(now);
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
        let verdict = appraise(&document, policy, &expected, at, None);
        Ok(Some((verdict, document)))
    }
}

/// The verdict on a record, as of then.
fn recorded(path: &Path, policy: &Policy) -> Result<(Verdict, Vec<u8>), Failure> {
    let contents = document_file::contents(path, document_file::open(path)?)?;
    let wrong = |problem: String| usage("record", format!("{}: {problem}", path.display()));
    let Recorded { time, shown } = Recorded::parse(&contents).map_err(|error| wrong(error.to_string()))?;
    let released = match (policy.release(), &shown.release) {
        (Some(trust), Some(envelope)) => {
            let release: Verified<Release> =
                trust.root().open(envelope).map_err(|error| wrong(error.to_string()))?;
            Some(policy.with_release(&release))
        }
        _ => None,
    };
    let policy = released.as_ref().unwrap_or(policy);
    let expected = shown.expected.as_ref().map(Expected::expectation).unwrap_or_default();
    let verdict = appraise(&shown.document, policy, &expected, time, None);
    Ok((verdict, shown.document))
}
