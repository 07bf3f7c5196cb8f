//! What the two processes of an enclave say to each other.
//!
//! ```text
//! keeper                                                      worker
//! security module, receipt key,       ◄── FromWorker ───      TLS sessions, API, engine:
//! release control                     ─── FromKeeper ──►      everything in plaintext
//! ```
//!
//! The worker handles what strangers write, so the keeper takes it for an adversary. What can be asked is therefore typed by its
//! *purpose*, and a question carries only what the worker alone knows. There is no way to have bytes signed, to choose the
//! `user_data` of a document, or to name another model, another receipt key or another leaf than the keeper's own.
//!
//! A frame is a kind (`u8`), an id (`u32`, big-endian), a length (`u32`, big-endian) and that many bytes. An answer has its
//! question's id. Lengths are bounded by the kind before a byte of the body is read, and bodies are fields with a length each
//! ([`length_prefixed`](cleanroom_attestation::channel::length_prefixed)), read strictly. Everything here is a pure function of bytes.

#![forbid(unsafe_code)]

mod frame;
mod from_keeper;
mod from_worker;

pub use frame::{HEADER_BYTES, Header, Kind, ProtocolError};
pub use from_keeper::{Change, Evidence, FromKeeper, KeeperKind, PublicEvidence, SignedEnd, Start};
pub use from_worker::{ChannelQuestion, EndQuestion, EndReason, FromWorker, MAX_REASON_BYTES, WorkerKind};

#[cfg(test)]
mod tests;
