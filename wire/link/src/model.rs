//! How the model file travels: a `u64` big-endian length, then that many bytes; one byte back when all have arrived.
//!
//! The enclave does not trust what arrives. It hashes the bytes, compares the digest with the measured configuration
//! and commits to it before it serves anything. The machine's memory bounds the length.

use std::io;

use cleanroom_vsock::WRITE_CAP;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use zeroize::Zeroizing;

use crate::listener::Listener;

/// The longest piece in bytes. It is more than the system's allocator keeps for later, so that a piece that was dropped is free
/// memory at once.
const PIECE: u64 = 64 * 1024 * 1024;

/// A model file in memory, in pieces, which are erased when they are dropped.
pub struct ModelBytes(Vec<Zeroizing<Vec<u8>>>);

impl ModelBytes {
    /// Reads a file to its end.
    ///
    /// # Errors
    /// What reading reports.
    pub fn read(mut file: impl io::Read) -> io::Result<Self> {
        let mut pieces = Vec::new();
        loop {
            let mut piece = Zeroizing::new(Vec::new());
            if io::Read::read_to_end(&mut io::Read::take(&mut file, PIECE), &mut piece)? == 0 {
                return Ok(Self(pieces));
            }
            pieces.push(piece);
        }
    }

    /// The file's length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.0.iter().map(|piece| piece.len() as u64).sum()
    }

    /// The pieces, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|piece| piece.as_slice())
    }

    /// The pieces, in order, each dropped before the next.
    pub fn into_pieces(self) -> impl Iterator<Item = Zeroizing<Vec<u8>>> {
        self.0.into_iter()
    }
}

impl From<Vec<u8>> for ModelBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(vec![Zeroizing::new(bytes)])
    }
}

/// What the host hears when the model has arrived.
const ARRIVED: u8 = 1;

/// Sends a model of `length` bytes and waits until the enclave has all of them. The enclave says on its console what it
/// thinks of them.
///
/// # Errors
/// The stream's own error, or [`io::ErrorKind::UnexpectedEof`] when the file is shorter than `length`.
pub async fn send(
    mut file: impl AsyncRead + Unpin,
    length: u64,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    stream.write_all(&length.to_be_bytes()).await?;
    let mut buffer = vec![0; WRITE_CAP];
    let mut left = length;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(WRITE_CAP).min(WRITE_CAP);
        let Some(space) = buffer.get_mut(..wanted) else { break };
        let count = file.read(space).await?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the model file became shorter"));
        }
        stream.write_all(space.get(..count).unwrap_or_default()).await?;
        left = left.saturating_sub(count as u64);
    }
    stream.flush().await?;
    stream.read_u8().await.map(drop)
}

/// Waits for a connection that brings a whole model of at most `limit` bytes. One that breaks off is forgotten, and the next one
/// begins anew.
///
/// # Errors
/// [`ModelTooLarge`] when the host announces more than `limit`: it would do so again.
pub async fn receive(listener: &mut impl Listener, limit: u64) -> Result<ModelBytes, ModelTooLarge> {
    loop {
        let Ok(stream) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        match receive_from(stream, limit).await {
            Ok(model) => return Ok(model),
            Err(Interrupted::TooLarge(error)) => return Err(error),
            Err(Interrupted::Stream(error)) => {
                tracing::info!(reason = ?error.kind(), "the model did not arrive whole");
            }
        }
    }
}

async fn receive_from<S>(mut stream: S, limit: u64) -> Result<ModelBytes, Interrupted>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let announced = stream.read_u64().await?;
    let too_large = ModelTooLarge { announced, limit };
    if announced > limit {
        return Err(too_large.into());
    }
    let mut pieces = Vec::new();
    let mut left = announced;
    while left > 0 {
        let length = usize::try_from(left.min(PIECE)).map_err(|_| too_large)?;
        let mut piece = Zeroizing::new(Vec::new());
        piece.try_reserve_exact(length).map_err(|_| too_large)?;
        if (&mut stream).take(length as u64).read_to_end(&mut piece).await? < length {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        left = left.saturating_sub(length as u64);
        pieces.push(piece);
    }
    // The host that hangs up now has sent everything all the same.
    let _ = stream.write_all(&[ARRIVED]).await;
    let _ = stream.flush().await;
    Ok(ModelBytes(pieces))
}

enum Interrupted {
    TooLarge(ModelTooLarge),
    Stream(io::Error),
}

impl From<ModelTooLarge> for Interrupted {
    fn from(error: ModelTooLarge) -> Self {
        Self::TooLarge(error)
    }
}

impl From<io::Error> for Interrupted {
    fn from(error: io::Error) -> Self {
        Self::Stream(error)
    }
}

/// The host announced a model that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a model of at most {limit} bytes, the host announced {announced}; give the enclave more memory"
)]
pub struct ModelTooLarge {
    /// Bytes that the host announced.
    pub announced: u64,
    /// Bytes that there is room for.
    pub limit: u64,
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    /// Connections that come one after the other.
    struct Script(std::vec::IntoIter<DuplexStream>);

    impl Listener for Script {
        type Stream = DuplexStream;

        async fn accept(&mut self) -> io::Result<DuplexStream> {
            Ok(self.0.next().expect("no further connection is expected"))
        }
    }

    /// What arrives when one host after the other sends these bytes and hangs up, and what the last one hears.
    async fn received(sent: &[&[u8]], limit: u64) -> (Result<Vec<u8>, ModelTooLarge>, Vec<u8>) {
        let mut ours = Vec::new();
        let mut last = None;
        for bytes in sent {
            let (enclave, mut host) = duplex(4096);
            host.write_all(bytes).await.unwrap();
            host.shutdown().await.unwrap();
            ours.push(enclave);
            last = Some(host);
        }
        let mut script = Script(ours.into_iter());
        let result = receive(&mut script, limit).await;
        let result = result.map(|model| model.pieces().collect::<Vec<_>>().concat());
        drop(script);
        let mut heard = Vec::new();
        last.unwrap().read_to_end(&mut heard).await.unwrap();
        (result, heard)
    }

    fn message(length: u64, bytes: &[u8]) -> Vec<u8> {
        [&length.to_be_bytes(), bytes].concat()
    }

    #[tokio::test]
    async fn a_whole_model_arrives_and_the_host_hears_of_it() {
        let (result, heard) = received(&[&message(5, b"model")], 5).await;
        assert_eq!((result.unwrap().as_slice(), heard.as_slice()), (b"model".as_slice(), [1].as_slice()));
    }

    #[tokio::test]
    async fn what_is_sent_is_what_is_received() {
        let (mut host, enclave) = duplex(100);
        let model: Vec<u8> = (0..50_000_u32).map(|byte| byte as u8).collect();
        let mut script = Script(vec![enclave].into_iter());
        let sent = send(model.as_slice(), 50_000, &mut host);
        let (sent, received) = tokio::join!(sent, receive(&mut script, 50_000));
        sent.unwrap();
        assert_eq!(received.unwrap().pieces().collect::<Vec<_>>().concat(), model);
    }

    #[tokio::test]
    async fn a_file_that_became_shorter_is_not_sent_as_whole() {
        let (mut host, _enclave) = duplex(100);
        let error = send(b"mod".as_slice(), 5, &mut host).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn what_breaks_off_is_forgotten() {
        let (whole, cut) = (message(5, b"model"), message(5, b"mo"));
        for broken in [b"".as_slice(), &whole[..7], &cut] {
            assert_eq!(received(&[broken, &whole], 5).await.0.unwrap(), b"model");
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_before_it_is_read() {
        let (result, heard) = received(&[&message(6, b"models")], 5).await;
        assert_eq!(result.unwrap_err(), ModelTooLarge { announced: 6, limit: 5 });
        assert!(heard.is_empty());
    }
}
