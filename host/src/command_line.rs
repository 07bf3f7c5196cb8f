//! The command line.

use std::fs::File;
use std::io::Read as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use cleanroom_attestation::digest::Sha384Digest;
use cleanroom_host::agent::{self, Authority, Broker, KmsShare, RecordStore};
use cleanroom_host::doctor::{self, Finding, Share};
use cleanroom_host::endpoint::{EnclaveAddress, ListenAddress};
use cleanroom_host::launcher::instance;
use cleanroom_host::launcher::nitro;
use cleanroom_host::launcher::qemu::{self, Acceleration, MachineSettings};
use cleanroom_host::launcher::simulated::Settings;
use cleanroom_host::launcher::{Patience, RestartPolicy};
use cleanroom_host::log_store::LogStore;
use cleanroom_host::relay::{Balancer, BalancerError, Balancers, Limits, NextHost, Times};
use cleanroom_kms::{FILE_LIMIT, SealedForKms};
use cleanroom_program::manual::Manual;

use crate::Failure;
use crate::image_command::ImageCommand;
use crate::software_tpm_command::SoftwareTpmArguments;

/// Runs an enclave and carries its partners' connections, which this program cannot read.
///
/// The host is not trusted: TLS ends inside the enclave, and partners verify the enclave before they send
/// anything. The worst that this program can do is to refuse service.
#[derive(Parser)]
#[command(version, propagate_version = true, after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Write results and logs as JSON, one object a line.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

const AFTER_HELP: &str = "\
Exit status:
  0  did what it was asked, or was asked to stop and drained
  1  could not start, was ended at once by a second signal, or `doctor` found something missing
  2  the command line is wrong
  3  the enclave refused its configuration or model
  4  the enclave failed more often than --max-restarts allows
  5  the images differ (`image diff`)

Logs go to standard error; CLEANROOM_LOG=debug shows more. They name
connections by number and never contain what they carry. When nobody can take
the lines, they are lost and counted, and the program goes on.

Example: try everything on one machine, without hardware
  cleanroom-host doctor
  cleanroom-host run --tier simulated --enclave target/release/cleanroom-enclave-simulated \\
      --config enclave.toml --model model.gguf --listen 127.0.0.1:8443

Example: boot an image in a virtual machine
  cleanroom-host run --tier qemu --image enclave.eif --model model.gguf --listen 127.0.0.1:8443

Example: serve from an AWS Nitro Enclave
  cleanroom-host doctor --tier nitro
  cleanroom-host run --tier nitro --image enclave.eif --model model.gguf --listen 0.0.0.0:8443 --cid 16 --memory 4096 --processors 2

Example: serve from an EC2 instance with a NitroTPM, which is the enclave itself; this machine is another one
  cleanroom-host run --tier nitrotpm --instance 10.0.0.7 --model model.gguf --listen 0.0.0.0:8443";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Start an enclave, keep it running, and relay partners' connections to it.
    #[command(after_help = "\
Example:
  cleanroom-host run --tier simulated --enclave target/release/cleanroom-enclave-simulated \\
      --config enclave.toml --model model.gguf --listen 127.0.0.1:8443

When the enclave is ready, one line (or JSON object) on standard output says
where partners connect. The state folder then has:
  measurements.json     PCR 0, 1 and 2, the development root's fingerprint, the model's digest
  development-root.pem  the root under which this enclave's evidence is signed; made anew at each start
  console.log           what the enclave said

In the nitrotpm tier the enclave is an instance that runs already, or will. This
command gives it the model whenever it boots, hands in what the authorities
sign, and writes none of these files. Partners may connect to the instance
itself (TCP port 5000) as well as to --listen.

SIGTERM or SIGINT drains: no new connections, the enclave finishes what it
does, and everything ends within --drain-timeout. A second signal ends
everything at once.

SIGHUP ends nothing and changes nothing; a line of the log says what is looked
at all the time (files of releases, denials, safeguards and openings) and what
stays until a new start (options).")]
    Run(Box<RunArguments>),

    /// Relay partners' connections to an enclave that somebody else started.
    #[command(after_help = "\
Example: an enclave with context id 16 that listens on port 8443
  cleanroom-host relay --listen 0.0.0.0:8443 --to vsock:16:8443 --metrics 127.0.0.1:9100

SIGTERM or SIGINT drains: no new connections, and the open ones end within
--drain-timeout. A second signal ends everything at once. SIGHUP ends nothing
and changes nothing.")]
    Relay(RelayArguments),

    /// Give one virtual machine or program a TPM with the vendor command of AWS's NitroTPM; for development.
    #[command(after_help = "\
swtpm does what a TPM does. This command stands between QEMU and swtpm, and
answers the vendor command 0x20000001 with attestation documents of the TPM's
registers. It says when a machine can connect, and ends with that machine. The
folder then has:
  tpm.sock              the socket for QEMU
  development-root.pem  the root under which documents are signed; made anew at each start
  tpm2-00.permall       the TPM's state, which stays

With --measure the socket takes a program's TPM commands at once, and this
command ends with that program. Registers are then those of a machine that
firmware has started: 4 has the files, 7 a constant, the others zero. A line
says them as `cleanroom-authority trust --image` takes them.

Examples:
  cleanroom-host software-tpm --state tpm
  qemu-system-x86_64 ... -chardev socket,id=c,path=tpm/tpm.sock -tpmdev emulator,id=t,chardev=c -device tpm-crb,tpmdev=t

  cleanroom-host software-tpm --state tpm --measure cleanroom-instance --measure enclave.toml
  cleanroom-instance --tpm tpm/tpm.sock --config enclave.toml --address 127.0.0.1")]
    SoftwareTpm(SoftwareTpmArguments),

    /// Build enclave images, look into them, compare them.
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },

    /// Check that this machine has everything a tier needs. Each fault comes with the command that fixes it.
    #[command(after_help = "\
Examples:
  cleanroom-host doctor
  cleanroom-host doctor --tier nitro --state /var/lib/cleanroom --memory 4096 --processors 2")]
    Doctor(DoctorArguments),

    /// Write manual pages and shell completions. Packages are made with it.
    #[command(
        hide = true,
        after_help = "\
Example:
  cleanroom-host manual target/manual"
    )]
    Manual(Manual),
}

/// How the enclave runs.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Tier {
    /// A process with a security module in software. It proves nothing about the machine: for demos, tests
    /// and laptops.
    Simulated,
    /// The release image in a virtual machine, with a security module in software. It proves nothing about
    /// the machine either.
    Qemu,
    /// The image in an AWS Nitro Enclave of this EC2 instance.
    Nitro,
    /// An EC2 instance with a NitroTPM, which is the enclave itself. This program runs on another machine, and
    /// starts nothing.
    #[value(name = "nitrotpm")]
    NitroTpm,
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

#[derive(Args)]
pub(crate) struct RelayArguments {
    /// Where partners connect: HOST:PORT or unix:PATH. Port 0 lets the system choose.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: ListenAddress,

    /// Where the enclave listens: vsock:CID:PORT, hybrid:PORT:PATH (a virtual machine's vsock device),
    /// tcp:HOST:PORT (an instance that is the enclave itself) or unix:PATH.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) to: EnclaveAddress,

    /// Where the enclave is told that it is to drain. By default the port that an enclave has for it, or
    /// `control.sock` beside the socket of `--to`.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "keep_enclave")]
    control: Option<EnclaveAddress>,

    /// Leave the enclave as it is when this relay ends: another host runs it or relays to it.
    #[arg(long)]
    keep_enclave: bool,

    /// Tell what --to names whom each connection comes from: a header of the PROXY protocol, version 2, begins it.
    /// Only another host with --proxy-protocol can be told, at unix:PATH.
    #[arg(long, requires = "keep_enclave")]
    send_proxy: bool,

    #[command(flatten)]
    pub(crate) limits: LimitArguments,
}

impl RelayArguments {
    /// Where connections go.
    ///
    /// # Errors
    /// A header would go to an enclave.
    pub(crate) fn next_host(&self) -> Result<NextHost, Failure> {
        let address = self.to.clone();
        if self.send_proxy && !matches!(address, EnclaveAddress::Unix(_)) {
            return Err(Failure::SendProxy(address));
        }
        Ok(NextHost { address, wants_header: self.send_proxy })
    }

    /// Where the enclave is told that it is to drain, if it is.
    pub(crate) fn control(&self) -> Option<EnclaveAddress> {
        if self.keep_enclave { None } else { self.control.clone().or_else(|| self.to.control()) }
    }
}

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

#[derive(Args)]
pub(crate) struct LimitArguments {
    /// The most open connections. At this limit, a new connection replaces one of the client with the most
    /// connections, or is closed at once. Each connection needs two open files, with --proxy-protocol three.
    #[arg(long, value_name = "NUMBER", default_value = "1024")]
    max_connections: NonZeroUsize,

    /// The most open connections of one client: an IPv4 address, or a /64 network of IPv6. At this limit, a
    /// new connection replaces a silent one of the same client, or is closed at once. Default: half of
    /// --max-connections. Behind a balancer, use --proxy-protocol; if the balancer cannot send its clients'
    /// addresses, give the value of --max-connections.
    #[arg(long, value_name = "NUMBER")]
    max_connections_per_client: Option<NonZeroUsize>,

    /// A balancer in front of this host: its address, a network like 10.0.0.0/24, or `unix` for what connects to
    /// --listen unix:PATH; may be repeated. Each of its connections must begin with a header of the PROXY protocol,
    /// version 2. The client's address in the header counts for --max-connections-per-client. Nobody else's header
    /// is looked at.
    #[arg(long, value_name = "FROM", value_delimiter = ',')]
    proxy_protocol: Vec<Balancer>,

    /// How long a connection may take to begin a TLS session.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    opening_timeout: Duration,

    /// How long the host tries to reach the enclave for a connection.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    connect_timeout: Duration,

    /// End a connection on which no byte moves for this long.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    idle_timeout: Duration,

    /// End a connection after this long, even if it is in use.
    #[arg(long, value_name = "TIME", default_value = "2h", value_parser = duration)]
    max_lifetime: Duration,

    /// How long open connections and the enclave may go on after SIGTERM.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    drain_timeout: Duration,

    /// Serve /metrics (Prometheus), /status (JSON), /healthz and /readyz here: HOST:PORT or unix:PATH.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics: Option<ListenAddress>,
}

impl LimitArguments {
    pub(crate) fn to_limits(&self) -> Limits {
        Limits {
            connections: self.max_connections,
            per_client: self.max_connections_per_client.unwrap_or(
                NonZeroUsize::new(self.max_connections.get().div_ceil(2)).unwrap_or(self.max_connections),
            ),
            connect: self.connect_timeout,
            drain: self.drain_timeout,
            times: Times {
                opening: self.opening_timeout,
                idle: self.idle_timeout,
                lifetime: self.max_lifetime,
            },
        }
    }
}

impl LimitArguments {
    /// The balancers in front of a host that listens on `listen`.
    ///
    /// # Errors
    /// One of them cannot connect there.
    pub(crate) fn balancers(&self, listen: &ListenAddress) -> Result<Balancers, BalancerError> {
        Balancers::new(self.proxy_protocol.clone(), listen)
    }

    /// Open files and sockets that the program needs at most: two for each connection, one for each that waits for
    /// its balancer's header, and the rest.
    pub(crate) fn open_files(&self) -> u64 {
        let each = if self.proxy_protocol.is_empty() { 2 } else { 3 };
        (self.max_connections.get() as u64).saturating_mul(each).saturating_add(doctor::OTHER_FILES)
    }
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

/// The longest time that an option takes: a year. Longer ones would overflow clocks.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        Ok(_) => Err("expected at most 365 days".to_owned()),
        Err(error) => Err(format!("expected a time like 500ms, 30s or 2h: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_that_parse() {
        let problems = cleanroom_program::examples::problems(&Arguments::command());
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }

    #[test]
    fn times_have_units_and_a_limit() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        for text in ["", "30", "-1s", "366days", "forever"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_enclaves_arguments_come_last_and_are_passed_as_they_are() {
        let line = "x run --tier simulated --enclave e --config c --model m --listen 127.0.0.1:0 -- --json a";
        let arguments = Arguments::try_parse_from(line.split(' ')).ok().unwrap();
        assert!(!arguments.json);
        let Command::Run(run) = arguments.command else { panic!() };
        assert_eq!(run.simulated().arguments, ["--json", "a"]);
    }

    #[test]
    fn each_tier_needs_what_it_starts_from() {
        let refused = |tier: &str| {
            Arguments::try_parse_from(format!("x run --model m --listen 127.0.0.1:0 {tier}").split(' '))
                .is_err()
        };
        assert!(refused("--tier simulated --enclave e"));
        assert!(refused("--tier qemu"));
        assert!(refused("--tier qemu --image i --config c"), "an image has its own configuration");
        assert!(!refused("--tier qemu --image i"));
        assert!(refused("--tier nitro"));
        assert!(!refused("--tier nitro --image i --cid 17"));
        assert!(refused("--tier nitro --image i --cid 3"), "that is the parent's");
        assert!(refused("--tier nitrotpm"));
        assert!(refused("--tier nitrotpm --instance h --image i"), "nobody starts an image here");
        assert!(!refused("--tier nitrotpm --instance h"));
    }
}
