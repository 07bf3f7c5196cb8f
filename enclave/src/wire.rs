//! Frames between keeper and worker on a stream.

use std::io;

use cleanroom_protocol::{HEADER_BYTES, Header, Kind, ProtocolError};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use zeroize::Zeroizing;

/// Reads one frame. Memory grows with what arrives, not with what is announced.
pub(crate) async fn read<K: Kind>(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<(Header<K>, Zeroizing<Vec<u8>>), WireError> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let header = Header::<K>::parse(header)?;
    let mut body = Zeroizing::new(Vec::new());
    let limit = u64::try_from(header.body_bytes()).unwrap_or(u64::MAX);
    if stream.take(limit).read_to_end(&mut body).await? < header.body_bytes() {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok((header, body))
}

/// Why no frame came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// The other end is gone.
    #[error("the other process closed the connection")]
    Gone(#[from] io::Error),
    /// The other end does not speak the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}
