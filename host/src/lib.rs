//! The shim outside the enclave: relays, launches, stores; trusted with nothing.
//!
//! ```text
//! partner ─TCP─► relay ─► vsock or Unix socket ─► enclave
//!                              launcher ─starts and supervises─┘
//! ```
//!
//! A fault of this crate can only refuse service. TLS ends inside the enclave, and the enclave proves its
//! identity with evidence that no host can make for another enclave.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

pub mod agent;
pub mod capture;
pub mod doctor;
pub mod drain;
pub mod endpoint;
pub mod image;
pub mod launcher;
pub mod log_store;
pub mod probe;
pub mod relay;
pub mod run;
pub mod status;
pub mod witnesses;
