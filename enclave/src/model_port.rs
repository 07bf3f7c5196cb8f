//! The model over a stream from the host: a `u64` big-endian length, then that many bytes; one byte back when all have arrived.
//!
//! The host is not trusted with what it sends: the digest of what arrived is compared with the measured configuration's and committed to
//! before anything is served. It is bounded by the machine's memory.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::serve::Listener;

/// What the host hears when the model has arrived.
const ARRIVED: u8 = 1;

/// Waits for a connection that brings a whole model of at most `limit` bytes. One that breaks off is forgotten, and the next one
/// begins anew.
///
/// # Errors
/// [`ModelTooLarge`] when the host announces more than `limit`: it would do so again.
pub async fn receive(listener: &mut impl Listener, limit: u64) -> Result<Vec<u8>, ModelTooLarge> {
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

async fn receive_from<S>(mut stream: S, limit: u64) -> Result<Vec<u8>, Interrupted>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let announced = stream.read_u64().await?;
    let length = usize::try_from(announced).ok().filter(|_| announced <= limit);
    let length = length.ok_or(ModelTooLarge { announced, limit })?;
    let mut model = Vec::new();
    model.try_reserve_exact(length).map_err(|_| ModelTooLarge { announced, limit })?;
    (&mut stream).take(announced).read_to_end(&mut model).await?;
    if model.len() < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    // The host that hangs up now has sent everything all the same.
    let _ = stream.write_all(&[ARRIVED]).await;
    let _ = stream.flush().await;
    Ok(model)
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
        assert!(received(&[&message(u64::MAX, b"")], u64::MAX).await.0.is_err(), "nothing is allocated");
    }
}
