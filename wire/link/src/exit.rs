//! The exit status of an enclave of the simulated tier. Status 0 is an orderly end; any other status that is not named
//! here is a failure, after which a new start can help.

/// The enclave refused what it was given and would refuse it again (`EX_CONFIG` of `sysexits.h`).
pub const REFUSED: u8 = 78;
