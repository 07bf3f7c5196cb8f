//! The application as a process: started once, never again; its end is the machine's end.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, WaitOptions, WaitStatus, wait};

use crate::console::{Line, say};
use crate::halt::Halt;
use crate::platform::Platform;

/// Runs the program, reaps every process that is orphaned to PID 1, and returns why the program ended.
pub(crate) fn run(program: &Path, platform: Platform) -> Result<Infallible, Halt> {
    let child = Command::new(program).env_clear().spawn().map_err(|error| Halt::Start(error.kind()))?;
    let application = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    say(&Line::ApplicationStarted);
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((process, status))) if Some(process) == application => return Err(end(status, platform)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Halt::Unwatched(io::Error::from(error).kind())),
        }
    }
}

fn end(status: WaitStatus, platform: Platform) -> Halt {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) if platform == Platform::NitroTpm => Halt::Drained,
        (Some(status), _) => Halt::Ended(status),
        (None, signal) => Halt::Signalled(signal.unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test: `wait` reaps any child of this process, so two at a time would take each other's.
    #[test]
    fn the_programs_end_is_the_reason() {
        let run = |program: &str| run(Path::new(program), Platform::NitroEnclave);
        let Err(reason) = run("/bin/false");
        assert!(matches!(reason, Halt::Ended(1)), "{reason}");
        let Err(reason) = run("/bin/true");
        assert!(matches!(reason, Halt::Ended(0)), "an orderly end is one too: {reason}");
        let Err(reason) = run("/nonexistent");
        assert!(matches!(reason, Halt::Start(io::ErrorKind::NotFound)), "{reason}");
        // A whole instance is switched off when its work is done, and started again when it failed.
        let Err(reason) = super::run(Path::new("/bin/true"), Platform::NitroTpm);
        assert!(matches!(reason, Halt::Drained), "{reason}");
        let Err(reason) = super::run(Path::new("/bin/false"), Platform::NitroTpm);
        assert!(matches!(reason, Halt::Ended(1)), "{reason}");
    }
}
