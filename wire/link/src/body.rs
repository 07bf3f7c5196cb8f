//! Reads the body of a length-prefixed frame.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use zeroize::Zeroizing;

/// Reads exactly `length` bytes. Memory grows with the bytes that arrive, not with the length that was announced. The
/// caller has compared `length` with its limit. The bytes are erased when they are dropped.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] when the stream ends early; otherwise the stream's own error.
pub async fn read(stream: &mut (impl AsyncRead + Unpin), length: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut body = Zeroizing::new(Vec::new());
    let limit = u64::try_from(length).unwrap_or(u64::MAX);
    if stream.take(limit).read_to_end(&mut body).await? < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_read_to_its_length_and_no_further() {
        let mut stream = b"bodynext".as_slice();
        assert_eq!(read(&mut stream, 4).await.unwrap().as_slice(), b"body");
        assert_eq!(stream, b"next");
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_an_error() {
        let mut stream = b"bod".as_slice();
        assert_eq!(read(&mut stream, 4).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn an_announced_length_reserves_nothing() {
        let mut stream = b"few".as_slice();
        assert!(read(&mut stream, usize::MAX).await.is_err());
    }
}
