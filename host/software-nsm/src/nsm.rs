//! The security module's state machine.

use std::sync::Arc;

use aws_nitro_enclaves_nsm_api::api::{Digest, ErrorCode, Request, Response};
use serde_bytes::ByteBuf;

use crate::certificates::{Chain, Kind, Names};
use crate::document::{self, Statement};
use crate::key::random;
use crate::registers::{self, Registers};
use crate::{DevelopmentRoot, Measurements, NsmError};

/// The longest request that is read, in bytes.
pub const REQUEST_MAX: usize = 4096;
/// The longest answer that is given, in bytes.
pub const RESPONSE_MAX: usize = 12288;
/// The longest `user_data` of a document, in bytes.
pub const USER_DATA_MAX: usize = 512;
/// The longest `nonce` of a document, in bytes.
pub const NONCE_MAX: usize = 512;
/// The longest `public_key` of a document, in bytes.
pub const PUBLIC_KEY_MAX: usize = 1024;
/// How many bytes one answer to `GetRandom` has.
pub const RANDOM_LENGTH: usize = 256;

/// The answer `Error(InternalError)`, for when not even an error can be encoded.
const INTERNAL_ERROR: &[u8] = b"\xa1\x65Error\x6dInternalError";

/// One enclave's Nitro Secure Module.
pub struct SoftwareNsm {
    registers: Registers,
    chain: Chain,
}

/// Settings of a [`SoftwareNsm`]; each has a default.
pub struct NsmBuilder {
    root: Arc<DevelopmentRoot>,
    measurements: Measurements,
    region: String,
    instance_id: Option<String>,
}

impl NsmBuilder {
    /// The region in the certificates' names; `development-1` unless set.
    #[must_use]
    pub fn region(mut self, region: &str) -> Self {
        region.clone_into(&mut self.region);
        self
    }

    /// The parent's id, which begins the module id; random unless set.
    #[must_use]
    pub fn instance_id(mut self, instance_id: &str) -> Self {
        self.instance_id = Some(instance_id.to_owned());
        self
    }

    /// The module as the enclave finds it at boot, `now_ms` milliseconds after the Unix epoch. If the
    /// measurements do not say which instance the parent is, PCR 4 is measured from the module's own instance
    /// id.
    ///
    /// # Errors
    /// When keys or certificates cannot be made, or when the development root is not valid at `now_ms`.
    pub fn start(self, now_ms: u64) -> Result<SoftwareNsm, NsmError> {
        let instance_id = match self.instance_id {
            Some(id) => id,
            // 17 digits of which the first is zero, as EC2 gives them.
            None => format!("i-0{}", hex::encode(random::<8>()?)),
        };
        let measurements = if self.measurements.names_instance() {
            self.measurements
        } else {
            self.measurements.with_instance(&instance_id)
        };
        let names =
            Names { instance_id, kind: Kind::Enclave, number: module_number(now_ms)?, region: self.region };
        let chain = Chain::issue(self.root, names, now_ms / 1000)?;
        Ok(SoftwareNsm { registers: Registers::at_boot(&measurements), chain })
    }
}

impl SoftwareNsm {
    /// A module for an enclave with these measurements, whose documents end in `root`.
    #[must_use]
    pub fn builder(root: Arc<DevelopmentRoot>, measurements: Measurements) -> NsmBuilder {
        NsmBuilder { root, measurements, region: "development-1".to_owned(), instance_id: None }
    }

    /// The module's name: `i-` and 17 hexadecimal digits for the instance, `-enc` and 16 for the enclave.
    #[must_use]
    pub fn module_id(&self) -> String {
        self.chain.module_id()
    }

    /// Answers one request: CBOR in, CBOR out, at most [`RESPONSE_MAX`] bytes. `now_ms` is milliseconds since
    /// the Unix epoch and goes into documents as it is. What cannot be answered gets one of NSM's error
    /// codes.
    #[must_use]
    pub fn process(&mut self, request: &[u8], now_ms: u64) -> Vec<u8> {
        self.process_within(request, now_ms, RESPONSE_MAX)
    }

    /// Like [`Self::process`] for a caller whose buffer has only `capacity` bytes: a longer answer becomes
    /// `BufferTooSmall`. As with the real module the operation has happened then; a caller that can hold no
    /// error code gets nothing useful.
    #[must_use]
    pub fn process_within(&mut self, request: &[u8], now_ms: u64, capacity: usize) -> Vec<u8> {
        let answer = encode(&self.answer(request, now_ms).unwrap_or_else(Response::Error));
        if answer.len() <= capacity { answer } else { encode(&Response::Error(ErrorCode::BufferTooSmall)) }
    }

    fn answer(&mut self, request: &[u8], now_ms: u64) -> Result<Response, ErrorCode> {
        if request.len() > REQUEST_MAX {
            return Err(ErrorCode::InputTooLarge);
        }
        let request = serde_cbor::from_slice(request).map_err(|_| ErrorCode::InvalidOperation)?;
        match request {
            Request::DescribeNSM => Ok(Response::DescribeNSM {
                version_major: 1,
                version_minor: 0,
                version_patch: 0,
                module_id: self.module_id(),
                max_pcrs: registers::COUNT,
                locked_pcrs: self.registers.locked(),
                digest: Digest::SHA384,
            }),
            Request::DescribePCR { index } => {
                let register = self.registers.describe(index)?;
                Ok(Response::DescribePCR { lock: register.locked, data: register.value.as_bytes().to_vec() })
            }
            Request::ExtendPCR { index, data } => {
                let value = self.registers.extend(index, &data)?;
                Ok(Response::ExtendPCR { data: value.as_bytes().to_vec() })
            }
            Request::LockPCR { index } => self.registers.lock(index).map(|()| Response::LockPCR),
            Request::LockPCRs { range } => self.registers.lock_below(range).map(|()| Response::LockPCRs),
            Request::GetRandom => match random::<RANDOM_LENGTH>() {
                Ok(bytes) => Ok(Response::GetRandom { random: bytes.to_vec() }),
                Err(_) => Err(ErrorCode::InternalError),
            },
            Request::Attestation { user_data, nonce, public_key } => {
                let user_data = bounded(user_data, USER_DATA_MAX)?;
                let nonce = bounded(nonce, NONCE_MAX)?;
                let public_key = bounded(public_key, PUBLIC_KEY_MAX)?;
                let document = self
                    .attest(user_data, nonce, public_key, now_ms)
                    .map_err(|_| ErrorCode::InternalError)?;
                Ok(Response::Attestation { document })
            }
            _ => Err(ErrorCode::InvalidOperation),
        }
    }

    fn attest(
        &mut self,
        user_data: Option<Vec<u8>>,
        nonce: Option<Vec<u8>>,
        public_key: Option<Vec<u8>>,
        now_ms: u64,
    ) -> Result<Vec<u8>, NsmError> {
        self.chain.renew(now_ms / 1000)?;
        let statement = Statement {
            module_id: self.chain.module_id(),
            timestamp_ms: now_ms,
            registers: document::Registers::Enclave(self.registers.attested()),
            certificate: self.chain.leaf_der(),
            cabundle: self.chain.bundle(),
            public_key,
            user_data,
            nonce,
        };
        statement.sign(self.chain.leaf_key())
    }
}

pub(crate) fn encode(response: &Response) -> Vec<u8> {
    serde_cbor::to_vec(response).unwrap_or_else(|_| INTERNAL_ERROR.to_vec())
}

pub(crate) fn bounded(field: Option<ByteBuf>, limit: usize) -> Result<Option<Vec<u8>>, ErrorCode> {
    match field {
        Some(bytes) if bytes.len() > limit => Err(ErrorCode::InputTooLarge),
        field => Ok(field.map(ByteBuf::into_vec)),
    }
}

/// Six bytes of boot time in milliseconds and two random ones, as in the ids that AWS gives.
pub(crate) fn module_number(now_ms: u64) -> Result<[u8; 8], NsmError> {
    let [_, _, time @ ..] = now_ms.to_be_bytes();
    let [x, y] = random()?;
    let [a, b, c, d, e, f] = time;
    Ok([a, b, c, d, e, f, x, y])
}

#[cfg(test)]
pub(crate) mod tests;
