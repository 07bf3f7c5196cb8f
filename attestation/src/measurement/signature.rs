//! The signature section: who vouches for PCR0.
//!
//! A CBOR array of one map {`signing_certificate`: PEM, `signature`: `COSE_Sign1` (RFC 9052)}, both byte sequences written
//! as arrays of integers. The signed payload is the map {`register_index`: 0, `register_value`: PCR0}. AWS's tools write this one
//! form, and Nitro reads only the first entry, so this reader refuses every other form and every further entry.

use super::certificate::{Curve, SigningCertificate};
use super::error::SignatureError;
use crate::chain::der;
use crate::crypto::backend::signature as ecdsa;
use crate::digest::Sha384Digest;

/// A signature section whose form is right and whose signature is not verified yet.
pub(super) struct SignatureSection {
    certificate: SigningCertificate,
    algorithm: i64,
    /// The protected header as it was signed.
    protected: Vec<u8>,
    /// The payload as it was signed.
    payload: Vec<u8>,
    signature: Vec<u8>,
    register: u64,
    value: Sha384Digest,
}

impl SignatureSection {
    pub(super) fn parse(section: &[u8]) -> Result<Self, SignatureError> {
        let mut reader = Reader::new("the signature section", section);
        reader.head(ARRAY, 1, "an array of one entry")?;
        reader.head(MAP, 2, "a map of two fields")?;
        reader.key("signing_certificate", "the key \"signing_certificate\"")?;
        let pem = reader.integers()?;
        reader.key("signature", "the key \"signature\"")?;
        let cose = reader.integers()?;
        reader.end()?;

        let mut reader = Reader::new("the COSE_Sign1 structure", &cose);
        if reader.rest.first() == Some(&TAGGED_SIGN1) {
            reader.advance(1);
        }
        reader.head(ARRAY, 4, "an array of four")?;
        let protected = reader.bytes("the protected header as bytes")?;
        reader.head(MAP, 0, "an empty unprotected header")?;
        let payload = reader.bytes("the payload as bytes")?;
        let signature = reader.bytes("the signature as bytes")?;
        reader.end()?;

        let mut reader = Reader::new("the protected header", protected);
        reader.head(MAP, 1, "a map of one parameter")?;
        reader.head(UNSIGNED, 1, "the parameter 1 (alg)")?;
        let algorithm = reader.negative("a negative algorithm number")?;
        reader.end()?;

        let mut reader = Reader::new("the signed payload", payload);
        reader.head(MAP, 2, "a map of two fields")?;
        reader.key("register_index", "the key \"register_index\"")?;
        let register = reader.argument(UNSIGNED, "an unsigned register index")?;
        reader.key("register_value", "the key \"register_value\"")?;
        let value = reader.integers()?;
        let value = Sha384Digest::try_from(value.as_slice())
            .map_err(|_| reader.error("a register value of 48 bytes before this point"))?;
        reader.end()?;

        let certificate = SigningCertificate::from_pem(&pem)?;
        Ok(Self {
            certificate,
            algorithm,
            protected: protected.to_vec(),
            payload: payload.to_vec(),
            signature: signature.to_vec(),
            register,
            value,
        })
    }

    /// The certificate, if it signed `pcr0`.
    pub(super) fn verify(self, pcr0: &Sha384Digest) -> Result<SigningCertificate, SignatureError> {
        if self.register != 0 {
            return Err(SignatureError::Register { actual: self.register });
        }
        if self.value != *pcr0 {
            return Err(SignatureError::Pcr0 { expected: *pcr0, actual: self.value });
        }
        let curve = self.certificate.curve();
        if self.algorithm != curve.cose_algorithm() {
            let (expected, actual) = (curve.cose_algorithm(), self.algorithm);
            return Err(SignatureError::Algorithm { expected, actual });
        }
        let signed = signature_structure(&self.protected, &self.payload);
        ecdsa::UnparsedPublicKey::new(verification_algorithm(curve)?, self.certificate.public_key())
            .verify(&signed, &self.signature)
            .map_err(|_| SignatureError::Forged)?;
        Ok(self.certificate)
    }
}

/// What a key must sign so that an image is signed, and the section that comes of it.
#[derive(Debug)]
pub struct SignatureRequest {
    certificate: SigningCertificate,
    pem: Vec<u8>,
    pcr0: Sha384Digest,
    protected: Vec<u8>,
    payload: Vec<u8>,
}

impl SignatureRequest {
    /// For the image of this PCR0, and the key of the first certificate in `pem`. The section will hold `pem` as it is.
    ///
    /// # Errors
    ///
    /// [`SignatureError`] when `pem` does not begin with a certificate for a key on P-256, P-384 or P-521.
    pub fn new(pem: &[u8], pcr0: Sha384Digest) -> Result<Self, SignatureError> {
        let certificate = SigningCertificate::from_pem(pem)?;
        let mut protected = Vec::new();
        push_head(&mut protected, MAP, 1);
        push_head(&mut protected, UNSIGNED, 1);
        push_head(&mut protected, NEGATIVE, certificate.curve().cose_algorithm().abs_diff(-1));
        let mut payload = Vec::new();
        push_head(&mut payload, MAP, 2);
        push_text(&mut payload, "register_index");
        push_head(&mut payload, UNSIGNED, 0);
        push_text(&mut payload, "register_value");
        push_integers(&mut payload, pcr0.as_bytes());
        Ok(Self { certificate, pem: pem.to_vec(), pcr0, protected, payload })
    }

    /// The certificate whose key must sign.
    #[must_use]
    pub const fn certificate(&self) -> &SigningCertificate {
        &self.certificate
    }

    /// The bytes to be signed (`Sig_structure`), with the hash that belongs to the key's curve: SHA-256 for P-256, SHA-384 for
    /// P-384, SHA-512 for P-521.
    #[must_use]
    pub fn to_be_signed(&self) -> Vec<u8> {
        signature_structure(&self.protected, &self.payload)
    }

    /// The signature section. `signature` is r and s, each as long as the curve's field (32, 48 or 66 bytes), big-endian; or
    /// both as `Ecdsa-Sig-Value` in DER (RFC 3279, section 2.2.3), which most tools write.
    ///
    /// # Errors
    ///
    /// [`SignatureError::Forged`] when the signature is not by the certificate's key over this image.
    pub fn section(&self, signature: &[u8]) -> Result<Vec<u8>, SignatureError> {
        let field = self.certificate.curve().field_length();
        let fixed = if signature.len() == 2 * field { None } else { fixed_form(signature, field) };
        let signature = fixed.as_deref().unwrap_or(signature);
        let mut cose = Vec::new();
        push_head(&mut cose, ARRAY, 4);
        push_bytes(&mut cose, &self.protected);
        push_head(&mut cose, MAP, 0);
        push_bytes(&mut cose, &self.payload);
        push_bytes(&mut cose, signature);
        let mut section = Vec::new();
        push_head(&mut section, ARRAY, 1);
        push_head(&mut section, MAP, 2);
        push_text(&mut section, "signing_certificate");
        push_integers(&mut section, &self.pem);
        push_text(&mut section, "signature");
        push_integers(&mut section, &cose);
        // What is handed out has been read back and verified.
        SignatureSection::parse(&section)?.verify(&self.pcr0)?;
        Ok(section)
    }
}

/// r and s of an `Ecdsa-Sig-Value`, each filled up to `field` bytes.
fn fixed_form(signature: &[u8], field: usize) -> Option<Vec<u8>> {
    let mut file = der::Reader::new(signature);
    let mut numbers = file.sequence().ok()?;
    file.finish().ok()?;
    let mut fixed = Vec::with_capacity(2 * field);
    for _ in 0..2 {
        let number = numbers.expect(der::tag::INTEGER).ok()?;
        // A positive number whose first bit is set has a zero byte in front.
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        fixed.resize(fixed.len() + field.checked_sub(number.len())?, 0);
        fixed.extend_from_slice(number);
    }
    numbers.finish().ok()?;
    Some(fixed)
}

fn verification_algorithm(curve: Curve) -> Result<&'static dyn ecdsa::VerificationAlgorithm, SignatureError> {
    match curve {
        Curve::P256 => Ok(&ecdsa::ECDSA_P256_SHA256_FIXED),
        Curve::P384 => Ok(&ecdsa::ECDSA_P384_SHA384_FIXED),
        #[cfg(feature = "aws-lc-rs")]
        Curve::P521 => Ok(&ecdsa::ECDSA_P521_SHA512_FIXED),
        #[cfg(not(feature = "aws-lc-rs"))]
        Curve::P521 => Err(SignatureError::Backend { algorithm: "ES512" }),
    }
}

/// `Sig_structure` of RFC 9052, section 4.4, for `COSE_Sign1` without external data.
fn signature_structure(protected: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut signed = Vec::with_capacity(protected.len() + payload.len() + 24);
    push_head(&mut signed, ARRAY, 4);
    push_text(&mut signed, "Signature1");
    push_bytes(&mut signed, protected);
    push_bytes(&mut signed, &[]);
    push_bytes(&mut signed, payload);
    signed
}

// Major types of CBOR (RFC 8949, section 3.1).
const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
/// Tag 18 (`COSE_Sign1`), which may stand in front of the structure.
const TAGGED_SIGN1: u8 = 0xd2;

fn push_head(target: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    match argument {
        0..=23 => target.push(major | argument as u8),
        24..=0xff => target.extend_from_slice(&[major | 24, argument as u8]),
        0x100..=0xffff => {
            target.push(major | 25);
            target.extend_from_slice(&(argument as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            target.push(major | 26);
            target.extend_from_slice(&(argument as u32).to_be_bytes());
        }
        _ => {
            target.push(major | 27);
            target.extend_from_slice(&argument.to_be_bytes());
        }
    }
}

fn push_text(target: &mut Vec<u8>, text: &str) {
    push_head(target, TEXT, text.len() as u64);
    target.extend_from_slice(text.as_bytes());
}

fn push_bytes(target: &mut Vec<u8>, bytes: &[u8]) {
    push_head(target, BYTES, bytes.len() as u64);
    target.extend_from_slice(bytes);
}

/// Bytes written as an array of integers.
fn push_integers(target: &mut Vec<u8>, bytes: &[u8]) {
    push_head(target, ARRAY, bytes.len() as u64);
    for byte in bytes {
        push_head(target, UNSIGNED, u64::from(*byte));
    }
}

/// Reads exactly the CBOR that is expected: definite lengths, shortest heads, nothing after the end.
struct Reader<'a> {
    part: &'static str,
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    const fn new(part: &'static str, bytes: &'a [u8]) -> Self {
        Self { part, rest: bytes, offset: 0 }
    }

    const fn error(&self, expected: &'static str) -> SignatureError {
        SignatureError::Encoding { part: self.part, offset: self.offset, expected }
    }

    fn advance(&mut self, length: usize) {
        self.rest = self.rest.get(length..).unwrap_or_default();
        self.offset += length;
    }

    /// A head of this major type; its argument.
    fn argument(&mut self, major: u8, expected: &'static str) -> Result<u64, SignatureError> {
        let (first, rest) = self.rest.split_first().ok_or_else(|| self.error(expected))?;
        let (argument, length, smallest) = match first & 0x1f {
            small @ 0..=23 => (Some(u64::from(small)), 1, 0),
            24 => (rest.first().map(|byte| u64::from(*byte)), 2, 24),
            25 => (rest.first_chunk().map(|bytes| u64::from(u16::from_be_bytes(*bytes))), 3, 0x100),
            26 => (rest.first_chunk().map(|bytes| u64::from(u32::from_be_bytes(*bytes))), 5, 0x1_0000),
            27 => (rest.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)), 9, 0x1_0000_0000),
            _ => (None, 0, 0),
        };
        match argument {
            Some(argument) if first >> 5 == major && argument >= smallest => {
                self.advance(length);
                Ok(argument)
            }
            _ => Err(self.error(expected)),
        }
    }

    /// A head of this major type with this argument.
    fn head(&mut self, major: u8, argument: u64, expected: &'static str) -> Result<(), SignatureError> {
        let start = (self.rest, self.offset);
        if self.argument(major, expected)? == argument {
            return Ok(());
        }
        (self.rest, self.offset) = start;
        Err(self.error(expected))
    }

    fn negative(&mut self, expected: &'static str) -> Result<i64, SignatureError> {
        let argument = self.argument(NEGATIVE, expected)?;
        i64::try_from(argument).map(|argument| -1 - argument).map_err(|_| self.error(expected))
    }

    fn string(&mut self, major: u8, expected: &'static str) -> Result<&'a [u8], SignatureError> {
        let length = self.argument(major, expected)?;
        let string = usize::try_from(length)
            .ok()
            .and_then(|length| self.rest.get(..length))
            .ok_or_else(|| self.error(expected))?;
        self.advance(string.len());
        Ok(string)
    }

    fn bytes(&mut self, expected: &'static str) -> Result<&'a [u8], SignatureError> {
        self.string(BYTES, expected)
    }

    fn key(&mut self, name: &str, expected: &'static str) -> Result<(), SignatureError> {
        let start = (self.rest, self.offset);
        if self.string(TEXT, expected)? == name.as_bytes() {
            return Ok(());
        }
        (self.rest, self.offset) = start;
        Err(self.error(expected))
    }

    /// Bytes written as an array of integers. Each takes at least a byte of input, so the input bounds the result.
    fn integers(&mut self) -> Result<Vec<u8>, SignatureError> {
        const EXPECTED: &str = "an array of integers from 0 to 255";
        let count = self.argument(ARRAY, EXPECTED)?;
        let count = usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.rest.len())
            .ok_or_else(|| self.error(EXPECTED))?;
        let mut bytes = Vec::with_capacity(count);
        for _ in 0..count {
            let value = self.argument(UNSIGNED, EXPECTED)?;
            bytes.push(u8::try_from(value).map_err(|_| self.error(EXPECTED))?);
        }
        Ok(bytes)
    }

    fn end(&self) -> Result<(), SignatureError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error("the end")) }
    }
}
