//! The program of an enclave, apart from its platform.
//!
//! A program is started once by the platform, as the keeper, and once more by itself, as the worker. Both halves are the same
//! on every platform, except for four things that the program hands in: the security module, the sockets, the
//! configuration and the model.

use std::error::Error;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use cleanroom_config::Config;
use cleanroom_console::Line;
use cleanroom_guard::Clock;
use cleanroom_keeper::security_module::Device;
use cleanroom_keeper::{self as keeper, KeeperPlatform};
use cleanroom_link::listener::Listener;
use cleanroom_worker::{self as worker, WorkerError, WorkerInputs, confinement};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};

use crate::engine::{self, AnyLoader, Room};
use crate::process::{self, Inherited, Worker};
use crate::{Halt, console};

/// Runs the half that this process is, and tells the console why it ended. `refused` is the exit status for an enclave
/// that refused what it was given; a failure has status 1.
pub fn main(
    keep: impl FnOnce() -> Result<(), Reason>,
    work: impl FnOnce() -> Result<(), Reason>,
    refused: u8,
) -> ExitCode {
    if let Some(ended) = engine::role() {
        return ended;
    }
    if process::is_worker() {
        // The keeper says why.
        return if work().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    match keep() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            Line::Halted(&reason).say();
            if reason.is_failure() { ExitCode::FAILURE } else { ExitCode::from(refused) }
        }
    }
}

/// Everything that a keeper gets from its platform.
pub struct KeeperInputs<D, A, O> {
    /// The security module.
    pub device: D,
    /// The measured configuration.
    pub config: String,
    /// The socket on which partners arrive, bound and not yet listening where the platform can tell these apart.
    pub partners: OwnedFd,
    /// Whether this platform can run an engine of its own process.
    pub runs_engines: bool,
    /// The worker's user, who owns nothing. `None` for the keeper's own.
    pub worker_user: Option<u32>,
    /// Gets the listener for the host's store and, if the host hands in releases, the one for its control connections. Called
    /// on the runtime, after the worker has started.
    pub attach: A,
    /// The most bytes that the model may have.
    pub model_limit: u64,
    /// Lets partners' connections arrive.
    pub open: O,
}

/// The keeper's half.
///
/// # Errors
/// [`Reason`]: why the enclave does not serve, or no longer does.
pub fn keep<D, A, F, S, L, O>(inputs: KeeperInputs<D, A, O>) -> Result<(), Reason>
where
    D: Device,
    A: FnOnce() -> F,
    F: Future<Output = Result<(S, Option<L>), Reason>>,
    S: Listener,
    L: Listener,
    O: FnOnce(BorrowedFd<'_>) -> io::Result<()>,
{
    let KeeperInputs { device, config, partners, runs_engines, worker_user, attach, model_limit, open } =
        inputs;
    // A configuration that is none is the keeper's to refuse.
    let engine = Config::from_toml(&config).ok().and_then(|config| config.engine);
    if engine.is_some() && !runs_engines {
        return Err(Reason::Platform(Box::new(NoEngines)));
    }
    let (_room, door) = engine.as_ref().map(Room::start).transpose()?.unzip();
    let (worker_process, worker) = Worker::start(partners.try_clone()?, worker_user, door.as_ref())?;
    drop(door);
    let result = process::runtime()?.block_on(async {
        let (store, control) = attach().await?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (drain, draining) = tokio::sync::oneshot::channel::<()>();
        let end_now = async move {
            _ = terminate.recv().await;
            drop(drain);
            _ = terminate.recv().await;
        };
        let shutdown = async move { _ = draining.await };
        let worker = UnixStream::from_std(worker)?;
        let (clock, open) = (Clock::boot(), || open(partners.as_fd()));
        let platform = KeeperPlatform { device, control, clock, config, store, model_limit, worker, open };
        tokio::select! {
            ended = keeper::run(platform, shutdown) => ended.map_err(|halt| Reason::Halt(halt.into())),
            () = end_now => Err(Reason::EndedAtOnce),
        }
    });
    match result {
        Ok(()) => Ok(worker_process.wait()?),
        Err(Reason::Halt(Halt::Keeper(halt))) => Err(worker_process.explain(halt).into()),
        Err(other) => Err(other),
    }
}

/// The worker's half. `listener` makes a listener of the socket on which partners arrive. `has_own_user` says that the
/// worker's threads can be bounded, because they are counted over all processes of a user.
///
/// # Errors
/// [`Reason`], of which the keeper has been told.
pub fn work<L: Listener>(
    has_own_user: bool,
    listener: impl FnOnce(OwnedFd) -> io::Result<L>,
) -> Result<(), Reason> {
    console::init()?;
    confinement::give_up_rights()?;
    if has_own_user {
        confinement::bound_threads()?;
    }
    let Inherited { keeper, listener: socket, door } = Inherited::take()?;
    let has_door = door.is_some();
    process::runtime()?.block_on(async {
        let inputs = WorkerInputs {
            keeper: UnixStream::from_std(keeper)?,
            clock: Clock::boot(),
            loader: door.map_or(AnyLoader::Native, AnyLoader::Room),
            confine: || confinement::confine(has_door),
            listener: || listener(socket),
        };
        worker::run(inputs).await.map_err(Reason::from)
    })
}

/// Why the program ends.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// The platform lacks something that the enclave needs, and would lack it again.
    #[error(transparent)]
    Platform(Box<dyn Error + Send + Sync>),
    /// The enclave halted.
    #[error(transparent)]
    Halt(#[from] Halt),
    /// A second signal asked for it.
    #[error("a second signal asked it to end at once")]
    EndedAtOnce,
    /// The worker cannot serve.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The system refused a socket, a thread or a file.
    #[error("the system refused: {0}")]
    System(#[from] io::Error),
}

/// The configuration names an engine of its own process.
#[derive(Debug, thiserror::Error)]
#[error(
    "the configuration has [engine], and images of this tier run the project's own engine only: their kernel has no namespaces"
)]
struct NoEngines;

/// What the platform, the keeper and the worker say of themselves.
impl cleanroom_console::Reason for Reason {}

impl Reason {
    /// Whether a new start can help.
    const fn is_failure(&self) -> bool {
        match self {
            Self::Platform(_) => false,
            Self::Halt(halt) => halt.is_failure(),
            Self::EndedAtOnce | Self::Worker(_) | Self::System(_) => true,
        }
    }
}
