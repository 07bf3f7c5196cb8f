//! A chain for people to look at, valid or not.

use serde::Serialize;

use super::certificate::Certificate;
use super::error::Position;
use super::name;
use crate::digest::Sha256Digest;
use crate::document::Document;
use crate::time::Timestamp;

/// One certificate of a document, for display. **Nothing about it is verified.**
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateView {
    /// Which certificate it is.
    pub position: Position,
    /// The SHA-256 of its DER.
    pub sha256: Sha256Digest,
    /// What it says; the reason, when it cannot be read. Serialises as `contents` and `problem`, one of which is null.
    #[serde(flatten, serialize_with = "contents_or_problem")]
    pub contents: Result<CertificateContents, String>,
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateContents {
    /// Whom it is for.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// The first second in which it is valid.
    pub not_before: Timestamp,
    /// The last second in which it is valid.
    pub not_after: Timestamp,
    /// Whether it says that it is a CA.
    pub ca: bool,
    /// How many intermediate certificates it allows below itself, if it says so.
    pub path_length: Option<u8>,
}

/// The certificates of a document in its order, root first and the leaf last.
#[must_use]
pub fn describe(document: &Document<'_>) -> Vec<CertificateView> {
    describe_certificates(document.cabundle(), Some(document.certificate()))
}

/// Any certificates, in this order and the leaf last.
#[must_use]
pub fn describe_certificates(bundle: &[&[u8]], leaf: Option<&[u8]>) -> Vec<CertificateView> {
    let bundle = bundle.iter().enumerate().map(|(index, der)| (Position::Bundle(index), *der));
    bundle.chain(leaf.map(|der| (Position::Leaf, der))).map(|(position, der)| view(position, der)).collect()
}

fn view(position: Position, der: &[u8]) -> CertificateView {
    let contents = Certificate::parse(der).map_err(|error| error.to_string()).map(|certificate| {
        let constraints = certificate.extensions.basic_constraints;
        CertificateContents {
            subject: name::text(certificate.subject),
            issuer: name::text(certificate.issuer),
            not_before: certificate.window.not_before,
            not_after: certificate.window.not_after,
            ca: constraints.is_some_and(|constraints| constraints.ca),
            path_length: constraints.and_then(|constraints| constraints.path_length),
        }
    });
    CertificateView { position, sha256: Sha256Digest::of(&[der]), contents }
}

fn contents_or_problem<S: serde::Serializer>(
    result: &Result<CertificateContents, String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Either<'a> {
        contents: Option<&'a CertificateContents>,
        problem: Option<&'a String>,
    }
    Either { contents: result.as_ref().ok(), problem: result.as_ref().err() }.serialize(serializer)
}
