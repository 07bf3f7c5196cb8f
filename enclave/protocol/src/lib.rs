//! The protocol between the two processes of an enclave.
//!
//! ```text
//! keeper                                                      worker
//! security module, receipt key,       ◄── FromWorker ───      TLS sessions, API, engine:
//! release control                     ─── FromKeeper ──►      everything in plaintext
//! ```
//!
//! The worker reads bytes from strangers, so the keeper treats it as an adversary. Each question therefore has a type for its
//! *purpose*, and carries only facts that the worker alone knows. A worker cannot have bytes signed, cannot choose the
//! `user_data` of a document, and cannot name another model, receipt key or leaf than the keeper's own.
//!
//! A frame is a kind (`u8`), an id (`u32`, big-endian), a length (`u32`, big-endian) and that many bytes. An answer has its
//! question's id. Lengths are bounded by the kind before a byte of the body is read, and bodies are fields with a length each
//! ([`length_prefixed`](cleanroom_attestation::channel::length_prefixed)), read strictly. Everything here is a pure function of bytes, except
//! `read` (feature `stream`), which takes a frame from a stream.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

mod frame;
mod from_keeper;
mod from_worker;
#[cfg(feature = "stream")]
mod stream;

pub use frame::{HEADER_BYTES, Header, Kind, ProtocolError};
pub use from_keeper::{Change, Evidence, FromKeeper, KeeperKind, PublicEvidence, SignedEnd, Start};
pub use from_worker::{
    ChannelQuestion, EndQuestion, EndReason, FromWorker, MAX_REASON_BYTES, ReceiptQuestion, SealedExchange,
    SessionTicket, WorkerKind,
};
#[cfg(feature = "stream")]
pub use stream::{ReadError, read};

#[cfg(test)]
mod tests;
