//! Logs and output that nobody takes, and open files.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::kit::{Running, Setup, as_strs, enclave_of, host, say_and_hear, text, wait_until};

/// Standard error on a full disk, and a pipe that nobody reads: the program does what it is for, and ends
/// when asked.
#[test]
fn a_log_that_cannot_be_written_changes_nothing() {
    let full = || Stdio::from(fs::File::options().write(true).open("/dev/full").unwrap());
    let closed = || Stdio::from(std::io::pipe().unwrap().1);
    for log in [full as fn() -> Stdio, closed] {
        let setup = Setup::new("echo");
        let options = ["--metrics", "127.0.0.1:0", "--drain-timeout", "5s"];
        let mut child = host(&["--json"])
            .args(setup.with_stand_in(&options))
            .stdout(Stdio::piped())
            .stderr(log())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let running = Running { child, output, ready: serde_json::from_str(&line).unwrap() };
        // Each of these connections is a line of the log.
        for _ in 0..3 {
            say_and_hear(running.connect(), "hello");
        }
        // The enclave fails, and is started again.
        let console = || fs::read_to_string(setup.path("state/console.log")).unwrap_or_default();
        let starts = || console().matches("told to echo").count();
        kill_process(enclave_of(&running.child), Signal::KILL).unwrap();
        wait_until(|| starts() >= 2);
        running.signal(Signal::TERM);
        assert_eq!(running.ended(), Some(0));
    }
}

#[test]
fn a_closed_standard_output_does_not_end_a_host() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("enclave.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let relay = folder.path().join("relay.sock");
    let [listen, to] = [&relay, &socket].map(|path| format!("unix:{}", path.display()));
    let mut child = host(&["relay", "--listen", &listen, "--to", &to])
        .stdout(Stdio::from(std::io::pipe().unwrap().1))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until(|| UnixStream::connect(&relay).is_ok());
    let partner = UnixStream::connect(&relay).unwrap();
    (&partner).write_all(b"x").unwrap();
    listener.accept().unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn open_files_are_counted_before_the_start_and_the_soft_limit_is_no_limit() {
    let limited = |limit: &str, rest: &str| {
        let program = env!("CARGO_BIN_EXE_cleanroom-host");
        let command = format!("{limit}; exec {program} relay --to unix:/nonexistent {rest}");
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).stdin(Stdio::null());
        shell
    };
    let refused = limited("ulimit -n 200", "--listen 127.0.0.1:0").output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains("2176 open files"), "{}", text(&refused));

    let doctor = format!("ulimit -n 200; exec {} doctor --state .", env!("CARGO_BIN_EXE_cleanroom-host"));
    let found = Command::new("sh").args(["-c", &doctor]).output().unwrap();
    assert_eq!(found.status.code(), Some(1));
    let said = String::from_utf8_lossy(&found.stdout);
    assert!(said.contains("MISSING  open files: 200 allowed, 2176 needed"), "{said}");

    let mut shell = limited("ulimit -Sn 64", "--listen 127.0.0.1:0 --max-connections 100");
    let mut child = shell.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("ready:"), "{line}");
    let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{files}");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// A child that is between fork and exec holds copies of all descriptors. What must not outlive that is
/// closed at exec.
#[test]
fn no_descriptor_is_carried_into_another_program() {
    let setup = Setup::new("echo");
    let running = Running::start(&as_strs(&setup.with_stand_in(&["--metrics", "127.0.0.1:0"])));
    let partner = running.connect();
    say_and_hear(&partner, "hello");
    // This test's own parent may have left some open for everybody.
    let inherited = kept_at_exec("self");
    let kept = kept_at_exec(&running.child.id().to_string());
    let others: Vec<_> = kept.iter().filter(|number| !inherited.contains(number)).collect();
    assert!(others.is_empty(), "{others:?}");
}

/// The descriptors of a process, but the standard ones, that a program which it starts would have, too.
fn kept_at_exec(process: &str) -> Vec<u32> {
    /// `O_CLOEXEC` on Linux, octal in fdinfo (proc(5)).
    const CLOSED_AT_EXEC: u32 = 0o2_000_000;
    let descriptors = fs::read_dir(format!("/proc/{process}/fdinfo")).unwrap().flatten();
    let kept = descriptors.filter_map(|entry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        let information = fs::read_to_string(entry.path()).ok()?;
        let flags = information.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let flags = u32::from_str_radix(flags.trim(), 8).ok()?;
        (number > 2 && flags & CLOSED_AT_EXEC == 0).then_some(number)
    });
    kept.collect()
}
