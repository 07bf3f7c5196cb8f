//! The partner's program: verify, connect, measure, audit.

pub mod cli;
pub mod commands;
pub mod output;
