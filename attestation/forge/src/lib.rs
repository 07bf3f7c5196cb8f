//! Makes attestation documents under roots of our own, right ones and every kind of wrong one; small image files; and what AWS
//! KMS answers to documents ([`kms`]).
//!
//! A document and its certificates are templates with public fields. [`Forge::new`] fills them in the profile of AWS; a test
//! changes one thing and [`Forge::document`] encodes and signs the result, however wrong it is. Nothing here parses, and
//! nothing here is part of any program that a user runs: only tests and the conformance suite ([`conformance`]) depend on it.

#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a forge that cannot make what a test asks for must stop the test"
)]

pub mod boot_image;
mod cbor;
mod certificate;
pub mod conformance;
mod der;
mod document;
pub mod image;
mod key;
pub mod kms;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

pub use self::cbor::Cbor;
pub use self::certificate::{Certificate, Extension, Name, Time, oid};
pub use self::document::Document;
pub use self::key::Key;

/// The middle of the time when everything that [`Forge::new`] makes is valid: 2026-03-01T12:00:00Z, in seconds.
pub const NOW: u64 = 1_772_366_400;
/// The instance in [`MODULE_ID`].
pub const INSTANCE_ID: &str = "i-0123456789abcdef0";
/// The module id of the documents that [`Forge::new`] makes.
pub const MODULE_ID: &str = "i-0123456789abcdef0-enc0fedcba987654321";

/// A chain of certificates, root first and leaf last, and the document that the leaf signs.
#[derive(Clone)]
pub struct Forge {
    /// Each certificate's template with its key. The last one is the leaf.
    pub chain: Vec<(Certificate, Key)>,
    /// The document. Its `certificate` and `cabundle` are put in when it is made, unless a test put others in.
    pub document: Document,
    /// With which key each certificate and the document is signed, where that is not the key of the one before it:
    /// index and key. The document's index is the length of the chain.
    pub signed_by: Vec<(usize, Key)>,
}

impl Default for Forge {
    fn default() -> Self {
        Self::new()
    }
}

impl Forge {
    /// A chain of root, region, zone, instance and leaf as AWS has it, and a document of an enclave with PCR 0 to 15, of
    /// which 0, 1, 2, 3, 4 and 8 are [`pcr`]s and the others zero.
    #[must_use]
    pub fn new() -> Self {
        let lifetimes = [
            ("191028132805Z", Time::utc("491028142805Z")),
            ("260224120000Z", Time::utc("260315120000Z")),
            ("260228120000Z", Time::utc("260304120000Z")),
            ("260301060000Z", Time::utc("260302060000Z")),
            ("260301110000Z", Time::utc("260301140000Z")),
        ];
        let names = [
            "forged.nitro-enclaves".to_owned(),
            "0011223344556677.eu-forge-1.forged.nitro-enclaves".to_owned(),
            "8899aabbccddeeff.zonal.eu-forge-1.forged.nitro-enclaves".to_owned(),
            format!("{INSTANCE_ID}.eu-forge-1.forged.nitro-enclaves"),
            format!("{MODULE_ID}.eu-forge-1.forged"),
        ];
        let keys = names.each_ref().map(|_| Key::generate());
        let mut chain = Vec::new();
        for (level, (name, (not_before, not_after))) in names.iter().zip(lifetimes).enumerate() {
            let above = level.saturating_sub(1);
            let mut certificate = Certificate::new(
                Name::of(&names[above]),
                Name::of(name),
                &keys[level],
                Time::utc(not_before),
                not_after,
            );
            certificate.extensions = match level {
                0 => vec![Extension::basic_constraints(true, None), Extension::key_usage(0x86)],
                4 => vec![Extension::basic_constraints(false, None), Extension::signs_documents()],
                _ => {
                    let path_length = u8::try_from(3 - level).ok();
                    vec![
                        Extension::basic_constraints(true, path_length),
                        Extension::key_usage(if level == 3 { 0x04 } else { 0x86 }),
                        Extension::authority_key_identifier(&keys[above].identifier()),
                    ]
                }
            };
            if level < 4 {
                certificate.extensions.push(Extension::subject_key_identifier(&keys[level].identifier()));
            }
            chain.push((certificate, keys[level].clone()));
        }
        Self { chain, document: Document::new(MODULE_ID, NOW * 1000), signed_by: Vec::new() }
    }

    /// The template of the certificate at `index`, 0 being the root.
    pub fn certificate(&mut self, index: usize) -> &mut Certificate {
        &mut self.chain[index].0
    }

    /// The template of the leaf.
    pub fn leaf(&mut self) -> &mut Certificate {
        let last = self.chain.len() - 1;
        self.certificate(last)
    }

    /// Has the certificate at `index`, or the document (the index after the leaf's), signed by `key`.
    pub fn sign_with(&mut self, index: usize, key: &Key) {
        self.signed_by.push((index, key.clone()));
    }

    /// Every certificate's DER, root first and the leaf last.
    #[must_use]
    pub fn certificates(&self) -> Vec<Vec<u8>> {
        self.chain
            .iter()
            .enumerate()
            .map(|(index, (certificate, _))| certificate.sign(self.signer(index)))
            .collect()
    }

    /// The document, signed, with this chain.
    #[must_use]
    pub fn document(&self) -> Vec<u8> {
        self.document_with(&self.certificates())
    }

    /// The document, signed, with these certificates, root first and the leaf last.
    #[must_use]
    pub fn document_with(&self, certificates: &[Vec<u8>]) -> Vec<u8> {
        let (leaf, bundle) = certificates.split_last().expect("a chain has a leaf");
        let mut document = self.document.clone();
        document.put_if_absent("certificate", Cbor::bytes(leaf));
        document.put_if_absent("cabundle", Cbor::Array(bundle.iter().map(|der| Cbor::bytes(der)).collect()));
        document.sign(self.signer(self.chain.len()))
    }

    fn signer(&self, index: usize) -> &Key {
        let other = self.signed_by.iter().rev().find(|(signed, _)| *signed == index);
        other.map_or_else(|| &self.chain[index.saturating_sub(1)].1, |(_, key)| key)
    }
}

/// A certificate as PEM.
#[must_use]
pub fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        (0..text.len()).step_by(64).filter_map(|at| text.get(at..text.len().min(at + 64))).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// The value of a register in a forged document: 48 bytes, each `index + 1`.
#[must_use]
pub const fn pcr(index: u8) -> [u8; 48] {
    [index + 1; 48]
}
