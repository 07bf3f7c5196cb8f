//! When a host is ready.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use cleanroom_link::control::ControlKind;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::kit::{Running, Setup, as_strs, enclave_of, get, host, wait_until};

/// A whole answer of the report, with its head.
fn ask(status: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(status).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn readiness_follows_the_enclave() {
    let setup = Setup::new("echo");
    let status = setup.path("status.sock");
    let metrics = format!("unix:{}", status.display());
    // A lease service that nobody is at: the stand-in never gets a lease.
    let nobody = "http://127.0.0.1:1";
    for (options, expected) in [
        (vec!["--metrics", &metrics], "HTTP/1.1 200"),
        (vec!["--metrics", &metrics, "--authority", nobody], "HTTP/1.1 503"),
    ] {
        let running = Running::start(&as_strs(&setup.with_stand_in(&options)));
        let ready = ask(&status, "/readyz");
        assert!(ready.starts_with(expected), "{ready}");
        assert!(ask(&status, "/healthz").starts_with("HTTP/1.1 200"));
        let up =
            if expected.ends_with("200") { "cleanroom_enclave_up 1\n" } else { "cleanroom_enclave_up 0\n" };
        assert!(ask(&status, "/metrics").contains(up));
        running.signal(Signal::TERM);
        assert_eq!(running.ended(), Some(0));
    }
}

#[test]
fn an_enclave_whose_socket_alone_answers_is_not_ready() {
    let setup = Setup::new("no-probe");
    let status = setup.path("status.sock");
    let metrics = format!("unix:{}", status.display());
    let arguments = setup.with_stand_in(&["--metrics", &metrics]);
    let mut host = host(&as_strs(&arguments)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It accepts connections.
    let mut log = BufReader::new(host.stderr.take().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("the enclave accepts connections")));
    let ready = ask(&status, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(
        ready.contains("does not say that its worker, its engine and its security module work"),
        "{ready}"
    );
    assert!(ask(&status, "/metrics").contains("cleanroom_enclave_up 0\n"));
    kill_process(Pid::from_child(&host), Signal::TERM).unwrap();
    let output = host.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(0), ""));
}

#[test]
fn a_probe_does_not_keep_the_agent_from_its_turn() {
    let setup = Setup::new("waits");
    let log = setup.path("log").display().to_string();
    let arguments = setup.with_stand_in(&["--log", &log]);
    let mut host = host(&as_strs(&arguments)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let console = || fs::read_to_string(setup.path("state/console.log")).unwrap_or_default();
    let asked = |kind: ControlKind| console().contains(&format!("asked for {}\n", kind.code()));
    wait_until(|| asked(ControlKind::Log));
    assert!(asked(ControlKind::Probe), "{}", console());
    let enclave = enclave_of(&host);
    host.kill().unwrap();
    let _ = kill_process(enclave, Signal::KILL);
    host.wait().unwrap();
}

#[test]
fn an_enclave_that_hangs_is_started_again() {
    let setup = Setup::new("one-probe");
    let status = setup.path("status.sock");
    let metrics = format!("unix:{}", status.display());
    let running = Running::start(&as_strs(&setup.with_stand_in(&["--metrics", &metrics, "--silence", "1s"])));
    let report =
        || -> Value { serde_json::from_str(&get(UnixStream::connect(&status).unwrap(), "/status")).unwrap() };
    wait_until(|| report()["enclave"]["restarts"] != 0);
    let report = report();
    assert_eq!(report["enclave"]["last_exit"], "it answered no probe for 1 s", "{report}");
    running.signal(Signal::TERM);
    assert_eq!(running.ended(), Some(0));
}
