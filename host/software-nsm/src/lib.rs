//! A Nitro Secure Module in software, under a development root: requests and answers as `/dev/nsm` gives
//! them.
//!
//! [`SoftwareNsm`] is one state machine: CBOR request and time in, CBOR answer out. It reads no clock and
//! knows no transport, so the same core serves the simulated tier (over a stream, see [`serve`]) and a
//! virtual device. Its documents are real: a `COSE_Sign1` with ES384 and a chain of five P-384 certificates
//! of AWS's shape, which ends in a [`DevelopmentRoot`] made on the spot. A verifier needs no special case for
//! it: its user has to pass that root by name.
//!
//! [`TpmAttester`] signs the documents of an instance with a `NitroTPM` in the same way.
//!
//! The requests and answers are those of AWS's crate `aws-nitro-enclaves-nsm-api`, module `api`; the
//! documents are specified in AWS's `attestation_process.md` in the repository of that crate, and their
//! details follow documents that AWS has signed.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

mod certificates;
mod document;
mod key;
mod measurements;
mod nsm;
mod registers;
pub mod serve;
mod tpm;

pub use certificates::DevelopmentRoot;
pub use measurements::Measurements;
pub use nsm::{
    NONCE_MAX, NsmBuilder, PUBLIC_KEY_MAX, RANDOM_LENGTH, REQUEST_MAX, RESPONSE_MAX, SoftwareNsm,
    USER_DATA_MAX,
};
pub use tpm::{TPM_REGISTERS, TpmAttester, TpmRegisters};

/// Why a software security module could not be made, or could not sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NsmError {
    /// The cryptographic library could not make a key, a signature or random bytes.
    #[error("the cryptographic library failed while {0}; nothing can be attested without it")]
    Cryptography(&'static str),
    /// A certificate could not be encoded.
    #[error("could not make the {level} certificate: {reason}")]
    Certificate {
        /// Which of the chain's certificates.
        level: &'static str,
        /// What the encoder said.
        reason: String,
    },
    /// A document could not be encoded.
    #[error("could not encode the payload of a document")]
    Encoding,
    /// The given time is outside what the development root covers.
    #[error(
        "the time {now_s} s after 1970 is outside the development root's validity, {not_before_s} to {not_after_s} s"
    )]
    Time {
        /// The time asked for, in seconds since the Unix epoch.
        now_s: u64,
        /// The root's first second.
        not_before_s: u64,
        /// The root's last second.
        not_after_s: u64,
    },
}
