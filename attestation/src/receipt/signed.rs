//! From bytes to a receipt that an enclave gave.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::commitment::{Commitment, Part, Salt};
use super::payload::Receipt;
use crate::digest::Sha256Digest;
use crate::log::boot_of;
use crate::release::{Envelope, PayloadType, PublicKey};

/// The longest receipt as it is delivered, in bytes.
pub const MAX_DELIVERED_BYTES: usize = 16 << 10;

/// A receipt that the receipt key signed. Only [`SignedReceipt::verify`] and [`SignedReceipt::sign`] make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedReceipt {
    receipt: Receipt,
    envelope: Envelope,
}

impl SignedReceipt {
    /// Signs with `sign`, whose public half is `receipt_key` (DER of its `SubjectPublicKeyInfo`).
    ///
    /// # Errors
    /// [`ReceiptError`] when the receipt breaks a rule of its form, or the signature is not by this key.
    pub fn sign(
        receipt: Receipt,
        receipt_key: &[u8],
        sign: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Result<Self, ReceiptError> {
        let payload = receipt.to_payload();
        Receipt::from_payload(&payload).ok_or(ReceiptError::Form)?;
        let mut envelope =
            Envelope::unsigned(PayloadType::Receipt, &payload).map_err(|_| ReceiptError::Form)?;
        let signature = sign(envelope.pae());
        let key = PublicKey::from_spki(receipt_key).map_err(|_| ReceiptError::Signature)?;
        envelope.attach(&key, &signature).map_err(|_| ReceiptError::Signature)?;
        Ok(Self { receipt, envelope })
    }

    /// Believes an envelope that `receipt_key` (DER of its `SubjectPublicKeyInfo`) signed.
    ///
    /// # Errors
    /// [`ReceiptError`] says why not.
    pub fn verify(envelope: &[u8], receipt_key: &[u8]) -> Result<Self, ReceiptError> {
        let envelope = Envelope::parse(envelope, PayloadType::Receipt).map_err(|_| ReceiptError::Form)?;
        let key = PublicKey::from_spki(receipt_key).map_err(|_| ReceiptError::Signature)?;
        // One key signs receipts, so there is one signature.
        let [signature] = envelope.signatures() else { return Err(ReceiptError::Signature) };
        if !key.verifies(envelope.pae(), signature.bytes()) {
            return Err(ReceiptError::Signature);
        }
        let receipt = Receipt::from_payload(envelope.payload()).ok_or(ReceiptError::Form)?;
        if receipt.boot != boot_of(receipt_key) {
            return Err(ReceiptError::OtherBoot);
        }
        Ok(Self { receipt, envelope })
    }

    /// What it says.
    #[must_use]
    pub const fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// SHA-256 of its payload, which the log has.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        self.envelope.digest()
    }

    /// The envelope as JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        self.envelope.to_json()
    }

    /// Whether `bytes` are the request's or response's body that it commits to.
    ///
    /// # Errors
    /// [`ReceiptError::Request`] or [`ReceiptError::Response`].
    pub fn opens(&self, part: Part, bytes: &[u8], salt: &Salt) -> Result<(), ReceiptError> {
        self.matches(part, &Commitment::to(bytes, part, salt))
    }

    /// Whether it has this commitment.
    ///
    /// # Errors
    /// [`ReceiptError::Request`] or [`ReceiptError::Response`].
    pub fn matches(&self, part: Part, commitment: &Commitment) -> Result<(), ReceiptError> {
        match part {
            Part::Request if self.receipt.request != *commitment => Err(ReceiptError::Request),
            Part::Response if self.receipt.response != *commitment => Err(ReceiptError::Response),
            Part::Request | Part::Response => Ok(()),
        }
    }
}

/// A receipt with its salt, as it comes to the partner: in an event, in a header, or on request.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Json {
    receipt: serde_json::Value,
    salt: String,
}

/// A receipt with its salt, as it comes to the partner. Nothing of it is believed.
pub struct Delivered {
    /// The envelope, as JSON.
    pub envelope: Vec<u8>,
    /// The request's salt.
    pub salt: Salt,
}

impl Delivered {
    /// `{"receipt": ENVELOPE, "salt": "base64"}` on one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        let receipt = serde_json::from_slice(&self.envelope).unwrap_or_default();
        let json = Json { receipt, salt: STANDARD.encode(self.salt.as_bytes()) };
        serde_json::to_string(&json).unwrap_or_default()
    }

    /// Reads what [`Self::to_json`] wrote.
    ///
    /// # Errors
    /// [`ReceiptError::Form`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ReceiptError> {
        if bytes.len() > MAX_DELIVERED_BYTES {
            return Err(ReceiptError::Form);
        }
        let Json { receipt, salt } = serde_json::from_slice(bytes).map_err(|_| ReceiptError::Form)?;
        let salt = STANDARD.decode(salt).map_err(|_| ReceiptError::Form)?;
        let salt: [u8; Salt::LENGTH] = salt.as_slice().try_into().map_err(|_| ReceiptError::Form)?;
        let envelope = serde_json::to_vec(&receipt).map_err(|_| ReceiptError::Form)?;
        Ok(Self { envelope, salt: Salt::from_bytes(salt) })
    }
}

/// Why bytes are not the receipt that they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Not a receipt of this version.
    #[error("expected a receipt of version 1, got something else")]
    Form,
    /// Not signed by the receipt key.
    #[error("the receipt is not signed by the enclave's receipt key")]
    Signature,
    /// Of another boot than its key.
    #[error("the receipt names one boot, and the key of another boot signed it")]
    OtherBoot,
    /// About another request.
    #[error("the receipt does not match the request that was sent")]
    Request,
    /// About another response.
    #[error("the receipt does not match the response that arrived")]
    Response,
    /// About another session, partner or model.
    #[error("the receipt is about another {0}")]
    Other(&'static str),
}

impl ReceiptError {
    /// A stable word for programs.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Form => "receipt-form",
            Self::Signature => "receipt-signature",
            Self::OtherBoot => "receipt-boot",
            Self::Request => "receipt-request",
            Self::Response => "receipt-response",
            Self::Other(_) => "receipt-other",
        }
    }
}
