//! The shim outside the enclave: relays, launches, stores; trusted with nothing.

#![forbid(unsafe_code)]

pub mod endpoint;
pub mod launcher;
pub mod relay;
