//! The enclave of an image: a Nitro security module, a vsock listener, and files that the image carries.

use std::os::fd::AsFd as _;
use std::process::ExitCode;

use cleanroom_enclave::keeper::{self, KeeperPlatform};
use cleanroom_enclave::memory::{ERASING_ALLOCATOR, ErasingAllocator};
use cleanroom_enclave::model_port::{self, ModelTooLarge};
use cleanroom_enclave::nitro::{NitroSecureModule, NoSecurityModule};
use cleanroom_enclave::process::{self, Given, Worker};
use cleanroom_enclave::release::Clock;
use cleanroom_enclave::serve::LateVsockListener;
use cleanroom_enclave::worker::{self, Seat, WorkerError, confinement};
use cleanroom_enclave::{Halt, console};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

/// The port that partners' connections arrive on.
const PORT: u32 = 5000;
/// The port that the host hands in releases, denials and leases on.
const CONTROL_PORT: u32 = 5001;
/// The port that the host brings the model to.
const MODEL_PORT: u32 = 5002;
/// The measured configuration.
const CONFIG: &str = "/app/enclave.toml";
/// The worker's user, who owns nothing.
const WORKER: u32 = 1;

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
            ExitCode::FAILURE
        }
    }
}

fn keep() -> Result<(), Reason> {
    console::init()?;
    let device = NitroSecureModule::open()?;
    let config = std::fs::read_to_string(CONFIG)?;
    let partners = cleanroom_vsock::bind(VsockAddr::new(VMADDR_CID_ANY, PORT))?;
    let (worker_process, worker) = Worker::start(partners.try_clone()?, Some(WORKER))?;
    let result = process::runtime()?.block_on(async {
        let mut models = cleanroom_vsock::listen(VsockAddr::new(VMADDR_CID_ANY, MODEL_PORT))?;
        let model = model_port::receive(&mut models, room()).await?;
        drop(models);
        let control = Some(LateVsockListener::new(VsockAddr::new(VMADDR_CID_ANY, CONTROL_PORT)));
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = async move { _ = terminate.recv().await };
        let worker = UnixStream::from_std(worker)?;
        let open = || cleanroom_vsock::listen_on(partners.as_fd());
        let clock = Clock::boot();
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
    confinement::bound_threads()?;
    let Given { keeper, listener } = Given::take()?;
    process::runtime()?.block_on(async {
        let keeper = UnixStream::from_std(keeper)?;
        let listener = || Ok(VsockListener::from(listener));
        let seat = Seat { keeper, clock: Clock::boot(), confine: confinement::confine, listener };
        worker::run(seat).await.map_err(Reason::from)
    })
}

/// The most bytes that a model may have: half of the memory, since the weights are laid out anew from the file.
fn room() -> u64 {
    let system = rustix::system::sysinfo();
    system.totalram.saturating_mul(u64::from(system.mem_unit)) / 2
}

/// Why the program ends.
#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error(transparent)]
    NoSecurityModule(#[from] NoSecurityModule),
    #[error(transparent)]
    Halt(#[from] Halt),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error(transparent)]
    Model(#[from] ModelTooLarge),
    #[error("the system refused: {0}")]
    System(#[from] std::io::Error),
}
