//! `run`: the options, and what they say of the enclave and of the agent on its control connection.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_host::agent::{self, Authority, Broker, KmsShare, RecordStore};
use cleanroom_host::endpoint::ListenAddress;
use cleanroom_host::launcher::instance;
use cleanroom_host::launcher::nitro;
use cleanroom_host::launcher::qemu::{self, Acceleration, MachineSettings};
use cleanroom_host::launcher::simulated::Settings;
use cleanroom_host::launcher::{Patience, RestartPolicy};
use cleanroom_host::log_store::LogStore;
use cleanroom_kms::{FILE_LIMIT, SealedForKms};

use super::limits::LimitArguments;
use super::{Tier, duration};
use crate::Failure;

#[derive(Args)]
pub(crate) struct RunArguments {
    /// The tier: how the enclave runs.
    #[arg(long, value_enum)]
    tier: Tier,

    /// The enclave's program, which is measured (simulated tier).
    #[arg(long, value_name = "FILE", required_if_eq("tier", "simulated"))]
    enclave: Option<PathBuf>,

    /// The enclave's configuration, which is measured (simulated tier). An image has its own.
    #[arg(long, value_name = "FILE", required_if_eq("tier", "simulated"))]
    config: Option<PathBuf>,

    /// The enclave image file, which is measured (qemu and nitro tiers).
    #[arg(long, value_name = "FILE", required_if_eq_any([("tier", "qemu"), ("tier", "nitro")]), conflicts_with_all = ["enclave", "config"])]
    image: Option<PathBuf>,

    /// The instance that is the enclave: its name or its address. It takes connections on TCP ports 5000 to 5002
    /// (nitrotpm tier).
    #[arg(long, value_name = "HOST", required_if_eq("tier", "nitrotpm"), conflicts_with_all = ["enclave", "config", "image"])]
    instance: Option<String>,

    /// The SHA-384 that the image file must have, as its build summary names it (nitro tier).
    #[arg(long, value_name = "HEX")]
    image_sha384: Option<Sha384Digest>,

    /// The model's file. The enclave computes its digest itself. A file whose name ends in `.sealed` is
    /// sealed; its record, NAME.json, must lie beside it.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,

    /// The instance id that the software security module names and measures into PCR 4, like
    /// i-0123456789abcdef0. By default, each start makes up an id.
    #[arg(long, value_name = "ID")]
    instance_id: Option<String>,

    /// Where partners connect: HOST:PORT or unix:PATH. Port 0 lets the system choose.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: ListenAddress,

    /// Folder for the enclave's socket, its console and its measurements.
    #[arg(long, value_name = "FOLDER", default_value = "cleanroom-state")]
    pub(crate) state: PathBuf,

    /// Show the enclave's console in the log, too.
    #[arg(long)]
    show_console: bool,

    /// How long the enclave may take until it accepts connections.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    start_timeout: Duration,

    /// Start the enclave again when it has answered no probe for so long. A probe asks its worker, its engine
    /// and its security module.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    silence: Duration,

    /// The lease service of an authority, http://HOST:PORT; may be repeated. The host hands its roots,
    /// releases, denials and leases to the enclave.
    #[arg(long, value_name = "URL")]
    authority: Vec<Authority>,

    /// A release, beside those that the lease services have. Replace the file to bring a newer one.
    #[arg(long, value_name = "FILE", requires = "authority")]
    release: Option<PathBuf>,

    /// A folder of denials, beside those that the lease services know.
    #[arg(long, value_name = "FOLDER", requires = "authority")]
    denials: Option<PathBuf>,

    /// A safeguard policy that a release names; may be repeated. The enclave takes it only if its digest is
    /// the release's, and serves nobody without it. A file that changes is handed in with the next release.
    #[arg(long, value_name = "FILE", requires = "authority")]
    safeguards: Vec<PathBuf>,

    /// The file of a text classifier that a safeguard policy names; may be repeated. The enclave takes it only
    /// if its digest is the policy's, and serves nobody without it.
    #[arg(long, value_name = "FILE", requires = "safeguards")]
    classifier: Vec<PathBuf>,

    /// A broker, NAME=http://HOST:PORT, where NAME is the broker's name in the release; may be repeated. The
    /// broker holds a share of the key of the sealed weights. The host carries the share to the enclave and
    /// cannot read it.
    #[arg(long, value_name = "NAME=URL", requires = "authority")]
    broker: Vec<Broker>,

    /// A share of the key of the sealed weights that AWS KMS holds, as `cleanroom-authority broker kms seal` writes
    /// it; may be repeated. The host asks KMS with the enclave's document and carries the answer to the enclave,
    /// which alone can read it.
    #[arg(long, value_name = "FILE", requires = "authority")]
    kms_share: Vec<PathBuf>,

    /// AWS's command line, version 2.13 or later, which asks KMS with the credentials of this machine.
    #[arg(long, value_name = "PROGRAM", default_value = "aws")]
    aws_cli: PathBuf,

    /// Keep the enclave's log in this folder, for auditors: `cleanroom audit FOLDER`. Each start of an
    /// enclave writes a log of its own. The logs hold no secrets; any web server may serve the folder.
    #[arg(long, value_name = "FOLDER")]
    log: Option<PathBuf>,

    /// Keep the enclave's sealed records in this folder. Where the release demands records, an enclave whose host
    /// keeps none serves nobody.
    #[arg(long, value_name = "FOLDER", requires = "authority")]
    records: Option<PathBuf>,

    /// Carry out the openings in this folder: NAME.json, signed by a quorum. What the enclave gives for the
    /// receiver is then in NAME.opened.
    #[arg(long, value_name = "FOLDER", requires_all = ["records", "log"])]
    openings: Option<PathBuf>,

    /// Copy all bytes between this host and the enclave into this folder, two files for each connection. The copy
    /// shows that the host reads nothing of the traffic. It grows with the traffic, and each start with the same
    /// folder begins again.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) capture: Option<PathBuf>,

    /// A witness that cosigns the log, http://HOST:PORT; may be repeated. Auditors who know its key then see
    /// that they are shown the same log as everybody. An enclave whose release demands witnesses serves nobody
    /// without them.
    #[arg(long, value_name = "URL", requires = "log")]
    witness: Vec<Authority>,

    /// Give up after this many restarts of a failing enclave. Default: never give up.
    #[arg(long, value_name = "NUMBER")]
    max_restarts: Option<u32>,

    #[command(flatten)]
    machine: MachineArguments,

    #[command(flatten)]
    pub(crate) limits: LimitArguments,

    /// The enclave's arguments, which are measured (simulated tier).
    #[arg(last = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
}

/// The virtual machine of the qemu tier, the enclave of the nitro tier.
#[derive(Args)]
#[command(next_help_heading = "Virtual machine (qemu and nitro tiers)")]
struct MachineArguments {
    /// Memory in MiB. It must hold the image, the model, and working memory.
    #[arg(long, value_name = "MIB", default_value = "512", value_parser = clap::value_parser!(u32).range(16..))]
    memory: u32,

    /// Processors.
    #[arg(long, value_name = "NUMBER", default_value = "2", value_parser = clap::value_parser!(u32).range(1..=128))]
    processors: u32,

    /// The enclave's context id. No other enclave on the instance may have it (nitro tier).
    #[arg(long, value_name = "NUMBER", default_value = "16", value_parser = clap::value_parser!(u32).range(4..))]
    cid: u32,

    /// AWS's program for enclaves (nitro tier).
    #[arg(long, value_name = "PROGRAM", default_value = "nitro-cli")]
    nitro_cli: PathBuf,

    /// How the virtual machine executes its instructions (qemu tier).
    #[arg(long, value_enum, default_value = "auto")]
    acceleration: AccelerationChoice,

    /// QEMU 11.1 or later (qemu tier).
    #[arg(long, value_name = "PROGRAM", default_value = "qemu-system-x86_64")]
    qemu: PathBuf,

    /// The program vhost-device-vsock (qemu tier).
    #[arg(long, value_name = "PROGRAM", default_value = "vhost-device-vsock")]
    vsock_device: PathBuf,
}

/// The enclave that a tier starts or serves.
pub(crate) enum Enclave {
    Simulated(Settings),
    Nitro(nitro::Settings),
    NitroTpm(instance::Settings),
    Qemu(qemu::Settings),
}

impl RunArguments {
    /// The enclave that the chosen tier starts or serves.
    pub(crate) fn enclave(&self) -> Enclave {
        match self.tier {
            Tier::Simulated => Enclave::Simulated(self.simulated()),
            Tier::Qemu => Enclave::Qemu(self.qemu()),
            Tier::Nitro => Enclave::Nitro(self.nitro()),
            Tier::NitroTpm => Enclave::NitroTpm(instance::Settings {
                // clap has seen to it that this tier has one.
                host: self.instance.clone().unwrap_or_default(),
                model: self.model.clone(),
            }),
        }
    }

    fn simulated(&self) -> Settings {
        Settings {
            // clap has seen to it that this tier has both.
            program: self.enclave.clone().unwrap_or_default(),
            config: self.config.clone().unwrap_or_default(),
            arguments: self.arguments.clone(),
            model: self.model.clone(),
            instance_id: self.instance_id.clone(),
            state: self.state.clone(),
            echo_console: self.show_console,
        }
    }

    fn nitro(&self) -> nitro::Settings {
        let machine = &self.machine;
        nitro::Settings {
            // clap has seen to it that this tier has one.
            image: self.image.clone().unwrap_or_default(),
            image_sha384: self.image_sha384,
            model: self.model.clone(),
            cid: machine.cid,
            memory_mib: machine.memory,
            processors: machine.processors,
            nitro_cli: machine.nitro_cli.clone(),
            state: self.state.clone(),
        }
    }

    /// What is handed in and fetched on the control connection, if anything is. Makes the folder of the log.
    ///
    /// # Errors
    /// The folder cannot be made, or the file of a share cannot be used.
    pub(crate) fn agent(&self) -> Result<Option<agent::Settings>, Failure> {
        let log = self.log.clone().map(LogStore::open).transpose()?;
        let records = self.records.clone().map(RecordStore::open).transpose()?;
        let kms = self.kms_share.iter().map(|path| self.kms_share(path)).collect::<Result<_, _>>()?;
        Ok((log.is_some() || !self.authority.is_empty()).then(|| agent::Settings {
            authorities: self.authority.clone(),
            release: self.release.clone(),
            denials: self.denials.clone(),
            safeguards: self.safeguards.clone(),
            classifiers: self.classifier.clone(),
            brokers: self.broker.clone(),
            kms,
            records,
            openings: self.openings.clone(),
            log,
            witnesses: self.witness.clone(),
        }))
    }

    /// A share that KMS holds, out of its file.
    fn kms_share(&self, path: &Path) -> Result<KmsShare, Failure> {
        let failed = |problem: String| Failure::KmsShare { path: path.to_owned(), problem };
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(FILE_LIMIT as u64 + 1).read_to_end(&mut bytes));
        read.map_err(|error| failed(error.to_string()))?;
        let share = SealedForKms::read(&bytes).map_err(|error| failed(error.to_string()))?;
        Ok(KmsShare { share, program: self.aws_cli.clone() })
    }

    fn qemu(&self) -> qemu::Settings {
        let machine = &self.machine;
        qemu::Settings {
            // clap has seen to it that this tier has one.
            image: self.image.clone().unwrap_or_default(),
            model: self.model.clone(),
            instance_id: self.instance_id.clone(),
            machine: MachineSettings {
                qemu: machine.qemu.clone(),
                vsock_device: machine.vsock_device.clone(),
                memory_mib: machine.memory,
                processors: machine.processors,
                acceleration: match machine.acceleration {
                    AccelerationChoice::Auto => Acceleration::Auto,
                    AccelerationChoice::Kvm => Acceleration::Kvm,
                    AccelerationChoice::Tcg => Acceleration::Tcg,
                },
                append: String::new(),
            },
            state: self.state.clone(),
            echo_console: self.show_console,
        }
    }

    pub(crate) fn restart_policy(&self) -> RestartPolicy {
        RestartPolicy {
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
            stable_after: Duration::from_secs(60),
            restarts: self.max_restarts,
        }
    }

    pub(crate) fn patience(&self) -> Patience {
        Patience { start: self.start_timeout, drain: self.limits.drain_timeout, silence: self.silence }
    }
}

/// How a virtual machine executes its instructions.
#[derive(Clone, Copy, ValueEnum)]
enum AccelerationChoice {
    /// The processor if /dev/kvm may be used, else software.
    Auto,
    /// The processor.
    Kvm,
    /// Software.
    Tcg,
}
