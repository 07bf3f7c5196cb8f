//! The partner's program: verify, connect, measure, audit.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use std::process::ExitCode;

fn main() -> ExitCode {
    cleanroom_partner::cli::run(std::env::args_os())
}
