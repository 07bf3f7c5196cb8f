//! The host as a process, files for an enclave that behaves in a certain way, and clients.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) fn host(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cleanroom-host"));
    command.args(arguments).stdin(Stdio::null()).env_remove("CLEANROOM_LOG");
    command
}

/// A host that runs, and is ended with the test.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) output: BufReader<ChildStdout>,
    pub(crate) ready: Value,
}

impl Running {
    /// Starts the program and waits until it says that it is ready.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut command = host(&["--json"]);
        let child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        Self::attach(child)
    }

    /// Waits until a program that was started with `--json` says that it is ready.
    pub(crate) fn attach(mut child: Child) -> Self {
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Self { child, output, ready }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect(self.ready["listen"].as_str().unwrap()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The exit status of a program that ends by itself.
    pub(crate) fn ended(mut self) -> Option<i32> {
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
pub(crate) struct Setup {
    pub(crate) folder: TempDir,
}

impl Setup {
    pub(crate) fn new(behaviour: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config"), behaviour).unwrap();
        fs::write(folder.path().join("model"), "weights").unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn arguments(&self, options: &[&str]) -> Vec<String> {
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

    pub(crate) fn with_stand_in(&self, options: &[&str]) -> Vec<String> {
        let mut arguments = self.arguments(options);
        arguments.extend(["--", "stand_in", "--exact", "--nocapture"].map(str::to_owned));
        arguments
    }
}

pub(crate) fn as_strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

pub(crate) fn say_and_hear(mut stream: impl std::io::Read + std::io::Write, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    let mut heard = vec![0; text.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(heard, text.as_bytes());
}

pub(crate) fn get(stream: impl std::io::Read + std::io::Write, path: &str) -> String {
    let mut stream = stream;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Looks until it is so. A test that waits in vain fails and does not hang.
pub(crate) fn wait_until(is_so: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed().as_secs() < 60, "waited in vain");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Whether a process is there and has not ended.
pub(crate) fn runs(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// The process of the enclave that a host runs.
pub(crate) fn enclave_of(host: &Child) -> Pid {
    let tasks = fs::read_dir(format!("/proc/{}/task", host.id())).unwrap().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let ids: Vec<i32> = children
        .flat_map(|text| text.split_whitespace().map(str::parse).collect::<Vec<_>>())
        .flatten()
        .collect();
    Pid::from_raw(*ids.first().unwrap()).unwrap()
}
