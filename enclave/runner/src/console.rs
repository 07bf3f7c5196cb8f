//! The measures that keep content off the console and out of files.

use std::io;

use cleanroom_console::Line;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Forbids core dumps and reading this process's memory through `/proc`, and keeps panics short.
///
/// Nobody listens to what libraries trace: the console has the lines of `cleanroom-console` and no others.
///
/// # Errors
/// What the kernel answers. An enclave that cannot protect its memory does not start.
pub fn init() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // A panic says where it happened. What it was about could be what it was working on.
    std::panic::set_hook(Box::new(|panic| {
        let (file, line) = panic.location().map_or(("", 0), |at| (at.file(), at.line()));
        Line::Defect { file, line }.say();
    }));
    Ok(())
}
