//! What runs inside the enclave: trusted with data.

pub mod admission;
pub mod api;
