//! The subcommands, one file each.

pub mod explain;
pub mod measure;
#[cfg(test)]
mod testing;
