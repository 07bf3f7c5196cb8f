//! The program as an operator runs it. The enclave is this test program itself, asked to run [`stand_in`] only.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use cleanroom_host::launcher::simulated::{ENV_CONFIG, ENV_LISTEN, EXIT_REFUSED};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// The stand-in for an enclave: echoes what it hears. In an ordinary run of the tests nothing happens.
#[test]
fn stand_in() {
    let Some(socket) = env::var_os(ENV_LISTEN) else { return };
    let behaviour = fs::read_to_string(env::var_os(ENV_CONFIG).unwrap()).unwrap();
    println!("told to {behaviour}");
    match behaviour.as_str() {
        "refuse" => std::process::exit(EXIT_REFUSED),
        "crash" => std::process::exit(1),
        _ => echo(Path::new(&socket)),
    }
}

/// Echoes for ever. SIGTERM ends a process that does not catch it, which is an end in time.
fn echo(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    for stream in listener.incoming() {
        std::thread::spawn(move || {
            let stream = stream.unwrap();
            std::io::copy(&mut &stream, &mut &stream).and_then(|_| stream.shutdown(std::net::Shutdown::Write))
        });
    }
}

fn host(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cleanroom-host"));
    command.args(arguments).stdin(Stdio::null()).env_remove("CLEANROOM_LOG");
    command
}

/// A host that runs, and is ended with the test.
struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
    ready: Value,
}

impl Running {
    /// Starts the program and waits until it says that it is ready.
    fn start(arguments: &[&str]) -> Self {
        let mut command = host(&["--json"]);
        let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Self { child, output, ready }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.ready["listen"].as_str().unwrap()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The exit status of a program that ends by itself.
    fn ended(mut self) -> Option<i32> {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Files for an enclave that behaves in a certain way, and the command line that runs it.
struct Setup {
    folder: TempDir,
}

impl Setup {
    fn new(behaviour: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config"), behaviour).unwrap();
        fs::write(folder.path().join("model"), "weights").unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn arguments(&self, options: &[&str]) -> Vec<String> {
        let path = |name| self.path(name).display().to_string();
        let mut arguments = vec!["run".to_owned(), "--tier".to_owned(), "simulated".to_owned()];
        for (option, value) in [
            ("--enclave", env::current_exe().unwrap().display().to_string()),
            ("--config", path("config")),
            ("--model", path("model")),
            ("--state", path("state")),
            ("--listen", "127.0.0.1:0".to_owned()),
        ] {
            arguments.extend([option.to_owned(), value]);
        }
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        arguments
    }

    fn with_stand_in(&self, options: &[&str]) -> Vec<String> {
        let mut arguments = self.arguments(options);
        arguments.extend(["--", "stand_in", "--exact", "--nocapture"].map(str::to_owned));
        arguments
    }
}

fn as_strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

fn say_and_hear(mut stream: impl std::io::Read + std::io::Write, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    let mut heard = vec![0; text.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(heard, text.as_bytes());
}

fn get(stream: impl std::io::Read + std::io::Write, path: &str) -> String {
    let mut stream = stream;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

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
    for line in ["cleanroom_enclave_up 1\n", "cleanroom_relay_connections_active 1\n"] {
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

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
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
fn a_relay_drains_on_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("enclave.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let running =
        Running::start(&["relay", "--listen", "127.0.0.1:0", "--to", &format!("unix:{}", socket.display())]);
    let partner = running.connect();
    let (enclave, _) = listener.accept().unwrap();
    running.signal(Signal::TERM);
    // The enclave closes what the next lines may still get through to it.
    std::thread::spawn(move || listener.incoming().for_each(drop));
    // Nobody can connect any more: the loop ends when the relay has closed its socket.
    while TcpStream::connect(running.ready["listen"].as_str().unwrap()).is_ok() {}
    // What is open goes on to its end.
    (&enclave).write_all(b"the rest of the answer").unwrap();
    drop(enclave);
    let mut heard = String::new();
    (&partner).read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "the rest of the answer");
    drop(partner);
    assert_eq!(running.ended(), Some(0));
}

#[test]
fn a_relay_that_cannot_drain_cuts() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("enclave.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let to = format!("unix:{}", socket.display());
    let running =
        Running::start(&["relay", "--listen", "127.0.0.1:0", "--to", &to, "--drain-timeout", "100ms"]);
    let partner = running.connect();
    let _enclave = listener.accept().unwrap();
    running.signal(Signal::INT);
    let mut rest = Vec::new();
    (&partner).read_to_end(&mut rest).unwrap();
    assert_eq!(running.ended(), Some(0));
}

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
