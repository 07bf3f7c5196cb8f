//! Listeners for connections. The platform decides between a Unix socket, vsock and TCP.

use std::future::Future;
use std::io;
use std::time::Duration;

use cleanroom_vsock::Gathered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_vsock::{VsockAddr, VsockListener, VsockStream};

/// The pause after a connection that could not be accepted: descriptors are used up, or the peer was gone before.
pub const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// Where connections arrive.
pub trait Listener: Send {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// The next connection that can be accepted, however long that takes.
    fn connection(&mut self) -> impl Future<Output = Self::Stream> + Send {
        async {
            loop {
                if let Ok(stream) = self.accept().await {
                    return stream;
                }
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept(&mut self) -> io::Result<Self::Stream> {
        UnixListener::accept(self).await.map(|(stream, _)| stream)
    }
}

/// Small writes are gathered until a flush, as for vsock: each of them would be a packet.
impl Listener for TcpListener {
    type Stream = Gathered<TcpStream>;

    async fn accept(&mut self) -> io::Result<Self::Stream> {
        TcpListener::accept(self).await.map(|(stream, _)| Gathered::new(stream))
    }
}

impl Listener for VsockListener {
    type Stream = Gathered<VsockStream>;

    async fn accept(&mut self) -> io::Result<Self::Stream> {
        VsockListener::accept(self).await.map(|(stream, _)| Gathered::new(stream))
    }
}

/// A vsock port on which the enclave listens only once it waits for the first connection. A host that reaches the port
/// therefore reaches an enclave that serves.
pub struct LateVsockListener {
    address: VsockAddr,
    listener: Option<VsockListener>,
}

impl LateVsockListener {
    /// Will listen at `address`.
    #[must_use]
    pub const fn new(address: VsockAddr) -> Self {
        Self { address, listener: None }
    }
}

impl Listener for LateVsockListener {
    type Stream = Gathered<VsockStream>;

    async fn accept(&mut self) -> io::Result<Self::Stream> {
        let listener = match &mut self.listener {
            Some(listener) => listener,
            none => none.insert(cleanroom_vsock::listen(self.address)?),
        };
        Listener::accept(listener).await
    }
}
