//! A lease service as a process, and requests to it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::folder::Folder;

/// Longer than anything takes that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running service. It ends with the test.
pub(crate) struct Service {
    child: Child,
    pub(crate) url: String,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Service {
    /// Starts a service with the further arguments of `line`, and waits until it listens.
    pub(crate) fn start(folder: &Folder, line: &str) -> Self {
        let mut command = Self::command(folder, line);
        Self::spawn(command.stderr(Stdio::null())).unwrap()
    }

    pub(crate) fn command(folder: &Folder, line: &str) -> Command {
        folder.command(&format!("lease serve --listen 127.0.0.1:0 --denials denials {line}"))
    }

    /// Starts `command`; `None` if it ends before it listens.
    pub(crate) fn spawn(command: &mut Command) -> Option<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
        let url = first.trim().strip_prefix("listening on ").map(str::to_owned);
        let json = || serde_json::from_str::<Value>(&first).ok()?["url"].as_str().map(str::to_owned);
        let url = url.or_else(json);
        let service = Self { child, url: url.clone().unwrap_or_default() };
        url.map(|_| service)
    }

    /// A process that was started to listen at `address`, whatever it says. Waits until it does.
    pub(crate) fn adopt(child: Child, address: &str) -> Self {
        let mut service = Self { child, url: format!("http://{address}") };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(service.runs() && begun.elapsed() < PATIENCE, "it does not listen at {address}");
            std::thread::sleep(Duration::from_millis(10));
        }
        service
    }

    /// Where it listens, as HOST:PORT.
    pub(crate) fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// One request on a connection of its own; status and body.
    pub(crate) fn try_ask(&self, method: &str, path: &str, body: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        let host = self.address();
        let mut stream = TcpStream::connect(host)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        // A service that refuses early may close before it has read everything.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.ok_or_else(|| io::Error::other("no answer"))?;
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Ok((status, answer[end + 4..].to_vec()))
    }

    /// Like [`Self::try_ask`]; an answer is expected.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        self.try_ask(method, path, body).unwrap()
    }

    pub(crate) fn json(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let (status, body) = self.ask(method, path, body);
        let json = serde_json::from_slice(&body);
        (status, json.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&body))))
    }

    /// The code with which a lease is refused.
    pub(crate) fn refused(&self, body: &[u8]) -> (u16, String) {
        let (status, answer) = self.json("POST", "/v1/lease", body);
        (status, answer["error"]["code"].as_str().unwrap_or("granted").to_owned())
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().unwrap();
        assert!(sent.success());
    }

    /// Asks it to read its files again, and gives what it says about that in its log, for the `number`th time.
    pub(crate) fn hang_up(&self, log: &Path, number: usize) -> String {
        self.signal("HUP");
        let begun = Instant::now();
        loop {
            let text = std::fs::read_to_string(log).unwrap();
            let mut lines =
                text.split_inclusive('\n').filter(|line| line.contains("read again after SIGHUP"));
            if let Some(line) = lines.nth(number - 1).filter(|line| line.ends_with('\n')) {
                return line.to_owned();
            }
            assert!(begun.elapsed() < PATIENCE, "{text}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Asks it to end, and waits until it has: then its log is written to the end.
    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        assert!(self.end().success());
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
