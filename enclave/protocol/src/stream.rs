//! Frames between keeper and worker on a stream.

use std::io;

use cleanroom_link::body;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use zeroize::Zeroizing;

use crate::frame::{HEADER_BYTES, Header, Kind, ProtocolError};

/// Reads one frame: its header, which is within bounds, and its body.
///
/// # Errors
/// [`ReadError`] when the other process is gone or does not speak the protocol.
pub async fn read<K: Kind>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<(Header<K>, Zeroizing<Vec<u8>>), ReadError> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let header = Header::<K>::parse(header)?;
    let body = body::read(stream, header.body_bytes()).await?;
    Ok((header, body))
}

/// Why no frame came.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The other end is gone.
    #[error("the other process closed the connection")]
    Gone(#[from] io::Error),
    /// The other end does not speak the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}
