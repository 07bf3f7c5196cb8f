//! `doctor`, `--help` and `software-tpm`.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::kit::host;

#[test]
fn doctor_says_what_is_missing_and_how_to_mend_it() {
    let folder = tempfile::tempdir().unwrap();
    let good = host(&["doctor", "--json", "--state"]).arg(folder.path()).output().unwrap();
    let report: Value = serde_json::from_slice(&good.stdout).unwrap();
    assert_eq!((good.status.code(), &report["good"]), (Some(0), &true.into()), "{report}");

    let bad = host(&["doctor", "--state"]).arg(folder.path().join("x".repeat(120))).output().unwrap();
    assert_eq!(bad.status.code(), Some(1));
    let said = String::from_utf8_lossy(&bad.stdout);
    assert!(said.contains("MISSING  state folder") && said.contains("--state"), "{said}");
}

#[test]
fn help_says_how_to_begin_and_what_the_exit_status_means() {
    for (arguments, expected) in [
        (vec!["--help"], "Exit status:"),
        (vec!["run", "--help"], "measurements.json"),
        (vec!["relay", "--help"], "vsock:16:8443"),
        (vec!["doctor", "--help"], "--state"),
    ] {
        let output = host(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(expected), "{said}");
    }
}

/// swtpm, or nothing and a line. It is in Debian's package `swtpm`.
fn swtpm() -> Option<PathBuf> {
    let found =
        ["/usr/bin/swtpm", "/usr/local/bin/swtpm"].into_iter().map(PathBuf::from).find(|path| path.is_file());
    if found.is_none() {
        let missing = "swtpm is missing; get it with: apt-get install swtpm";
        assert!(env::var_os("CI").is_none_or(|value| value.is_empty()), "{missing}");
        eprintln!("NOT TESTED: {missing}");
    }
    found
}

#[test]
fn a_software_tpm_serves_one_machine_and_ends_with_it() {
    let folder = TempDir::new().unwrap();
    let program = |swtpm: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cleanroom-host"));
        command.args(["--json", "software-tpm", "--state"]).arg(folder.path()).arg("--swtpm").arg(swtpm);
        command
    };
    let output = program(Path::new("/nowhere/swtpm")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("/nowhere/swtpm does not start") && said.contains("apt-get install swtpm"),
        "{said}"
    );

    let Some(swtpm) = swtpm() else { return };
    // A second time in the same folder as well.
    for _ in 0..2 {
        let mut child = program(&swtpm).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(ready["event"], "ready");
        let root = fs::read_to_string(ready["development_root"].as_str().unwrap()).unwrap();
        assert!(root.starts_with("-----BEGIN CERTIFICATE-----"), "{root}");
        let mut machine = UnixStream::connect(ready["socket"].as_str().unwrap()).unwrap();
        // CMD_GET_CAPABILITY passes through to swtpm: eight bytes, a bit for each thing that it can do.
        machine.write_all(&[0, 0, 0, 1]).unwrap();
        let mut answer = [0; 8];
        machine.read_exact(&mut answer).unwrap();
        assert_ne!(answer, [0; 8]);
        drop(machine);
        assert!(child.wait().unwrap().success());
    }
}
