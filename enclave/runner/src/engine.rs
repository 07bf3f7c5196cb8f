//! An engine of its own process: another server of models, in the image, that the worker reaches by a Unix socket alone.
//!
//! ```text
//! keeper ─► room: namespaces of its own, the model in memory, the door ─► init: a process namespace ─► program: the engine
//!             ▲ a byte for each connection                                                                 ▲
//! worker ─────┴──────────────── connections to the engine's socket ────────────────────────────────────────┘
//! ```
//!
//! The room is this program once more. It gives up the system's users, files, network and processes before it takes a byte of
//! the model: it sees the folders that the configuration lists, read-only, a few devices, and memory that is its own. Then it
//! starts the engine in it, once more after each end, and hands connections to the worker. The engine's standard streams
//! lead nowhere.
//!
//! What the kernel does not give is not pretended: without user namespaces there is no room, and the enclave halts.

mod calls;
mod door;
mod plan;
mod program;
mod room;

use std::io::{self, Read, Write};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cleanroom_backend::{Backend, EngineFacts, LoadError, Loader, Settings, TextClassifier, WallClock};
use cleanroom_config::Engine;
use cleanroom_console::{Code, Line};
use cleanroom_native::NativeLoader;
use cleanroom_openai::{Failure, OpenAi};
use tokio::runtime::Handle;

use self::door::WorkersDoor;
use self::plan::Plan;

/// What makes the program the room of an engine, the parent of its processes, and what becomes the engine.
const ROOM: &str = "--engine-room";
const INIT: &str = "--engine-init";
const PROGRAM: &str = "--engine-program";

/// Plays the part in running an engine that this process was started for, if it was.
pub(crate) fn role() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let role = arguments.next()?;
    Some(match role.as_str() {
        ROOM => match room::main(arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(reason) => {
                Line::Halted(&reason).say();
                ExitCode::FAILURE
            }
        },
        INIT => program::init(arguments),
        PROGRAM => program::become_engine(arguments),
        _ => return None,
    })
}

/// A running room, as the keeper sees it. It is ended when this is dropped, and the engine with it.
pub(crate) struct Room(Child);

impl Room {
    /// Starts a room for this engine, and gives the worker's end of its door. Call it from the main thread: a room does not
    /// outlive the thread that started it.
    ///
    /// # Errors
    /// What the system answers.
    pub(crate) fn start(engine: &Engine) -> io::Result<(Self, StdUnixStream)> {
        let (worker, room) = StdUnixStream::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("cleanroom-engine-room").arg(ROOM).args(Plan::of(engine).into_arguments()).env_clear();
        command.stdin(Stdio::from(std::os::fd::OwnedFd::from(room))).stdout(Stdio::null());
        Ok((Self(command.spawn()?), worker))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Hands a descriptor to the process at the other end of `socket`.
pub(crate) fn hand_over(socket: &StdUnixStream, descriptor: &StdUnixStream) -> io::Result<()> {
    door::send(socket.as_fd(), Some(descriptor.as_fd()))
}

/// Takes the descriptor that [`hand_over`] sends.
pub(crate) fn take_over(socket: &StdUnixStream) -> io::Result<StdUnixStream> {
    let descriptor = door::receive(socket.as_fd())?;
    descriptor.map(StdUnixStream::from).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Makes a backend of the project's own engine, or of the one behind a door.
pub(crate) enum AnyLoader {
    /// The project's own.
    Native,
    /// The engine in the room behind this door.
    Room(StdUnixStream),
}

impl Loader for AnyLoader {
    fn before_confinement(&self) {
        NativeLoader.before_confinement();
    }

    fn load(
        self,
        file: &mut dyn Read,
        length: u64,
        settings: Settings,
        clock: WallClock,
    ) -> Result<Arc<dyn Backend>, LoadError> {
        match (self, settings.engine.clone()) {
            (Self::Native, None) => NativeLoader.load(file, length, settings, clock),
            (Self::Room(door), Some(facts)) => Ok(load(door, facts, file, length, &settings)?),
            // Keeper and worker have read one configuration, so this is a program that starts no rooms.
            (Self::Native, Some(_)) | (Self::Room(_), None) => Err(NotLoaded::NoRoom.into()),
        }
    }

    fn classifier(file: &[u8]) -> Result<TextClassifier, LoadError> {
        NativeLoader::classifier(file)
    }
}

/// How often an engine that is being started is asked whether it is ready.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Gives the room its model, and waits until the engine answers.
fn load(
    mut door: StdUnixStream,
    facts: EngineFacts,
    file: &mut dyn Read,
    length: u64,
    settings: &Settings,
) -> Result<Arc<dyn Backend>, NotLoaded> {
    door.write_all(&length.to_be_bytes()).map_err(NotLoaded::Door)?;
    room::read_answer(&mut door).map_err(NotLoaded::Door)?.map_err(NotLoaded::Refused)?;
    let copied = io::copy(&mut file.take(length), &mut door).map_err(NotLoaded::Door)?;
    if copied != length {
        return Err(NotLoaded::Door(io::ErrorKind::UnexpectedEof.into()));
    }
    let runtime = Handle::current();
    let _on_the_runtime = runtime.enter();
    let door = Arc::new(WorkersDoor::new(door).map_err(NotLoaded::Door)?);
    let start = facts.start;
    let report = |failure: Failure| Line::EngineFailed { reason: Code::of(failure.code()) }.say();
    let engine = OpenAi::new(facts, door, settings, Arc::new(report));
    let ready = runtime.block_on(tokio::time::timeout(start, async {
        while engine.health().await.is_err() {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }));
    ready.map_err(|_| NotLoaded::NotReady { seconds: start.as_secs() })?;
    Ok(Arc::new(engine))
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
enum NotLoaded {
    #[error(
        "the configuration names an engine, and this program cannot start one: only processes of the simulated tier can"
    )]
    NoRoom,
    #[error("the engine's room has ended: {0}")]
    Door(#[source] io::Error),
    #[error("the engine has no room: {0}")]
    Refused(String),
    #[error("the engine was not ready within {seconds} s, which is engine.start of the configuration")]
    NotReady { seconds: u64 },
}
