//! The vsock ports that an enclave listens on.

/// Partners' connections arrive here: TLS, which ends inside the enclave.
pub const PARTNERS: u32 = 5000;

/// The host hands in roots, releases, denials and leases here.
pub const CONTROL: u32 = 5001;

/// The host's store answers questions for the model's bytes here, after each boot.
pub const MODEL: u32 = 5002;
