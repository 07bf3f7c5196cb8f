//! The subcommands, one file each.

#[cfg(feature = "online")]
pub mod chat;
pub mod conformance;
#[cfg(feature = "online")]
pub mod connect;
mod document_file;
pub mod explain;
#[cfg(feature = "online")]
pub mod key;
pub mod measure;
#[cfg(feature = "online")]
mod party;
mod policy_file;
pub mod verify;
