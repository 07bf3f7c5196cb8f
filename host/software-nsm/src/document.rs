//! Attestation documents as AWS emits them: an untagged `COSE_Sign1` (RFC 9052 section 4.2) with ES384.

use std::collections::BTreeMap;

use aws_nitro_enclaves_nsm_api::api::{AttestationDoc, Digest};
use serde::Serialize;
use serde_bytes::ByteBuf;

use crate::NsmError;
use crate::key::Key;

/// The protected header {1: -35}: the algorithm is ES384.
const PROTECTED: [u8; 4] = [0xa1, 0x01, 0x38, 0x22];

/// What one document states.
pub(crate) struct Statement {
    pub(crate) module_id: String,
    /// Milliseconds since the Unix epoch.
    pub(crate) timestamp_ms: u64,
    pub(crate) registers: Registers,
    pub(crate) certificate: Vec<u8>,
    /// Root first, the leaf's issuer last.
    pub(crate) cabundle: Vec<Vec<u8>>,
    pub(crate) public_key: Option<Vec<u8>>,
    pub(crate) user_data: Option<Vec<u8>>,
    pub(crate) nonce: Option<Vec<u8>>,
}

/// Registers, under the name that documents have for them.
pub(crate) enum Registers {
    /// `pcrs`, of an enclave.
    Enclave(BTreeMap<usize, Vec<u8>>),
    /// `nitrotpm_pcrs`, of a TPM.
    Tpm(BTreeMap<usize, Vec<u8>>),
}

/// The payload of a TPM's document. The library knows that of enclaves alone.
#[derive(Serialize)]
struct TpmPayload {
    module_id: String,
    digest: Digest,
    timestamp: u64,
    nitrotpm_pcrs: BTreeMap<usize, ByteBuf>,
    certificate: ByteBuf,
    cabundle: Vec<ByteBuf>,
    public_key: Option<ByteBuf>,
    user_data: Option<ByteBuf>,
    nonce: Option<ByteBuf>,
}

impl Statement {
    /// Signs the statement with the key of its certificate, which must give signatures of fixed length.
    pub(crate) fn sign(self, key: &Key) -> Result<Vec<u8>, NsmError> {
        let payload = self.encode()?;

        let mut to_be_signed = vec![0x84];
        to_be_signed.push(0x60 | 10);
        to_be_signed.extend_from_slice(b"Signature1");
        byte_string(&mut to_be_signed, &PROTECTED);
        byte_string(&mut to_be_signed, &[]);
        byte_string(&mut to_be_signed, &payload);
        let signature = key.sign(&to_be_signed)?;

        let mut document = vec![0x84];
        byte_string(&mut document, &PROTECTED);
        document.push(0xa0);
        byte_string(&mut document, &payload);
        byte_string(&mut document, &signature);
        Ok(document)
    }

    /// The payload map with AWS's order of keys; absent fields are `null`.
    fn encode(self) -> Result<Vec<u8>, NsmError> {
        let bytes = |field: Option<Vec<u8>>| field.map(ByteBuf::from);
        let mut payload = match self.registers {
            Registers::Enclave(registers) => AttestationDoc::new(
                self.module_id,
                Digest::SHA384,
                self.timestamp_ms,
                registers,
                self.certificate,
                self.cabundle,
                self.user_data,
                self.nonce,
                self.public_key,
            )
            .to_binary(),
            Registers::Tpm(registers) => serde_cbor::to_vec(&TpmPayload {
                module_id: self.module_id,
                digest: Digest::SHA384,
                timestamp: self.timestamp_ms,
                nitrotpm_pcrs: registers.into_iter().map(|(index, value)| (index, value.into())).collect(),
                certificate: self.certificate.into(),
                cabundle: self.cabundle.into_iter().map(ByteBuf::from).collect(),
                public_key: bytes(self.public_key),
                user_data: bytes(self.user_data),
                nonce: bytes(self.nonce),
            })
            .map_err(|_| NsmError::Encoding)?,
        };
        // Since the middle of 2025 the outer map, and nothing else, is of indefinite length.
        if let Some(head) = payload.first_mut() {
            *head = 0xbf;
        }
        payload.push(0xff);
        Ok(payload)
    }
}

/// Appends a CBOR byte string with the shortest head (RFC 8949 section 3.1).
fn byte_string(output: &mut Vec<u8>, bytes: &[u8]) {
    const MAJOR: u8 = 2 << 5;
    let length = bytes.len();
    if let Ok(short) = u8::try_from(length) {
        if short < 24 {
            output.push(MAJOR | short);
        } else {
            output.extend_from_slice(&[MAJOR | 24, short]);
        }
    } else if let Ok(medium) = u16::try_from(length) {
        output.push(MAJOR | 25);
        output.extend_from_slice(&medium.to_be_bytes());
    } else {
        output.push(MAJOR | 27);
        output.extend_from_slice(&(length as u64).to_be_bytes());
    }
    output.extend_from_slice(bytes);
}
