//! The shim outside the enclave: relays, launches, stores; trusted with nothing.

pub mod launcher;
