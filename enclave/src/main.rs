//! The enclave of an image: a Nitro security module, a vsock listener, and files that the image carries.

use std::process::ExitCode;

use cleanroom_enclave::memory::{ERASING_ALLOCATOR, ErasingAllocator};
use cleanroom_enclave::model_port::{self, ModelTooLarge};
use cleanroom_enclave::nitro::{NitroSecureModule, NoSecurityModule};
use cleanroom_enclave::release::Clock;
use cleanroom_enclave::serve::LateVsockListener;
use cleanroom_enclave::{Halt, Platform, console, run};
use tokio::signal::unix::{SignalKind, signal};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr};

/// The port that partners' connections arrive on.
const PORT: u32 = 5000;
/// The port that the host hands in releases, denials and leases on.
const CONTROL_PORT: u32 = 5001;
/// The port that the host brings the model to.
const MODEL_PORT: u32 = 5002;
/// The measured configuration.
const CONFIG: &str = "/app/enclave.toml";

#[global_allocator]
static ALLOCATOR: ErasingAllocator = ERASING_ALLOCATOR;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            tracing::error!("halted: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), Reason> {
    console::init()?;
    let device = NitroSecureModule::open()?;
    let config = std::fs::read_to_string(CONFIG)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let mut models = cleanroom_vsock::listen(VsockAddr::new(VMADDR_CID_ANY, MODEL_PORT))?;
        let model = model_port::receive(&mut models, room()).await?;
        drop(models);
        let listener = LateVsockListener::new(VsockAddr::new(VMADDR_CID_ANY, PORT));
        let control = Some(LateVsockListener::new(VsockAddr::new(VMADDR_CID_ANY, CONTROL_PORT)));
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = async move { _ = terminate.recv().await };
        let clock = Clock::boot();
        run(Platform { device, listener, control, clock, config, model }, shutdown)
            .await
            .map_err(Reason::from)
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
    Model(#[from] ModelTooLarge),
    #[error("the system refused: {0}")]
    System(#[from] std::io::Error),
}
