//! The security module over a stream: the transport of the simulated tier.
//!
//! A frame is a `u32` big-endian length and that many bytes of CBOR. The peer sends a request and reads the
//! answer, in turn.

use std::io::{self, Read, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_nitro_enclaves_nsm_api::api::{ErrorCode, Response};

use crate::nsm::encode;
use crate::{REQUEST_MAX, SoftwareNsm};

/// Why serving ended other than by the peer closing between two requests.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A request was announced that no security module reads.
    #[error(
        "the enclave announced a request of {length} bytes, a security module reads at most {REQUEST_MAX}"
    )]
    TooLarge {
        /// Bytes announced.
        length: u32,
    },
    /// The peer closed in the middle of a frame.
    #[error("the enclave closed its security module in the middle of a request")]
    Truncated,
    /// The stream failed.
    #[error("the stream to the enclave failed: {0}")]
    Stream(#[from] io::Error),
}

/// Answers requests until the peer closes. `now_ms` gives the time of each request in milliseconds since the
/// Unix epoch.
///
/// # Errors
/// When the peer breaks the framing or the stream fails. A request that is too large is answered with
/// `InputTooLarge` first.
pub fn serve(
    mut stream: impl Read + Write,
    nsm: &mut SoftwareNsm,
    mut now_ms: impl FnMut() -> u64,
) -> Result<(), ServeError> {
    let mut request = Vec::with_capacity(REQUEST_MAX);
    while let Some(length) = read_length(&mut stream)? {
        let wanted = usize::try_from(length).unwrap_or(usize::MAX);
        if wanted > REQUEST_MAX {
            write_frame(&mut stream, &encode(&Response::Error(ErrorCode::InputTooLarge)))?;
            return Err(ServeError::TooLarge { length });
        }
        request.resize(wanted, 0);
        stream.read_exact(&mut request).map_err(truncated)?;
        write_frame(&mut stream, &nsm.process(&request, now_ms()))?;
    }
    Ok(())
}

/// This machine's clock, in milliseconds since the Unix epoch; 0 if it is set before 1970.
#[must_use]
pub fn system_time_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The next frame's length, or nothing if the peer closed before it.
fn read_length(stream: &mut impl Read) -> Result<Option<u32>, ServeError> {
    let mut head = [0; 4];
    let mut filled = 0;
    while let Some(rest) = head.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(ServeError::Truncated),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(u32::from_be_bytes(head)))
}

fn write_frame(stream: &mut impl Write, answer: &[u8]) -> io::Result<()> {
    let length = u32::try_from(answer.len()).map_err(io::Error::other)?;
    // One write, so that a frame is never split by a peer that reads in between.
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(answer);
    stream.write_all(&frame)?;
    stream.flush()
}

fn truncated(error: io::Error) -> ServeError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        ServeError::Truncated
    } else {
        ServeError::Stream(error)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use aws_nitro_enclaves_nsm_api::api::Request;

    use super::*;
    use crate::nsm::tests::{NOW_MS, module};

    /// A peer that has said everything it will say, and remembers what it was told.
    struct Peer {
        says: Cursor<Vec<u8>>,
        hears: Vec<u8>,
    }

    impl Read for Peer {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            // One byte at a time: framing must not depend on how a stream is cut.
            let length = buffer.len().min(1);
            self.says.read(&mut buffer[..length])
        }
    }

    impl Write for Peer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.hears.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn converse(says: Vec<u8>) -> (Result<(), ServeError>, Vec<Response>) {
        let mut peer = Peer { says: Cursor::new(says), hears: Vec::new() };
        let result = serve(&mut peer, &mut module(), || NOW_MS);
        let mut answers = Vec::new();
        let mut rest = peer.hears.as_slice();
        while let Some((head, tail)) = rest.split_first_chunk::<4>() {
            let (answer, tail) = tail.split_at(u32::from_be_bytes(*head) as usize);
            answers.push(serde_cbor::from_slice(answer).unwrap());
            rest = tail;
        }
        (result, answers)
    }

    fn frame(request: &Request) -> Vec<u8> {
        let body = serde_cbor::to_vec(request).unwrap();
        let mut frame = (body.len() as u32).to_be_bytes().to_vec();
        frame.extend(body);
        frame
    }

    #[test]
    fn requests_are_answered_in_turn_until_the_peer_closes() {
        let says =
            [frame(&Request::LockPCR { index: 16 }), frame(&Request::DescribePCR { index: 16 })].concat();
        let (result, answers) = converse(says);
        result.unwrap();
        assert!(
            matches!(answers.as_slice(), [Response::LockPCR, Response::DescribePCR { lock: true, .. }]),
            "{answers:?}"
        );
    }

    #[test]
    fn a_frame_that_is_too_large_is_refused_before_it_is_read() {
        let (result, answers) = converse(4097_u32.to_be_bytes().to_vec());
        assert!(matches!(result, Err(ServeError::TooLarge { length: 4097 })), "{result:?}");
        assert!(matches!(answers.as_slice(), [Response::Error(ErrorCode::InputTooLarge)]), "{answers:?}");
    }

    #[test]
    fn a_frame_that_ends_early_is_an_error_wherever_it_is_cut() {
        let whole = frame(&Request::LockPCR { index: 16 });
        for cut in 1..whole.len() {
            let (result, answers) = converse(whole[..cut].to_vec());
            assert!(matches!(result, Err(ServeError::Truncated)), "cut at {cut}: {result:?}");
            assert!(answers.is_empty());
        }
        converse(Vec::new()).0.unwrap();
    }
}
