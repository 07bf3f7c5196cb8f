//! The partner's program: verify, connect, measure, audit.

use std::process::ExitCode;

fn main() -> ExitCode {
    cleanroom_partner::cli::run(std::env::args_os())
}
