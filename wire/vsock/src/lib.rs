//! The use of vsock on both ends: room for a burst of connections, and writes in pieces that the
//! implementations carry.
//!
//! A stream over `AF_VSOCK` is reliable on paper. In practice large writes have stalled for ever (64 KiB on Linux 6.12 with
//! virtio-vsock) or arrived corrupted, and every write is a packet of its own, however small. So no write is larger than
//! [`WRITE_CAP`], and the enclave's [`Gathered`] streams make few small ones. What that saves is measured in
//! `docs/performance.md`.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{AddressFamily, SockFlag, SockType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_vsock::{VsockAddr, VsockListener};

/// Connections that may wait to be accepted. A vsock that has no more room answers with a reset, at once, so a burst of
/// partners must fit; Linux takes as many as its `net.core.somaxconn`, which is the same number.
pub const BACKLOG: i32 = 4096;

/// Listens at `address`, with room for [`BACKLOG`] connections that nobody accepted yet.
///
/// # Errors
///
/// The system's: the address is taken, or there is no vsock.
pub fn listen(address: VsockAddr) -> io::Result<VsockListener> {
    // The library listens with room for 128; to listen again changes nothing else.
    let listener = VsockListener::bind(address)?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// Takes `address`, on which nobody can connect until [`listen_on`] says so.
///
/// # Errors
///
/// The system's: the address is taken, or there is no vsock.
pub fn bind(address: VsockAddr) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = nix::sys::socket::socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    nix::sys::socket::bind(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

/// Lets connections arrive at a socket that [`bind`] made, in whichever process it is accepted on.
///
/// # Errors
///
/// The system's.
pub fn listen_on(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::listen(socket, BACKLOG)?)
}

/// The most bytes of one write to vsock, in either direction.
pub const WRITE_CAP: usize = 16 * 1024;

/// A stream whose writes are gathered into pieces of a cap, and are no larger than that. A piece is written when it is full; what
/// is held of the next one when the stream is flushed, read from or shut down.
#[derive(Debug)]
pub struct Gathered<S> {
    stream: S,
    cap: usize,
    /// Bytes that wait: at most a cap of them.
    held: Vec<u8>,
}

impl<S> Gathered<S> {
    /// Gathers the writes to `stream` into pieces of [`WRITE_CAP`].
    pub fn new(stream: S) -> Self {
        Self::with_cap(stream, WRITE_CAP)
    }

    /// As [`Self::new`] with another cap, which must not be 0. For measuring what the cap does.
    pub fn with_cap(stream: S, cap: usize) -> Self {
        Self { stream, cap, held: Vec::with_capacity(cap) }
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// Writes all that is held.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, &self.held))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.drain(..count.min(self.held.len()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.held.len() >= self.cap {
            ready!(self.poll_send(context))?;
        }
        let room = self.cap.saturating_sub(self.held.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.held.extend_from_slice(taken);
        if self.held.len() >= self.cap
            && let Poll::Ready(Err(error)) = self.poll_send(context)
        {
            return Poll::Ready(Err(error));
        }
        // What could not be written now is met again by the next call.
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever waits for an answer waits for the question to leave, too. An error of the writing half is that half's.
        let _ = self.poll_send(context);
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const CAP: usize = 100;

    /// Remembers the length of every write; takes at most `limit` bytes of each.
    struct Recorder {
        limit: usize,
        written: Arc<Mutex<(Vec<usize>, Vec<u8>)>>,
    }

    impl AsyncWrite for Recorder {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(self.limit);
            let mut written = self.written.lock().unwrap();
            written.0.push(bytes.len());
            written.1.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    type Written = Arc<Mutex<(Vec<usize>, Vec<u8>)>>;

    fn recorder(limit: usize) -> (Gathered<Recorder>, Written) {
        let written = Written::default();
        (Gathered::with_cap(Recorder { limit, written: Arc::clone(&written) }, CAP), written)
    }

    #[tokio::test]
    async fn small_writes_are_gathered_until_they_are_flushed() {
        let (mut stream, written) = recorder(usize::MAX);
        for length in [10, 20, 30] {
            stream.write_all(&vec![0; length]).await.unwrap();
        }
        assert_eq!(written.lock().unwrap().0, []);
        stream.flush().await.unwrap();
        stream.write_all(&[0; 40]).await.unwrap();
        stream.flush().await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(written.lock().unwrap().0, [60, 40]);
    }

    #[tokio::test]
    async fn a_full_piece_leaves_at_once_and_none_is_larger() {
        let (mut stream, written) = recorder(usize::MAX);
        let sent: Vec<u8> = (0..250).collect();
        stream.write_all(&sent).await.unwrap();
        assert_eq!(written.lock().unwrap().0, [100, 100]);
        stream.shutdown().await.unwrap();
        assert_eq!(*written.lock().unwrap(), (vec![100, 100, 50], sent));
    }

    #[tokio::test]
    async fn a_stream_that_takes_little_gets_every_byte_once_and_in_order() {
        let (mut stream, written) = recorder(7);
        let sent: Vec<u8> = (0..=255).collect();
        stream.write_all(&sent).await.unwrap();
        stream.shutdown().await.unwrap();
        let written = written.lock().unwrap();
        assert_eq!(written.1, sent);
        assert!(written.0.iter().all(|length| *length <= CAP));
    }

    #[tokio::test]
    async fn a_stream_that_takes_nothing_is_an_error() {
        let (mut stream, _) = recorder(0);
        stream.write_all(b"a").await.unwrap();
        assert_eq!(stream.flush().await.unwrap_err().kind(), io::ErrorKind::WriteZero);
    }

    #[tokio::test]
    async fn what_is_held_leaves_while_an_answer_is_waited_for() {
        let (ours, mut theirs) = duplex(1024);
        let mut stream = Gathered::with_cap(ours, CAP);
        let peer = async {
            let mut question = [0; 2];
            theirs.read_exact(&mut question).await.unwrap();
            theirs.write_all(b"answer").await.unwrap();
        };
        let us = async {
            // Nobody flushes.
            stream.write_all(b"ab").await.unwrap();
            let mut answer = [0; 6];
            stream.read_exact(&mut answer).await.unwrap();
            answer
        };
        assert_eq!(tokio::join!(us, peer).0, *b"answer");
    }
}
