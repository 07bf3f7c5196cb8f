//! The program as a person runs it: real processes, files, output and exit status.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

mod broker;
mod ceremonies;
mod folder;
mod interop;
mod kept;
mod kms;
mod lease_service;
mod publisher;
mod report;
mod retention;
mod safeguard;
mod sealed;
mod search;
mod service;
mod serving;
mod witness;
