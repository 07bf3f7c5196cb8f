//! What this machine lacks, and the command that mends it.

mod nitro;
mod qemu;

use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;

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
    vec![processor(), sealed_memory(), state_folder(state), sockets(), memory()]
}

/// What the `qemu` tier needs, with its files in the folder `state`.
#[must_use]
pub fn qemu(state: &Path) -> Vec<Finding> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let mut findings = qemu::findings(Path::new("/"), &search);
    findings.extend([state_folder(state), sockets(), memory()]);
    findings
}

/// What the `nitro` tier needs, with its files in the folder `state`.
#[must_use]
pub fn nitro(state: &Path) -> Vec<Finding> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let mut findings = nitro::findings(Path::new("/"), &search);
    findings.extend([state_folder(state), sockets()]);
    findings
}

/// The program of this name in the search path.
fn program(name: &str, search: &OsStr) -> Option<PathBuf> {
    let executable = |path: &PathBuf| {
        fs::metadata(path)
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(search).map(|folder| folder.join(name)).find(executable)
}

/// The first line that `program --version` says.
fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(str::to_owned).filter(|line| output.status.success() && !line.is_empty())
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
    fn available_memory_is_read_from_its_own_line() {
        let text = "MemTotal:  9 kB\nMemFree:  1 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(available_kib(text), Some(2048));
        assert_eq!(available_kib("MemTotal: 9 kB\n"), None);
    }
}
