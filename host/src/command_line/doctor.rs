//! `doctor`: what a machine is examined for.

use std::path::PathBuf;

use clap::Args;
use cleanroom_host::doctor::{self, Finding, Share};

use super::Tier;

#[derive(Args)]
pub(crate) struct DoctorArguments {
    /// The tier to check for.
    #[arg(long, value_enum, default_value = "simulated")]
    tier: Tier,

    /// The state folder to check.
    #[arg(long, value_name = "FOLDER", default_value = "cleanroom-state")]
    state: PathBuf,

    /// Memory in MiB that the enclave is to have, as for `run` (nitro tier).
    #[arg(long, value_name = "MIB", default_value = "512")]
    memory: u32,

    /// Processors that the enclave is to have, as for `run` (nitro tier).
    #[arg(long, value_name = "NUMBER", default_value = "2")]
    processors: u32,

    /// QEMU 11.1 or later (qemu tier).
    #[arg(long, value_name = "PROGRAM", default_value = "qemu-system-x86_64")]
    qemu: PathBuf,

    /// The program vhost-device-vsock (qemu tier).
    #[arg(long, value_name = "PROGRAM", default_value = "vhost-device-vsock")]
    vsock_device: PathBuf,

    /// AWS's program for enclaves (nitro tier).
    #[arg(long, value_name = "PROGRAM", default_value = "nitro-cli")]
    nitro_cli: PathBuf,
}

impl DoctorArguments {
    pub(crate) fn examine(&self) -> Vec<Finding> {
        match self.tier {
            Tier::Simulated => doctor::simulated(&self.state),
            Tier::Qemu => doctor::qemu(&self.state, &self.qemu, &self.vsock_device),
            Tier::Nitro => {
                let share = Share { memory_mib: self.memory, processors: self.processors };
                doctor::nitro(&self.state, &self.nitro_cli, share)
            }
            Tier::NitroTpm => doctor::nitrotpm(&self.state),
        }
    }
}
