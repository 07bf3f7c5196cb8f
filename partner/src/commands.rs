//! The subcommands, one file each.

mod document_file;
pub mod explain;
pub mod measure;
#[cfg(test)]
mod testing;
pub mod verify_document;
