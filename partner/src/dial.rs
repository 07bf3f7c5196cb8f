//! Opening a connection to a host: several addresses, names with several addresses, and HTTP proxies in
//! between.
//!
//! A connection that is opened here has proven nothing. It only has to be there soon: addresses are tried
//! side by side (RFC 8305, *Happy Eyeballs*), so that one that swallows packets costs a quarter of a second.

mod http_proxy;
mod transport;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cleanroom_program::network::{addresses_of, connect_to, race};
use futures_util::future::join_all;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::address::{Address, host_and_port};

pub use self::http_proxy::{HttpProxy, ProxyChoice, ProxyError};
pub use self::transport::Transport;

/// How long one address may take to accept a connection, with the HTTP proxy's answer if there is one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Knows how the hosts of a clean room are reached.
#[derive(Debug, Clone)]
pub struct Dialer {
    addresses: Vec<Address>,
    proxy: ProxyChoice,
}

impl Dialer {
    /// Reaches `addresses`, in this order of preference, through HTTP proxies where `proxy` says so.
    #[must_use]
    pub fn new(addresses: Vec<Address>, proxy: ProxyChoice) -> Self {
        Self { addresses, proxy }
    }

    /// Opens a connection to one of the hosts. Where it leads is proven later.
    ///
    /// # Errors
    /// What the system reports of the last one that was tried.
    pub async fn connect(&self) -> io::Result<Transport> {
        race(&mut self.endpoints().await?, Endpoint::connect).await
    }

    /// Everything that can be tried now, the most preferred first.
    ///
    /// # Errors
    /// When none of the names has an address.
    pub(crate) async fn endpoints(&self) -> io::Result<Vec<Endpoint>> {
        let resolved = join_all(self.addresses.iter().map(|address| self.resolve(address))).await;
        let (mut endpoints, mut last_error) = (Vec::new(), None);
        for resolved in resolved {
            match resolved {
                Ok(resolved) => endpoints.extend(resolved),
                Err(error) => last_error = Some(error),
            }
        }
        match last_error {
            Some(error) if endpoints.is_empty() => Err(error),
            _ => Ok(endpoints),
        }
    }

    async fn resolve(&self, address: &Address) -> io::Result<Vec<Endpoint>> {
        let target = match address {
            Address::Unix(path) => return Ok(vec![Endpoint::Unix(path.clone())]),
            Address::Tcp(target) => target,
        };
        let proxy = host_and_port(target).and_then(|(host, port)| self.proxy.for_host(host, port));
        let Some(proxy) = proxy else {
            return Ok(addresses_of(target).await?.into_iter().map(Endpoint::Tcp).collect());
        };
        let tunnel =
            |proxy_at| Endpoint::Tunnel { proxy_at, proxy: Arc::clone(proxy), target: target.clone() };
        Ok(addresses_of(proxy.address()).await?.into_iter().map(tunnel).collect())
    }
}

/// The addresses.
impl fmt::Display for Dialer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.addresses.iter().enumerate() {
            let gap = if index == 0 { "" } else { " " };
            write!(formatter, "{gap}{address}")?;
        }
        Ok(())
    }
}

impl From<Address> for Dialer {
    fn from(address: Address) -> Self {
        Self::new(vec![address], ProxyChoice::none())
    }
}

impl From<&Address> for Dialer {
    fn from(address: &Address) -> Self {
        Self::from(address.clone())
    }
}

impl From<&Dialer> for Dialer {
    fn from(dialer: &Dialer) -> Self {
        dialer.clone()
    }
}

/// One way to one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// TCP to an address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
    /// Through an HTTP proxy.
    Tunnel { proxy_at: SocketAddr, proxy: Arc<HttpProxy>, target: String },
}

impl Endpoint {
    /// Opens a connection.
    ///
    /// # Errors
    /// What the system reports, with the address.
    pub(crate) async fn connect(self) -> io::Result<Transport> {
        let name = self.to_string();
        let opened = match timeout(CONNECT_TIMEOUT, self.open()).await {
            Ok(opened) => opened,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
        };
        opened.map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))
    }

    async fn open(self) -> io::Result<Transport> {
        match self {
            Self::Unix(path) => UnixStream::connect(path).await.map(Transport::Unix),
            Self::Tcp(address) => connect_to(address).await.map(Transport::Tcp),
            Self::Tunnel { proxy_at, proxy, target } => {
                let mut stream = connect_to(proxy_at).await?;
                proxy.open_tunnel(&mut stream, &target).await.map_err(io::Error::other)?;
                Ok(Transport::Tcp(stream))
            }
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(formatter, "{address}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
            Self::Tunnel { proxy, target, .. } => {
                write!(formatter, "{target} through the proxy {}", proxy.address())
            }
        }
    }
}

/// Whether `host` is this machine.
fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
