//! What was verified, in the forms of others, so that their programs can read it.
//!
//! * [`cose_receipt`]: a receipt's place in the log as a COSE receipt (RFC 9942).
//! * [`ear`]: a verdict as an EAT Attestation Result (draft-ietf-rats-ear-04) in a conceptual message wrapper (RFC 9999).
//!
//! Nothing is read here, and nothing is decided: the callers have verified what they hand over.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod cose;
mod ear;

pub use cose::{Encoding, Place, cose_receipt};
pub use ear::ear;
