//! The enclave of an image: a Nitro security module, vsock, and files that the image carries.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

mod nitro;

use std::process::ExitCode;

use cleanroom_link::listener::LateVsockListener;
use cleanroom_link::port;
use cleanroom_runner::console;
use cleanroom_runner::memory::{ERASING_ALLOCATOR, ErasingAllocator};
use cleanroom_runner::program::{self, KeeperInputs, Reason};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

use crate::nitro::NitroSecureModule;

/// The measured configuration.
const CONFIG: &str = "/app/enclave.toml";
/// The worker's user, who owns nothing.
const WORKER: u32 = 1;

#[global_allocator]
static ALLOCATOR: ErasingAllocator = ERASING_ALLOCATOR;

fn main() -> ExitCode {
    // PID 1 halts the machine whatever the status is.
    const REFUSED: u8 = 1;
    let work = || program::work(true, |socket| Ok(VsockListener::from(socket)));
    program::main(keep, work, REFUSED)
}

fn keep() -> Result<(), Reason> {
    console::init()?;
    let device = NitroSecureModule::open().map_err(|error| Reason::Platform(error.into()))?;
    let config = std::fs::read_to_string(CONFIG)?;
    let partners = cleanroom_vsock::bind(VsockAddr::new(VMADDR_CID_ANY, port::PARTNERS))?;
    let attach = async || {
        let store = cleanroom_vsock::listen(VsockAddr::new(VMADDR_CID_ANY, port::MODEL))?;
        let control = LateVsockListener::new(VsockAddr::new(VMADDR_CID_ANY, port::CONTROL));
        Ok((store, Some(control)))
    };
    let open = |partners: std::os::fd::BorrowedFd<'_>| cleanroom_vsock::listen_on(partners);
    let model_limit = model_limit();
    let worker_user = Some(WORKER);
    program::keep(KeeperInputs {
        device,
        config,
        partners,
        runs_engines: false,
        worker_user,
        attach,
        model_limit,
        open,
    })
}

/// The most bytes that a model may have: seven eighths of the free memory. The weights are there once; what is left is for the
/// engine and for sessions.
fn model_limit() -> u64 {
    let system = rustix::system::sysinfo();
    system.freeram.saturating_mul(u64::from(system.mem_unit)) / 8 * 7
}
