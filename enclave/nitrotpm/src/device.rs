//! A `NitroTPM` as the keeper's security module.

use std::io::Write;
use std::path::Path;

use aws_nitro_enclaves_nsm_api::api::{ErrorCode, Request, Response};
use cleanroom_attestation::channel::boot_measurement::{self, Registers};
use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_keeper::security_module::Device;
use serde::Deserialize as _;

use crate::tpm::{REGISTERS, Tpm, TpmError};
use crate::transport::{TpmPath, Transport};

/// Bytes in one answer to `GetRandom`, as every Nitro security module gives them.
const RANDOM_LENGTH: usize = 256;

/// A `NitroTPM`, which answers what a Nitro Secure Module would.
pub struct NitroTpm<T> {
    tpm: Tpm<T>,
    /// The registers that this start has closed.
    closed: Vec<u8>,
}

impl NitroTpm<TpmPath> {
    /// Opens the TPM at `path`, which is [`DEVICE`](crate::DEVICE) on an instance, or the socket of a software TPM.
    ///
    /// # Errors
    /// [`TpmError`], when there is none, another process holds it, or it is not as it should be.
    pub fn open(path: &Path) -> Result<Self, TpmError> {
        Self::start(TpmPath::open(path)?)
    }
}

impl<T: Transport> NitroTpm<T> {
    /// Takes the TPM behind `transport`, and defines the index anew through which documents are asked for.
    ///
    /// # Errors
    /// [`TpmError`], when it is not as it should be.
    pub fn start(transport: T) -> Result<Self, TpmError> {
        Ok(Self { tpm: Tpm::start(transport)?, closed: Vec::new() })
    }

    /// Writes the TPM's random bytes into the kernel's pool (`/dev/random`), which mixes them with its own, before anybody makes a key.
    /// The kernel takes them up at its next turn. Its own driver has mixed others in before, if it is built with
    /// `HW_RANDOM_TPM`.
    ///
    /// # Errors
    /// [`TpmError`], when the TPM gives none or the pool takes none.
    pub fn mix_into(&mut self, mut pool: impl Write) -> Result<(), TpmError> {
        let random = self.tpm.random(RANDOM_LENGTH)?;
        pool.write_all(&random)?;
        Ok(())
    }

    fn answer(&mut self, request: Request) -> Result<Response, ErrorCode> {
        match request {
            Request::Attestation { .. } => self.attest(&request),
            Request::DescribePCR { index } => {
                let index = u8::try_from(index).ok().filter(|index| *index < REGISTERS);
                let index = index.ok_or(ErrorCode::InvalidIndex)?;
                let value = self.tpm.register(index)?;
                Ok(Response::DescribePCR {
                    lock: self.closed.contains(&index),
                    data: value.as_bytes().to_vec(),
                })
            }
            Request::ExtendPCR { index, data } => {
                let index = self.open_register(index)?;
                let data = Sha384Digest::try_from(data.as_slice()).map_err(|_| ErrorCode::InvalidArgument)?;
                self.tpm.extend(index, &data)?;
                let value = self.tpm.register(index)?;
                Ok(Response::ExtendPCR { data: value.as_bytes().to_vec() })
            }
            Request::LockPCR { index } => {
                let index = self.open_register(index)?;
                self.tpm.extend(index, &boot_measurement::cap())?;
                self.closed.push(index);
                Ok(Response::LockPCR)
            }
            Request::GetRandom => {
                let random = self.tpm.random(RANDOM_LENGTH)?;
                Ok(Response::GetRandom { random: random.to_vec() })
            }
            _ => Err(ErrorCode::InvalidOperation),
        }
    }

    fn attest(&mut self, request: &Request) -> Result<Response, ErrorCode> {
        let request = serde_cbor::to_vec(request).map_err(|_| ErrorCode::InternalError)?;
        let answer = self.tpm.attest(&request)?;
        // Behind the answer is what the index had there before.
        match Response::deserialize(&mut serde_cbor::Deserializer::from_slice(&answer)) {
            Ok(response @ Response::Attestation { .. }) => Ok(response),
            Ok(Response::Error(code)) => Err(code),
            Ok(_) | Err(_) => Err(ErrorCode::InvalidResponse),
        }
    }

    /// A register of the commitments that is not closed. The others are the firmware's, the image's or nobody's.
    fn open_register(&self, index: u16) -> Result<u8, ErrorCode> {
        let commitments = [Registers::NitroTpm.model(), Registers::NitroTpm.receipt_key()];
        let index = commitments.into_iter().find(|commitment| u16::from(*commitment) == index);
        let index = index.ok_or(ErrorCode::InvalidIndex)?;
        if self.closed.contains(&index) { Err(ErrorCode::ReadOnlyIndex) } else { Ok(index) }
    }
}

impl<T: Transport> Device for NitroTpm<T> {
    const REGISTERS: Registers = Registers::NitroTpm;

    fn process(&mut self, request: Request) -> Response {
        self.answer(request).unwrap_or_else(Response::Error)
    }
}

impl From<TpmError> for ErrorCode {
    /// What a security module says when it cannot answer.
    fn from(error: TpmError) -> Self {
        match error {
            TpmError::TooLong { .. } => Self::InputTooLarge,
            TpmError::Nonsense { .. } => Self::InvalidResponse,
            TpmError::Unreachable(_) | TpmError::Refused { .. } | TpmError::NoRandomness => {
                Self::InternalError
            }
        }
    }
}
