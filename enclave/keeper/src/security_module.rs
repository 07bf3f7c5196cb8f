//! The enclave's security module: one trait towards the device, one handle towards the rest of the enclave.
//!
//! The kernel's driver serialises all requests on one mutex, so the device has one thread of its own and a bounded queue in
//! front of it for each [`Precedence`]. A caller waits without blocking the runtime, and a stranger's request never stands
//! before a request of the enclave's own or of a partner.

mod queue;

use std::sync::Arc;

use aws_nitro_enclaves_nsm_api::api::{ErrorCode, Request, Response};
use cleanroom_attestation::channel::EvidenceRequest;
use cleanroom_attestation::channel::boot_measurement::Registers;
use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_attestation::document::Document;
use cleanroom_attestation::release::UnixMillis;
use serde_bytes::ByteBuf;
use tokio::sync::oneshot;

pub use self::queue::Precedence;
use self::queue::{Job, Queue};

/// A Nitro Secure Module, whichever way it is reached. A release build of the enclave has one implementation only.
pub trait Device: Send + 'static {
    /// The registers in which this module holds the enclave's commitments.
    const REGISTERS: Registers = Registers::Enclave;

    /// One request, one answer. A device that cannot be reached answers with [`Response::Error`].
    fn process(&mut self, request: Request) -> Response;
}

/// The handle that the enclave holds on its security module.
#[derive(Clone)]
pub struct SecurityModule {
    queue: Arc<Queue>,
    registers: Registers,
}

impl SecurityModule {
    /// Gives `device` a thread of its own.
    ///
    /// # Errors
    /// [`SecurityModuleError::Gone`] when the thread cannot be started.
    pub fn start<D: Device>(mut device: D) -> Result<Self, SecurityModuleError> {
        let (queue, jobs) = Queue::new();
        std::thread::Builder::new()
            .name("security-module".to_owned())
            .spawn(move || jobs.serve(|request| device.process(request)))
            .map_err(|_| SecurityModuleError::Gone)?;
        Ok(Self { queue: Arc::new(queue), registers: D::REGISTERS })
    }

    /// The registers in which it holds the enclave's commitments.
    #[must_use]
    pub const fn registers(&self) -> Registers {
        self.registers
    }

    /// Evidence for one of the purposes that [`EvidenceRequest`] can be made for; an NSM `Attestation` request.
    ///
    /// # Errors
    /// [`SecurityModuleError`] says what the device did instead.
    pub async fn evidence(
        &self,
        request: &EvidenceRequest,
        precedence: Precedence,
    ) -> Result<Vec<u8>, SecurityModuleError> {
        let unless_empty = |field: &[u8]| Some(field).filter(|field| !field.is_empty()).map(ByteBuf::from);
        let request = Request::Attestation {
            nonce: unless_empty(request.nonce()),
            user_data: unless_empty(request.user_data()),
            public_key: unless_empty(request.public_key()),
        };
        match self.process(request, precedence).await? {
            Response::Attestation { document } => Ok(document),
            other => Err(unexpected("Attestation", &other)),
        }
    }

    /// Absolute time by the security module's clock: the time stamp of a document that says nothing else and never leaves the
    /// enclave.
    ///
    /// # Errors
    /// [`SecurityModuleError`] says what the device did instead.
    pub async fn time(&self) -> Result<UnixMillis, SecurityModuleError> {
        let request = Request::Attestation { nonce: None, user_data: None, public_key: None };
        match self.process(request, Precedence::Enclave).await? {
            Response::Attestation { document } => match Document::parse(&document) {
                Ok(document) => Ok(UnixMillis(document.timestamp().as_millis())),
                Err(_) => Err(SecurityModuleError::Nonsense { expected: "a document with a time" }),
            },
            other => Err(unexpected("Attestation", &other)),
        }
    }

    /// A PCR's value and whether it is locked.
    ///
    /// # Errors
    /// [`SecurityModuleError`] says what the device did instead.
    pub async fn describe_pcr(&self, index: u16) -> Result<Pcr, SecurityModuleError> {
        match self.process(Request::DescribePCR { index }, Precedence::Enclave).await? {
            Response::DescribePCR { lock, data } => Ok(Pcr { value: pcr_value(&data)?, locked: lock }),
            other => Err(unexpected("DescribePCR", &other)),
        }
    }

    /// Extends a PCR with 48 bytes and returns its new value.
    ///
    /// # Errors
    /// [`SecurityModuleError`] says what the device did instead.
    pub async fn extend_pcr(
        &self,
        index: u16,
        data: &Sha384Digest,
    ) -> Result<Sha384Digest, SecurityModuleError> {
        let request = Request::ExtendPCR { index, data: data.as_bytes().to_vec() };
        match self.process(request, Precedence::Enclave).await? {
            Response::ExtendPCR { data } => pcr_value(&data),
            other => Err(unexpected("ExtendPCR", &other)),
        }
    }

    /// Locks a PCR, which cannot be extended again until the enclave ends; or closes it
    /// ([`Registers::closed`]), where the security module locks none.
    ///
    /// # Errors
    /// [`SecurityModuleError`] says what the device did instead.
    pub async fn lock_pcr(&self, index: u16) -> Result<(), SecurityModuleError> {
        match self.process(Request::LockPCR { index }, Precedence::Enclave).await? {
            Response::LockPCR => Ok(()),
            other => Err(unexpected("LockPCR", &other)),
        }
    }

    async fn process(
        &self,
        request: Request,
        precedence: Precedence,
    ) -> Result<Response, SecurityModuleError> {
        let (answer, response) = oneshot::channel();
        self.queue.push(precedence, Job { request, answer })?;
        match response.await.map_err(|_| SecurityModuleError::Gone)? {
            Response::Error(code) => Err(SecurityModuleError::Refused(Refusal(code))),
            response => Ok(response),
        }
    }
}

/// A PCR as the security module describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pcr {
    /// The value, 48 bytes.
    pub value: Sha384Digest,
    /// Whether it can still be extended.
    pub locked: bool,
}

fn pcr_value(bytes: &[u8]) -> Result<Sha384Digest, SecurityModuleError> {
    Sha384Digest::try_from(bytes).map_err(|_| SecurityModuleError::Nonsense { expected: "a PCR of 48 bytes" })
}

fn unexpected(expected: &'static str, _actual: &Response) -> SecurityModuleError {
    SecurityModuleError::Nonsense { expected }
}

/// What the security module did instead of answering.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecurityModuleError {
    /// As many requests wait as may wait.
    #[error("the security module's queue is full")]
    Busy,
    /// The device's thread has ended.
    #[error("the security module is gone")]
    Gone,
    /// The device refused the request.
    #[error("the security module refused the request: {0}")]
    Refused(Refusal),
    /// The device answered something else.
    #[error("expected the security module to answer with {expected}, got something else")]
    Nonsense {
        /// What was due.
        expected: &'static str,
    },
}

/// The security module's own error code.
#[derive(Debug)]
pub struct Refusal(ErrorCode);

impl PartialEq for Refusal {
    fn eq(&self, other: &Self) -> bool {
        core::mem::discriminant(&self.0) == core::mem::discriminant(&other.0)
    }
}

impl Eq for Refusal {}

impl core::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // A code of AWS's closed list, never text from outside.
        write!(formatter, "{:?}", self.0)
    }
}
