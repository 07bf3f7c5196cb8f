//! Release control on a whole clean room: what the authorities permit runs, nothing else does, and the host cannot change it.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod attestation;
mod changes;
mod clocks;
mod issuers;
mod permission;
mod streams;
