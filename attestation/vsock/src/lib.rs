//! How both ends use vsock: room for a burst of connections, and writes in pieces that its implementations carry.
//!
//! A stream over `AF_VSOCK` is reliable on paper. In practice large writes have stalled for ever (64 KiB on Linux 6.12 with
//! virtio-vsock) or arrived corrupted, and many tiny ones have been dropped. [`Pacing`] says how large a write may be and how far apart
//! small ones are; the host's relay and the enclave's [`Paced`] streams follow the same one. What it costs and what it saves is
//! measured in `docs/performance.md`.

#![forbid(unsafe_code)]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
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

/// How a stream is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    /// The most bytes of one write.
    pub cap: usize,
    /// How far apart two writes are, unless the second has [`cap`](Self::cap) bytes. A write after a pause does not wait.
    pub window: Duration,
}

impl Pacing {
    /// What vsock gets, in both directions.
    pub const VSOCK: Self = Self { cap: 16 * 1024, window: Duration::from_millis(1) };
}

/// A stream whose writes are paced. What was written is certain to be sent once it was flushed, or while the stream is being read.
#[derive(Debug)]
pub struct Paced<S> {
    stream: S,
    pacing: Pacing,
    /// Bytes that wait for their turn: at most a cap of them.
    held: Vec<u8>,
    /// When the next write that is not full may be made.
    next_write: Pin<Box<Sleep>>,
}

impl<S> Paced<S> {
    /// Paces the writes to `stream`.
    pub fn new(stream: S, pacing: Pacing) -> Self {
        Self {
            stream,
            pacing,
            held: Vec::with_capacity(pacing.cap),
            next_write: Box::pin(sleep_until(Instant::now())),
        }
    }
}

impl<S: AsyncWrite + Unpin> Paced<S> {
    /// Sends all that is held, each write at its time.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            if self.held.len() < self.pacing.cap {
                ready!(self.next_write.as_mut().poll(context));
            }
            ready!(self.poll_write_held(context))?;
        }
        Poll::Ready(Ok(()))
    }

    /// One write of what is held, whether it is time or not.
    fn poll_write_held(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(context, &self.held))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.held.drain(..count.min(self.held.len()));
        if self.held.is_empty() {
            self.next_write.as_mut().reset(Instant::now() + self.pacing.window);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.held.len() >= self.pacing.cap {
            ready!(self.poll_send(context))?;
        }
        let room = self.pacing.cap.saturating_sub(self.held.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.held.extend_from_slice(taken);
        // Whatever stands in the way of sending now is met again by the next call.
        match self.poll_send(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            ready!(self.poll_write_held(context))?;
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Paced<S> {
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
    use tokio::time::sleep;

    use super::*;

    const PACING: Pacing = Pacing { cap: 100, window: Duration::from_millis(10) };

    /// Remembers when it was written how much; takes at most `limit` bytes at once.
    struct Recorder {
        begun: Instant,
        limit: usize,
        writes: Arc<Mutex<Vec<(u128, usize)>>>,
        bytes: Arc<Mutex<Vec<u8>>>,
    }

    impl AsyncWrite for Recorder {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(self.limit);
            self.writes.lock().unwrap().push((self.begun.elapsed().as_millis(), bytes.len()));
            self.bytes.lock().unwrap().extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    type Writes = Arc<Mutex<Vec<(u128, usize)>>>;

    fn recorder(limit: usize) -> (Paced<Recorder>, Writes, Arc<Mutex<Vec<u8>>>) {
        let (writes, bytes) = (Writes::default(), Arc::default());
        let recorder =
            Recorder { begun: Instant::now(), limit, writes: Arc::clone(&writes), bytes: Arc::clone(&bytes) };
        (Paced::new(recorder, PACING), writes, bytes)
    }

    #[tokio::test(start_paused = true)]
    async fn small_writes_in_quick_succession_are_joined() {
        let (mut paced, writes, _) = recorder(usize::MAX);
        for length in [10, 20, 30] {
            paced.write_all(&vec![0; length]).await.unwrap();
        }
        paced.flush().await.unwrap();
        sleep(Duration::from_millis(40)).await;
        paced.write_all(&[0; 40]).await.unwrap();
        // The first goes at once, the next two a window later together, the last after its pause at once and without a flush.
        assert_eq!(*writes.lock().unwrap(), [(0, 10), (10, 50), (50, 40)]);
    }

    #[tokio::test(start_paused = true)]
    async fn large_writes_are_cut_and_do_not_wait() {
        let (mut paced, writes, bytes) = recorder(usize::MAX);
        let sent: Vec<u8> = (0..250).collect();
        paced.write_all(&sent).await.unwrap();
        paced.flush().await.unwrap();
        assert_eq!(*writes.lock().unwrap(), [(0, 100), (0, 100), (10, 50)]);
        assert_eq!(*bytes.lock().unwrap(), sent);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_takes_little_gets_every_byte_once_and_in_order() {
        let (mut paced, writes, bytes) = recorder(7);
        let sent: Vec<u8> = (0..=255).collect();
        paced.write_all(&sent).await.unwrap();
        paced.shutdown().await.unwrap();
        assert_eq!(*bytes.lock().unwrap(), sent);
        assert!(writes.lock().unwrap().iter().all(|(_, length)| *length <= PACING.cap));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_leaves_while_an_answer_is_waited_for() {
        let (ours, mut theirs) = duplex(1024);
        let mut paced = Paced::new(ours, PACING);
        let peer = async {
            let mut question = [0; 2];
            theirs.read_exact(&mut question).await.unwrap();
            theirs.write_all(b"answer").await.unwrap();
        };
        let us = async {
            paced.write_all(b"a").await.unwrap();
            // Within the window, and nobody flushes.
            paced.write_all(b"b").await.unwrap();
            let mut answer = [0; 6];
            paced.read_exact(&mut answer).await.unwrap();
            answer
        };
        assert_eq!(tokio::join!(us, peer).0, *b"answer");
    }
}
