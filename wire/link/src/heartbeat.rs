//! The heartbeat: an enclave that has booted connects to its parent, sends one byte and gets the same byte back.
//!
//! AWS's own tools expect it; the numbers are `ENCLAVE_READY_VSOCK_PORT` and `HEART_BEAT` of `nitro-cli`.

/// The parent's vsock port.
pub const PORT: u32 = 9000;

/// The byte that goes both ways.
pub const BYTE: u8 = 0xb7;
