//! The enclave of an EC2 instance that is the enclave itself: a NitroTPM as its security module, TCP instead of vsock.
//!
//! On the instance this program is all that PID 1 of the measured image starts, without arguments. Beside a software TPM it is a
//! process like any other, for development. Nothing that an argument says decides about security: a partner believes the
//! TPM's registers, and a TPM that somebody chose signs under a root that somebody chose.
//!
//! Everything that arrives by TCP is a stranger's, the host's connections among it. Whoever reaches the ports can do what a
//! host can: hand in what the authorities have signed, serve a model that has to have the right digest, ask for the log, or
//! end the service.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

mod command_line;

use std::fs::OpenOptions;
use std::os::fd::BorrowedFd;
use std::process::ExitCode;

use clap::Parser as _;
use cleanroom_link::tcp::{self, LateTcpListener};
use cleanroom_link::{exit, port};
use cleanroom_nitrotpm::{NitroTpm, TpmError};
use cleanroom_runner::console;
use cleanroom_runner::memory::{ERASING_ALLOCATOR, ErasingAllocator};
use cleanroom_runner::program::{self, KeeperInputs, Reason};

use crate::command_line::Arguments;

/// The worker's user, who owns nothing, where the keeper may choose one.
const WORKER: u32 = 1;
/// The kernel's pool of randomness.
const POOL: &str = "/dev/random";

#[global_allocator]
static ALLOCATOR: ErasingAllocator = ERASING_ALLOCATOR;

fn main() -> ExitCode {
    let has_own_user = rustix::process::getuid().as_raw() == WORKER;
    program::main(keep, || program::work(has_own_user, tcp::listener), exit::REFUSED)
}

fn keep() -> Result<(), Reason> {
    let Arguments { tpm, config, address } = Arguments::parse();
    console::init()?;
    let platform = |error: TpmError| Reason::Platform(Box::new(error));
    let mut device = NitroTpm::open(&tpm).map_err(platform)?;
    // Before any key is made.
    device.mix_into(OpenOptions::new().write(true).open(POOL)?).map_err(platform)?;
    let config = std::fs::read_to_string(config)?;
    let partners = tcp::bind(address, port::PARTNERS)?;
    let (store, control) = (tcp::bind(address, port::MODEL)?, tcp::bind(address, port::CONTROL)?);
    let attach = async || {
        tcp::listen_on(&store)?;
        Ok((tcp::listener(store)?, Some(LateTcpListener::new(control))))
    };
    let open = |partners: BorrowedFd<'_>| tcp::listen_on(partners);
    let worker_user = rustix::process::getuid().is_root().then_some(WORKER);
    program::keep(KeeperInputs {
        device,
        config,
        partners,
        runs_engines: true,
        worker_user,
        attach,
        model_limit: model_limit(&std::fs::read_to_string("/proc/meminfo")?),
        open,
    })
}

/// The most bytes that a model may have: seven eighths of the memory that is available. The weights are there once; what is left
/// is for the engine and for sessions.
fn model_limit(meminfo: &str) -> u64 {
    let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.strip_suffix("kB"));
    available.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0).saturating_mul(1024) / 8 * 7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_leaves_an_eighth_of_the_memory() {
        let meminfo = "MemTotal:       16384000 kB\nMemFree:          100 kB\nMemAvailable:    8000000 kB\n";
        assert_eq!(model_limit(meminfo), 7_000_000 * 1024);
        assert_eq!(model_limit("MemTotal: 1 kB\n"), 0, "who cannot say what there is takes no model");
    }
}
