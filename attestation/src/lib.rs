//! Everything about a clean room that can be *proven or checked*.
//!
//! The library that partner, auditor, authority and enclave share. It performs no I/O, reads no clock, contains no `unsafe`
//! and does not panic: bytes, a time and a policy go in, a verdict comes out. Names follow RFC 9334 (evidence, attester,
//! verifier, relying party, reference values), RFC 9052 (COSE) and AWS's Nitro Secure Module.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

#[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
compile_error!(
    "cleanroom-attestation needs a cryptographic backend: enable the feature `aws-lc-rs` or `ring`"
);

pub mod chain;
pub mod channel;
mod crypto;
pub mod digest;
pub mod document;
pub mod engine;
pub mod log;
pub mod measured_boot;
pub mod measurement;
pub mod model;
pub mod model_signature;
pub mod policy;
pub mod receipt;
pub mod record;
pub mod release;
pub mod safeguard;
pub mod time;
pub mod verdict;
