//! The program as an operator runs it. The enclave is this test program itself, asked to run [`stand_in`]
//! only.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cleanroom_attestation::release::Accepted;
use cleanroom_link::control::{CONTROL_HEADER_BYTES, ControlAnswer, ControlKind};
use cleanroom_link::load::Load;
use cleanroom_link::variable;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// The stand-in for an enclave: echoes what it hears. In an ordinary run of the tests nothing happens.
#[test]
fn stand_in() {
    let Some(socket) = env::var_os(variable::LISTEN) else { return };
    let behaviour = fs::read_to_string(env::var_os(variable::CONFIG).unwrap()).unwrap();
    println!("told to {behaviour}");
    match behaviour.as_str() {
        "refuse" => std::process::exit(cleanroom_link::exit::REFUSED.into()),
        "crash" => std::process::exit(1),
        _ => {
            let control = env::var_os(variable::CONTROL).unwrap();
            std::thread::spawn(move || answer_probes(Path::new(&control), &behaviour));
            echo(Path::new(&socket));
        }
    }
}

/// Says that it works: always, or only once with "one-probe", or never with "no-probe".
fn answer_probes(control: &Path, behaviour: &str) {
    let listener = UnixListener::bind(control).unwrap();
    if behaviour == "waits" {
        return answer_one_after_the_other(&listener);
    }
    let answers = match behaviour {
        "no-probe" => 0,
        "one-probe" => 1,
        _ => usize::MAX,
    };
    let answers = Arc::new(AtomicUsize::new(answers));
    let take = |left: usize| left.checked_sub(1);
    for stream in listener.incoming() {
        let (mut stream, answers) = (stream.unwrap(), Arc::clone(&answers));
        std::thread::spawn(move || {
            let mut header = [0; CONTROL_HEADER_BYTES];
            while stream.read_exact(&mut header).is_ok() {
                let is_probe = header[0] == ControlKind::Probe.code();
                if is_probe && answers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                    let _ = stream.write_all(&ControlAnswer::Alive(Load::Idle).frame());
                }
            }
        });
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

/// Serves one connection after the other, as an enclave does that waits for the key of its weights: of the first two,
/// that of the probe before the other one.
fn answer_one_after_the_other(listener: &UnixListener) {
    let mut connections = listener.incoming().map(|stream| {
        let (mut stream, mut header) = (stream.unwrap(), [0; CONTROL_HEADER_BYTES]);
        stream.read_exact(&mut header).ok().map(|()| (stream, header))
    });
    let mut first: Vec<_> = connections.by_ref().take(2).flatten().collect();
    first.sort_by_key(|(_, header)| header[0] != ControlKind::Probe.code());
    for (mut stream, mut header) in first.into_iter().chain(connections.flatten()) {
        loop {
            println!("asked for {}", header[0]);
            let (_, length) = ControlKind::parse(header).unwrap();
            stream.read_exact(&mut vec![0; length]).unwrap();
            let refused = ControlAnswer::Refused("no-model-yet".to_owned()).frame();
            if stream.write_all(&refused).and_then(|()| stream.read_exact(&mut header)).is_err() {
                break;
            }
        }
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
        let child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        Self::attach(child)
    }

    /// Waits until a program that was started with `--json` says that it is ready.
    fn attach(mut child: Child) -> Self {
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
    // The enclave hears of a connection with its first byte.
    (&partner).write_all(b"x").unwrap();
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
fn a_relay_has_its_enclave_drain_unless_it_is_to_be_kept() {
    for keep in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let [socket, control] = ["enclave.sock", "control.sock"].map(|name| folder.path().join(name));
        let (listener, control) =
            (UnixListener::bind(&socket).unwrap(), UnixListener::bind(control).unwrap());
        let options: &[&str] = if keep { &["--keep-enclave"] } else { &[] };
        let running = relay_to(&socket, &[&["--listen", "127.0.0.1:0"], options].concat());
        let partner = running.connect();
        (&partner).write_all(b"x").unwrap();
        let (enclave, _) = listener.accept().unwrap();
        running.signal(Signal::TERM);
        if !keep {
            let (mut told, _) = control.accept().unwrap();
            let mut frame = [0; 5];
            told.read_exact(&mut frame).unwrap();
            assert_eq!(frame, [ControlKind::Drain.code(), 0, 0, 0, 0]);
            told.write_all(&ControlAnswer::Accepted(Accepted::New).frame()).unwrap();
        }
        // The enclave ends the session.
        drop((enclave, partner));
        assert_eq!(running.ended(), Some(0));
        control.set_nonblocking(true).unwrap();
        assert!(control.accept().is_err(), "it is told once, or not at all");
    }
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
    (&partner).write_all(b"x").unwrap();
    let _enclave = listener.accept().unwrap();
    running.signal(Signal::INT);
    let mut rest = Vec::new();
    (&partner).read_to_end(&mut rest).unwrap();
    assert_eq!(running.ended(), Some(0));
}

/// A relay to a socket on which the test is the enclave.
fn relay_to(listener: &Path, options: &[&str]) -> Running {
    let to = format!("unix:{}", listener.display());
    Running::start(&[&["relay", "--to", &to], options].concat())
}

/// A client from an address of this machine that says more than a TLS handshake has, and counts what it hears.
fn heard_from(address: &str, relay: &Running) -> (TcpStream, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let mut stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
        let stream = socket.connect(relay.ready["listen"].as_str().unwrap().parse().unwrap()).await.unwrap();
        stream.into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    let _ = stream.write_all(&[7; 2000]);
    let mut count = 0;
    let mut heard = [0; 2000];
    while count < heard.len() {
        match stream.read(&mut heard[count..]) {
            Ok(0) | Err(_) => break,
            Ok(more) => count += more,
        }
    }
    assert!(heard[..count].iter().all(|byte| *byte == 7), "a header reached the enclave");
    (stream, count)
}

#[test]
fn two_hosts_in_a_row_know_the_client_and_the_enclave_hears_no_header() {
    let folder = tempfile::tempdir().unwrap();
    let [enclave, inner, report] =
        ["enclave.sock", "inner.sock", "report.sock"].map(|name| folder.path().join(name));
    let listener = UnixListener::bind(&enclave).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
            });
        }
    });
    let [listen, metrics] = [&inner, &report].map(|path| format!("unix:{}", path.display()));
    let known = ["--proxy-protocol", "unix", "--max-connections-per-client", "1"];
    let options = ["--keep-enclave", "--listen", &listen, "--metrics", &metrics];
    let _inner = relay_to(&enclave, &[&options[..], &known].concat());
    let outer = relay_to(&inner, &["--listen", "127.0.0.1:0", "--keep-enclave", "--send-proxy"]);

    let (_first, heard) = heard_from("127.0.0.2", &outer);
    assert_eq!(heard, 2000);
    assert_eq!(heard_from("127.0.0.2", &outer).1, 0, "the client has its share");
    let (_other, heard) = heard_from("127.0.0.3", &outer);
    assert_eq!(heard, 2000);
    // A connection without a header is no client's.
    let mut stranger = UnixStream::connect(&inner).unwrap();
    stranger.write_all(b"\x16\x03\x01").unwrap();
    assert_eq!(stranger.read(&mut [0]).unwrap(), 0);
    let metrics = get(UnixStream::connect(&report).unwrap(), "/metrics");
    for line in ["{reason=\"client\"} 1\n", "{reason=\"header\"} 1\n"] {
        let line = format!("cleanroom_relay_connections_shed_total{line}");
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
}

#[test]
fn headers_that_could_never_come_or_would_reach_an_enclave_are_refused_at_the_start() {
    for (options, expected) in [
        ("--listen 127.0.0.1:0 --to unix:/run/x --proxy-protocol unix", "which cannot connect there"),
        ("--listen unix:/run/y --to unix:/run/x --proxy-protocol 10.0.0.1", "which cannot connect there"),
        ("--listen 127.0.0.1:0 --to unix:/run/x --proxy-protocol 10.0.0.1/8", "write `10.0.0.0/8`"),
        ("--listen 127.0.0.1:0 --to vsock:16:5000 --keep-enclave --send-proxy", "expected --to unix:PATH"),
        ("--listen 127.0.0.1:0 --to unix:/run/x --send-proxy", "--keep-enclave"),
    ] {
        let output = host(&[&["relay"], options.split(' ').collect::<Vec<_>>().as_slice()].concat()).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(2), "{options}");
        assert!(text(&output).contains(expected), "{}", text(&output));
    }
}

#[test]
fn a_second_signal_ends_a_drain_at_once_and_a_hangup_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("enclave.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let running = relay_to(&socket, &["--listen", "127.0.0.1:0", "--drain-timeout", "1h"]);
    running.signal(Signal::HUP);
    let partner = running.connect();
    (&partner).write_all(b"x").unwrap();
    let (enclave, _) = listener.accept().unwrap();
    running.signal(Signal::TERM);
    // Draining has begun when the relay has closed its socket.
    while TcpStream::connect(running.ready["listen"].as_str().unwrap()).is_ok() {}
    running.signal(Signal::HUP);
    (&enclave).write_all(b"still carried").unwrap();
    let mut heard = [0; 13];
    (&partner).read_exact(&mut heard).unwrap();
    running.signal(Signal::TERM);
    assert_eq!(running.ended(), Some(1));
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

/// Looks until it is so. A test that waits in vain fails and does not hang.
fn wait_until(is_so: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed().as_secs() < 60, "waited in vain");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
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

/// Whether a process is there and has not ended.
fn runs(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
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

/// The process of the enclave that a host runs.
fn enclave_of(host: &Child) -> Pid {
    let tasks = fs::read_dir(format!("/proc/{}/task", host.id())).unwrap().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let ids: Vec<i32> = children
        .flat_map(|text| text.split_whitespace().map(str::parse).collect::<Vec<_>>())
        .flatten()
        .collect();
    Pid::from_raw(*ids.first().unwrap()).unwrap()
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
