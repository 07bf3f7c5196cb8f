//! What the programs of this package have in common: a machine that is booted, and its console.

pub mod pattern;
pub mod task;
pub mod trial;

use std::path::PathBuf;

use clap::Args;
use cleanroom_host::launcher::qemu::{Acceleration, MachineSettings};

/// Why a trial could not be made.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The machine that a trial boots.
#[derive(Args, Clone)]
pub struct MachineArguments {
    /// The enclave image file.
    #[arg(long)]
    pub image: PathBuf,
    /// QEMU 11.1 or later.
    #[arg(long, default_value = "qemu-system-x86_64")]
    pub qemu: PathBuf,
    /// The program that gives the machine vsock.
    #[arg(long, default_value = "vhost-device-vsock")]
    pub vsock_device: PathBuf,
    /// Memory in MiB.
    #[arg(long, default_value = "512")]
    pub memory: u32,
    /// Execute in software even where the processor could.
    #[arg(long)]
    pub tcg: bool,
}

impl MachineArguments {
    /// As the launcher takes them.
    #[must_use]
    pub fn settings(&self) -> MachineSettings {
        MachineSettings {
            qemu: self.qemu.clone(),
            vsock_device: self.vsock_device.clone(),
            memory_mib: self.memory,
            processors: 2,
            acceleration: if self.tcg { Acceleration::Tcg } else { Acceleration::Auto },
            append: String::new(),
        }
    }
}
