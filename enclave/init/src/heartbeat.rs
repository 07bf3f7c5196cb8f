//! The heartbeat: one byte to the parent and back, as Nitro's own tools expect it from an enclave that has booted.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use cleanroom_link::heartbeat::{BYTE, PORT};
use vsock::VsockStream;

use crate::halt::Halt;

/// How long the parent may take, and the pause between two attempts.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// Tells the parent with the context id `parent` that this enclave is up.
pub(crate) fn beat(parent: u32) -> Result<(), Halt> {
    let begun = Instant::now();
    loop {
        let left = PATIENCE.saturating_sub(begun.elapsed());
        let result = VsockStream::connect_with_cid_port(parent, PORT).and_then(|stream| {
            stream.set_read_timeout(Some(left.max(PAUSE)))?;
            stream.set_write_timeout(Some(left.max(PAUSE)))?;
            exchange(stream)
        });
        match result {
            Ok(()) => return Ok(()),
            Err(error) if left.is_zero() => {
                return Err(Halt::Heartbeat { within: PATIENCE, error: error.kind() });
            }
            Err(_) => std::thread::sleep(PAUSE.min(left)),
        }
    }
}

fn exchange(mut stream: impl Read + Write) -> io::Result<()> {
    stream.write_all(&[BYTE])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    if answer == [BYTE] { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn answered(answer: &[u8]) -> (io::Result<()>, Vec<u8>) {
        let (ours, mut parent) = UnixStream::pair().unwrap();
        parent.write_all(answer).unwrap();
        parent.shutdown(std::net::Shutdown::Write).unwrap();
        let result = exchange(ours);
        let mut heard = Vec::new();
        parent.read_to_end(&mut heard).unwrap();
        (result, heard)
    }

    #[test]
    fn the_byte_goes_both_ways() {
        let (result, heard) = answered(&[BYTE]);
        result.unwrap();
        assert_eq!(heard, [0xb7]);
    }

    #[test]
    fn another_answer_or_none_is_no_answer() {
        assert_eq!(answered(&[0]).0.unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(answered(&[]).0.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
