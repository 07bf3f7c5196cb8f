//! The last two steps to an engine: the parent of its processes, and the process that becomes it.

use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitCode};

use cleanroom_worker::confinement::give_up_rights;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};

use super::{PROGRAM, calls};

/// The exit status of a process that could not be confined, and did not become the engine.
pub(super) const NOT_CONFINED: u8 = 121;
/// The exit status of a process that could not become the engine.
pub(super) const NOT_STARTED: u8 = 122;
/// What a shell adds to the number of the signal that ended a process.
const BY_SIGNAL: i32 = 128;

/// Starts the engine in a process namespace, so that all its processes end with its first one, and waits for that. What the engine
/// sees of processes is mounted in a namespace as well, which ends with it.
pub(super) fn init(arguments: impl Iterator<Item = String>) -> ExitCode {
    let prepared = set_parent_process_death_signal(Some(Signal::KILL)).is_ok()
        && unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS).is_ok();
    if !prepared {
        return NOT_CONFINED.into();
    }
    let mut command = Command::new("/proc/self/exe");
    command.arg0("cleanroom-engine").arg(PROGRAM).args(arguments);
    let Ok(status) = command.status() else { return NOT_STARTED.into() };
    let code = status.code().unwrap_or_else(|| BY_SIGNAL.saturating_add(status.signal().unwrap_or(0)));
    u8::try_from(code).unwrap_or(u8::MAX).into()
}

/// Becomes the engine. The first argument says whether it may use a loopback; the others are the engine's.
pub(super) fn become_engine(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let (Some(loopback), Some(program)) = (arguments.next(), arguments.next()) else {
        return NOT_STARTED.into();
    };
    let confined = (|| {
        // Its own processes, and nobody else's.
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)?;
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        give_up_rights()?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        calls::confine(loopback == "1")
    })();
    if confined.is_err() {
        return NOT_CONFINED.into();
    }
    // Returns when there is no such program.
    let _ = Command::new(program).args(arguments).exec();
    NOT_STARTED.into()
}
