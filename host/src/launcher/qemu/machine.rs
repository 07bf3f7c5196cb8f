//! The virtual machine: QEMU's `microvm`, a process that gives it vsock, and the device that is its security
//! module.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::security_module::{Device, QUEUE_SIZE, Respond, VIRTIO_ID};
use crate::endpoint::remove_stale_socket;
use crate::launcher::leftovers;

/// The guest's context id. Every machine has a vsock device of its own, so all of them can have the same.
const GUEST_CID: u32 = 16;
/// The context id of the parent as the guest sees it: the vsock device answers to the host's id (vsock(7)),
/// not to Nitro's.
const PARENT_CID: u32 = 2;

/// How long the helpers may take until their sockets are there.
const SOCKETS: Duration = Duration::from_secs(10);
const SOCKET_POLL: Duration = Duration::from_millis(5);

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acceleration {
    /// The processor if this user may use `/dev/kvm`, else software.
    #[default]
    Auto,
    /// The processor, through `/dev/kvm`.
    Kvm,
    /// Software: any machine, no rights.
    Tcg,
}

/// The settings of a machine.
#[derive(Debug, Clone)]
pub struct MachineSettings {
    /// The program `qemu-system-x86_64`, of version 11.1 or later.
    pub qemu: PathBuf,
    /// The program `vhost-device-vsock`.
    pub vsock_device: PathBuf,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub processors: u32,
    /// What executes the guest's instructions.
    pub acceleration: Acceleration,
    /// What is appended to the image's command line. It is not measured, as nothing is that a virtual machine
    /// monitor appends.
    pub append: String,
}

/// The files that a machine boots.
#[derive(Debug, Clone)]
pub struct BootFiles {
    /// The kernel.
    pub kernel: PathBuf,
    /// All ramdisks, one after the other.
    pub ramdisks: PathBuf,
    /// The kernel's command line.
    pub command_line: String,
}

/// A running machine. Dropping it ends it.
pub struct Machine {
    qemu: Child,
    _vsock: Child,
    _security_module: Option<Device>,
    vsock_path: PathBuf,
}

impl Machine {
    /// Starts a machine whose sockets are in `folder`, and gives its console. Without a security module the
    /// guest finds none.
    ///
    /// # Errors
    /// When one of the programs cannot be started or does not do its part.
    pub async fn start(
        files: &BootFiles,
        settings: &MachineSettings,
        folder: &Path,
        security_module: Option<Box<dyn Respond>>,
    ) -> io::Result<(Self, pipe::Receiver)> {
        let vsock_path = Self::vsock_path_in(folder);
        let [vsock_device, security_module_device] =
            ["vsock-device.sock", "security-module.sock"].map(|name| folder.join(name));
        for socket in [&vsock_path, &vsock_device, &security_module_device] {
            remove_stale_socket(socket)?;
        }
        let mut vsock = start_vsock(settings, &vsock_path, &vsock_device)?;
        leftovers::remember(folder, "vsock device", vsock.id());
        let security_module = match security_module {
            Some(security_module) => {
                let device = Device::start(&security_module_device, security_module)?;
                appears(&security_module_device).await?;
                Some(device)
            }
            None => None,
        };
        tokio::select! {
            appeared = appears(&vsock_device) => appeared?,
            status = vsock.wait() => {
                return Err(io::Error::other(format!("vhost-device-vsock ended: {}", status?)));
            }
        }

        let (console, writer) = io::pipe()?;
        let also_writer = writer.try_clone()?;
        let console = pipe::Receiver::from_owned_fd(OwnedFd::from(console))?;
        let security_module_device = security_module.is_some().then_some(security_module_device.as_path());
        let qemu = qemu_command(files, settings, &vsock_device, security_module_device)?
            .stdin(Stdio::null())
            .stdout(Stdio::from(writer))
            .stderr(Stdio::from(also_writer))
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(naming(&settings.qemu))?;
        leftovers::remember(folder, "virtual machine", qemu.id());
        Ok((Self { qemu, _vsock: vsock, _security_module: security_module, vsock_path }, console))
    }

    /// The socket in `folder` on which the guest's ports are reached; a port that the guest connects to is
    /// the same with `_` and the port's number at the end.
    #[must_use]
    pub fn vsock_path_in(folder: &Path) -> PathBuf {
        folder.join("enclave.vsock")
    }

    /// The socket on which the guest's ports are reached.
    #[must_use]
    pub fn vsock_path(&self) -> &Path {
        &self.vsock_path
    }

    /// QEMU's process id, until its end was waited for.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.qemu.id()
    }

    /// Waits for QEMU's end. Waiting may be given up and taken up again.
    ///
    /// # Errors
    /// When the system cannot say how it ended.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.qemu.wait().await
    }

    /// Ends the machine at once.
    pub fn kill(&mut self) {
        // The only way to fail is that it has ended already.
        let _ = self.qemu.start_kill();
    }
}

/// The arguments of QEMU that do not depend on what is booted.
/// Starts the program that gives the machine its vsock device.
fn start_vsock(settings: &MachineSettings, path: &Path, device: &Path) -> io::Result<Child> {
    Command::new(&settings.vsock_device)
        .arg("--vm")
        .arg(vsock_arguments(path, device)?)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(naming(&settings.vsock_device))
}

/// QEMU with its arguments, not yet started.
fn qemu_command(
    files: &BootFiles,
    settings: &MachineSettings,
    vsock_device: &Path,
    security_module_device: Option<&Path>,
) -> io::Result<Command> {
    let mut command = Command::new(&settings.qemu);
    command.args(machine_arguments(settings)).arg("-kernel").arg(&files.kernel);
    command.arg("-initrd").arg(&files.ramdisks);
    let clock = match acceleration(settings.acceleration) {
        Acceleration::Tcg | Acceleration::Auto => counter_in_software(&std::fs::read_to_string(CPU_INFO)?),
        Acceleration::Kvm => String::new(),
    };
    let append = full_command_line(&files.command_line, &clock, &settings.append);
    command.arg("-append").arg(append);
    command.args(["-chardev", &format!("socket,id=vsock,path={}", text(vsock_device)?)]);
    command.args(["-device", "vhost-user-vsock-device,chardev=vsock"]);
    if let Some(device) = security_module_device {
        command.args(["-chardev", &format!("socket,id=nsm,path={}", text(device)?)]);
        command.arg("-device").arg(format!(
            "vhost-user-test-device,chardev=nsm,virtio-id={VIRTIO_ID},num_vqs=1,vq_size={QUEUE_SIZE},config_size=0"
        ));
    }
    Ok(command)
}

fn machine_arguments(settings: &MachineSettings) -> Vec<String> {
    let (accelerator, processor) = match acceleration(settings.acceleration) {
        Acceleration::Kvm => ("kvm", "host"),
        Acceleration::Tcg | Acceleration::Auto => ("tcg", "max"),
    };
    let memory = settings.memory_mib;
    [
        "-machine",
        "microvm,acpi=off,memory-backend=memory",
        "-object",
        // The devices are other processes, which share the guest's memory.
        &format!("memory-backend-memfd,id=memory,size={memory}M,share=on"),
        "-m",
        &format!("{memory}M"),
        "-accel",
        accelerator,
        "-cpu",
        processor,
        "-smp",
        &settings.processors.to_string(),
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-serial",
        "stdio",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn acceleration(wanted: Acceleration) -> Acceleration {
    let usable = || std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    match wanted {
        Acceleration::Auto if usable() => Acceleration::Kvm,
        Acceleration::Auto => Acceleration::Tcg,
        wanted => wanted,
    }
}

/// Where the system says how fast its processor counts.
const CPU_INFO: &str = "/proc/cpuinfo";

/// Kernel parameters for the time stamp counter of an emulated processor: the counter is constant, and its
/// rate in kHz. It counts like the real one, but the machine has no second clock to measure it with. The rate
/// is the one the system shows now; where processors change theirs, the guest's clock may be some per cent
/// fast or slow.
fn counter_in_software(cpu_info: &str) -> String {
    let megahertz = cpu_info
        .lines()
        .find_map(|line| line.strip_prefix("cpu MHz"))
        .and_then(|rest| rest.trim_start_matches([' ', '\t', ':']).parse::<f64>().ok());
    match megahertz {
        Some(rate) if rate >= 1.0 => format!("tsc=reliable tsc_early_khz={:.0}", rate * 1000.0),
        _ => String::new(),
    }
}

fn full_command_line(measured: &str, clock: &str, appended: &str) -> String {
    let parent = format!("cleanroom.parent_cid={PARENT_CID}");
    let words = [measured, &parent, clock, appended].map(str::trim);
    words.into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>().join(" ")
}

fn vsock_arguments(path: &Path, device: &Path) -> io::Result<String> {
    Ok(format!("guest-cid={GUEST_CID},uds-path={},socket={}", text(path)?, text(device)?))
}

/// A path as part of a list with commas, which QEMU and the vsock device cannot escape alike.
fn text(path: &Path) -> io::Result<&str> {
    path.to_str().filter(|text| !text.contains(',')).ok_or_else(|| {
        io::Error::other(format!(
            "the state folder's path must be UTF-8 without commas, got `{}`; choose another with --state",
            path.display()
        ))
    })
}

fn naming(program: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("`{}`: {error}", program.display()))
}

async fn appears(path: &Path) -> io::Result<()> {
    let there = async {
        while !path.exists() {
            sleep(SOCKET_POLL).await;
        }
    };
    timeout(SOCKETS, there)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("`{}` did not appear", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_comes_after_what_was_measured() {
        let line = full_command_line("reboot=k\n", "", "");
        assert_eq!(line, "reboot=k cleanroom.parent_cid=2");
        let line = full_command_line("reboot=k", "tsc=reliable", " quiet ");
        assert_eq!(line, "reboot=k cleanroom.parent_cid=2 tsc=reliable quiet");
    }

    /// Stand-ins for the programs: the vsock device's makes a file where its socket should be.
    #[tokio::test]
    async fn both_processes_of_a_machine_are_written_down_and_found_again() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let program = |name: &str, lines: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{lines}exec sleep 1000\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let settings = MachineSettings {
            qemu: program("qemu", ""),
            vsock_device: program("vsock", "touch \"${2##*socket=}\"\n"),
            memory_mib: 1,
            processors: 1,
            acceleration: Acceleration::Tcg,
            append: String::new(),
        };
        let files =
            BootFiles { kernel: PathBuf::new(), ramdisks: PathBuf::new(), command_line: String::new() };
        let (mut machine, _console) = Machine::start(&files, &settings, folder.path(), None).await.unwrap();
        let record = std::fs::read_to_string(folder.path().join("processes")).unwrap();
        let id_of = |what: &str| -> u32 {
            let line = record.lines().find(|line| line.ends_with(what)).unwrap();
            line.split(' ').next().unwrap().parse().unwrap()
        };
        let vsock = id_of(" vsock device");
        assert_eq!(machine.id(), Some(id_of(" virtual machine")));
        leftovers::end(folder.path()).await.unwrap();
        machine.wait().await.unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{vsock}/stat"));
        assert!(stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z ")));
    }

    #[test]
    fn a_processor_in_software_counts_as_the_real_one() {
        let text = "model name\t: EPYC @ 2.40GHz\ncpu MHz\t\t: 2445.426\ncpu MHz\t\t: 1.0\n";
        assert_eq!(counter_in_software(text), "tsc=reliable tsc_early_khz=2445426");
        assert_eq!(counter_in_software("cpu MHz\t\t: fast\n"), "");
    }

    #[test]
    fn a_folder_that_no_list_can_name_is_refused() {
        assert!(vsock_arguments(Path::new("/a,b/x"), Path::new("/y")).is_err());
        let arguments = vsock_arguments(Path::new("/a/x"), Path::new("/a/y")).unwrap();
        assert_eq!(arguments, "guest-cid=16,uds-path=/a/x,socket=/a/y");
    }
}
