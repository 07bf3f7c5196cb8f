//! How a host starts, ends, and finds what an earlier one left behind.

use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::kit::{Running, Setup, as_strs, enclave_of, get, host, runs, say_and_hear, text, wait_until};

#[test]
fn an_enclave_is_run_relayed_to_reported_on_and_drained() {
    let setup = Setup::new("echo");
    let status = setup.path("status.sock");
    let metrics = format!("unix:{}", status.display());
    let arguments = setup.with_stand_in(&["--metrics", &metrics, "--drain-timeout", "5s"]);
    let running = Running::start(&as_strs(&arguments));
    assert_eq!(running.ready["event"], "ready");
    let written: Value =
        serde_json::from_slice(&fs::read(setup.path("state/measurements.json")).unwrap()).unwrap();
    assert_eq!(running.ready["enclave"], written);

    let partner = running.connect();
    say_and_hear(&partner, "hello");
    let report: Value = serde_json::from_str(&get(UnixStream::connect(&status).unwrap(), "/status")).unwrap();
    assert_eq!(report["enclave"]["state"], "serving");
    assert_eq!((&report["relay"]["accepted"], &report["relay"]["active"]), (&1.into(), &1.into()));
    let metrics = get(UnixStream::connect(&status).unwrap(), "/metrics");
    assert_eq!(report["probe"]["load"], "idle");
    let lines =
        ["cleanroom_enclave_up 1\n", "cleanroom_enclave_load 0\n", "cleanroom_relay_connections_active 1\n"];
    for line in lines {
        assert!(metrics.contains(line), "{metrics}");
    }

    // The state folder is taken as long as the host runs.
    let second = host(&as_strs(&setup.with_stand_in(&[]))).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second).contains("in use by another cleanroom-host"), "{}", text(&second));

    running.signal(Signal::TERM);
    // The stand-in ends at once, which closes the partner's connection, and with it the host.
    let mut rest = String::new();
    (&partner).read_to_string(&mut rest).unwrap();
    drop(partner);
    assert_eq!(running.ended(), Some(0));
}

#[test]
fn the_exit_status_says_why_an_enclave_is_not_run() {
    let refused = Setup::new("refuse");
    let output = host(&as_strs(&refused.with_stand_in(&[]))).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("its last words: told to refuse"), "{}", text(&output));

    let crashes = Setup::new("crash");
    let output = host(&as_strs(&crashes.with_stand_in(&["--max-restarts", "1"]))).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));

    let absent = Setup::new("echo");
    fs::remove_file(absent.path("model")).unwrap();
    let output = host(&as_strs(&absent.with_stand_in(&[]))).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("could not read the model"), "{}", text(&output));

    assert_eq!(host(&["run", "--tier", "magic"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn a_second_start_leaves_the_first_reachable() {
    let setup = Setup::new("echo");
    let [relay, metrics] = ["relay.sock", "metrics.sock"].map(|name| setup.path(name));
    let [listen, report] = [&relay, &metrics].map(|path| format!("unix:{}", path.display()));
    let arguments = setup.with_stand_in(&["--metrics", &report]);
    let arguments: Vec<_> =
        arguments.into_iter().map(|word| if word == "127.0.0.1:0" { listen.clone() } else { word }).collect();
    let running = Running::start(&as_strs(&arguments));
    // The same command, with the same state and with another one.
    for state in ["state", "other-state"] {
        let arguments: Vec<_> =
            arguments.iter().map(|word| word.replace("/state", &format!("/{state}"))).collect();
        let second = host(&as_strs(&arguments)).output().unwrap();
        assert_eq!(second.status.code(), Some(1));
        assert!(text(&second).contains("another "), "{}", text(&second));
        say_and_hear(UnixStream::connect(&relay).unwrap(), "hello");
        get(UnixStream::connect(&metrics).unwrap(), "/status");
    }
    // A relay alone has no state folder.
    let second = host(&["relay", "--to", "unix:/nonexistent", "--listen", &listen]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    say_and_hear(UnixStream::connect(&relay).unwrap(), "hello");

    // What a host leaves behind that is killed is stale, and is replaced.
    running.signal(Signal::KILL);
    running.ended();
    assert!(relay.exists());
    let running = Running::start(&as_strs(&arguments));
    say_and_hear(UnixStream::connect(&relay).unwrap(), "hello");
    running.signal(Signal::TERM);
    assert_eq!(running.ended(), Some(0));
    assert!(!relay.exists(), "a host that ends leaves no socket behind");
}

#[test]
fn what_a_killed_host_left_behind_is_ended_by_the_next_and_nothing_else_is() {
    let setup = Setup::new("echo");
    let arguments = setup.with_stand_in(&[]);
    let mut first = Running::start(&as_strs(&arguments));
    // The stand-in does not look whether its host is still there.
    let enclave = enclave_of(&first.child);
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    assert!(runs(enclave));
    // Somebody else's process, under an id that was the enclave's once.
    let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
    let record = setup.path("state/processes");
    let line = fs::read_to_string(&record).unwrap();
    assert!(
        line.starts_with(&format!("{} ", enclave.as_raw_nonzero())) && line.ends_with(" enclave\n"),
        "{line}"
    );
    let as_other = line.replacen(&enclave.as_raw_nonzero().to_string(), &other.id().to_string(), 1);
    fs::write(&record, format!("{as_other}{line}")).unwrap();

    let log = fs::File::create(setup.path("log")).unwrap();
    let child = host(&["--json"]).args(&arguments).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    let second = Running::attach(child);
    assert!(!runs(enclave));
    assert!(other.try_wait().unwrap().is_none(), "a process that only has the id is left alone");
    other.kill().unwrap();
    other.wait().unwrap();
    say_and_hear(second.connect(), "hello");
    let log = fs::read_to_string(setup.path("log")).unwrap();
    let expected = "the enclave of an earlier life of this host is still there and is ended";
    assert_eq!(log.matches(expected).count(), 1, "{log}");
}

#[test]
fn a_file_that_is_never_read_to_its_end_does_not_keep_a_host_from_ending() {
    let setup = Setup::new("echo");
    fs::remove_file(setup.path("model")).unwrap();
    // Nobody writes into the pipe, so whoever opens it for reading waits.
    assert!(Command::new("mkfifo").arg(setup.path("model")).status().unwrap().success());
    let mut child = host(&[]).args(setup.with_stand_in(&[])).spawn().unwrap();
    // It listens for signals before it takes the state folder.
    wait_until(|| setup.path("state/development-root.pem").exists());
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_nitro_cli_that_hangs_keeps_a_host_neither_from_giving_up_nor_from_ending() {
    use std::os::unix::fs::PermissionsExt as _;
    let setup = Setup::new("echo");
    let [image, program, called] = ["image.eif", "nitro-cli", "called"].map(|name| setup.path(name));
    fs::write(&image, cleanroom_forge::image::small_image(b"application")).unwrap();
    fs::write(&program, format!("#!/bin/sh\ntouch '{}'\nexec sleep 1000\n", called.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let start = |options: &[&str]| {
        let mut command = host(&["run", "--tier", "nitro", "--listen", "127.0.0.1:0"]);
        for (option, path) in [("--image", &image), ("--nitro-cli", &program)] {
            command.arg(option).arg(path);
        }
        command.arg("--model").arg(setup.path("model")).arg("--state").arg(setup.path("state")).args(options);
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let ended = start(&["--start-timeout", "200ms", "--max-restarts", "0"]).wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(4));
    assert!(text(&ended).contains("it did not start within"), "{}", text(&ended));

    fs::remove_file(&called).unwrap();
    let host = start(&[]);
    wait_until(|| called.exists());
    kill_process(Pid::from_child(&host), Signal::TERM).unwrap();
    assert_eq!(host.wait_with_output().unwrap().status.code(), Some(0));
}
