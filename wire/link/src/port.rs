//! The ports that an enclave listens on: of vsock, or of TCP where the instance itself is the enclave.

/// Partners' connections arrive here: TLS, which ends inside the enclave.
pub const PARTNERS: u32 = 5000;

/// The host hands in roots, releases, denials and leases here.
pub const CONTROL: u32 = 5001;

/// The host's store answers questions for the model's bytes here, after each boot.
pub const MODEL: u32 = 5002;
