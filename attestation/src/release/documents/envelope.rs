//! DSSE envelopes (protocol and envelope of secure-systems-lab/dsse, version 1): what is signed, as what, by whom.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::{Deserialize, Serialize};

use super::error::ReleaseError;
use super::fields::List;
use super::key::PublicKey;
use super::payload_type::PayloadType;
use crate::digest::Sha256Digest;

/// The most signatures in one envelope. A root in rotation carries those of two quorums.
pub const SIGNATURES_LIMIT: usize = 32;
/// The longest signature in bytes; ECDSA P-384 in DER has at most 104.
const SIGNATURE_LIMIT: usize = 128;
/// The longest `keyid` that is carried along, in bytes.
const KEY_ID_LIMIT: usize = 256;

/// A payload and signatures over it, **none of them verified**. [`Root::verify`](crate::release::Root::verify) counts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    payload_type: PayloadType,
    /// The pre-authentication encoding, whose tail is the payload: the payload is kept once.
    signed: Vec<u8>,
    payload_start: usize,
    signatures: Vec<Signature>,
}

/// One signature in an [`Envelope`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    key_id: Box<str>,
    bytes: Box<[u8]>,
}

impl Signature {
    /// What the signer called its key. It is not signed and nothing is decided by it.
    #[must_use]
    pub const fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The signature: 64 bytes of Ed25519, or the DER of an ECDSA signature.
    #[must_use]
    pub const fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The envelope as JSON. Members that DSSE does not define are refused.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Json<'a> {
    #[serde(borrow)]
    payload: Cow<'a, str>,
    #[serde(borrow, rename = "payloadType")]
    payload_type: Cow<'a, str>,
    #[serde(borrow)]
    signatures: List<JsonSignature<'a>, SIGNATURES_LIMIT>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonSignature<'a> {
    #[serde(borrow, default)]
    keyid: Cow<'a, str>,
    #[serde(borrow)]
    sig: Cow<'a, str>,
}

impl Envelope {
    /// A payload that nobody has signed yet.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::TooLarge`] when the payload is over its type's limit.
    pub fn unsigned(payload_type: PayloadType, payload: &[u8]) -> Result<Self, ReleaseError> {
        within(payload_type.name(), payload_type.limit(), payload.len())?;
        let mut signed = pae_header(payload_type, payload.len());
        let payload_start = signed.len();
        signed.extend_from_slice(payload);
        Ok(Self { payload_type, signed, payload_start, signatures: Vec::new() })
    }

    /// Reads an envelope that is expected to carry `expected`.
    ///
    /// # Errors
    ///
    /// [`ReleaseError`] when it is too large, is not an envelope of exactly the members that DSSE defines, carries another
    /// type, or has a payload or signature that is not base64 (standard or URL-safe alphabet, padded) or too long.
    pub fn parse(bytes: &[u8], expected: PayloadType) -> Result<Self, ReleaseError> {
        const WHAT: &str = "envelope";
        within(WHAT, expected.envelope_limit(), bytes.len())?;
        let json: Json<'_> =
            serde_json::from_slice(bytes).map_err(|error| ReleaseError::form(WHAT, &error))?;
        if json.payload_type != expected.as_str() {
            let actual = json.payload_type.chars().take(100).collect();
            return Err(ReleaseError::PayloadType { expected, actual });
        }

        let text = json.payload.as_bytes();
        let padding = text.iter().rev().take(2).take_while(|byte| **byte == b'=').count();
        let length = (text.len() / 4 * 3).saturating_sub(padding);
        within(expected.name(), expected.limit(), length)?;
        let mut signed = pae_header(expected, length);
        let payload_start = signed.len();
        signed.reserve_exact(length);
        decode(text, &mut signed, "payload")?;
        if signed.len() != payload_start.saturating_add(length) {
            return Err(ReleaseError::Base64("payload"));
        }

        let mut signatures = Vec::with_capacity(json.signatures.len());
        for signature in &json.signatures {
            within("keyid", KEY_ID_LIMIT, signature.keyid.len())?;
            within("signature", SIGNATURE_LIMIT, signature.sig.len() / 4 * 3)?;
            let mut bytes = Vec::new();
            decode(signature.sig.as_bytes(), &mut bytes, "signature")?;
            signatures.push(Signature { key_id: (*signature.keyid).into(), bytes: bytes.into() });
        }
        Ok(Self { payload_type: expected, signed, payload_start, signatures })
    }

    /// What the payload is.
    #[must_use]
    pub const fn payload_type(&self) -> PayloadType {
        self.payload_type
    }

    /// The payload, **unverified**.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.signed.get(self.payload_start..).unwrap_or_default()
    }

    /// SHA-256 of [`Self::payload`]: the digest by which leases, receipts and the channel name it.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&[self.payload()])
    }

    /// The pre-authentication encoding: the bytes that are signed,
    /// `"DSSEv1" SP LEN(type) SP type SP LEN(payload) SP payload` with lengths in decimal ASCII.
    #[must_use]
    pub fn pae(&self) -> &[u8] {
        &self.signed
    }

    /// The signatures, **unverified**, in the order in which they stand.
    #[must_use]
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Adds `signature`, made with `key`, replacing one that this key made before.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::NotTheSigner`] when `key` did not make the signature over [`Self::pae`]; [`ReleaseError::TooLarge`] for
    /// one signature too many.
    pub fn attach(&mut self, key: &PublicKey, signature: &[u8]) -> Result<(), ReleaseError> {
        if !key.verifies(&self.signed, signature) {
            return Err(ReleaseError::NotTheSigner(key.id()));
        }
        let signed = &self.signed;
        self.signatures.retain(|present| !key.verifies(signed, &present.bytes));
        within("list of signatures", SIGNATURES_LIMIT, self.signatures.len().saturating_add(1))?;
        self.signatures.push(Signature { key_id: key.id().to_string().into(), bytes: signature.into() });
        Ok(())
    }

    /// The same payload with some of its signatures: each by its place here, and the key id to write beside it.
    pub(super) fn with_signatures(&self, chosen: impl Iterator<Item = (usize, String)>) -> Self {
        let signatures = chosen.filter_map(|(place, key_id)| {
            let bytes = self.signatures.get(place)?.bytes.clone();
            Some(Signature { key_id: key_id.into(), bytes })
        });
        let signatures = signatures.collect();
        Self { signatures, signed: self.signed.clone(), ..*self }
    }

    /// The envelope as JSON, indented, with a final newline.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let signatures = self.signatures.iter().map(|signature| JsonSignature {
            keyid: Cow::Borrowed(&signature.key_id),
            sig: Cow::Owned(STANDARD.encode(&signature.bytes)),
        });
        let json = Json {
            payload: Cow::Owned(STANDARD.encode(self.payload())),
            payload_type: Cow::Borrowed(self.payload_type.as_str()),
            signatures: List::new(signatures.collect()).unwrap_or_default(),
        };
        to_json(&json)
    }
}

/// `value` as this project writes JSON: indented, with a final newline. The bytes are what is signed, so people read exactly that.
pub(in crate::release) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    // Types that serialise to maps with string keys cannot fail here.
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn pae_header(payload_type: PayloadType, length: usize) -> Vec<u8> {
    let payload_type = payload_type.as_str();
    format!("DSSEv1 {} {payload_type} {length} ", payload_type.len()).into_bytes()
}

fn decode(text: &[u8], into: &mut Vec<u8>, what: &'static str) -> Result<(), ReleaseError> {
    let alphabet = if text.iter().any(|byte| matches!(byte, b'-' | b'_')) { &URL_SAFE } else { &STANDARD };
    alphabet.decode_vec(text, into).map_err(|_| ReleaseError::Base64(what))
}

fn within(what: &'static str, limit: usize, actual: usize) -> Result<(), ReleaseError> {
    if actual <= limit { Ok(()) } else { Err(ReleaseError::TooLarge { what, limit, actual }) }
}
