//! The partner's program: verify, connect, measure, audit.
//!
//! Without the feature `online` it is the auditor's program: it judges documents and images in files, on
//! either cryptographic backend, and links no network code at all.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

#[cfg(feature = "online")]
pub mod address;
pub mod audit;
#[cfg(feature = "online")]
pub mod channel;
pub mod cli;
#[cfg(feature = "online")]
pub mod client;
pub mod clock;
pub mod commands;
#[cfg(feature = "online")]
pub mod dial;
pub mod outcome;
pub mod output;
#[cfg(feature = "online")]
pub mod permission;
pub mod policy_file;
#[cfg(feature = "online")]
pub mod proxy;
pub mod receipts;
pub mod record;
#[cfg(feature = "online")]
pub mod refused;
#[cfg(feature = "online")]
pub mod session;
#[cfg(feature = "online")]
pub mod setup;
#[cfg(feature = "online")]
pub mod stream_end;
