//! A share in its broker's own file: JSON that only its owner may read.

use std::path::Path;

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::Id;
use cleanroom_key_release::{Purpose, Share, ShareOf};
use cleanroom_program::file;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::failure::Failure;

/// The longest file of a share, in bytes.
const LIMIT: usize = 1024;

/// What a file of a share says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form<'a> {
    purpose: &'a str,
    model_sha256: Sha256Digest,
    broker: Id,
    share: &'a str,
}

/// One broker's share of one model's key.
pub(super) struct HeldShare {
    pub(super) model: Sha256Digest,
    pub(super) broker: Id,
    pub(super) share: Share,
}

impl HeldShare {
    pub(super) fn commitment(&self) -> Sha256Digest {
        let (model, broker) = (&self.model, &self.broker);
        self.share.commitment(&ShareOf { purpose: Purpose::Weights, model, broker })
    }

    /// Makes the file, which must not exist. It is on the disk when this returns.
    pub(super) fn write(&self, path: &Path) -> Result<(), Failure> {
        let digits = hex(self.share.as_bytes());
        let form = Form {
            purpose: Purpose::Weights.word(),
            model_sha256: self.model,
            broker: self.broker.clone(),
            share: &digits,
        };
        // Room for all of it at once: a vector that grows leaves copies behind.
        let mut text = Zeroizing::new(Vec::with_capacity(LIMIT));
        serde_json::to_writer_pretty(&mut *text, &form)
            .map_err(|error| Failure::Environment(error.to_string()))?;
        text.push(b'\n');
        Ok(file::create_secret(path, &text)?)
    }

    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let refused = |problem: &str| Failure::Refused {
            what: path.display().to_string(),
            code: "share",
            problem: format!("expected a share as `broker secret new` writes it: {problem}"),
        };
        let text = file::read_secret(path, LIMIT)?;
        // What serde says could quote the share.
        let form: Form<'_> = serde_json::from_slice(&text).map_err(|_| refused("it has another form"))?;
        if form.purpose != Purpose::Weights.word() {
            return Err(refused("it is for another purpose"));
        }
        let share = unhex(form.share, Share::LENGTH).and_then(|bytes| Share::read(&bytes));
        let share = share.ok_or_else(|| refused("its share is not 66 hexadecimal digits"))?;
        Ok(Self { model: form.model_sha256, broker: form.broker, share })
    }
}

/// Lower-case hexadecimal digits, wiped when dropped.
pub(super) fn hex(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(bytes.len() * 2));
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or_default());
        }
    }
    text
}

/// The bytes of hexadecimal digits, `length` of them at most, wiped when dropped.
pub(super) fn unhex(text: &str, length: usize) -> Option<Zeroizing<Vec<u8>>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Zeroizing::new(Vec::with_capacity(length));
    for pair in text.as_bytes().chunks(2) {
        let (high, low) = (pair.first().and_then(digit)?, pair.get(1).and_then(digit)?);
        if bytes.len() == length {
            return None;
        }
        bytes.push(high << 4 | low);
    }
    Some(bytes)
}
