//! The console, and what keeps content off it and out of files.

use std::io::Write as _;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Whose events the console shows: the enclave's own. What a library reports about its work could be about a partner's.
const OWN: &str = "cleanroom_enclave";

/// Forbids core dumps and reading this process's memory through `/proc`, keeps panics short, and sends the enclave's own events to
/// standard error.
///
/// # Errors
/// What the kernel answers. An enclave that cannot protect its memory does not start.
pub fn init() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // A panic says where it happened. What it was about could be what it was working on.
    std::panic::set_hook(Box::new(|panic| {
        let (file, line) = panic.location().map_or(("", 0), |at| (at.file(), at.line()));
        let _ = writeln!(std::io::stderr(), "halted: a defect at {file}:{line}");
    }));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        .without_time();
    tracing_subscriber::registry().with(lines).with(Targets::new().with_target(OWN, Level::INFO)).init();
    Ok(())
}
