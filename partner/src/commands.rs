//! The subcommands, one file each.

pub mod chat;
pub mod conformance;
pub mod connect;
mod document_file;
pub mod explain;
pub mod key;
pub mod measure;
mod party;
#[cfg(test)]
mod testing;
pub mod verify;
