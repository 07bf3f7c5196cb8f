//! Attestation documents: the `COSE_Sign1` envelope (RFC 9052 section 4.2) and its CBOR payload.
//!
//! The payload is specified by AWS in "Verifying the root of trust" of the Nitro Enclaves user guide and in
//! `docs/attestation_process.md` of `aws-nitro-enclaves-nsm-api`. Reading is strict: every byte is understood, or the
//! document is refused with the code of the rule that it breaks. Reading verifies no signature; see [`crate::verdict`].

mod cbor;
mod error;
mod pcrs;
mod survey;

pub use self::error::DocumentError;
pub use self::pcrs::{EnclavePcrs, Pcrs, REGISTERS, TpmPcrs};
pub use self::survey::Survey;

use self::cbor::{Head, Reader, unexpected};
use crate::digest::Sha384Digest;
use crate::time::Timestamp;

/// The longest document, in bytes: what fits into one answer of the security module (`NSM_RESPONSE_MAX_SIZE`, 0x3000),
/// with room for a tag.
pub const MAX_DOCUMENT_LENGTH: usize = 0x3000 + 1;
/// The longest certificate, in bytes, in the bundle or of the leaf (AWS).
pub const MAX_CERTIFICATE_LENGTH: usize = 1024;
/// The most certificates in a bundle. AWS's have four and no limit is documented.
pub const MAX_BUNDLE_CERTIFICATES: usize = 8;
/// The longest public key, user data or nonce, in bytes: what fits into one request to the security module
/// (`NSM_REQUEST_MAX_SIZE`, 0x1000). AWS documents 1024 for the public key and 512 for the other two. Its hypervisor does not
/// hold to that: it has signed nonces of 1025 bytes.
pub const MAX_FIELD_LENGTH: usize = 0x1000;

/// The bytes of a signature: r and s, 48 bytes each, big-endian (RFC 9053 section 2.1).
const SIGNATURE_LENGTH: usize = 96;
/// The protected header `{1: -35}`, which is algorithm ES384.
const PROTECTED_HEADER: [u8; 4] = [0xa1, 0x01, 0x38, 0x22];
/// The CBOR tag of `COSE_Sign1`.
const TAG_COSE_SIGN1: u64 = 18;

/// A document that is well formed, and of which **nothing is verified**.
#[derive(Debug, Clone)]
pub struct Document<'a> {
    /// The payload's byte string with its head. Heads are the shortest, so the `Sig_structure` has the same.
    payload_item: &'a [u8],
    signature: &'a [u8; SIGNATURE_LENGTH],
    module_id: &'a str,
    timestamp: Timestamp,
    pcrs: Pcrs,
    certificate: &'a [u8],
    bundle: Bundle<'a>,
    public_key: Option<&'a [u8]>,
    user_data: Option<&'a [u8]>,
    nonce: Option<&'a [u8]>,
}

impl<'a> Document<'a> {
    /// Reads a document.
    ///
    /// # Errors
    ///
    /// [`DocumentError`], one code for each rule.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DocumentError> {
        if bytes.len() > MAX_DOCUMENT_LENGTH {
            return Err(DocumentError::TooLong { expected: MAX_DOCUMENT_LENGTH, actual: bytes.len() });
        }
        let Envelope { payload_item, payload, signature } = Envelope::read(bytes)?;
        let payload = Payload::read(payload)?;
        Ok(Self {
            payload_item,
            signature,
            module_id: payload.module_id,
            timestamp: payload.timestamp,
            pcrs: payload.pcrs,
            certificate: payload.certificate,
            bundle: payload.bundle,
            public_key: payload.public_key,
            user_data: payload.user_data,
            nonce: payload.nonce,
        })
    }

    /// The security module that claims to have issued the document, like `i-0123456789abcdef0-enc0123456789abcdef`.
    #[must_use]
    pub const fn module_id(&self) -> &'a str {
        self.module_id
    }

    /// The hash of the registers: always `SHA384`.
    #[must_use]
    pub const fn digest(&self) -> &'static str {
        DIGEST
    }

    /// When the security module made the document, by its own clock.
    #[must_use]
    pub const fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// When the security module made the document, in milliseconds since the Unix epoch.
    #[must_use]
    pub const fn timestamp_ms(&self) -> u64 {
        self.timestamp.as_millis()
    }

    /// The registers.
    #[must_use]
    pub const fn pcrs(&self) -> &Pcrs {
        &self.pcrs
    }

    /// The leaf certificate's DER, whose key signs the document.
    #[must_use]
    pub const fn certificate(&self) -> &'a [u8] {
        self.certificate
    }

    /// The DER of the certificates above the leaf, root first. Never empty.
    #[must_use]
    pub fn cabundle(&self) -> &[&'a [u8]] {
        self.bundle.as_slice()
    }

    /// The public key that the enclave put in; `None` for null and for no field.
    #[must_use]
    pub const fn public_key(&self) -> Option<&'a [u8]> {
        self.public_key
    }

    /// The data that the enclave put in; `None` for null and for no field.
    #[must_use]
    pub const fn user_data(&self) -> Option<&'a [u8]> {
        self.user_data
    }

    /// The nonce that the enclave put in; `None` for null and for no field.
    #[must_use]
    pub const fn nonce(&self) -> Option<&'a [u8]> {
        self.nonce
    }

    /// The signature: r and s, 48 bytes each, big-endian.
    #[must_use]
    pub const fn signature(&self) -> &'a [u8; 96] {
        self.signature
    }

    /// The `Sig_structure` that the signature covers (RFC 9052 section 4.4), serialised.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        /// `["Signature1", h'a1013822', h'', …`: an array of four, the context, the protected header, no external data.
        const PREFIX: [u8; 18] = *b"\x84\x6aSignature1\x44\xa1\x01\x38\x22\x40";
        let mut signed = Vec::with_capacity(PREFIX.len() + self.payload_item.len());
        signed.extend_from_slice(&PREFIX);
        signed.extend_from_slice(self.payload_item);
        signed
    }
}

/// The parts of the envelope that vary.
struct Envelope<'a> {
    payload_item: &'a [u8],
    payload: &'a [u8],
    signature: &'a [u8; SIGNATURE_LENGTH],
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, DocumentError> {
        let mut reader = Reader::new(bytes);
        if let Head::Tag(tag) = reader.peek()? {
            if tag != TAG_COSE_SIGN1 {
                return Err(DocumentError::Tag { actual: tag });
            }
            reader.head()?;
        }
        let parts = reader.array_length("envelope")?;
        if parts != 4 {
            return Err(DocumentError::EnvelopeParts { actual: parts });
        }
        let protected = reader.bytes("protected header")?;
        if protected != PROTECTED_HEADER {
            return Err(DocumentError::ProtectedHeader { actual: abbreviated(protected) });
        }
        let unprotected = reader.map_length("unprotected header")?;
        if unprotected != 0 {
            return Err(DocumentError::UnprotectedHeader { actual: unprotected });
        }
        let before = reader.offset();
        let payload = reader.bytes("payload")?;
        let payload_item = bytes.get(before..reader.offset()).unwrap_or_default();
        let signature = reader.bytes("signature")?;
        let signature =
            signature.try_into().map_err(|_| DocumentError::SignatureLength { actual: signature.len() })?;
        match bytes.len() - reader.offset() {
            0 => Ok(Self { payload_item, payload, signature }),
            actual => Err(DocumentError::TrailingEnvelope { actual }),
        }
    }
}

const DIGEST: &str = "SHA384";

/// The payload's fields, all of them required ones present.
struct Payload<'a> {
    module_id: &'a str,
    timestamp: Timestamp,
    pcrs: Pcrs,
    certificate: &'a [u8],
    bundle: Bundle<'a>,
    public_key: Option<&'a [u8]>,
    user_data: Option<&'a [u8]>,
    nonce: Option<&'a [u8]>,
}

/// Certificates in the order of the document, root first.
#[derive(Debug, Clone)]
struct Bundle<'a> {
    certificates: [&'a [u8]; MAX_BUNDLE_CERTIFICATES],
    count: usize,
}

impl<'a> Bundle<'a> {
    fn as_slice(&self) -> &[&'a [u8]] {
        self.certificates.get(..self.count).unwrap_or_default()
    }
}

/// The payload's fields as they come in. An outer `None` is a field that has not come; an inner one is a null.
#[derive(Default)]
struct Fields<'a> {
    module_id: Option<&'a str>,
    digest: Option<()>,
    timestamp: Option<Timestamp>,
    pcrs: Option<EnclavePcrs>,
    nitrotpm_pcrs: Option<TpmPcrs>,
    certificate: Option<&'a [u8]>,
    cabundle: Option<Bundle<'a>>,
    public_key: Option<Option<&'a [u8]>>,
    user_data: Option<Option<&'a [u8]>>,
    nonce: Option<Option<&'a [u8]>>,
}

impl<'a> Payload<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, DocumentError> {
        let mut reader = Reader::new(bytes);
        let mut fields = Fields::default();
        match reader.head()? {
            Head::Map(entries) => {
                // Every entry is a new field or an error, so this ends long before a claimed number of entries does.
                for _ in 0..entries {
                    fields.read(&mut reader)?;
                }
            }
            Head::OpenMap => {
                while reader.peek()? != Head::Break {
                    fields.read(&mut reader)?;
                }
                reader.head()?;
            }
            other => return Err(unexpected("payload", "a map", other, 0)),
        }
        if !reader.is_empty() {
            return Err(DocumentError::TrailingPayload { actual: bytes.len() - reader.offset() });
        }
        fields.complete()
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self, reader: &mut Reader<'a>) -> Result<(), DocumentError> {
        match reader.text("field name")? {
            b"module_id" => once(&mut self.module_id, "module_id", module_id(reader)?),
            b"digest" => once(&mut self.digest, "digest", digest(reader)?),
            b"timestamp" => {
                let timestamp = Timestamp::from_millis(reader.unsigned("timestamp")?);
                once(&mut self.timestamp, "timestamp", timestamp)
            }
            b"pcrs" => once(&mut self.pcrs, "pcrs", EnclavePcrs::new(registers(reader)?)),
            b"nitrotpm_pcrs" => {
                once(&mut self.nitrotpm_pcrs, "nitrotpm_pcrs", TpmPcrs::new(registers(reader)?))
            }
            b"certificate" => once(&mut self.certificate, "certificate", certificate(reader)?),
            b"cabundle" => once(&mut self.cabundle, "cabundle", bundle(reader)?),
            b"public_key" => {
                let too_long = |expected, actual| DocumentError::PublicKeyLength { expected, actual };
                once(&mut self.public_key, "public_key", optional(reader, "public_key", too_long)?)
            }
            b"user_data" => {
                let too_long = |expected, actual| DocumentError::UserDataLength { expected, actual };
                once(&mut self.user_data, "user_data", optional(reader, "user_data", too_long)?)
            }
            b"nonce" => {
                let too_long = |expected, actual| DocumentError::NonceLength { expected, actual };
                once(&mut self.nonce, "nonce", optional(reader, "nonce", too_long)?)
            }
            other => Err(DocumentError::UnknownField { actual: printable(other) }),
        }
    }

    fn complete(self) -> Result<Payload<'a>, DocumentError> {
        let module_id = required(self.module_id, "module_id")?;
        required(self.digest, "digest")?;
        let pcrs = match (self.pcrs, self.nitrotpm_pcrs) {
            (Some(pcrs), None) => Pcrs::NitroEnclave(pcrs),
            (None, Some(pcrs)) => Pcrs::NitroTpm(pcrs),
            (Some(_), Some(_)) => return Err(DocumentError::BothPcrs),
            (None, None) => return Err(DocumentError::MissingField { field: "pcrs" }),
        };
        let kind = match pcrs {
            Pcrs::NitroEnclave(_) => "-enc",
            Pcrs::NitroTpm(_) => "-tpm",
        };
        if !module_id.contains(kind) {
            return Err(DocumentError::ModuleIdKind { expected: kind, actual: module_id.to_owned() });
        }
        Ok(Payload {
            module_id,
            timestamp: required(self.timestamp, "timestamp")?,
            pcrs,
            certificate: required(self.certificate, "certificate")?,
            bundle: required(self.cabundle, "cabundle")?,
            public_key: self.public_key.flatten(),
            user_data: self.user_data.flatten(),
            nonce: self.nonce.flatten(),
        })
    }
}

fn once<T>(field: &mut Option<T>, name: &'static str, value: T) -> Result<(), DocumentError> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(DocumentError::DuplicateField { field: name }),
    }
}

fn required<T>(field: Option<T>, name: &'static str) -> Result<T, DocumentError> {
    field.ok_or(DocumentError::MissingField { field: name })
}

/// `i-`, hexadecimal digits, `-enc` or `-tpm`, hexadecimal digits; at most 32 digits each.
fn module_id<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DocumentError> {
    let bytes = reader.text("module_id")?;
    let digits = |text: &str| {
        (1..=32).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    core::str::from_utf8(bytes)
        .ok()
        .filter(|text| {
            let Some((instance, module)) = text.strip_prefix("i-").and_then(|rest| rest.split_once('-'))
            else {
                return false;
            };
            let module = module.strip_prefix("enc").or_else(|| module.strip_prefix("tpm"));
            digits(instance) && module.is_some_and(digits)
        })
        .ok_or_else(|| DocumentError::ModuleId { actual: printable(bytes) })
}

fn digest(reader: &mut Reader<'_>) -> Result<(), DocumentError> {
    let bytes = reader.text("digest")?;
    if bytes != DIGEST.as_bytes() {
        return Err(DocumentError::Digest { actual: printable(bytes) });
    }
    Ok(())
}

fn registers(reader: &mut Reader<'_>) -> Result<[Option<Sha384Digest>; REGISTERS], DocumentError> {
    let count = reader.map_length("registers")?;
    if count == 0 || count > REGISTERS as u64 {
        return Err(DocumentError::PcrCount { actual: count });
    }
    let mut registers = [None; REGISTERS];
    for _ in 0..count {
        let index = reader.unsigned("register index")?;
        let register = usize::try_from(index).ok().and_then(|index| registers.get_mut(index));
        let register = register.ok_or(DocumentError::PcrIndex { actual: index })?;
        let value = reader.bytes("register")?;
        let value = Sha384Digest::try_from(value)
            .map_err(|_| DocumentError::PcrLength { index, actual: value.len() })?;
        if register.replace(value).is_some() {
            return Err(DocumentError::DuplicatePcr { index });
        }
    }
    Ok(registers)
}

fn certificate<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DocumentError> {
    let bytes = reader.bytes("certificate")?;
    match bytes.len() {
        1..=MAX_CERTIFICATE_LENGTH => Ok(bytes),
        actual => Err(DocumentError::CertificateLength { expected: MAX_CERTIFICATE_LENGTH, actual }),
    }
}

fn bundle<'a>(reader: &mut Reader<'a>) -> Result<Bundle<'a>, DocumentError> {
    let actual = reader.array_length("cabundle")?;
    let count = usize::try_from(actual).ok().filter(|count| (1..=MAX_BUNDLE_CERTIFICATES).contains(count));
    let count = count.ok_or(DocumentError::BundleCount { expected: MAX_BUNDLE_CERTIFICATES, actual })?;
    let mut bundle = Bundle { certificates: [&[]; MAX_BUNDLE_CERTIFICATES], count };
    for (index, certificate) in bundle.certificates.iter_mut().take(count).enumerate() {
        *certificate = reader.bytes("certificate of the bundle")?;
        if !(1..=MAX_CERTIFICATE_LENGTH).contains(&certificate.len()) {
            return Err(DocumentError::BundleCertificateLength {
                index,
                expected: MAX_CERTIFICATE_LENGTH,
                actual: certificate.len(),
            });
        }
    }
    Ok(bundle)
}

/// A byte string of at most [`MAX_FIELD_LENGTH`], or null.
fn optional<'a>(
    reader: &mut Reader<'a>,
    item: &'static str,
    too_long: fn(usize, usize) -> DocumentError,
) -> Result<Option<&'a [u8]>, DocumentError> {
    if reader.peek()? == Head::Null {
        reader.head()?;
        return Ok(None);
    }
    let bytes = reader.bytes(item)?;
    if bytes.len() > MAX_FIELD_LENGTH {
        return Err(too_long(MAX_FIELD_LENGTH, bytes.len()));
    }
    Ok(Some(bytes))
}

/// At most 64 bytes of hostile text, for an error message that is quoted with `{:?}`.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..64).unwrap_or(bytes)).into_owned()
}

/// At most 64 hostile bytes in hexadecimal.
fn abbreviated(bytes: &[u8]) -> String {
    match bytes.split_at_checked(64) {
        None | Some((_, [])) => hex::encode(bytes),
        Some((start, _)) => format!("{}… ({} bytes)", hex::encode(start), bytes.len()),
    }
}
