//! Opening a connection to a host: several addresses, names with several addresses, and HTTP proxies in
//! between.
//!
//! A connection that is opened here has proven nothing. It only has to be there soon: addresses are tried
//! side by side (RFC 8305, *Happy Eyeballs*), so that one that swallows packets costs a quarter of a second.

mod http_proxy;
mod race;
mod transport;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

use crate::address::{Address, host_and_port};

pub use self::http_proxy::{HttpProxy, ProxyChoice, ProxyError};
pub(crate) use self::race::race;
pub use self::transport::Transport;

/// How long a name may take to become addresses.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

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

/// The addresses of a name, in the system's order of preference, with the two families in turn (RFC 8305
/// section 4).
async fn addresses_of(name: &str) -> io::Result<Vec<SocketAddr>> {
    let timed_out =
        || io::Error::new(io::ErrorKind::TimedOut, format!("{name} could not be resolved in time"));
    let found = timeout(RESOLVE_TIMEOUT, lookup_host(name)).await.map_err(|_| timed_out())?;
    let found: Vec<SocketAddr> =
        found.map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?.collect();
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{name} has no address")));
    }
    Ok(in_turn(&found))
}

fn in_turn(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_ipv6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<SocketAddr>, Vec<SocketAddr>) =
        addresses.iter().partition(|address| address.is_ipv6() == first_is_ipv6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut turns = Vec::with_capacity(addresses.len());
    loop {
        let (one, other) = (first.next(), second.next());
        if one.is_none() && other.is_none() {
            return turns;
        }
        turns.extend(one.into_iter().chain(other));
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
        let name = self.name();
        let opened = match timeout(CONNECT_TIMEOUT, self.open()).await {
            Ok(opened) => opened,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
        };
        opened.map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))
    }

    async fn open(self) -> io::Result<Transport> {
        match self {
            Self::Unix(path) => UnixStream::connect(path).await.map(Transport::Unix),
            Self::Tcp(address) => tcp(address).await.map(Transport::Tcp),
            Self::Tunnel { proxy_at, proxy, target } => {
                let mut stream = tcp(proxy_at).await?;
                proxy.open_tunnel(&mut stream, &target).await.map_err(io::Error::other)?;
                Ok(Transport::Tcp(stream))
            }
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(path) => format!("unix:{}", path.display()),
            Self::Tunnel { proxy, target, .. } => format!("{target} through the proxy {}", proxy.address()),
        }
    }
}

async fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether `host` is this machine.
fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_families_take_turns_and_the_systems_first_choice_stays_first() {
        let parse = |text: &str| -> Vec<SocketAddr> {
            text.split_whitespace().map(|address| address.parse().unwrap()).collect()
        };
        let found = parse("[2001:db8::1]:1 [2001:db8::2]:1 [2001:db8::3]:1 192.0.2.1:1");
        assert_eq!(in_turn(&found), parse("[2001:db8::1]:1 192.0.2.1:1 [2001:db8::2]:1 [2001:db8::3]:1"));
        let found = parse("192.0.2.1:1 192.0.2.2:1");
        assert_eq!(in_turn(&found), found);
    }
}
