//! An enclave's ports over TCP, where the instance itself is the enclave and its host is another machine.
//!
//! Anybody whom the network lets through can connect, and is trusted as little as a host is.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use cleanroom_vsock::{BACKLOG, Gathered};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::{TcpListener, TcpStream};

use crate::listener::Listener;

/// A peer that is silent for so long is asked whether it is still there, and again after each further pause.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(10);
/// How often it is asked in vain before the connection ends.
const KEEPALIVE_QUESTIONS: u32 = 3;
/// How long sent bytes may stay unacknowledged before the connection ends, in milliseconds.
const UNACKNOWLEDGED_MS: u32 = 60_000;

/// Takes a port of [`port`](crate::port) at `address`, to which nobody can connect until [`listen_on`] says so.
/// Connections that arrive there are attended to ([`attend`]).
///
/// # Errors
/// The system's: the port is taken, or the address is none of this machine.
pub fn bind(address: IpAddr, port: u32) -> io::Result<OwnedFd> {
    let port = u16::try_from(port).map_err(|_| io::ErrorKind::InvalidInput)?;
    let address = SocketAddr::new(address, port);
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Linux gives each connection what its listener has. A worker that is confined could not ask for it.
    attend(&socket)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// Has a connection send small pieces at once, and end when its peer is gone: a machine that was reset says no farewell.
///
/// # Errors
/// The system's.
pub fn attend(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_PAUSE)?;
    sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_QUESTIONS)?;
    Ok(sockopt::set_tcp_user_timeout(&socket, UNACKNOWLEDGED_MS)?)
}

/// Lets connections arrive at a socket that [`bind`] made, in whichever process it is accepted on.
///
/// # Errors
/// The system's.
pub fn listen_on(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::listen(socket, BACKLOG)?)
}

/// The listener of a socket that [`bind`] made and that [`listen_on`] opens or has opened. It needs the runtime.
///
/// # Errors
/// The system's.
pub fn listener(socket: OwnedFd) -> io::Result<TcpListener> {
    TcpListener::from_std(StdTcpListener::from(socket))
}

/// A port on which the enclave listens only once it waits for the first connection. A host that reaches the port
/// therefore reaches an enclave that serves.
pub struct LateTcpListener {
    socket: OwnedFd,
    listener: Option<TcpListener>,
}

impl LateTcpListener {
    /// Will listen on a socket that [`bind`] made.
    #[must_use]
    pub const fn new(socket: OwnedFd) -> Self {
        Self { socket, listener: None }
    }

    /// The listener, from the first question on.
    fn listen(&mut self) -> io::Result<&mut TcpListener> {
        Ok(match &mut self.listener {
            Some(listener) => listener,
            none => {
                listen_on(&self.socket)?;
                none.insert(listener(self.socket.try_clone()?)?)
            }
        })
    }
}

impl Listener for LateTcpListener {
    type Stream = Gathered<TcpStream>;

    async fn accept(&mut self) -> io::Result<Self::Stream> {
        Listener::accept(self.listen()?).await
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A socket at a port of the loopback that the system chose, and its address.
    fn bound() -> (OwnedFd, SocketAddr) {
        let socket = bind(Ipv4Addr::LOCALHOST.into(), 0).unwrap();
        let address = StdTcpListener::from(socket.try_clone().unwrap()).local_addr().unwrap();
        (socket, address)
    }

    #[tokio::test]
    async fn nobody_connects_before_the_first_connection_is_waited_for() {
        let (socket, address) = bound();
        let mut late = LateTcpListener::new(socket);
        let refused = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let waits = tokio::spawn(async move { late.accept().await });
        let mut peer = loop {
            match TcpStream::connect(address).await {
                Ok(peer) => break peer,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let mut stream = waits.await.unwrap().unwrap();
        stream.write_all(b"small").await.unwrap();
        stream.flush().await.unwrap();
        let mut heard = [0; 5];
        peer.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"small");
    }

    #[tokio::test]
    async fn connections_have_what_their_listener_has() {
        let (socket, address) = bound();
        listen_on(&socket).unwrap();
        let listener = listener(socket).unwrap();
        let (_peer, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (stream, _) = accepted.unwrap();
        assert!(stream.nodelay().unwrap() && sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), KEEPALIVE);
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), UNACKNOWLEDGED_MS);
    }

    #[test]
    fn an_address_of_another_machine_cannot_be_taken_nor_a_port_that_is_none() {
        assert!(bind(Ipv4Addr::new(192, 0, 2, 1).into(), 0).is_err());
        assert!(bind(Ipv4Addr::LOCALHOST.into(), 1 << 16).is_err(), "TCP has no such port");
    }
}
