//! The enclave of the simulated tier: the enclave's own code, with a security module and a listener that a process has.
//!
//! The host starts this program, measures it and plays the platform; the contract is written down in the host's
//! `launcher::simulated`. No image contains it.

mod security_module;

use std::path::PathBuf;
use std::process::ExitCode;

use cleanroom_enclave::memory::{ERASING_ALLOCATOR, ErasingAllocator};
use cleanroom_enclave::release::Clock;
use cleanroom_enclave::{Halt, Platform, console, run};
use tokio::net::UnixListener;
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
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            tracing::error!("halted: {reason}");
            match reason {
                Reason::Halt(_) | Reason::Environment(_) => ExitCode::from(EXIT_REFUSED),
                Reason::System(_) => ExitCode::FAILURE,
            }
        }
    }
}

fn start() -> Result<(), Reason> {
    console::init()?;
    let socket = path(ENV_LISTEN)?;
    let config = std::fs::read_to_string(path(ENV_CONFIG)?)?;
    let model = std::fs::read(path(ENV_MODEL)?)?;
    let device = HostSecurityModule::on_standard_input()?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        // Before the other one, which tells the host that everything is ready.
        let control = std::env::var_os(ENV_CONTROL).map(UnixListener::bind).transpose()?;
        let listener = UnixListener::bind(socket)?;
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = async move { _ = terminate.recv().await };
        let clock = Clock::boot();
        run(Platform { device, listener, control, clock, config, model }, shutdown)
            .await
            .map_err(Reason::from)
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
    #[error("the system refused: {0}")]
    System(#[from] std::io::Error),
}
