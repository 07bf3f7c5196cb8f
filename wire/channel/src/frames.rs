//! Frames on a stream.

use cleanroom_attestation::channel::{FRAME_HEADER_BYTES, FrameError, FrameHeader, FrameKind, encode_frame};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// A whole frame as it stood on the wire.
pub struct Frame {
    kind: FrameKind,
    bytes: Vec<u8>,
}

impl Frame {
    /// A frame to send.
    #[must_use]
    pub fn new(kind: FrameKind, body: &[u8]) -> Self {
        Self { kind, bytes: encode_frame(kind, body) }
    }

    /// Reads one frame when one of `expected` may come next. Memory grows with what arrives, not with what is announced.
    ///
    /// # Errors
    /// [`ReadError`] when the stream ends early, fails, or carries something else.
    pub async fn read<S: AsyncRead + Unpin>(
        stream: &mut S,
        expected: &'static [FrameKind],
    ) -> Result<Self, ReadError> {
        let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES);
        read_exactly(stream, FRAME_HEADER_BYTES, &mut bytes).await?;
        let header = bytes.first_chunk().ok_or(ReadError::Truncated)?;
        let header = FrameHeader::parse(*header, expected)?;
        read_exactly(stream, header.body_bytes(), &mut bytes).await?;
        Ok(Self { kind: header.kind(), bytes })
    }

    /// Writes the frame and flushes it.
    ///
    /// # Errors
    /// What the stream reports.
    pub async fn write<S: AsyncWrite + Unpin>(&self, stream: &mut S) -> std::io::Result<()> {
        stream.write_all(&self.bytes).await?;
        stream.flush().await
    }

    /// What the frame is.
    #[must_use]
    pub fn kind(&self) -> FrameKind {
        self.kind
    }

    /// Header and body, as hashed into the exchange.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.bytes.get(FRAME_HEADER_BYTES..).unwrap_or_default()
    }
}

async fn read_exactly<S: AsyncRead + Unpin>(
    stream: &mut S,
    count: usize,
    into: &mut Vec<u8>,
) -> Result<(), ReadError> {
    let limit = u64::try_from(count).unwrap_or(u64::MAX);
    let read = stream.take(limit).read_to_end(into).await.map_err(|error| {
        // rustls reports a connection that ends without close_notify as an error of this kind.
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            ReadError::Truncated
        } else {
            ReadError::Io(error)
        }
    })?;
    if read < count { Err(ReadError::Truncated) } else { Ok(()) }
}

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The stream ended inside a frame or before one.
    #[error("the connection ended in the middle of a frame")]
    Truncated,
    /// The bytes are not the frame that was due.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream failed.
    #[error("the connection failed: {0}")]
    Io(#[source] std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_survives_the_wire_and_a_cut_one_does_not() {
        let frame = Frame::new(FrameKind::Refusal, &[1]);
        let mut wire = frame.bytes();
        let read = Frame::read(&mut wire, &[FrameKind::Refusal]).await.unwrap();
        assert_eq!((read.kind(), read.body()), (FrameKind::Refusal, &[1][..]));
        for cut in 0..frame.bytes().len() {
            let mut wire = &frame.bytes()[..cut];
            let error = Frame::read(&mut wire, &[FrameKind::Refusal]).await.err().unwrap();
            assert!(matches!(error, ReadError::Truncated), "cut at {cut}: {error}");
        }
    }
}
