//! The environment variables that a host sets for an enclave of the simulated tier.

/// The path of the Unix socket on which the enclave accepts partners.
pub const LISTEN: &str = "CLEANROOM_LISTEN";

/// The path of the Unix socket on which the host hands in what the authorities sign. Optional.
pub const CONTROL: &str = "CLEANROOM_CONTROL";

/// The path of the measured configuration.
pub const CONFIG: &str = "CLEANROOM_CONFIG";

/// The path of the Unix socket on which the host's store answers questions for the model's bytes.
pub const STORE: &str = "CLEANROOM_STORE";
