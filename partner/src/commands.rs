//! The subcommands, one file each.

pub mod audit;
#[cfg(feature = "online")]
pub mod chat;
pub mod conformance;
#[cfg(feature = "online")]
pub mod connect;
mod document_file;
pub mod explain;
#[cfg(feature = "online")]
pub mod key;
#[cfg(feature = "online")]
pub mod manual;
pub mod measure;
mod policy_file;
#[cfg(feature = "online")]
pub mod probe;
pub mod receipts;
#[cfg(feature = "online")]
mod relying_party;
pub mod verify;
