//! The worker as a process: the same program once more, with three descriptors and nothing else.
//!
//! | descriptor | what it is |
//! |---|---|
//! | 0 | the connection to the keeper |
//! | 1 | the socket on which partners arrive, bound and not yet listening |
//! | 2 | the console |
//!
//! They take the places of standard input, output and error because those are the ones that a child inherits without `unsafe`.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::runtime::Runtime;

use cleanroom_keeper::{self as keeper, WorkerEnd};
use cleanroom_worker::confinement::ENVIRONMENT;

use crate::{Halt, engine};

/// What makes the program the worker. It is started so by the keeper alone; whoever starts an enclave with this argument measures it.
const ROLE: &str = "--worker";
/// The worker's second argument when an engine of its own process serves: the first thing that comes from the keeper is then the door
/// to that engine's room.
const WITH_DOOR: &str = "--door";

/// Whether this process is to be the worker.
#[must_use]
pub fn is_worker() -> bool {
    std::env::args_os().nth(1).is_some_and(|role| role == ROLE)
}

/// A running worker, as the keeper sees it. It is ended when this is dropped.
pub struct Worker(Child);

impl Worker {
    /// Starts this program as the worker, as another user if one is named, with a door to an engine if there is one. Call it from the main thread: the worker does not outlive
    /// the thread that started it.
    ///
    /// # Errors
    /// What the system answers.
    pub fn start(
        listener: OwnedFd,
        user: Option<u32>,
        door: Option<&UnixStream>,
    ) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        // Not by its name: the program may be a file that has none.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("cleanroom-worker").arg(ROLE).env_clear().envs(ENVIRONMENT);
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::from(listener));
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        if let Some(door) = door {
            command.arg(WITH_DOOR);
            engine::hand_over(&ours, door)?;
        }
        ours.set_nonblocking(true)?;
        Ok((Self(command.spawn()?), ours))
    }

    /// Ends the worker, and says why the enclave halts: if the keeper only knows that the worker is gone, its process says how.
    #[must_use]
    pub fn explain(mut self, halt: keeper::Halt) -> Halt {
        if !matches!(halt, keeper::Halt::Worker(WorkerEnd::Gone)) {
            return halt.into();
        }
        // One that has ended already keeps the status that it ended with.
        let _ = self.0.kill();
        match self.0.wait() {
            Ok(status) => Ending::of(status).into(),
            Err(_) => halt.into(),
        }
    }

    /// Waits for a worker that has drained.
    ///
    /// # Errors
    /// What the system answers.
    pub fn wait(mut self) -> io::Result<()> {
        self.0.wait().map(|_| ())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What both processes run on.
///
/// # Errors
/// What the system answers.
pub fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// How a worker's process ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ending {
    /// The kernel ended it because of what it asked for (`SIGSYS`).
    #[error("the worker made a forbidden system call")]
    ForbiddenCall,
    /// Another signal.
    #[error("the worker was ended by signal {0}")]
    Signal(i32),
    /// Of itself, with this status.
    #[error("the worker ended with status {0}")]
    Status(i32),
}

impl Ending {
    fn of(status: ExitStatus) -> Self {
        match status.signal() {
            Some(signal) if signal == Signal::SYS.as_raw() => Self::ForbiddenCall,
            Some(signal) => Self::Signal(signal),
            None => Self::Status(status.code().unwrap_or(-1)),
        }
    }
}

/// The descriptors that a worker starts with.
pub struct Inherited {
    /// The connection to the keeper.
    pub keeper: UnixStream,
    /// The socket on which partners arrive.
    pub listener: OwnedFd,
    /// The door to the room of an engine of its own process, if one serves.
    pub door: Option<UnixStream>,
}

impl Inherited {
    /// Takes up what the keeper handed over. From here on this process ends with its keeper.
    ///
    /// # Errors
    /// What the system answers.
    pub fn take() -> io::Result<Self> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        let keeper = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let has_door = std::env::args_os().nth(2).is_some_and(|argument| argument == WITH_DOOR);
        let door = has_door.then(|| engine::take_over(&keeper)).transpose()?;
        keeper.set_nonblocking(true)?;
        Ok(Self { keeper, listener: io::stdout().as_fd().try_clone_to_owned()?, door })
    }
}
