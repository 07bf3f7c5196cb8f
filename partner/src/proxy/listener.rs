//! Where local clients connect.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use cleanroom_program::claim::ClaimedListener;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::either::Either;

use super::answer::Reset;

/// The permissions of the proxy's Unix socket: its owner alone.
const OWNER_ALONE: u32 = 0o600;

/// Where the proxy listens: `IP:PORT` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// An address and a port, 0 for any free one.
    Tcp(SocketAddr),
    /// A Unix socket that its owner alone may connect to.
    Unix(PathBuf),
}

impl Listen {
    /// Whether nobody on another machine, or in another container, can connect.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Binds the address. A Unix socket on which nobody listens any more is replaced.
    ///
    /// # Errors
    /// What the system says, for instance that somebody listens there.
    pub async fn bind(&self) -> io::Result<Listener> {
        match self {
            Self::Tcp(address) => TcpListener::bind(address).await.map(Listener::Tcp),
            Self::Unix(path) => ClaimedListener::bind(path, OWNER_ALONE).await.map(Listener::Unix),
        }
    }
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        match text.strip_prefix("unix:") {
            Some("") => Err(ListenError),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| ListenError),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(formatter, "{address}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// Some text is not an address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an IP address and a port such as 127.0.0.1:8080 or [::1]:8080, or unix:PATH")]
pub struct ListenError;

/// A bound address.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(ClaimedListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl Listener {
    /// The address that was bound, with the port that the system chose.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn address(&self) -> io::Result<Listen> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Listen::Tcp),
            Self::Unix(listener) => Ok(Listen::Unix(listener.path().to_owned())),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let (at, reset) = (Some(stream.local_addr()?), Reset::of(&stream));
                Ok(Accepted { stream: Either::Left(stream), at, reset })
            }
            Self::Unix(listener) => {
                let stream = listener.accept().await?;
                let reset = Reset::of(&stream);
                Ok(Accepted { stream: Either::Right(stream), at: None, reset })
            }
        }
    }
}

/// The connection of a client.
pub(super) struct Accepted {
    pub(super) stream: Either<TcpStream, UnixStream>,
    /// The proxy's own address that the client connected to; none for a Unix socket.
    pub(super) at: Option<SocketAddr>,
    pub(super) reset: Reset,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_on() {
        for (text, is_local) in [
            ("127.0.0.1:8080", true),
            ("[::1]:0", true),
            ("unix:/run/cleanroom/proxy.sock", true),
            ("0.0.0.0:8080", false),
            ("[::]:8080", false),
            ("10.0.0.7:8080", false),
        ] {
            let listen: Listen = text.parse().unwrap();
            assert_eq!((listen.to_string().as_str(), listen.is_local()), (text, is_local));
        }
        for text in ["", "unix:", "8080", "localhost:8080", "/run/proxy.sock"] {
            assert_eq!(text.parse::<Listen>(), Err(ListenError), "{text}");
        }
    }
}
