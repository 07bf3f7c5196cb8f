//! Checks this machine, and names the command that fixes each fault.

mod nitro;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use cleanroom_program::limits::{TooFewFiles, require_open_files};
use serde::Serialize;

pub use self::nitro::Share;
use crate::endpoint::socket_path;
use crate::launcher::check_sealed_memory;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// Whether it is as needed.
    pub good: bool,
    /// What was found.
    pub found: String,
    /// What to do about it, if it is not as needed.
    pub remedy: Option<String>,
}

impl Finding {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, good: true, found: found.into(), remedy: None }
    }

    fn bad(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what, good: false, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// What the `simulated` tier needs, with its files in the folder `state`.
#[must_use]
pub fn simulated(state: &Path) -> Vec<Finding> {
    vec![processor(), sealed_memory(), state_folder(state), disk(state), open_files(), sockets(), memory()]
}

/// What the `qemu` tier needs, with its files in the folder `state`.
#[must_use]
pub fn qemu(state: &Path, qemu: &Path, vsock_device: &Path) -> Vec<Finding> {
    vec![
        image_processor(),
        emulator(qemu),
        vsock(vsock_device),
        acceleration(),
        state_folder(state),
        disk(state),
        open_files(),
        sockets(),
        memory(),
    ]
}

/// What the `nitro` tier needs for an enclave with this share of the machine, with its files in the folder
/// `state`.
#[must_use]
pub fn nitro(state: &Path, nitro_cli: &Path, share: Share) -> Vec<Finding> {
    let mut findings = nitro::findings(Path::new("/"), nitro_cli, share);
    findings.extend([state_folder(state), disk(state), open_files(), sockets(), clock()]);
    findings
}

/// What the `nitrotpm` tier needs of the host, with its files in the folder `state`.
#[must_use]
pub fn nitrotpm(state: &Path) -> Vec<Finding> {
    vec![state_folder(state), disk(state), open_files(), sockets(), clock()]
}

fn image_processor() -> Finding {
    const WHAT: &str = "processor";
    match std::env::consts::ARCH {
        arch @ "x86_64" => Finding::good(WHAT, arch),
        arch => Finding::bad(WHAT, arch, "use a machine with an x86_64 processor: images are built for it"),
    }
}

/// What gets both programs of the qemu tier.
const GET_TOOLS: &str = "scripts/qemu; it prints the folder for --qemu and --vsock-device";

/// The version from which on QEMU can carry the security module's device.
const QEMU_NEEDED: (u32, u32) = (11, 1);

fn emulator(program: &Path) -> Finding {
    const WHAT: &str = "QEMU";
    match first_line(program) {
        Ok(line) if qemu_version(&line).is_some_and(|version| version >= QEMU_NEEDED) => {
            Finding::good(WHAT, line)
        }
        Ok(line) => Finding::bad(WHAT, format!("{line}; 11.1 or later is needed"), GET_TOOLS),
        Err(error) => Finding::bad(WHAT, format!("`{}`: {error}", program.display()), GET_TOOLS),
    }
}

fn vsock(program: &Path) -> Finding {
    const WHAT: &str = "vsock device";
    match first_line(program) {
        Ok(line) => Finding::good(WHAT, line),
        Err(error) => Finding::bad(WHAT, format!("`{}`: {error}", program.display()), GET_TOOLS),
    }
}

/// Software does it, too, so this is never bad.
fn acceleration() -> Finding {
    const WHAT: &str = "acceleration";
    match fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Finding::good(WHAT, "/dev/kvm can be used"),
        Err(error) => Finding::good(WHAT, format!("in software; /dev/kvm: {error}")),
    }
}

/// The first line that a program prints about its version.
fn first_line(program: &Path) -> std::io::Result<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_default();
    Ok(line.chars().filter(|character| !character.is_control()).take(100).collect())
}

/// Major and minor number in `QEMU emulator version 11.1.3 (…)`.
fn qemu_version(line: &str) -> Option<(u32, u32)> {
    let mut numbers = line.strip_prefix("QEMU emulator version ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn processor() -> Finding {
    const WHAT: &str = "processor";
    match std::env::consts::ARCH {
        arch @ ("x86_64" | "aarch64") => Finding::good(WHAT, arch),
        arch => Finding::bad(WHAT, arch, "use a machine with an x86_64 or aarch64 processor"),
    }
}

fn sealed_memory() -> Finding {
    const WHAT: &str = "programs in sealed memory";
    match check_sealed_memory() {
        Ok(()) => Finding::good(WHAT, "memfd_create and /proc work"),
        Err(error) => Finding::bad(
            WHAT,
            error.to_string(),
            "mount /proc, and allow executable memory files: sysctl vm.memfd_noexec=0",
        ),
    }
}

fn state_folder(state: &Path) -> Finding {
    const WHAT: &str = "state folder";
    let usable = || -> Result<String, String> {
        let absolute = std::path::absolute(state).map_err(|error| error.to_string())?;
        socket_path(absolute.join("enclave.sock")).map_err(|error| error.to_string())?;
        // The folder may not be there yet; what counts is the nearest one that is.
        let existing = absolute.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
        let probe = existing.join(format!(".cleanroom-doctor-{}", std::process::id()));
        fs::File::create_new(&probe)
            .and_then(|_| fs::remove_file(&probe))
            .map_err(|error| format!("`{}` cannot be written to: {error}", existing.display()))?;
        Ok(absolute.display().to_string())
    };
    match usable() {
        Ok(found) => Finding::good(WHAT, found),
        Err(found) => Finding::bad(WHAT, found, "choose another folder with --state"),
    }
}

/// Free bytes that the state folder's disk should have: two consoles of the longest, and the small files.
const DISK_NEEDED: u64 = 32 << 20;

fn disk(state: &Path) -> Finding {
    const WHAT: &str = "free disk";
    let absolute = std::path::absolute(state).unwrap_or_else(|_| state.to_owned());
    let existing = absolute.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let free = match rustix::fs::statvfs(existing) {
        Ok(information) => information.f_bavail.saturating_mul(information.f_frsize),
        Err(error) => {
            let found = format!("`{}`: {error}", existing.display());
            return Finding::bad(WHAT, found, "choose another folder with --state");
        }
    };
    let found = format!("{} MiB at `{}`", free >> 20, existing.display());
    if free >= DISK_NEEDED {
        Finding::good(WHAT, found)
    } else {
        let remedy = format!("free {} MiB there, or choose another folder with --state", DISK_NEEDED >> 20);
        Finding::bad(WHAT, found, remedy)
    }
}

/// Open files that the program needs with its default limits; `--max-connections` changes that.
pub const OPEN_FILES_NEEDED: u64 = 2 * 1024 + OTHER_FILES;
/// Open files for everything but partners' connections: the log, the report, the agent's connections to lease
/// services, and what an enclave's start needs (its program, its console, its security module).
pub const OTHER_FILES: u64 = 128;

fn open_files() -> Finding {
    const WHAT: &str = "open files";
    match require_open_files(OPEN_FILES_NEEDED) {
        Ok(u64::MAX) => Finding::good(WHAT, "no limit"),
        Ok(allowed) => Finding::good(WHAT, format!("{allowed} allowed, {OPEN_FILES_NEEDED} needed")),
        Err(TooFewFiles { needed, allowed }) => Finding::bad(
            WHAT,
            format!("{allowed} allowed, {needed} needed for 1024 connections"),
            format!(
                "raise the hard limit: LimitNOFILE={needed} in a systemd unit, --ulimit nofile={needed} for a container, or \
                 `ulimit -Hn {needed}` as root; or give fewer --max-connections"
            ),
        ),
    }
}

fn sockets() -> Finding {
    const WHAT: &str = "listening on TCP";
    match TcpListener::bind((Ipv4Addr::LOCALHOST, 0)) {
        Ok(_) => Finding::good(WHAT, "127.0.0.1 can be bound"),
        Err(error) => {
            Finding::bad(WHAT, error.to_string(), "bring the loopback interface up: ip link set lo up")
        }
    }
}

fn memory() -> Finding {
    const WHAT: &str = "memory";
    let free = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_kib(&text));
    match free {
        Some(kib) => Finding::good(WHAT, format!("{} MiB available; the model is held in it", kib / 1024)),
        None => Finding::bad(WHAT, "/proc/meminfo does not say", "mount /proc"),
    }
}

/// Whether this machine knows the time. No security rests on it: an enclave has its own. The dates in the log and
/// what a lease service on this machine signs depend on it.
fn clock() -> Finding {
    const WHAT: &str = "clock";
    let program = std::env::current_exe().and_then(fs::metadata).and_then(|file| file.modified());
    if program.is_ok_and(|date| SystemTime::now() < date) {
        return Finding::bad(WHAT, "it is before the date of this program's file", SET_CLOCK);
    }
    let asked = Command::new("timedatectl").args(["show", "--property=NTPSynchronized", "--value"]).output();
    synchronised(asked.ok().map(|output| output.stdout).as_deref())
}

const SET_CLOCK: &str = "timedatectl set-ntp true; on Amazon Linux: systemctl enable --now chronyd";

/// What systemd says about the clock, if it says anything.
fn synchronised(answer: Option<&[u8]>) -> Finding {
    const WHAT: &str = "clock";
    match answer.map(<[u8]>::trim_ascii) {
        Some(b"yes") => Finding::good(WHAT, "kept in step with a time server"),
        Some(b"no") => Finding::bad(WHAT, "not kept in step with a time server", SET_CLOCK),
        _ => Finding::good(WHAT, "nobody here knows whether it is kept in step with a time server"),
    }
}

fn available_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_is_good_if_it_can_be_made() {
        let folder = tempfile::tempdir().unwrap();
        assert!(state_folder(&folder.path().join("a/b")).good);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn what_is_bad_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        for state in [folder.path().join("x".repeat(120)), "/proc/cleanroom".into()] {
            let finding = state_folder(&state);
            assert!(!finding.good, "{finding:?}");
            assert!(finding.remedy.unwrap().contains("--state"));
        }
    }

    #[test]
    fn a_full_disk_and_too_few_open_files_are_found() {
        let folder = tempfile::tempdir().unwrap();
        assert!(disk(&folder.path().join("a/b")).good);
        // The kernel's own file systems have no free blocks.
        let full = disk(Path::new("/proc/self"));
        assert!(!full.good && full.remedy.unwrap().contains("--state"), "{}", full.found);
        assert!(open_files().found.contains(&OPEN_FILES_NEEDED.to_string()) || open_files().good);
    }

    #[test]
    fn qemu_must_be_new_enough() {
        assert_eq!(
            qemu_version("QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)"),
            Some((11, 1))
        );
        assert!(qemu_version("QEMU emulator version 7.2.17").unwrap() < QEMU_NEEDED);
        assert!(qemu_version("QEMU emulator version 11.0.0").unwrap() < QEMU_NEEDED);
        assert_eq!(qemu_version("something else"), None);
    }

    #[test]
    fn programs_that_are_not_there_are_named_with_what_gets_them() {
        let absent = Path::new("/nonexistent/qemu");
        for finding in [emulator(absent), vsock(absent)] {
            assert!(!finding.good && finding.found.contains("/nonexistent/qemu"), "{finding:?}");
            assert!(finding.remedy.unwrap().contains("scripts/qemu"));
        }
    }

    #[test]
    fn a_clock_that_nobody_keeps_in_step_is_found() {
        assert!(synchronised(Some(b"yes\n")).good);
        assert!(synchronised(None).good && synchronised(Some(b"")).good);
        let bad = synchronised(Some(b"no\n"));
        assert!(!bad.good && bad.remedy.unwrap().contains("set-ntp"));
    }

    #[test]
    fn available_memory_is_read_from_its_own_line() {
        let text = "MemTotal:  9 kB\nMemFree:  1 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(available_kib(text), Some(2048));
        assert_eq!(available_kib("MemTotal: 9 kB\n"), None);
    }
}
