//! The enclave of an image: a Nitro security module, a vsock listener, and files that the image carries.

use std::process::ExitCode;

use cleanroom_enclave::nitro::{NitroSecureModule, NoSecurityModule};
use cleanroom_enclave::release::Clock;
use cleanroom_enclave::{Halt, Platform, console, run};
use tokio::signal::unix::{SignalKind, signal};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

/// The port that partners' connections arrive on.
const PORT: u32 = 5000;
/// The port that the host hands in releases, denials and leases on.
const CONTROL_PORT: u32 = 5001;
/// The measured configuration.
const CONFIG: &str = "/app/enclave.toml";
/// The model.
const MODEL: &str = "/app/model.gguf";

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
    let model = std::fs::read(MODEL)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, PORT))?;
        let control = Some(VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, CONTROL_PORT))?);
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = async move { _ = terminate.recv().await };
        let clock = Clock::boot();
        run(Platform { device, listener, control, clock, config, model }, shutdown)
            .await
            .map_err(Reason::from)
    })
}

/// Why the program ends.
#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error(transparent)]
    NoSecurityModule(#[from] NoSecurityModule),
    #[error(transparent)]
    Halt(#[from] Halt),
    #[error("the system refused: {0}")]
    System(#[from] std::io::Error),
}
