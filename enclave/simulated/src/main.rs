//! The enclave of the simulated tier: the enclave's own code, with a security module and a listener that a process has.
//!
//! The host starts this program, measures it and plays the platform; the contract is written down in the host's
//! `launcher::simulated`. No image contains it.

mod security_module;

use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::PathBuf;
use std::process::ExitCode;

use cleanroom_enclave::keeper::{self, KeeperPlatform};
use cleanroom_enclave::memory::{ERASING_ALLOCATOR, ErasingAllocator};
use cleanroom_enclave::model_port::ModelBytes;
use cleanroom_enclave::process::{self, Given, Worker};
use cleanroom_enclave::release::Clock;
use cleanroom_enclave::worker::{self, Seat, WorkerError, confinement};
use cleanroom_enclave::{Halt, console};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};

use crate::security_module::HostSecurityModule;

/// Path of the Unix socket to listen on.
const ENV_LISTEN: &str = "CLEANROOM_LISTEN";
/// Path of the Unix socket on which the host hands in releases, denials and leases; optional.
const ENV_CONTROL: &str = "CLEANROOM_CONTROL";
/// Path of the measured configuration.
const ENV_CONFIG: &str = "CLEANROOM_CONFIG";
/// Path of the model file.
const ENV_MODEL: &str = "CLEANROOM_MODEL";

/// Refused what it was given, and would refuse it again (`EX_CONFIG` of `sysexits.h`).
const EXIT_REFUSED: u8 = 78;

#[global_allocator]
static ALLOCATOR: ErasingAllocator = ERASING_ALLOCATOR;

fn main() -> ExitCode {
    if process::is_worker() {
        // The keeper says why.
        return if work().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    match keep() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            tracing::error!("halted: {reason}");
            match reason {
                Reason::Halt(halt) if !halt.is_failure() => ExitCode::from(EXIT_REFUSED),
                Reason::Environment(_) => ExitCode::from(EXIT_REFUSED),
                Reason::Halt(_) | Reason::Worker(_) | Reason::System(_) => ExitCode::FAILURE,
            }
        }
    }
}

fn keep() -> Result<(), Reason> {
    console::init()?;
    let socket = path(ENV_LISTEN)?;
    let config = std::fs::read_to_string(path(ENV_CONFIG)?)?;
    let model = ModelBytes::read(std::fs::File::open(path(ENV_MODEL)?)?)?;
    // Before the other one, which tells the host that everything is ready.
    let control = std::env::var_os(ENV_CONTROL).map(StdUnixListener::bind).transpose()?;
    let partners = StdUnixListener::bind(socket)?;
    partners.set_nonblocking(true)?;
    let (worker_process, worker) = Worker::start(partners.into(), None)?;
    let device = HostSecurityModule::on_standard_input()?;
    let result = process::runtime()?.block_on(async {
        let control = control.map(|control| {
            control.set_nonblocking(true)?;
            UnixListener::from_std(control)
        });
        let control = control.transpose()?;
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = async move { _ = terminate.recv().await };
        let worker = UnixStream::from_std(worker)?;
        let (clock, open) = (Clock::boot(), || Ok(()));
        let platform = KeeperPlatform { device, control, clock, config, model, worker, open };
        keeper::run(platform, shutdown).await.map_err(Reason::from)
    });
    match result {
        Ok(()) => Ok(worker_process.wait()?),
        Err(Reason::Halt(halt)) => Err(worker_process.explain(halt).into()),
        Err(other) => Err(other),
    }
}

fn work() -> Result<(), Reason> {
    console::init()?;
    confinement::give_up_rights()?;
    let Given { keeper, listener } = Given::take()?;
    process::runtime()?.block_on(async {
        let keeper = UnixStream::from_std(keeper)?;
        let listener = || UnixListener::from_std(StdUnixListener::from(listener));
        let seat = Seat { keeper, clock: Clock::boot(), confine: confinement::confine, listener };
        worker::run(seat).await.map_err(Reason::from)
    })
}

fn path(variable: &'static str) -> Result<PathBuf, Reason> {
    std::env::var_os(variable).map(PathBuf::from).ok_or(Reason::Environment(variable))
}

/// Why the program ends.
#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error(
        "expected {0} in the environment: this program is started by `cleanroom-host run --tier simulated`"
    )]
    Environment(&'static str),
    #[error(transparent)]
    Halt(#[from] Halt),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error("the system refused: {0}")]
    System(#[from] std::io::Error),
}
