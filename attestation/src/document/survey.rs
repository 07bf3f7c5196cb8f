//! The readable parts of a document that may be refused, for people to look at.

use super::cbor::{Head, Reader};
use super::{Document, DocumentError, Fields, MAX_DOCUMENT_LENGTH, Pcrs, printable};
use crate::time::Timestamp;

/// Fields that a survey looks at. A document has ten kinds of them.
const MAX_FIELDS: usize = 64;
/// How deep the items may be nested that a survey passes over. A document's own are nested three deep.
const MAX_DEPTH: usize = 8;

/// What can be read of some bytes that should be an attestation document, and the first rule that they break.
///
/// **Nothing about it is verified, and where there is a [refusal](Self::refusal) it is not even a document.** It exists so
/// that people can see what they were given. Every decision is [`crate::verdict::appraise`]'s.
#[derive(Debug, Clone)]
pub struct Survey<'a> {
    /// Why [`Document::parse`] refuses the bytes, if it does.
    pub refusal: Option<DocumentError>,
    /// The security module that claims to have issued it.
    pub module_id: Option<&'a str>,
    /// When it says that it was made.
    pub timestamp: Option<Timestamp>,
    /// Its registers.
    pub pcrs: Option<Pcrs>,
    /// The leaf certificate's DER.
    pub certificate: Option<&'a [u8]>,
    /// The DER of the certificates above the leaf, in their order.
    pub cabundle: Vec<&'a [u8]>,
    /// The public key that was put in.
    pub public_key: Option<&'a [u8]>,
    /// The data that was put in.
    pub user_data: Option<&'a [u8]>,
    /// The nonce that was put in.
    pub nonce: Option<&'a [u8]>,
    /// Names of the fields that could not be read. They are a stranger's text.
    pub unread: Vec<String>,
}

impl<'a> Survey<'a> {
    /// Looks at `bytes`. At most [`MAX_DOCUMENT_LENGTH`] of them are looked at.
    #[must_use]
    pub fn of(bytes: &'a [u8]) -> Self {
        match Document::parse(bytes) {
            Ok(document) => Self {
                refusal: None,
                module_id: Some(document.module_id()),
                timestamp: Some(document.timestamp()),
                certificate: Some(document.certificate()),
                cabundle: document.cabundle().to_vec(),
                public_key: document.public_key(),
                user_data: document.user_data(),
                nonce: document.nonce(),
                pcrs: Some(document.pcrs),
                unread: Vec::new(),
            },
            Err(refusal) => {
                let (fields, unread) = payload(bytes).map(fields).unwrap_or_default();
                Self::refused(refusal, fields, unread)
            }
        }
    }

    fn refused(refusal: DocumentError, fields: Fields<'a>, unread: Vec<String>) -> Self {
        let pcrs = match (fields.pcrs, fields.nitrotpm_pcrs) {
            (Some(pcrs), None) => Some(Pcrs::NitroEnclave(pcrs)),
            (None, Some(pcrs)) => Some(Pcrs::NitroTpm(pcrs)),
            _ => None,
        };
        Self {
            refusal: Some(refusal),
            module_id: fields.module_id,
            timestamp: fields.timestamp,
            pcrs,
            certificate: fields.certificate,
            cabundle: fields.cabundle.map(|bundle| bundle.as_slice().to_vec()).unwrap_or_default(),
            public_key: fields.public_key.flatten(),
            user_data: fields.user_data.flatten(),
            nonce: fields.nonce.flatten(),
            unread,
        }
    }
}

/// The third item of an array, whatever stands around it.
fn payload(bytes: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(bytes.get(..MAX_DOCUMENT_LENGTH).unwrap_or(bytes));
    while let Ok(Head::Tag(_)) = reader.peek() {
        reader.head().ok()?;
    }
    reader.array_length("envelope").ok()?;
    skip(&mut reader, 0)?;
    skip(&mut reader, 0)?;
    reader.bytes("payload").ok()
}

/// Every field that can be read, and the names of those that cannot, up to the point from which on nothing can.
fn fields(payload: &[u8]) -> (Fields<'_>, Vec<String>) {
    let (mut fields, mut unread) = (Fields::default(), Vec::new());
    let mut reader = Reader::new(payload);
    let Ok(Head::Map(_) | Head::OpenMap) = reader.head() else { return (fields, unread) };
    for _ in 0..MAX_FIELDS {
        if reader.is_empty() || reader.peek() == Ok(Head::Break) {
            break;
        }
        let mut attempt = reader.clone();
        if fields.read(&mut attempt).is_ok() {
            reader = attempt;
            continue;
        }
        let Ok(name) = reader.text("field name") else { break };
        unread.push(printable(name));
        if skip(&mut reader, 0).is_none() {
            break;
        }
    }
    (fields, unread)
}

/// Passes over one item of any kind. Every step of it reads a byte, so a claimed number of entries costs nothing.
fn skip(reader: &mut Reader<'_>, depth: usize) -> Option<()> {
    if depth > MAX_DEPTH {
        return None;
    }
    let items = match reader.head().ok()? {
        Head::Bytes(length) | Head::Text(length) => return reader.take(length).ok().map(|_| ()),
        Head::Array(length) => length,
        Head::Map(length) => length.checked_mul(2)?,
        Head::Tag(_) => 1,
        Head::OpenMap => {
            while reader.peek().ok()? != Head::Break {
                skip(reader, depth + 1)?;
            }
            reader.head().ok()?;
            return Some(());
        }
        Head::Break => return None,
        Head::Unsigned(_) | Head::Negative(_) | Head::Null | Head::Simple => return Some(()),
    };
    (0..items).try_for_each(|_| skip(reader, depth + 1))
}
