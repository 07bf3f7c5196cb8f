//! A `NitroTPM`'s part in attestation: documents of an instance, with the registers of its TPM.
//!
//! A TPM keeps its registers itself, so this module is told them with each request.

use std::sync::Arc;

use aws_nitro_enclaves_nsm_api::api::{ErrorCode, Request, Response};
use serde::Deserialize as _;

use crate::certificates::{Chain, Kind, Names};
use crate::document::{Registers, Statement};
use crate::key::random;
use crate::nsm::{NONCE_MAX, PUBLIC_KEY_MAX, USER_DATA_MAX, bounded, encode, module_number};
use crate::{DevelopmentRoot, NsmError};

/// Registers of a TPM.
pub const TPM_REGISTERS: usize = 24;
/// The values of a TPM's registers, in its SHA-384 bank.
pub type TpmRegisters = [[u8; 48]; TPM_REGISTERS];

/// Signs documents of one instance with a `NitroTPM`, under a development root.
pub struct TpmAttester {
    chain: Chain,
}

impl TpmAttester {
    /// The attester of an instance with a random id, `now_ms` milliseconds after the Unix epoch.
    ///
    /// # Errors
    /// When keys or certificates cannot be made, or when the development root is not valid at `now_ms`.
    pub fn start(root: Arc<DevelopmentRoot>, now_ms: u64) -> Result<Self, NsmError> {
        let names = Names {
            instance_id: format!("i-0{}", hex::encode(random::<8>()?)),
            kind: Kind::Tpm,
            number: module_number(now_ms)?,
            region: "development-1".to_owned(),
        };
        Ok(Self { chain: Chain::issue(root, names, now_ms / 1000)? })
    }

    /// The module's name: `i-` and 17 hexadecimal digits for the instance, `-tpm` and 16 for the TPM.
    #[must_use]
    pub fn module_id(&self) -> String {
        self.chain.module_id()
    }

    /// Answers one request: CBOR in, CBOR out, at most `capacity` bytes; a longer answer becomes `BufferTooSmall`. Bytes
    /// behind the request are ignored, because an index of a TPM is longer than what is written to it.
    ///
    /// `registers` and `now_ms` (milliseconds since the Unix epoch) go into documents as they are. The only request is
    /// `Attestation`: a TPM has commands of its own for the rest.
    #[must_use]
    pub fn process_within(
        &mut self,
        request: &[u8],
        registers: &TpmRegisters,
        now_ms: u64,
        capacity: usize,
    ) -> Vec<u8> {
        let answer = encode(&self.answer(request, registers, now_ms).unwrap_or_else(Response::Error));
        if answer.len() <= capacity { answer } else { encode(&Response::Error(ErrorCode::BufferTooSmall)) }
    }

    fn answer(
        &mut self,
        request: &[u8],
        registers: &TpmRegisters,
        now_ms: u64,
    ) -> Result<Response, ErrorCode> {
        let mut reader = serde_cbor::Deserializer::from_slice(request);
        let request = Request::deserialize(&mut reader).map_err(|_| ErrorCode::InvalidOperation)?;
        let Request::Attestation { user_data, nonce, public_key } = request else {
            return Err(ErrorCode::InvalidOperation);
        };
        let user_data = bounded(user_data, USER_DATA_MAX)?;
        let nonce = bounded(nonce, NONCE_MAX)?;
        let public_key = bounded(public_key, PUBLIC_KEY_MAX)?;
        self.chain.renew(now_ms / 1000).map_err(|_| ErrorCode::InternalError)?;
        let statement = Statement {
            module_id: self.chain.module_id(),
            timestamp_ms: now_ms,
            registers: Registers::Tpm(registers.iter().map(|value| value.to_vec()).enumerate().collect()),
            certificate: self.chain.leaf_der(),
            cabundle: self.chain.bundle(),
            public_key,
            user_data,
            nonce,
        };
        let document = statement.sign(self.chain.leaf_key()).map_err(|_| ErrorCode::InternalError)?;
        Ok(Response::Attestation { document })
    }
}
