//! Both sides, as the processes that people run.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Outcome;

/// The model's name on both sides.
pub(crate) const MODEL: &str = "bench";
/// Tokens of one sequence at most. The model's own context on our side.
const CONTEXT: usize = 512;
/// How long a server may take to load its model.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process that is told to end when this is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // A host drains, and takes its enclave with it.
        if let Some(pid) = Pid::from_raw(self.0.id().cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

/// The clean room of the simulated tier, and a partner's proxy to it.
pub(crate) struct WholePath {
    address: SocketAddr,
    // In the order in which they end.
    _proxy: Process,
    _host: Process,
    _folder: tempfile::TempDir,
}

impl WholePath {
    /// Starts everything; one partner may have `streams` answers at once.
    pub(crate) fn start(programs: &Path, model: &Path, threads: usize, streams: usize) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let program = |name: &str| -> Command {
            let mut command = Command::new(programs.join(name));
            command.current_dir(folder.path());
            command
        };
        fs::copy(programs.join("cleanroom-enclave-simulated"), folder.path().join("enclave"))?;
        // A partner may have three quarters of the sequences.
        let sequences = streams + streams.div_ceil(3) + 1;
        let config = format!(
            "version = 1\nmodel = \"{MODEL}\"\npartners = \"any\"\n\
             [limits]\nsequences = {sequences}\nqueued = {streams}\nthreads = {threads}\n"
        );
        fs::write(folder.path().join("enclave.toml"), config)?;
        finished(program("cleanroom").args(["key", "new", "--key", "partner.key"]))?;

        const INSTANCE: &str = "i-0c1ea2200cc1ea220";
        let mut host = program("cleanroom-host");
        host.args(["run", "--tier", "simulated", "--enclave", "enclave", "--config", "enclave.toml"])
            .args(["--instance-id", INSTANCE, "--listen", "127.0.0.1:0", "--state", "host", "--model"])
            .arg(model);
        let log = folder.path().join("host.log");
        let (host, partners) = started(&mut host, &log, "ready: partners connect to ")?;

        let mut trust = program("cleanroom-authority");
        trust
            .args(["trust", "--development-root", "host/development-root.pem", "--program", "enclave"])
            .args(["--config", "enclave.toml", "--instance-id", INSTANCE, "--max-age", "1h", "--model"])
            .arg(named(model))
            .stdout(fs::File::create(folder.path().join("trust.toml"))?);
        finished(&mut trust)?;

        let mut proxy = program("cleanroom");
        proxy.args(["connect", &partners, "--key", "partner.key", "--listen", "127.0.0.1:0"]);
        let log = folder.path().join("proxy.log");
        let (proxy, address) = started(&mut proxy, &log, "http://")?;
        let address = address.trim_end_matches('/').trim_end_matches("/v1").parse()?;
        Ok(Self { address, _proxy: proxy, _host: host, _folder: folder })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

fn named(model: &Path) -> std::ffi::OsString {
    let mut named = std::ffi::OsString::from(format!("{MODEL}="));
    named.push(model);
    named
}

/// Runs a command to its end.
fn finished(command: &mut Command) -> Outcome<()> {
    let output = command.stderr(Stdio::piped()).spawn()?.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{:?} ended with {}: {said}", command.get_program(), output.status).into());
    }
    Ok(())
}

/// Starts a command and waits until it has written a word that follows `mark`; gives that word.
fn started(command: &mut Command, log: &Path, mark: &str) -> Outcome<(Process, String)> {
    let file = fs::File::create(log)?;
    let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?;
    let mut process = Process(child);
    let begun = Instant::now();
    loop {
        let said = fs::read_to_string(log)?;
        let word = said.split_once(mark).and_then(|(_, rest)| rest.split_once(char::is_whitespace));
        if let Some((word, _)) = word {
            return Ok((process, word.to_owned()));
        }
        if let Some(status) = process.0.try_wait()? {
            return Err(format!("{:?} ended with {status}: {said}", command.get_program()).into());
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("{:?} did not start: {said}", command.get_program()).into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// llama-server.
pub(crate) struct Llama {
    address: SocketAddr,
    _process: Process,
    _log: tempfile::NamedTempFile,
}

impl Llama {
    /// Starts it with room for `streams` sequences. What it would keep of old prompts is switched off: none comes twice.
    pub(crate) fn start(program: &Path, model: &Path, threads: usize, streams: usize) -> Outcome<Self> {
        let log = tempfile::NamedTempFile::new()?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let number = |number: usize| number.to_string();
        let mut command = Command::new(program);
        command
            .arg("--model")
            .arg(model)
            .args(["--alias", MODEL, "--host", "127.0.0.1", "--port", &address.port().to_string()])
            .args(["--threads", &number(threads), "--threads-batch", &number(threads)])
            .args(["--parallel", &number(streams), "--ctx-size", &number(streams * CONTEXT)])
            .args(["--cache-ram", "0", "--no-cache-prompt", "--threads-http", "4"]);
        let child = command.stdin(Stdio::null()).stdout(log.reopen()?).stderr(log.reopen()?).spawn()?;
        let mut process = Process(child);
        let begun = Instant::now();
        while !healthy(address) {
            if let Some(status) = process.0.try_wait()? {
                let said = fs::read_to_string(log.path())?;
                return Err(format!("llama-server ended with {status}: {said}").into());
            }
            if begun.elapsed() > PATIENCE {
                return Err("llama-server did not start".into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(Self { address, _process: process, _log: log })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

fn healthy(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut status = String::new();
        BufReader::new(stream.take(1024)).read_line(&mut status)?;
        Ok(status)
    };
    ask().is_ok_and(|status| status.contains(" 200 "))
}
