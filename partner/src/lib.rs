//! The partner's program: verify, connect, measure, audit.

#![forbid(unsafe_code)]

pub mod address;
pub mod channel;
pub mod cli;
pub mod commands;
pub mod output;
pub mod proxy;
pub mod session;
pub mod stream_end;
pub mod terms;
