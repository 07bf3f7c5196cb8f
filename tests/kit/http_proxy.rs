//! Real HTTP proxies between a partner and a host.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::processes::{installed, left_out};

/// A program that opens tunnels (CONNECT).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `tinyproxy`, which asks for the user `user` with the password `secret`.
    Tinyproxy,
    /// `squid`, which asks for nobody's name.
    Squid,
}

/// A proxy on a loopback address.
pub struct HttpProxy {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    log: PathBuf,
}

impl Program {
    /// Starts it with files in `folder`. It opens tunnels to these ports of any host, and to no others.
    ///
    /// Gives nothing when the program is not installed, and says so. In continuous integration that fails the
    /// test.
    pub async fn start(self, folder: &Path, ports: &[u16]) -> Option<HttpProxy> {
        let name = match self {
            Self::Tinyproxy => "tinyproxy",
            Self::Squid => "squid",
        };
        let program = installed(name, &format!("apt-get install {name}"))?;
        let (config, log) = (folder.join(format!("{name}.conf")), folder.join(format!("{name}.log")));
        loop {
            let port = free_port();
            std::fs::write(&config, self.config(port, ports, folder, &log)).unwrap();
            let mut command = Command::new(&program);
            match self {
                Self::Tinyproxy => command.args(["-d", "-c"]).arg(&config),
                Self::Squid => command.args(["-N", "-f"]).arg(&config),
            };
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let mut proxy = HttpProxy { child, address: ([127, 0, 0, 1], port).into(), log: log.clone() };
            // Somebody else may have taken the port in the meantime.
            if proxy.is_there().await {
                return Some(proxy);
            }
        }
    }

    fn config(self, port: u16, ports: &[u16], folder: &Path, log: &Path) -> String {
        let (folder, log) = (folder.display(), log.display());
        let listed: Vec<String> = ports.iter().map(u16::to_string).collect();
        match self {
            Self::Tinyproxy => {
                let ports: String = listed.iter().map(|port| format!("ConnectPort {port}\n")).collect();
                format!(
                    "Port {port}\nListen 127.0.0.1\nLogLevel Connect\nLogFile \"{log}\"\nBasicAuth user secret\n{ports}"
                )
            }
            Self::Squid => {
                let ports = listed.join(" ");
                format!(
                    "http_port 127.0.0.1:{port}\nacl rooms port {ports}\nacl tunnels method CONNECT\n\
                     http_access allow tunnels rooms\nhttp_access deny all\ncache deny all\n\
                     access_log none\ncache_log /dev/null\npid_filename none\ncoredump_dir {folder}\n\
                     shutdown_lifetime 0 seconds\nconnect_timeout 5 seconds\n"
                )
            }
        }
    }
}

impl HttpProxy {
    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn is_there(&mut self) -> bool {
        while TcpStream::connect(self.address).await.is_err() {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port on which nobody listens.
#[must_use]
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An address of this machine that is not a loopback one. Nothing is sent.
///
/// Gives nothing when the machine has none, and says so. In continuous integration that fails the test.
#[must_use]
pub fn address_of_this_machine() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let routed = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr());
    let address = routed.ok().map(|address| address.ip()).filter(|address| !address.is_loopback());
    if address.is_none() {
        left_out("this machine has no address but its loopback ones");
    }
    address
}

/// A TCP port of all addresses of this machine that leads to a host's Unix socket.
pub async fn port_of(host: PathBuf) -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut partner, _)) = listener.accept().await {
            let host = host.clone();
            tokio::spawn(async move {
                let mut host = UnixStream::connect(host).await?;
                copy_bidirectional(&mut partner, &mut host).await
            });
        }
    });
    port
}
