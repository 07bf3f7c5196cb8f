//! The enclave of the simulated tier: the enclave's own code, with a security module and sockets that a process has.
//!
//! The host starts this program, measures it and plays the platform. `cleanroom_link` and the host's `launcher::simulated`
//! write the contract down. No image contains this program.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

mod security_module;

use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::PathBuf;
use std::process::ExitCode;

use cleanroom_link::{exit, variable};
use cleanroom_runner::console;
use cleanroom_runner::memory::{ERASING_ALLOCATOR, ErasingAllocator};
use cleanroom_runner::program::{self, KeeperInputs, Reason};
use tokio::net::UnixListener;

use crate::security_module::HostSecurityModule;

#[global_allocator]
static ALLOCATOR: ErasingAllocator = ERASING_ALLOCATOR;

fn main() -> ExitCode {
    let work = || program::work(false, |socket| UnixListener::from_std(StdUnixListener::from(socket)));
    program::main(keep, work, exit::REFUSED)
}

fn keep() -> Result<(), Reason> {
    console::init()?;
    let socket = path(variable::LISTEN)?;
    let config = std::fs::read_to_string(path(variable::CONFIG)?)?;
    let store = StdUnixListener::bind(path(variable::STORE)?)?;
    store.set_nonblocking(true)?;
    // Before the socket of the partners, which tells the host that everything is ready.
    let control = std::env::var_os(variable::CONTROL).map(StdUnixListener::bind).transpose()?;
    let partners = StdUnixListener::bind(socket)?;
    partners.set_nonblocking(true)?;
    let device = HostSecurityModule::on_standard_input()?;
    let attach = async || {
        let control = control.map(|control| {
            control.set_nonblocking(true)?;
            UnixListener::from_std(control)
        });
        Ok((UnixListener::from_std(store)?, control.transpose()?))
    };
    let (partners, open) = (partners.into(), |_: std::os::fd::BorrowedFd<'_>| Ok(()));
    program::keep(KeeperInputs {
        device,
        config,
        partners,
        runs_engines: true,
        worker_user: None,
        attach,
        model_limit: u64::MAX,
        open,
    })
}

fn path(variable: &'static str) -> Result<PathBuf, Reason> {
    let missing = || Reason::Platform(Box::new(Missing(variable)));
    std::env::var_os(variable).map(PathBuf::from).ok_or_else(missing)
}

/// The host did not say where something is.
#[derive(Debug, thiserror::Error)]
#[error("expected {0} in the environment: this program is started by `cleanroom-host run --tier simulated`")]
struct Missing(&'static str);
